"""What a model file says about its network: all that inference needs to use it right, and nothing on patients."""

from __future__ import annotations

import json
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any, Literal

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    JsonValue,
    NonNegativeInt,
    PlainSerializer,
    PositiveFloat,
    PositiveInt,
    SkipValidation,
    ValidationError,
    model_validator,
)

from LungSegmentationLib import __version__
from LungSegmentationLib.errors import BadInputError
from LungSegmentationLib.labels import LabelSet, label_set_from_dict, label_set_to_dict, without_postprocessing
from LungSegmentationLib.networks.config import NetworkConfig

__all__ = [
    "SCHEMA",
    "ModelCard",
    "Preprocessing",
    "Score",
    "TrainingSummary",
    "parse_card",
    "software_versions",
]

SCHEMA: Literal[1] = 1

Fraction = Annotated[float, Field(ge=0, le=1)]
Distance = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Length = Annotated[PositiveFloat, Field(allow_inf_nan=False)]
Range = tuple[Length, Length]


def _label_set(value: Any) -> LabelSet:
    if isinstance(value, LabelSet):
        return value
    try:
        label_set = label_set_from_dict(value, "it")
    except BadInputError as error:
        raise ValueError(str(error)) from error
    # Rules of postprocessing are checked by their reader, and may have come to have more of them since.
    plain = [{name: entry for name, entry in item.items() if name != "postprocessing"} for item in value["structures"]]
    if label_set_to_dict(without_postprocessing(label_set)) != value | {"structures": plain}:
        raise ValueError("it holds values that this version does not know")
    return label_set


EmbeddedLabelSet = Annotated[
    SkipValidation[LabelSet], BeforeValidator(_label_set), PlainSerializer(label_set_to_dict, return_type=dict)
]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Preprocessing(_Part):
    """How a CT becomes the network's input.

    Attributes
    ----------
    size
        Rows and columns of an axial slice (LPS) after resampling in plane.
    window
        Lower and upper end, HU.
    normalization
        ``zscore``: per patient, ``(HU − μ) / (σ + 1e-8)`` after windowing; ``window``: the window scaled to [0, 1].
    field_of_view
        ``full`` slices, or cropped to the ``body`` first.
    neighbors
        Slices on each side that are further input channels, edges repeated.
    """

    size: tuple[PositiveInt, PositiveInt]
    window: tuple[FiniteFloat, FiniteFloat]
    normalization: Literal["zscore", "window"]
    field_of_view: Literal["full", "body"]
    neighbors: NonNegativeInt

    @model_validator(mode="after")
    def _window_opens(self) -> Preprocessing:
        if self.window[0] >= self.window[1]:
            raise ValueError(f"the window {self.window} HU is empty")
        return self


class TrainingSummary(_Part):
    """How the network was trained: counts and settings, no names.

    Attributes
    ----------
    epochs, best_epoch
        Epochs done when the file was written, and the one whose weights these are, both counted from 1. A training
        writes the file at each better epoch and may go on after that: the run's history says how long.
    best_loss
        Validation loss of that epoch; ``None`` without a validation set.
    patients, slices
        Counts by part of the split (``train``, ``val``, ``test``).
    seconds
        Time spent until then.
    settings
        The training's configuration as plain JSON values.
    spacing_mm
        Smallest and largest spacing of the training cases along x, y and z (LPS axial), mm; in plane that of the
        resampled slices, which is what the network has seen. ``None`` in files of versions that did not write it.
    """

    epochs: NonNegativeInt
    best_epoch: NonNegativeInt
    best_loss: FiniteFloat | None = None
    patients: dict[Literal["train", "val", "test"], NonNegativeInt]
    slices: dict[Literal["train", "val", "test"], NonNegativeInt]
    seconds: Distance | None = None
    settings: dict[str, JsonValue] = Field(default_factory=dict)
    spacing_mm: tuple[Range, Range, Range] | None = None

    @model_validator(mode="after")
    def _best_was_reached(self) -> TrainingSummary:
        if self.best_epoch > self.epochs:
            raise ValueError(f"the best epoch {self.best_epoch} comes after the last one, {self.epochs}")
        return self

    @model_validator(mode="after")
    def _ranges_ascend(self) -> TrainingSummary:
        if any(smallest > largest for smallest, largest in self.spacing_mm or ()):
            raise ValueError(f"the spacing {self.spacing_mm} mm has a smallest value above the largest")
        return self


