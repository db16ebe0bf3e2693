"""What the cohort remembers of each case and of itself: typed, versioned, read and written in one way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from LungSegmentationLib import __version__
from LungSegmentationLib.errors import BadInputError
from LungSegmentationLib.geometry import Grid
from LungSegmentationLib.storage import read_json, write_json

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "CaseRecord",
    "CohortRecord",
    "Geometry",
    "RoiRecord",
    "Source",
    "StructureRecord",
    "read_record",
    "write_record",
]

SCHEMA: Final = 1


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Geometry(_Record):
    """Grid of a case in LPS, mm (see :class:`LungSegmentationLib.geometry.Grid`)."""

    size: tuple[int, int, int]
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float]
    direction: tuple[float, ...]

    @classmethod
    def of(cls, grid: Grid) -> Geometry:
        """Take over a grid."""
        return cls(size=grid.size, spacing=grid.spacing, origin=grid.origin, direction=grid.direction)

    @property
    def grid(self) -> Grid:
        """The grid."""
        return Grid(self.size, self.spacing, self.origin, self.direction)


class Source(_Record):
    """Where a case comes from. UIDs and paths, no names."""

    patient_id: str
    study_uid: str
    series_uid: str
    volume_key: str
    frame_of_reference_uid: str
    rtstruct_uid: str
    rtstruct_label: str
    linked_by: Literal["reference", "frame of reference", "geometry"]
    ct_folder: str
    rtstruct_file: str
    sop_instance_uids: tuple[str | None, ...]


class RoiRecord(_Record):
    """What became of one ROI of the RTSTRUCT, and why."""

    number: int
    name: str
    structure: str | None
    kind: str
    by: str
    reason: str
    contours: int
    volume_cc: float | None


class StructureRecord(_Record):
    """One structure as drawn: voxels and volume in cm³."""

    voxels: int
    volume_cc: float


class CaseRecord(_Record):
    """``case.json``.

    ``annotated`` lists the structures that were drawn (or made, see ``synthetic``): one that is not in it is unknown,
    not absent.
    """

    schema_version: Literal[1] = SCHEMA
    case: str
    software_version: str = __version__
    label_set: str
    source: Source
    geometry: Geometry
    rois: tuple[RoiRecord, ...]
    annotated: tuple[str, ...]
    synthetic: tuple[str, ...]
    structures: dict[str, StructureRecord]
    interpolated_slices: tuple[int, ...]
    warnings: tuple[str, ...]
    fingerprint: str


class CohortRecord(_Record):
    """``cohort.json``: what all cases share. ``label_set`` holds the whole set, so a cohort explains itself."""

    schema_version: Literal[1] = SCHEMA
    software_version: str = __version__
    label_set: dict[str, Any]
    slice_size: int | None = None
    window: tuple[float, float] | None = None


R = TypeVar("R", CaseRecord, CohortRecord)


def read_record(kind: type[R], path: Path) -> R:
    """Read ``case.json`` or ``cohort.json``; a damaged one or one of a newer version is refused in a sentence."""
    content = read_json(path, path.name)
    version = content.get("schema_version") if isinstance(content, dict) else None
    if isinstance(version, int) and version > SCHEMA:
        raise BadInputError(f"{path} was written by a newer LungSegmentation.", "Update the software.")
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise BadInputError(f"{path} is damaged: {place}: {first['msg']}.", "Convert this case again.") from error


def write_record(record: CaseRecord | CohortRecord, path: Path) -> None:
    """Write ``case.json`` or ``cohort.json``."""
    write_json(path, record.model_dump(mode="json"))
