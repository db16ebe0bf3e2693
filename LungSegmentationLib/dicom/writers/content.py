"""What every written result says about itself, and how DICOM writes numbers and text."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from pydicom import Dataset
from pydicom.charset import convert_encodings, decode_bytes, encode_string
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID

from LungSegmentationLib import PRODUCT, __version__
from LungSegmentationLib.errors import UsageError
from LungSegmentationLib.labels import Structure
from LungSegmentationLib.structures import StructureMap

__all__ = [
    "DESCRIPTION",
    "IMPLEMENTATION",
    "PRODUCT",
    "UTF8",
    "AlgorithmInfo",
    "chosen_structures",
    "common_character_set",
    "decimal_string",
    "file_meta",
    "long_string",
    "stamp",
]

DESCRIPTION = "Automatic segmentation, for research only"
IMPLEMENTATION = UID("2.25.221938456129834470612834905512376480")
UTF8 = "ISO_IR 192"

_LONGEST_DECIMAL = 16
_LONGEST_LONG_STRING = 64


@dataclass(frozen=True)
class AlgorithmInfo:
    """What made a segmentation: a name, for example the model's, and its version.

    ``automatic`` is false where a person may have had a hand in it.
    """

    name: str = PRODUCT
    version: str = __version__
    automatic: bool = True

    def __post_init__(self) -> None:
        # DICOM asks for both; a result must not get lost at the end because a model has no version.
        for field in ("name", "version"):
            object.__setattr__(self, field, getattr(self, field).strip() or "unknown")

    @property
    def how(self) -> str:
        """As DICOM says it: AUTOMATIC or SEMIAUTOMATIC (PS3.3 C.8.20.4, C.8.8.5)."""
        return "AUTOMATIC" if self.automatic else "SEMIAUTOMATIC"

    @property
    def label(self) -> str:
        """Label of a result in capitals, at most 16 characters."""
        return "AUTO_RESEARCH" if self.automatic else "RESEARCH"


def chosen_structures(structures: StructureMap, keys: Iterable[str] | None) -> tuple[Structure, ...]:
    """Return the structures to write, in the order of their labels; all of the label set if ``keys`` is None.

    Raises
    ------
    BadInputError
        If a key is not in the label set.
    UsageError
        If none is left.
    """
    label_set = structures.label_set
    wanted = set(label_set.keys) if keys is None else {label_set[key].key for key in keys}
    if not wanted:
        raise UsageError("No structure was chosen to be written.", "Name at least one.")
    return tuple(structure for structure in label_set.structures if structure.key in wanted)


def decimal_string(value: float) -> str:
    """Write a number as a DICOM decimal string (PS3.5 6.2, DS): at most 16 characters, as exact as they allow."""
    if not math.isfinite(value):
        raise ValueError(f"{value} is no number that DICOM can hold")
    text = repr(float(value) + 0.0).removesuffix(".0")
    digits = 16
    while len(text) > _LONGEST_DECIMAL:
        digits -= 1
        text = f"{value:.{digits}g}"
    return text


def long_string(text: str) -> str:
    r"""Make a DICOM long string (PS3.5 6.2, LO) of any text: one line without backslash, at most 64 characters."""
    line = " ".join("".join(" " if letter == "\\" or ord(letter) < 32 else letter for letter in text).split())
    return line if len(line) <= _LONGEST_LONG_STRING else line[: _LONGEST_LONG_STRING - 3] + "..."


def common_character_set(preferred: list[str], texts: Iterable[str]) -> list[str]:
    """Return the source's character set if it can hold all texts, else UTF-8.

    Kept where possible, so that the patient's name has the same bytes as in the images.
    """
    joined = [text for text in texts if text]
    if all(text.isascii() for text in joined):
        return preferred or [UTF8]
    if not preferred:
        return [UTF8]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            encodings = convert_encodings(preferred)
            same = all(decode_bytes(encode_string(text, encodings), encodings, set()) == text for text in joined)
        except (LookupError, UnicodeError, ValueError):
            same = False
    return preferred if same else [UTF8]


def file_meta(sop_class: str, sop_instance: str, transfer_syntax: UID) -> FileMetaDataset:
    """Return the File Meta Information (PS3.10 7.1) of a file that this software writes."""
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID = UID(sop_class)
    meta.MediaStorageSOPInstanceUID = UID(sop_instance)
    meta.TransferSyntaxUID = transfer_syntax
    meta.ImplementationClassUID = IMPLEMENTATION
    meta.ImplementationVersionName = f"LUNGSEG_{__version__}"[:16]
    return meta


def stamp(dataset: Dataset, now: datetime) -> None:
    """Say who wrote a data set and when (PS3.3 C.7.5.1 General Equipment, C.12.1 SOP Common)."""
    dataset.Manufacturer = PRODUCT
    dataset.ManufacturerModelName = PRODUCT
    dataset.DeviceSerialNumber = "1"
    dataset.SoftwareVersions = __version__
    dataset.InstanceCreationDate = dataset.SeriesDate = f"{now:%Y%m%d}"
    dataset.InstanceCreationTime = dataset.SeriesTime = f"{now:%H%M%S}"
