"""Damaged CT files end in one of our own errors or in a volume of the claimed size, within bounded memory."""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from ct_files import slice_dataset, write
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from LungSegmentationLib.dicom.ct import read_ct
from LungSegmentationLib.dicom.scan import scan
from LungSegmentationLib.errors import BadInputError, LungSegError

LENGTHS = [0, 1, 2, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF]


def mutations(whole: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Flip, overwrite, cut out, insert and repeat bytes; put odd lengths anywhere. Mostly in the header."""
    random = np.random.default_rng(seed)
    header = max(whole.rfind(b"\xe0\x7f\x10\x00"), 200)
    for _ in range(count):
        data = bytearray(whole)
        for _ in range(random.integers(1, 4)):
            at = int(random.integers(128, header + 24 if random.random() < 0.9 else len(data)))
            at = min(at, len(data) - 8)
            kind = random.integers(7)
            if kind == 0:
                data[at] ^= 1 << int(random.integers(8))
            elif kind == 1:
                data[at : at + 4] = random.bytes(4)
            elif kind == 2:
                struct.pack_into("<I", data, at, LENGTHS[random.integers(len(LENGTHS))])
            elif kind == 3:
                struct.pack_into("<H", data, at, LENGTHS[random.integers(5)])
            elif kind == 4:
                del data[at : at + int(random.integers(1, 40))]
            elif kind == 5:
                data[at:at] = random.bytes(int(random.integers(1, 40)))
            else:
                del data[max(at, 200) :]
            if len(data) < 200:
                break
        yield bytes(data)


def peak_memory() -> int:
    """Largest resident memory of this process so far, in bytes."""
    resource = pytest.importorskip("resource")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak) * (1 if sys.platform == "darwin" else 1024)


def small_ct(path: Path, syntax: str) -> bytes:
    stored = np.random.default_rng(5).integers(-500, 3000, (24, 20)).astype(np.int16)
    dataset = slice_dataset(stored, PixelPaddingValue=-2000, NumberOfFrames="1", InstanceNumber="3")
    if syntax == RLELossless:
        dataset.compress(RLELossless, stored, encoding_plugin="pydicom", generate_instance_uid=False)
        dataset.save_as(path, enforce_file_format=True)
    else:
        write(path, dataset, syntax)
    return path.read_bytes()


def outcome(path: Path) -> str:
    try:
        volume = read_ct([path], threads=1)
    except LungSegError as error:
        return type(error).__name__
    assert volume.image.GetNumberOfPixels() * 2 <= 64 * path.stat().st_size + 1_000_000
    return "read"


@pytest.mark.parametrize(
    ("syntax", "count", "seed"),
    [
        (ExplicitVRLittleEndian, 1000, 1),
        (ImplicitVRLittleEndian, 500, 2),
        (DeflatedExplicitVRLittleEndian, 200, 3),
        (RLELossless, 300, 4),
    ],
)
def test_a_damaged_file_is_refused_or_read(tmp_path: Path, syntax: str, count: int, seed: int) -> None:
    whole = small_ct(tmp_path / "whole", syntax)
    assert outcome(tmp_path / "whole") == "read"
    before = peak_memory()
    outcomes = set()
    path = tmp_path / "damaged"
    for data in mutations(whole, count, seed):
        path.write_bytes(data)
        outcomes.add(outcome(path))
    assert peak_memory() - before < 300 * 2**20
    assert len(outcomes) >= 2


def test_a_folder_of_damaged_files_is_scanned_to_its_end(tmp_path: Path) -> None:
    whole = small_ct(tmp_path / "whole", ExplicitVRLittleEndian)
    for number, data in enumerate(mutations(whole, 300, 6)):
        (tmp_path / f"{number:03d}").write_bytes(data)
    result = scan(tmp_path)
    listed = sum(len(series.files) for patient in result.patients for series in patient.series)
    copies = sum(int(text.split()[0]) for text in result.warnings if "exact copies" in text)
    assert result.files == 301
    assert listed + len(result.unreadable) + sum(result.other.values()) + copies == 301


@pytest.mark.realdata
@pytest.mark.parametrize(
    "name",
    [
        "CT_small.dcm",
        "eCT_Supplemental.dcm",
        "CTImage.dcm_JPEG2000LosslessOnlyTransferSyntax_1.2.840.10008.1.2.4.90.dcm",
    ],
)
def test_a_damaged_real_header_is_refused_or_read(tmp_path: Path, data: Path, name: str) -> None:
    whole = (data / "tricky/transfer_syntax" / name).read_bytes()
    header = whole.rfind(b"\xe0\x7f\x10\x00") + 12
    before = peak_memory()
    path = tmp_path / "damaged"
    for head in mutations(whole[:header] + bytes(8), 60, 7):
        path.write_bytes(head[:-8] + whole[header:])
        outcome(path)
    assert peak_memory() - before < 300 * 2**20


@pytest.mark.realdata
@pytest.mark.parametrize("kind", ["JPEG2000LosslessOnly", "JPEGLSLossless", "JPEGProcess14SV1", "JPEGProcess1T"])
def test_a_damaged_compressed_stream_never_makes_the_decoder_allocate_wildly(
    tmp_path: Path, data: Path, kind: str
) -> None:
    (file,) = (data / "tricky/transfer_syntax").glob(f"CTImage.dcm_{kind}*")
    whole = file.read_bytes()
    begin = whole.rfind(b"\xe0\x7f\x10\x00")
    random = np.random.default_rng(8)
    before = peak_memory()
    path = tmp_path / "damaged"
    for _ in range(40):
        damaged = bytearray(whole)
        for _ in range(3):
            at = int(random.integers(begin, begin + 400))
            damaged[at : at + 4] = random.bytes(4)
        path.write_bytes(damaged)
        outcome(path)
    assert peak_memory() - before < 300 * 2**20


@pytest.mark.realdata
def test_a_compressed_stream_that_claims_another_size_is_refused(tmp_path: Path, data: Path) -> None:
    (file,) = (data / "tricky/transfer_syntax").glob("CTImage.dcm_JPEG2000LosslessOnly*")
    whole = bytearray(file.read_bytes())
    size = whole.rfind(b"\xff\x4f\xff\x51") + 8
    struct.pack_into(">II", whole, size, 60000, 60000)
    (tmp_path / "a").write_bytes(whole)
    with pytest.raises(BadInputError, match="60000 × 60000"):
        read_ct([tmp_path / "a"])
