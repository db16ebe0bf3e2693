"""What all pictures share: no window system, one font size, the label set's colors, a file that is whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch

from LungSegmentationLib.figures.glyphs import FONT, make_legible
from LungSegmentationLib.storage import atomic_path

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from LungSegmentationLib.labels import LabelSet
    from LungSegmentationLib.structures import Labels

__all__ = [
    "OVERLAY_OPACITY",
    "WINDOW",
    "colored",
    "mark_sides",
    "new_figure",
    "overlaid",
    "save",
    "show_slice",
    "side_letters",
    "structure_legend",
]

WINDOW = (-1000.0, 400.0)
"""HU shown from black to white: that of the training."""

OVERLAY_OPACITY = 0.7

_SETTINGS: Any = {
    "font.size": 10,
    "axes.titlesize": 11,
    "figure.dpi": 100,
    "savefig.dpi": 120,
    "font.family": FONT,
}


def new_figure(width: float, height: float) -> Figure:
    """Return a figure of this size in inches; it needs no screen and no global state."""
    with mpl.rc_context(_SETTINGS):
        return Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.08))


def save(figure: Figure, path: Path) -> Path:
    """Write the figure as PNG, whole or not at all; texts in any script are seen, or written out."""
    make_legible(figure)
    with mpl.rc_context(_SETTINGS), atomic_path(path) as partial:
        figure.savefig(partial)
    return path


def show_slice(axes: Axes, image: NDArray[Any], aspect: float, title: str, **options: Any) -> Any:
    """Show one slice (rows, columns); ``aspect`` is the height of a pixel over its width."""
    shown = axes.imshow(image, aspect=aspect, interpolation="nearest", **options)
    axes.set_title(title)
    axes.set_axis_off()
    return shown


def side_letters(direction: Sequence[float]) -> tuple[str, str]:
    """Return which side of the patient the left and the right edge of a slice show: ``("R", "L")`` for axial images.

    Parameters
    ----------
    direction
        3×3, row by row, as :class:`~LungSegmentationLib.geometry.Grid` has it.
    """
    along = np.asarray(direction, float).reshape(3, 3)[:, 0]
    axis = int(np.abs(along).argmax())
    first, last = (("R", "L"), ("A", "P"), ("I", "S"))[axis]
    return (first, last) if along[axis] > 0 else (last, first)


def mark_sides(axes: Axes, direction: Sequence[float]) -> None:
    """Write at the edges of a slice which side of the patient they show."""
    for letter, place, side in zip(side_letters(direction), (0.02, 0.98), ("left", "right"), strict=True):
        axes.text(place, 0.5, letter, color="white", ha=side, va="center", weight="bold", transform=axes.transAxes)


def colored(labels: Labels, label_set: LabelSet) -> NDArray[np.uint8]:
    """Return a label map as RGB in the label set's colors, uint8, shape (..., 3)."""
    table = np.array([label_set.background_color, *(s.color for s in label_set.structures)], np.uint8)
    return table[labels]


def overlaid(
    ct: NDArray[Any], labels: Labels, label_set: LabelSet, opacity: float = OVERLAY_OPACITY
) -> NDArray[np.float32]:
    """Return a CT slice in gray with the structures laid over it, RGB in [0, 1], shape (rows, columns, 3)."""
    low, high = WINDOW
    gray = np.clip((ct.astype(np.float32) - low) / (high - low), 0, 1)[..., None].repeat(3, axis=-1)
    weight = np.where(labels > 0, np.float32(opacity), np.float32(0))[..., None]
    mixed: NDArray[np.float32] = gray * (1 - weight) + colored(labels, label_set).astype(np.float32) / 255 * weight
    return mixed


def structure_legend(label_set: LabelSet, keys: Iterable[str]) -> list[Patch]:
    """Return the legend's entries: color and name of each structure."""
    chosen = set(keys)
    return [
        Patch(facecolor="#{:02x}{:02x}{:02x}".format(*s.color), edgecolor="0.3", label=s.name)
        for s in label_set.structures
        if s.key in chosen
    ]
