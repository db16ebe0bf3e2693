"""A NIfTI whose geometry nobody can know is refused: ITK reads 1 mm in the place of NaN, 0 and negative sizes."""

from __future__ import annotations

import gzip
import math
import struct
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from LungSegmentationLib.errors import GeometryError
from LungSegmentationLib.volumes import read_array, read_volume

# Places of fields in a NIfTI-1 header (nifti1.h).
SIZES, QFORM_CODE, SFORM_CODE, QUATERNION, SFORM = 80, 252, 254, 256, 280


@pytest.fixture
def header(tmp_path: Path) -> bytearray:
    """A NIfTI-1 file of 0.9 × 1.1 × 3 mm with qform and sform."""
    image = sitk.GetImageFromArray(np.arange(60, dtype=np.int16).reshape(3, 4, 5))
    image.SetSpacing((0.9, 1.1, 3.0))
    image.SetOrigin((-12.0, 7.0, -300.0))
    sitk.WriteImage(image, str(tmp_path / "whole.nii"))
    content = bytearray((tmp_path / "whole.nii").read_bytes())
    assert struct.unpack_from("<3f", content, SIZES) == pytest.approx((0.9, 1.1, 3.0))
    assert struct.unpack_from("<2h", content, QFORM_CODE) == (1, 1) or struct.unpack_from("<h", content, SFORM_CODE)
    return content


def saved(content: bytes, path: Path) -> Path:
    path.write_bytes(gzip.compress(content) if path.name.endswith(".gz") else content)
    return path


def refused(content: bytes, folder: Path, sentence: str) -> None:
    for name in ("a.nii", "a.nii.gz"):
        path = saved(content, folder / name)
        for read in (read_array, read_volume):
            with pytest.raises(GeometryError, match=sentence) as error:
                read(path)
            assert str(path) in str(error.value)


@pytest.mark.parametrize("size", [math.nan, 0.0, -1.1, math.inf, 1e30])
@pytest.mark.parametrize("axis", range(3))
def test_impossible_voxel_sizes_are_refused(header: bytearray, tmp_path: Path, size: float, axis: int) -> None:
    struct.pack_into("<f", header, SIZES + 4 * axis, size)
    refused(header, tmp_path, "voxels measure")


def test_two_voxel_sizes_that_differ_are_refused(header: bytearray, tmp_path: Path) -> None:
    struct.pack_into("<h", header, SFORM_CODE, 1)
    struct.pack_into("<12f", header, SFORM, 0.9, 0, 0, 12, 0, 1.1, 0, -7, 0, 0, 3, -300)
    assert read_array(saved(header, tmp_path / "a.nii.gz"))[0].spacing == pytest.approx((0.9, 1.1, 3.0))
    struct.pack_into("<f", header, SFORM + 4 * 10, 3.5)
    refused(header, tmp_path, "two sizes: 0.9 × 1.1 × 3 mm, and 0.9 × 1.1 × 3.5 mm")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_place_that_is_no_number_is_refused(header: bytearray, tmp_path: Path, value: float) -> None:
    struct.pack_into("<h", header, SFORM_CODE, 1)
    struct.pack_into("<f", header, SFORM + 4 * 3, value)
    refused(header, tmp_path, "sform is no geometry")
    struct.pack_into("<2h", header, QFORM_CODE, 1, 0)
    struct.pack_into("<f", header, QUATERNION, value)
    refused(header, tmp_path, "qform is no geometry")


def test_a_flat_sform_is_refused(header: bytearray, tmp_path: Path) -> None:
    struct.pack_into("<h", header, SFORM_CODE, 1)
    struct.pack_into("<12f", header, SFORM, 0.9, 0, 0, 12, 0, 1.1, 0, -7, 0, 0, 0, -300)
    refused(header, tmp_path, "sform is no geometry")


@pytest.mark.parametrize("qform", [0, 1])
@pytest.mark.parametrize("degrees", [1, 15])
def test_slanted_axes_are_refused_and_turned_ones_are_not(
    header: bytearray, tmp_path: Path, qform: int, degrees: int
) -> None:
    """A gantry tilt: slices lie beside each other by the sine; ITK reads the qform, which knows nothing of it."""
    sine, cosine = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    struct.pack_into("<2h", header, QFORM_CODE, qform, 1)
    struct.pack_into("<12f", header, SFORM, 0.9, 0, 0, 12, 0, 1.1, 3 * sine, -7, 0, 0, 3 * cosine, -300)
    refused(header, tmp_path, "slanted axes")
    struct.pack_into("<2h", header, QFORM_CODE, 0, 1)
    turned = (0.9, 0, 0, 12, 0, 1.1 * cosine, -3 * sine, -7, 0, 1.1 * sine, 3 * cosine, -300)
    struct.pack_into("<12f", header, SFORM, *turned)
    grid, _values = read_array(saved(header, tmp_path / "turned.nii.gz"))
    # LPS: x and y of the file's RAS change their signs.
    assert grid.direction == pytest.approx((-1, 0, 0, 0, -cosine, sine, 0, sine, cosine), abs=1e-5)


@pytest.mark.parametrize("order", ["<", ">"])
def test_both_byte_orders_are_understood(tmp_path: Path, order: str) -> None:
    """A header of zeros but for what says sizes and types; voxels of 2 mm, then of NaN."""
    content = bytearray(352 + 8)
    struct.pack_into(f"{order}i", content, 0, 348)
    struct.pack_into(f"{order}8h", content, 40, 3, 2, 2, 2, 1, 1, 1, 1)
    struct.pack_into(f"{order}2h", content, 70, 2, 8)
    struct.pack_into(f"{order}8f", content, 76, 1, 2, 2, 2, 0, 0, 0, 0)
    struct.pack_into(f"{order}2f", content, 108, 352, 1)
    content[344:348] = b"n+1\0"
    assert read_array(saved(content, tmp_path / "a.nii"))[0].spacing == (2, 2, 2)
    struct.pack_into(f"{order}f", content, 84, math.nan)
    refused(content, tmp_path, "2 × nan × 2 mm")


def test_nifti_2_is_understood(tmp_path: Path) -> None:
    content = bytearray(544 + 8)
    struct.pack_into("<i", content, 0, 540)
    content[4:12] = b"n+2\0\r\n\x1a\n"
    struct.pack_into("<2h", content, 12, 2, 8)
    struct.pack_into("<8q", content, 16, 3, 2, 2, 2, 1, 1, 1, 1)
    struct.pack_into("<8d", content, 104, 1, 2, 2, 2, 0, 0, 0, 0)
    struct.pack_into("<q", content, 168, 544)
    struct.pack_into("<d", content, 120, -2.0)
    refused(content, tmp_path, "2 × -2 × 2 mm")