class Score(_Part):
    """How well one structure is found, over the patients in whom it was drawn; distances in mm."""

    part: Literal["val", "test"]
    patients: NonNegativeInt
    dice: Fraction
    dice_std: Distance | None = None
    hd95_mm: Distance | None = None
    surface_dice: Fraction | None = None


class ModelCard(_Part):
    """Header of a model file.

    Attributes
    ----------
    schema_version
        Of this description.
    created
        Time with zone.
    label_set
        In full, so the file needs no other; plain JSON in the file.
    structures
        Keys that were learned, in the order of their labels: output channel i + 1 (``exclusive``) or i (``keep``).
    overlap
        ``exclusive``: softmax over background and structures; ``keep``: a sigmoid for each structure.
    preprocessing, network, training
        See there.
    scores
        By structure key; empty if none were measured.
    software
        Versions by name, ``lungsegmentation`` among them.
    data_fingerprint
        SHA-256 (hexadecimal) over the training cohort's cache fingerprints: same data or not, and nothing else.
    """

    schema_version: Literal[1] = SCHEMA
    created: AwareDatetime
    label_set: EmbeddedLabelSet
    structures: Annotated[tuple[str, ...], Field(min_length=1)]
    overlap: Literal["exclusive", "keep"]
    preprocessing: Preprocessing
    network: NetworkConfig
    training: TrainingSummary
    scores: dict[str, Score] = Field(default_factory=dict)
    software: dict[str, str]
    data_fingerprint: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

    @model_validator(mode="after")
    def _fits_together(self) -> ModelCard:
        unknown = [key for key in self.structures if key not in self.label_set]
        if unknown:
            raise ValueError(f"structures: {unknown} are not in the label set {self.label_set.name}")
        if list(self.structures) != [key for key in self.label_set.keys if key in set(self.structures)]:
            raise ValueError("structures: each once, in the order of the labels")
        outputs = len(self.structures) + (self.overlap == "exclusive")
        if self.network.out_channels != outputs:
            raise ValueError(f"the network has {self.network.out_channels} outputs, the structures need {outputs}")
        if self.network.in_channels != 2 * self.preprocessing.neighbors + 1:
            raise ValueError(
                f"the network has {self.network.in_channels} inputs, but {self.preprocessing.neighbors} neighbors"
            )
        if strange := set(self.scores) - set(self.structures):
            raise ValueError(f"scores: {sorted(strange)} were not learned")
        if "lungsegmentation" not in self.software:
            raise ValueError("software: the version of lungsegmentation is missing")
        return self

    @property
    def channel_labels(self) -> tuple[int, ...]:
        """Label of each output channel in the label set; 0 is background, which only ``exclusive`` has."""
        labels = tuple(self.label_set[key].label for key in self.structures)
        return (0, *labels) if self.overlap == "exclusive" else labels


def parse_card(text: str, source: str) -> ModelCard:
    """Read a card from JSON.

    Parameters
    ----------
    text
        JSON.
    source
        File that it comes from, for messages.

    Raises
    ------
    BadInputError
        If it is damaged, contradicts itself, or was written by a newer version.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"The model card of {source} is damaged.", "Copy the model file again.") from error
    written = content.get("schema_version") if isinstance(content, dict) else None
    if isinstance(written, int) and written > SCHEMA:
        raise BadInputError(
            f"{source} was written by a newer LungSegmentation (model schema {written}; this one reads {SCHEMA}).",
            "Update the software.",
        )
    try:
        return ModelCard.model_validate_json(text)
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False)
        first = details[0]
        place = ".".join(str(part) for part in first["loc"])
        more = f" ({len(details) - 1} more)" if len(details) > 1 else ""
        fact = f"{place}: {first['msg']}" if place else first["msg"]
        raise BadInputError(
            f"The model card of {source} is not understood: {fact}{more}.",
            "Use the version that wrote it, or train the model again.",
        ) from error


def software_versions() -> dict[str, str]:
    """Return the versions that a result can depend on; a package that is not installed is left out."""
    found = {"lungsegmentation": __version__, "python": platform.python_version()}
    for name in ("torch", "numpy", "scipy", "SimpleITK", "pydicom", "safetensors"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
