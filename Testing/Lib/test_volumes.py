"""Volumes go into files and come back as they were."""

from __future__ import annotations

import gzip
import hashlib
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from LungSegmentationLib.errors import BadInputError, GeometryError, UnsupportedFileError
from LungSegmentationLib.geometry import Grid
from LungSegmentationLib.volumes import read_array, read_volume, volume_description, volume_stem, write_volume


def _image() -> sitk.Image:
    angle = np.deg2rad(20)
    direction = (1, 0, 0, 0, np.cos(angle), -np.sin(angle), 0, np.sin(angle), np.cos(angle))
    grid = Grid((17, 13, 5), (0.9, 1.1, 3.0), (-120.5, 33.25, -700.125), tuple(float(d) for d in direction))
    return grid.image(np.random.default_rng(0).integers(-1024, 3000, grid.shape).astype(np.int16))


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_values_and_grid_come_back(tmp_path: Path, ending: str) -> None:
    image = _image()
    path = tmp_path / f"Ünïcode 患者 a{ending}"
    write_volume(image, path)
    back = read_volume(path)
    assert back.GetPixelID() == sitk.sitkInt16
    assert (sitk.GetArrayViewFromImage(back) == sitk.GetArrayViewFromImage(image)).all()
    assert Grid.of(back).matches(Grid.of(image), tolerance=1e-4)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_the_compressed_file_is_plain_gzip_of_what_simpleitk_writes(tmp_path: Path) -> None:
    image = _image()
    write_volume(image, tmp_path / "a.nii.gz")
    sitk.WriteImage(image, str(tmp_path / "b.nii"))
    assert gzip.decompress((tmp_path / "a.nii.gz").read_bytes()) == (tmp_path / "b.nii").read_bytes()


def test_the_same_volume_gives_the_same_bytes(tmp_path: Path) -> None:
    digests = set()
    for name in ("a", "b"):
        write_volume(_image(), tmp_path / f"{name}.nii.gz")
        digests.add(hashlib.sha256((tmp_path / f"{name}.nii.gz").read_bytes()).hexdigest())
    assert len(digests) == 1


def test_a_missing_a_damaged_and_a_foreign_file_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="There is no file"):
        read_volume(tmp_path / "no.nii.gz")
    (tmp_path / "bad.nii.gz").write_bytes(b"\x1f\x8bnonsense")
    with pytest.raises(BadInputError, match="damaged"):
        read_volume(tmp_path / "bad.nii.gz")
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(UnsupportedFileError, match="unknown kind"):
        read_volume(tmp_path / "a.txt")


def test_a_picture_is_no_volume(tmp_path: Path) -> None:
    sitk.WriteImage(sitk.Image(4, 4, sitk.sitkUInt8), str(tmp_path / "flat.nrrd"))
    with pytest.raises(UnsupportedFileError, match="2 dimensions"):
        read_volume(tmp_path / "flat.nrrd")


def test_the_stem_of_a_volume_has_no_half_ending() -> None:
    assert volume_stem(Path("a/ct.nii.gz")) == "ct"
    assert volume_stem(Path("a/CT.v2.NRRD")) == "CT.v2"


@pytest.mark.parametrize("kind", [np.int16, np.uint8, np.float32, np.uint16, np.int32])
@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd"])
def test_an_array_read_directly_is_what_simpleitk_reads(tmp_path: Path, ending: str, kind: type) -> None:
    image = _image()
    values = sitk.GetArrayFromImage(image).clip(0).astype(kind)
    path = tmp_path / f"患者 a{ending}"
    write_volume(Grid.of(image).image(values), path)
    grid, array = read_array(path)
    theirs = sitk.ReadImage(str(path))
    assert grid == Grid.of(theirs)
    assert array.dtype == kind
    assert (array == sitk.GetArrayFromImage(theirs)).all()
    assert array.flags.writeable


def test_a_scaled_or_extended_nifti_is_read_as_simpleitk_reads_it(tmp_path: Path) -> None:
    write_volume(_image(), tmp_path / "a.nii")
    content = bytearray((tmp_path / "a.nii").read_bytes())
    struct.pack_into("<2f", content, 112, 2.0, -1024.0)
    (tmp_path / "scaled.nii.gz").write_bytes(gzip.compress(bytes(content)))
    _, array = read_array(tmp_path / "scaled.nii.gz")
    theirs = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "scaled.nii.gz")))
    assert (array == theirs).all()
    assert theirs.max() > 4000


