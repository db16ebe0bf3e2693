"""What the cohort remembers of each case and of itself: typed, versioned, read and written in one way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, TypeVar

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
    "Record",
    "RoiRecord",
    "Source",
    "SplitSettings",
    "StructureRecord",
    "read_record",
    "write_record",
]

SCHEMA: Final = 1


class Record(BaseModel):
    """What is written as JSON: frozen, and without fields that nobody knows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cure: ClassVar[str] = "Convert this case again."
    """What a user does where a file of this kind is damaged."""


class Geometry(Record):
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


class Source(Record):
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


class RoiRecord(Record):
    """What became of one ROI of the RTSTRUCT, and why."""

    number: int
    name: str
    structure: str | None
    kind: str
    by: str
    reason: str
    contours: int
    volume_cc: float | None


class StructureRecord(Record):
    """One structure as drawn: voxels and volume in cm³."""

    voxels: int
    volume_cc: float


class CaseRecord(Record):
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
    choice_warnings: tuple[str, ...] = ()
    warnings: tuple[str, ...]
    fingerprint: str
    file_sizes: dict[str, int] = {}

    @property
    def all_warnings(self) -> tuple[str, ...]:
        """How CT and RTSTRUCT were chosen among several, then what the files themselves gave cause to say."""
        return (*self.choice_warnings, *self.warnings)


class ConversionSettings(Record):
    """How a cohort was last converted: held by the next call unless it says otherwise.

    ``roi_map`` is the name of the cohort's own copy of the user's file; ``synthetic_ptv`` is in mm.
    """

    roi_map: str | None = None
    synthetic_ptv: float | None = None
    ct: str = "all"
    rtstruct: str = "most-structures"


class SplitSettings(Record):
    """How a cohort was split, see :func:`LungSegmentationLib.cohort.splits.make_split`."""

    seed: int
    ratios: tuple[float, float, float]
    stratify: bool


class CohortRecord(Record):
    """``cohort.json``: what all cases share. ``label_set`` holds the whole set, so a cohort explains itself.

    ``slice_size`` (pixels), ``window`` (HU), ``field_of_view`` and ``label_resampling`` are those of the cache, empty
    before the first preparation; ``splitting`` is how the split was made, and how new cases are dealt.
    """

    cure: ClassVar[str] = "Remove it and convert again: the cases are kept."

    schema_version: Literal[1] = SCHEMA
    software_version: str = __version__
    label_set: dict[str, Any]
    conversion: ConversionSettings = ConversionSettings()
    slice_size: int | None = None
    window: tuple[float, float] | None = None
    field_of_view: Literal["full", "body"] | None = None
    label_resampling: Literal["coverage", "nearest"] | None = None
    splitting: SplitSettings | None = None


R = TypeVar("R", bound=Record)


def read_record(kind: type[R], path: Path) -> R:
    """Read a record; a damaged one or one of a newer version is refused in a sentence."""
    content = read_json(path, path.name)
    version = content.get("schema_version") if isinstance(content, dict) else None
    if isinstance(version, int) and version > SCHEMA:
        raise BadInputError(f"{path} was written by a newer LungSegmentation.", "Update the software.")
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise BadInputError(f"{path} is damaged: {place}: {first['msg']}.", kind.cure) from error


def write_record(record: Record, path: Path) -> None:
    """Write a record, whole or not at all."""
    write_json(path, record.model_dump(mode="json"))
