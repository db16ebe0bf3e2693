"""Headers of plain CT files say the same whether they are read from their bytes or by pydicom, damaged ones as well."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ct_files import slice_dataset, write
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from test_ct_fuzz import mutations

from LungSegmentationLib.dicom import header_reader
from LungSegmentationLib.dicom.header_reader import quiet_parser, read_header
from LungSegmentationLib.dicom.images import image_info
from LungSegmentationLib.errors import LungSegError


def said(path: Path) -> object:
    """Return what a file says, or with which words it is refused."""
    with quiet_parser():
        try:
            header = read_header(path)
            return image_info(header), header.human("PatientName"), header.text("PatientBirthDate")
        except LungSegError as error:
            return type(error), error.message


def both_ways(path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[object, object]:
    directly = said(path)
    with monkeypatch.context() as patch:
        patch.setattr(header_reader, "read_plain", lambda *_, **__: None)
        return directly, said(path)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_damaged_headers_say_the_same_both_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, syntax: str) -> None:
    stored = np.random.default_rng(5).integers(-500, 3000, (24, 20)).astype(np.int16)
    dataset = slice_dataset(stored, PixelPaddingValue=-2000, InstanceNumber="3")
    whole = write(tmp_path / "whole", dataset, syntax).read_bytes()
    for number, damaged in enumerate(mutations(whole, 600, seed=17)):
        path = tmp_path / "damaged"
        path.write_bytes(damaged)
        directly, by_pydicom = both_ways(path, monkeypatch)
        assert directly == by_pydicom, number


@pytest.mark.realdata
def test_real_headers_say_the_same_both_ways(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in [folder for folder in data.rglob("*") if folder.is_dir()]:
        # Slices of one series are alike.
        for path in sorted(path for path in folder.iterdir() if path.is_file())[:6]:
            directly, by_pydicom = both_ways(path, monkeypatch)
            assert directly == by_pydicom, path
