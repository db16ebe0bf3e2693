"""The table of metrics: name, title, unit, which direction is better. Tables, summaries and the report read it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["METRICS", "SUCCESS_THRESHOLDS", "SURFACE_TOLERANCE", "Metric"]

SURFACE_TOLERANCE = 2.0
"""Distance in mm within which a surface counts as right in the surface Dice."""

SUCCESS_THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)
"""Dice from which a structure counts as a success."""


@dataclass(frozen=True)
class Metric:
    """One number for a structure of a case.

    Attributes
    ----------
    name
        Field of a score and column of a table.
    title, unit
        For people; the unit is empty for a ratio.
    better
        1 if more is better, −1 if less is better, 0 if nearest to zero is better.
    decimals
        How many a person needs.
    """

    name: str
    title: str
    unit: str
    better: int
    decimals: int

    def badness(self, value: float) -> float:
        """Return a number that is larger the worse the value is."""
        return abs(value) if self.better == 0 else -self.better * value

    def text(self, value: float | None) -> str:
        """Return the value for people, without its unit."""
        return "–" if value is None else f"{value:.{self.decimals}f}"


METRICS = (
    Metric("dice", "Dice", "", 1, 3),
    Metric("iou", "IoU", "", 1, 3),
    Metric("sensitivity", "Sensitivity", "", 1, 3),
    Metric("precision", "Precision", "", 1, 3),
    Metric("hd95_mm", "HD95", "mm", -1, 1),
    Metric("mean_distance_mm", "Mean surface distance", "mm", -1, 2),
    Metric("surface_dice", f"Surface Dice at {SURFACE_TOLERANCE:g} mm", "", 1, 3),
    Metric("volume_difference_cc", "Volume difference", "cc", 0, 1),
)
