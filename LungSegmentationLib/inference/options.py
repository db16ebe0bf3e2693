"""What can be chosen about a prediction; all that the network needs comes from its model file."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from LungSegmentationLib.errors import UsageError

__all__ = ["PredictionOptions", "TestTimeAugmentation"]

TestTimeAugmentation = Literal["none", "flip", "full"]

LARGEST_BATCH = 1024
WIDEST_SMOOTHING = 50.0


@dataclass(frozen=True)
class PredictionOptions:
    """How CTs are segmented.

    Attributes
    ----------
    device
        ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``, as in training.
    precision
        ``auto``, ``float32``, ``bfloat16`` or ``float16``, as in training.
    batch_size
        Slices that the network sees at once, halved where memory is short; ``None`` takes what suits the device.
    augmentation
        ``none``; ``flip``: the mean with the prediction of the mirrored slice, mirror partners exchanged; ``full``:
        these two, each also turned by a few degrees both ways.
    smoothing
        Standard deviation, mm along the slices' normal, of a Gaussian over each slice and its two neighbors; 0 for
        none.
    postprocess
        Whether the label set's rules for each structure are applied (largest part, holes …).
    confidence
        Whether a confidence map is made.
    contours
        Whether the probabilities on the network's slices are kept, so that contours can be drawn between pixels.

    Raises
    ------
    UsageError
        If a value is impossible.
    """

    device: str = "auto"
    precision: str = "auto"
    batch_size: int | None = None
    augmentation: TestTimeAugmentation = "none"
    smoothing: float = 0.0
    postprocess: bool = True
    confidence: bool = True
    contours: bool = True

    def __post_init__(self) -> None:
        if self.batch_size is not None and not 1 <= self.batch_size <= LARGEST_BATCH:
            raise UsageError(
                f"A batch of {self.batch_size} slices is impossible.", f"Choose 1 to {LARGEST_BATCH}; 8 is usual."
            )
        if self.augmentation not in get_args(TestTimeAugmentation):
            raise UsageError(
                f"The test-time augmentation “{self.augmentation}” is unknown.",
                f"Choose one of: {', '.join(get_args(TestTimeAugmentation))}.",
            )
        if not (math.isfinite(self.smoothing) and 0 <= self.smoothing <= WIDEST_SMOOTHING):
            raise UsageError(
                f"A smoothing of {self.smoothing:g} mm is impossible.",
                f"Choose 0 (none) to {WIDEST_SMOOTHING:g}; about the distance of the slices is usual.",
            )
