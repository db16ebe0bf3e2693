"""The geometry of a NIfTI header is looked at before it is believed: ITK puts 1 mm in the place of impossible sizes."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from isal import igzip, isal_zlib

from LungSegmentationLib.errors import GeometryError

__all__ = ["check_nifti_geometry"]

_LARGEST_MM: Final = 10_000.0
_DIFFERENCE: Final = 0.01
"""Part of a voxel's size by which the two that a header holds may differ."""

_SLANT: Final = 0.001
"""Cosine of the angle between two axes of an affine matrix, from which on it is slanted: 0.3 mm over 300 mm."""

_AGAIN: Final = "Write it again with the geometry of its image."


@dataclass(frozen=True)
class _Layout:
    """Where a header has its fields, and as what."""

    length: int
    dimensions: tuple[int, str]
    sizes: tuple[int, str]
    quaternion_code: tuple[int, str]
    affine_code: tuple[int, str]
    quaternion: tuple[int, str]
    affine: tuple[int, str]


# https://nifti.nimh.nih.gov: nifti1.h and nifti2.h.
_LAYOUTS: Final = {
    348: _Layout(348, (40, "8h"), (76, "8f"), (252, "h"), (254, "h"), (256, "6f"), (280, "12f")),
    540: _Layout(540, (16, "8q"), (104, "8d"), (344, "i"), (348, "i"), (352, "6d"), (400, "12d")),
}


def check_nifti_geometry(path: Path) -> None:
    """Refuse a NIfTI whose voxel sizes or place are impossible, or contradict each other.

    Voxels of 0, less than 0, NaN or infinite mm; a place with NaN; an affine matrix (``sform``) that is singular, is
    slanted (ITK would take the qform in its place, where there is one) or has other voxel sizes than the header. What
    is no NIfTI at all is left to the reader.

    Raises
    ------
    GeometryError
        If nobody could use the geometry without guessing.
    """
    header = _header(path)
    if header is None:
        return
    content, order, layout = header

    def field(place: tuple[int, str]) -> tuple[float, ...]:
        return struct.unpack_from(order + place[1], content, place[0])

    count = int(field(layout.dimensions)[0])
    sizes = field(layout.sizes)[1 : 1 + min(max(count, 0), 3)]
    shown = " × ".join(f"{size:g}" for size in sizes)
    if not all(math.isfinite(size) and 0 < size <= _LARGEST_MM for size in sizes):
        raise GeometryError(f"{path} says that its voxels measure {shown} mm.", "Write it again with its real spacing.")
    if field(layout.affine_code)[0] > 0:
        affine = np.array(field(layout.affine), float).reshape(3, 4)
        lengths = np.linalg.norm(affine[:, : len(sizes)], axis=0)
        if not np.isfinite(affine).all() or (len(sizes) == 3 and not abs(np.linalg.det(affine[:, :3])) > 0):
            raise GeometryError(f"{path} does not say where its voxels lie: its sform is no geometry.", _AGAIN)
        if not np.allclose(lengths, sizes, rtol=_DIFFERENCE, atol=0):
            other = " × ".join(f"{length:g}" for length in lengths)
            raise GeometryError(f"{path} gives its voxels two sizes: {shown} mm, and {other} mm in its sform.", _AGAIN)
        axes = affine[:, : len(sizes)] / lengths
        if np.abs(np.triu(axes.T @ axes, 1)).max() > _SLANT:
            raise GeometryError(
                f"{path} has slanted axes in its sform, as of a tilted gantry or a registration.",
                "Resample it to axes at right angles.",
            )
    elif field(layout.quaternion_code)[0] > 0 and not np.isfinite(field(layout.quaternion)).all():
        raise GeometryError(f"{path} does not say where its voxels lie: its qform is no geometry.", _AGAIN)


def _header(path: Path) -> tuple[bytes, str, _Layout] | None:
    try:
        with igzip.open(path, "rb") if path.name.lower().endswith(".gz") else path.open("rb") as stream:
            content = stream.read(max(_LAYOUTS))
    except (OSError, EOFError, isal_zlib.error):  # type: ignore[misc]  # its stub calls it an instance
        return None  # the reader says what is wrong
    for order in "<>":
        length = struct.unpack_from(f"{order}i", content)[0] if len(content) >= 4 else 0
        layout = _LAYOUTS.get(length)
        if layout is not None and len(content) >= layout.length:
            return content, order, layout
    return None
