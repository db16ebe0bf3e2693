"""What stands beside a prediction (``prediction.json``): of what, by what, how sure; nothing that names a person."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue, ValidationError

from LungSegmentationLib import __version__
from LungSegmentationLib.errors import BadInputError, StorageError
from LungSegmentationLib.inference.sources import RECORD_ENDING
from LungSegmentationLib.segmentation_files import segmentation_stem
from LungSegmentationLib.storage import read_json, write_json

if TYPE_CHECKING:
    from LungSegmentationLib.inference.options import PredictionOptions

__all__ = [
    "InputRecord",
    "ModelRecord",
    "PredictionRecord",
    "StructureRecord",
    "file_digest",
    "prediction_key",
    "read_record_of",
    "record_beside",
    "write_record_of",
]

SCHEMA: Literal[1] = 1
_CHUNK = 1 << 20
# They decide where and how fast it is done and what else is written, not what comes out.
_WITHOUT_INFLUENCE = ("device", "batch_size", "confidence", "contours")


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class InputRecord(_Part):
    """What was segmented.

    Attributes
    ----------
    source
        ``kind`` (``dicom``, ``volume``) and the UIDs of a DICOM series.
    size, spacing
        Voxels and mm along x, y, z of the grid.
    fingerprint
        Changes where the CT was exchanged.
    """

    source: dict[str, str]
    size: tuple[int, int, int]
    spacing: tuple[float, float, float]
    fingerprint: str


class ModelRecord(_Part):
    """Which model it was: name and SHA-256 of its file, the software that trained it, a fingerprint of its data."""

    file: str
    sha256: str
    software_version: str
    data_fingerprint: str


class StructureRecord(_Part):
    """One structure: name, volume in cm³ (0 where it was not found), mean probability over it (None likewise)."""

    name: str
    cc: float
    voxels: int
    confidence: float | None


class PredictionRecord(_Part):
    """All that is known of a prediction.

    Attributes
    ----------
    key
        Of :func:`prediction_key`: the same for the same models, options and software.
    files
        File names by format.
    left_out
        Formats that were asked for and cannot hold this result, each with the reason: nothing was found, and DICOM
        has no empty SEG.
    marked
        Whether the CT lies outside what the models are made for.
    warnings
        Why it is marked, and what else should be looked at.
    changes
        What postprocessing did.
    """

    schema_version: Literal[1] = SCHEMA
    created: AwareDatetime
    case: str
    research_only: str = "Automatic segmentation for research; not a medical device. Check it before any use."
    marked: bool
    warnings: tuple[str, ...]
    input: InputRecord
    models: tuple[ModelRecord, ...]
    options: dict[str, JsonValue]
    device: str
    software: dict[str, str]
    key: str
    structures: dict[str, StructureRecord]
    changes: tuple[str, ...] = ()
    files: dict[str, str] = Field(default_factory=dict)
    left_out: dict[str, str] = Field(default_factory=dict)
    seconds: float

    def is_of(self, key: str, fingerprint: str) -> bool:
        """Whether it is what would come out again."""
        return self.key == key and self.input.fingerprint == fingerprint


def prediction_key(models: Sequence[ModelRecord], options: PredictionOptions, keys: Sequence[str]) -> str:
    """Return a SHA-256 (hexadecimal) of all that decides what comes out, but the CT."""
    content = {
        "models": sorted(model.sha256 for model in models),
        "options": {name: value for name, value in vars(options).items() if name not in _WITHOUT_INFLUENCE},
        "structures": list(keys),
        "software": __version__,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """Return the SHA-256 (hexadecimal) of a file.

    Raises
    ------
    StorageError
        If it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise StorageError(f"{path}: the file cannot be read ({error.strerror or error}).") from error
    return digest.hexdigest()


def read_record_of(path: Path) -> PredictionRecord | None:
    """Return the record of a prediction; None where there is none, or none that this version understands."""
    try:
        return PredictionRecord.model_validate(read_json(path, "record of a prediction"))
    except (BadInputError, ValidationError):
        return None


def record_beside(path: Path) -> PredictionRecord | None:
    """Return the record of the prediction that a file is part of; None where there is none."""
    for name in (RECORD_ENDING, f"{segmentation_stem(path)}.{RECORD_ENDING}"):
        file = path.parent / name
        record = read_record_of(file) if file.is_file() else None
        if record is not None and path.name in record.files.values():
            return record
    return None


def write_record_of(record: PredictionRecord, path: Path) -> None:
    """Write the record of a prediction, whole or not at all."""
    write_json(path, record.model_dump(mode="json"))
