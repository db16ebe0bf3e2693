"""What a model file is, for people and programs: its card, its size, and what to know before it is used."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from LungSegmentationLib import __version__
from LungSegmentationLib.networks.model_file import model_file, read_card, read_shapes

if TYPE_CHECKING:
    from LungSegmentationLib.networks.card import ModelCard

__all__ = ["ModelDescription", "describe_model", "version_warning"]

# Running statistics of norms lie in the file, but training does not change them by gradients.
BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class ModelDescription:
    """A model file.

    Attributes
    ----------
    path
        The file.
    card
        What it says about itself.
    parameters
        Number of values that training changes.
    file_mb
        Size in MiB.
    warnings
        What to know before it is used.
    """

    path: Path
    card: ModelCard
    parameters: int
    file_mb: float
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values: the card and what was found out about the file."""
        return {
            "path": str(self.path),
            "parameters": self.parameters,
            "file_mb": round(self.file_mb, 3),
            "warnings": list(self.warnings),
            **self.card.model_dump(mode="json"),
        }


def describe_model(path: str | Path) -> ModelDescription:
    """Return what a model (its file, or the folder of its run) is, in milliseconds and without torch.

    Raises
    ------
    BadInputError
        If the file is missing, cut off, no model, or not understood.
    """
    path = model_file(path)
    card = read_card(path)
    shapes = read_shapes(path)
    parameters = sum(prod(shape) for name, shape in shapes.items() if name.rpartition(".")[2] not in BUFFERS)
    warning = version_warning(card)
    return ModelDescription(
        path, card, parameters, path.stat().st_size / 2**20, tuple(text for text in (warning,) if text)
    )


def version_warning(card: ModelCard, here: str = __version__) -> str:
    """Say whether a model was trained by another version than this one; empty if it was not.

    Preprocessing may have changed between versions, and with it the result, so this is to be told.
    """
    trained = card.software["lungsegmentation"]
    if trained == here:
        return ""
    order = "another" if _numbers(trained) == _numbers(here) else "an older"
    advice = "Compare its results on a known patient before you rely on them."
    if _numbers(trained) > _numbers(here):
        order, advice = "a newer", "Update the software, or compare its results on a known patient."
    return f"It was trained by {order} version of LungSegmentation ({trained}; this one is {here}). {advice}"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version.partition("+")[0])[:3])
