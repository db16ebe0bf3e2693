"""How good a segmenting network is: loss over all slices, and Dice of each structure in each patient's whole volume."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from LungSegmentationLib.training.devices import is_out_of_memory
from LungSegmentationLib.training.memory import release_freed_memory
from LungSegmentationLib.training.task import Forward, Validation

__all__ = ["CaseResult", "count_overlap", "join_results", "logits_in_parts", "spans"]

GROUP = 8
"""Slices that the validation loss takes together. Always so many, as the region loss depends on it: losses of trainings
with other batches, or several processes, can be compared."""


@dataclass(frozen=True)
class CaseResult:
    """What was counted in one case.

    Attributes
    ----------
    case
        Its position in the validation set.
    loss_sum, slices
        Sum of the loss over its slices, and their number.
    counts
        int64, (structures, 3): pixels that were found and drawn, found, drawn; over the whole volume.
    annotated
        bool, (structures,).
    """

    case: int
    loss_sum: float
    slices: int
    counts: NDArray[np.int64]
    annotated: NDArray[np.bool_]

    def dice(self) -> NDArray[np.float64]:
        """Return Dice of each structure; NaN where it was not annotated, or neither found nor drawn."""
        both, found, drawn = self.counts.T.astype(np.float64)
        whole = found + drawn
        known = self.annotated & (whole > 0)
        dice: NDArray[np.float64] = np.divide(2 * both, whole, out=np.full(len(whole), np.nan), where=known)
        return dice


def count_overlap(logits: Tensor, target: Tensor, overlap: Literal["exclusive", "keep"]) -> Tensor:
    """Count pixels of some slices.

    Parameters
    ----------
    logits
        (B, channels, H, W).
    target
        As the loss takes it: classes (B, H, W), or masks (B, structures, H, W).

    Returns
    -------
    int64, (structures, 3)
        Found and drawn, found, drawn; exclusive with exclusive, as drawn with as drawn.
    """
    if overlap == "keep":
        found, drawn = logits > 0, target.bool()
        return torch.stack([_pixels(mask, (0, 2, 3)) for mask in (found & drawn, found, drawn)], 1)
    classes = logits.argmax(1)
    rows = []
    for structure in range(1, logits.shape[1]):
        found, drawn = classes == structure, target == structure
        rows.append(torch.stack([_pixels(mask, (0, 1, 2)) for mask in (found & drawn, found, drawn)]))
    return torch.stack(rows)


def _pixels(mask: Tensor, axes: tuple[int, ...]) -> Tensor:
    return mask.sum(axes, dtype=torch.int64)


def join_results(results: Sequence[CaseResult], structures: Sequence[str]) -> Validation:
    """Return loss and Dice over all cases: the mean over the cases in which a structure was annotated."""
    if not results:
        return Validation(scores=dict.fromkeys(structures))
    ordered = sorted(results, key=lambda result: result.case)
    slices = sum(result.slices for result in ordered)
    table = np.stack([result.dice() for result in ordered])
    details = {key: tuple(table[~np.isnan(table[:, column]), column]) for column, key in enumerate(structures)}
    return Validation(
        loss=sum(result.loss_sum for result in ordered) / slices,
        scores={key: float(np.mean(values)) if values else None for key, values in details.items()},
        details={key: tuple(float(value) for value in values) for key, values in details.items()},
    )


def logits_in_parts(forward: Forward, images: Tensor, most: int) -> Tensor:
    """Return the logits of a batch, computed ``most`` samples at a time, or fewer where memory is short."""
    parts = -(-len(images) // most)
    while True:
        try:
            return torch.cat([_first(forward(part)).float() for part in images.tensor_split(parts)])
        except Exception as error:
            if not is_out_of_memory(error) or parts >= len(images):
                raise
        if images.device.type == "cuda":
            torch.cuda.empty_cache()
        else:
            release_freed_memory()
        parts = min(2 * parts, len(images))


def _first(outputs: Tensor | list[Tensor]) -> Tensor:
    return outputs if isinstance(outputs, Tensor) else outputs[0]


def spans(case: range) -> Iterator[range]:
    """Cut a case's slices into groups; the last one may be smaller."""
    for start in range(case.start, case.stop, GROUP):
        yield range(start, min(start + GROUP, case.stop))
