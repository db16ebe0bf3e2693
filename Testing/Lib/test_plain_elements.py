"""Plain files read straight from their bytes: the same elements as pydicom finds, and nothing of a file in doubt."""

from __future__ import annotations

import random
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from LungSegmentationLib.dicom.plain_elements import read_plain

SYNTAXES = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]


def file_bytes(syntax: str = ExplicitVRLittleEndian, *, undefined: bool = False) -> bytes:
    """Return a small file with sequences in sequences."""
    inner = Dataset()
    inner.ReferencedSOPInstanceUID = "1.2.3"
    contour = Dataset()
    contour.ContourData = [1.5, -2, 3]
    contour.ContourImageSequence = Sequence([inner])
    roi = Dataset()
    roi.ContourSequence = Sequence([contour, Dataset(), contour])
    roi.ReferencedROINumber = 7
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.481.3"
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = "1.2.4"
    dataset.PatientName = "A^B"
    dataset.Rows = 512
    dataset.ROIContourSequence = Sequence([roi])
    block = dataset.private_block(0x3007, "US", create=True)
    block.add_new(1, "LO", "private")
    if undefined:
        for item in (dataset, roi, contour):
            for element in item:
                element.is_undefined_length = element.VR == "SQ"
        for item in (roi, contour, inner):
            item.is_undefined_length_sequence_item = True
    stream = BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def by_pydicom(data: bytes) -> Any:
    return raw_elements_of(pydicom.dcmread(BytesIO(data), stop_before_pixels=True))


def raw_elements_of(dataset: Dataset) -> Any:
    result: dict[int, Any] = {}
    # All at first: opening a sequence makes pydicom convert elements outside of it.
    elements = {tag: dataset.get_item(tag) for tag in dataset.keys()}  # noqa: SIM118 - a Dataset iterates over values
    for tag, element in elements.items():
        known = "SQ" if getattr(element, "VR", None) == "SQ" else dataset_vr(int(tag))
        if known == "SQ":
            result[int(tag)] = [raw_elements_of(item) for item in dataset[tag].value or ()]
        elif tag == 0x00080005 and not isinstance(element.value, bytes):
            # pydicom decodes this one at once, without its padding.
            words = [element.value] if isinstance(element.value, str) else list(element.value or ())
            written = "\\".join(words).encode()
            result[int(tag)] = written + b" " * (len(written) % 2)
        else:
            result[int(tag)] = element.value or b""
    return result


def dataset_vr(tag: int) -> str:
    try:
        return pydicom.datadict.dictionary_VR(tag)
    except KeyError:
        return ""


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("undefined", [False, True])
def test_elements_are_those_that_pydicom_finds(syntax: str, undefined: bool) -> None:
    data = file_bytes(syntax, undefined=undefined)
    plain = read_plain(data)
    assert plain is not None
    assert plain.elements == by_pydicom(data)
    assert plain.end == len(data)
    assert plain.transfer_syntax == syntax
    assert isinstance(plain.elements[0x30060039], list)


@pytest.mark.parametrize("undefined", [False, True])
def test_only_wanted_elements_are_kept_with_all_that_is_in_them(undefined: bool) -> None:
    data = file_bytes(undefined=undefined)
    whole = read_plain(data)
    part = read_plain(data, wanted={0x00080016, 0x30060039})
    without = read_plain(data, wanted={0x00080016})
    assert whole is not None
    assert part is not None
    assert without is not None
    assert part.elements == {tag: whole.elements[tag] for tag in (0x00080016, 0x30060039)}
    assert list(without.elements) == [0x00080016]


@pytest.mark.parametrize("undefined", [False, True])
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_file_that_ends_early_is_not_plain_unless_between_elements(syntax: str, undefined: bool) -> None:
    data = file_bytes(syntax, undefined=undefined)
    whole = read_plain(data)
    assert whole is not None
    for end in range(len(data)):
        plain = read_plain(data[:end])
        assert plain is None or plain.elements.items() < whole.elements.items()


def test_what_is_in_doubt_is_not_plain() -> None:
    explicit, implicit = file_bytes(), file_bytes(ImplicitVRLittleEndian)
    named = (ExplicitVRLittleEndian + "\0").encode()
    doubtful = {
        "no preamble": explicit[132:],
        "another syntax": explicit.replace(named, b"1.2.840.10008.1.2.9\0"),
        "explicit that is implicit": explicit[: explicit.index(b"\x08\0\x16\0")]
        + implicit[implicit.index(b"\x08\0\x16\0") :],
        "implicit that is explicit": implicit[: implicit.index(b"\x08\0\x16\0")]
        + explicit[explicit.index(b"\x08\0\x16\0") :],
        "unknown representation": explicit.replace(b"\x10\0\x10\0PN", b"\x10\0\x10\0PM"),
        "sequence called text": explicit.replace(b"\x06\x30\x39\x00SQ", b"\x06\x30\x39\x00UT"),
        "text called sequence": explicit.replace(b"\x06\x30\x50\x00DS", b"\x06\x30\x50\x00SQ"),
        "big endian": file_bytes(ExplicitVRBigEndian),
        "nothing": b"",
    }
    assert [name for name, data in doubtful.items() if read_plain(data) is not None] == []


def test_endless_nesting_ends() -> None:
    head = file_bytes(ImplicitVRLittleEndian)
    level = bytes.fromhex("06303900 ffffffff feff00e0 ffffffff")
    assert read_plain(head + level * 100_000) is None


def test_mutated_files_are_not_plain_or_read_as_pydicom_reads_them() -> None:
    generator = random.Random(5)
    originals = [file_bytes(syntax, undefined=undefined) for syntax in SYNTAXES for undefined in (False, True)]
    plain_ones = 0
    for _ in range(1500):
        data = bytearray(generator.choice(originals))
        for _ in range(generator.choice((1, 1, 2, 5))):
            data[generator.randrange(132, len(data))] = generator.choice((0, 1, 8, 32, 0xFF, generator.randrange(256)))
        plain = read_plain(bytes(data))
        if plain is not None:
            plain_ones += 1
            assert plain.elements == by_pydicom(bytes(data))
    assert plain_ones > 300


@pytest.mark.realdata
def test_real_files_are_read_as_pydicom_reads_them(data: Path) -> None:
    folders = [folder for folder in data.rglob("*") if folder.is_dir()]
    plain_ones = 0
    for folder in folders:
        # Slices of one series are alike.
        for path in sorted(path for path in folder.iterdir() if path.is_file())[:4]:
            content = path.read_bytes()
            plain = read_plain(content)
            if plain is not None:
                plain_ones += 1
                assert plain.elements == by_pydicom(content), path
    assert plain_ones > 20