def test_files_that_were_cut_off_or_lie_are_refused_by_both_ways(tmp_path: Path) -> None:
    write_volume(_image(), tmp_path / "a.nii.gz")
    whole = (tmp_path / "a.nii.gz").read_bytes()
    plain = gzip.decompress(whole)
    huge = bytearray(plain)
    struct.pack_into("<3h", huge, 42, 30000, 30000, 30000)
    damaged = {
        "cut": whole[: len(whole) // 2],
        "empty": b"",
        "text": b"no volume at all",
        "short": gzip.compress(plain[:-500]),
        "huge": gzip.compress(bytes(huge)),
    }
    for name, content in damaged.items():
        path = tmp_path / f"{name}.nii.gz"
        path.write_bytes(content)
        with pytest.raises(BadInputError, match=name):
            read_array(path)
        with pytest.raises(BadInputError, match=name):
            read_volume(path)
    with pytest.raises(BadInputError, match="no file"):
        read_array(tmp_path / "missing.nii.gz")


_ON_A_SMALL_DISK = """
import resource, sys
from pathlib import Path
import numpy as np, SimpleITK as sitk
from LungSegmentationLib.errors import StorageError
from LungSegmentationLib.volumes import write_volume

image = sitk.GetImageFromArray(np.random.default_rng(0).integers(0, 250, (20, 99, 101)).astype(np.uint8))
small = sitk.GetImageFromArray(np.random.default_rng(0).integers(0, 4, (8, 40, 40)).astype(np.uint8))
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
cases = [("a.nii.gz", 352 + 20 * 99 * 101 - 1, image)]
cases += [(f"b{end}", 50_000, image) for end in sys.argv[2:]]
# So small that all of it waits in buffers until the file is closed.
cases += [(f"c{end}", 2_000, small) for end in sys.argv[2:]]
for name, most, image in cases:
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
        write_volume(image, Path(sys.argv[1], name))
    except StorageError as error:
        print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit for the size of a file")
def test_a_volume_that_the_disk_does_not_take_is_refused_and_not_cut_off(tmp_path: Path) -> None:
    endings = [".nii.gz", ".nii", ".nrrd", ".mha"]
    done = subprocess.run(
        [sys.executable, "-c", _ON_A_SMALL_DISK, tmp_path, *endings],
        check=True,
        capture_output=True,
        text=True,
        timeout=100,
    )
    told = done.stdout.splitlines()
    names = ["a.nii.gz", *(f"{letter}{ending}" for letter in "bc" for ending in endings)]
    assert all(f"{name} cannot" in line for name, line in zip(names, told, strict=True))
    assert all("cannot be written: it takes no file of this size" in line for line in told)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha"])
@pytest.mark.parametrize("text", ["Check this", "Zeile 1\nZeile 2 = ä 患者", "患者" * 40, " x "])
def test_a_description_comes_back_in_one_line_and_changes_no_voxel(tmp_path: Path, ending: str, text: str) -> None:
    image, path = _image(), tmp_path / f"a{ending}"
    write_volume(image, path, text)
    back, wanted = volume_description(path), " ".join(text.split())
    if ending == ".mha":
        wanted = "".join(letter if letter.isascii() else "?" for letter in wanted)
    assert back
    assert back == wanted if len(wanted.encode()) <= 61 else wanted.startswith(back)
    assert (read_array(path)[1] == sitk.GetArrayViewFromImage(image)).all()
    assert not image.GetMetaDataKeys()


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
def test_what_other_programs_say_in_a_header_is_not_taken_for_ours(tmp_path: Path, ending: str) -> None:
    image, path = _image(), tmp_path / f"a{ending}"
    write_volume(image, path)
    assert volume_description(path) == ""
    for key in ("ITK_FileNotes", "LungSegmentation_Description"):
        image.SetMetaData(key, "FSL5.0")
    sitk.WriteImage(image, str(path))
    assert volume_description(path) == ""


@pytest.mark.parametrize("ending", [".nii.gz", ".mha"])
def test_complex_numbers_are_refused_and_not_halved(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a{ending}"
    sitk.WriteImage(sitk.GetImageFromArray(np.ones((2, 3, 4), np.complex64)), str(path))
    with pytest.raises(UnsupportedFileError):
        read_array(path)


NRRD = "NRRD0005\ntype: short\ndimension: 3\nsizes: 2 3 4\n{}\nencoding: raw\nendian: little\n\n"
META = (
    "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\n{}\nDimSize = 2 3 4\n"
    "ElementType = MET_SHORT\nElementDataFile = LOCAL\n"
)


@pytest.mark.parametrize(
    ("name", "header", "field"),
    [
        ("a.nrrd", NRRD.format("spacings: nan 1 1"), "spacings is nan 1 1"),
        ("a.nrrd", NRRD.replace("\n", "\r\n").format("spacings: 1 1 NaN"), "spacings is 1 1 NaN"),
        ("a.mha", META.format("Offset = nan 0 0"), "Offset is nan 0 0"),
        ("a.mha", META.format("Offset = 0 -inf 0"), "Offset is 0 -inf 0"),
        ("a.mha", META.format("ElementSpacing = 1 1 Infinity"), "ElementSpacing is 1 1 Infinity"),
    ],
)
def test_a_place_that_is_no_number_is_refused(name: str, header: str, field: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_bytes(header.encode() + bytes(48))
    for read in (read_volume, read_array):
        with pytest.raises(GeometryError, match=f"{name}.* its {field}"):
            read(file)


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("a.nrrd", NRRD.format("content: nan inf\nspacings: 2 3 4")),
        ("a.mha", META.format("Comment = Offset = nan\nElementSpacing = 2 3 4")),
    ],
)
def test_words_in_other_fields_and_voxels_are_not_taken_for_a_place(name: str, header: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_bytes(header.encode() + b"\nOffset = nan 0 0\n".ljust(48, b"\0"))
    assert read_volume(file).GetSpacing() == (2, 3, 4)
