"""One case from DICOM: CT in HU, every structure as drawn, the label map, and the record of how it came about."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import SimpleITK as sitk

from LungSegmentationLib.cohort.body import body_mask
from LungSegmentationLib.cohort.gaps import fill_interpolated_slices
from LungSegmentationLib.cohort.margins import with_margin
from LungSegmentationLib.cohort.records import (
    CaseRecord,
    Geometry,
    RoiRecord,
    Source,
    StructureRecord,
)
from LungSegmentationLib.cohort.selection import assign_rois, volume_key
from LungSegmentationLib.dicom.contours import rasterize
from LungSegmentationLib.dicom.ct import CTVolume, read_ct
from LungSegmentationLib.dicom.roi_names import RoiAssignment, RoiKind, RoiMap, RoiRules
from LungSegmentationLib.dicom.rtstruct import RTStruct, read_rtstruct
from LungSegmentationLib.errors import BadInputError, GeometryError
from LungSegmentationLib.structures import StructureMap
from LungSegmentationLib.volumes import write_volume

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from numpy.typing import NDArray

    from LungSegmentationLib.cohort.paths import CasePaths
    from LungSegmentationLib.cohort.selection import PlannedCase
    from LungSegmentationLib.geometry import Grid
    from LungSegmentationLib.labels import LabelSet

__all__ = ["Case", "DrawnOn", "DrawnStructures", "draw_structures", "import_case", "write_structures"]


class DrawnOn(Protocol):
    """What contours are drawn on: a CT, or only its grid."""

    @property
    def grid(self) -> Grid:
        """Where the voxels lie."""
        ...

    @property
    def frame_of_reference_uid(self) -> str:
        """Coordinate system; empty if unknown."""
        ...

    @property
    def series_uid(self) -> str:
        """Series, for messages; empty if unknown."""
        ...

    @property
    def interpolated_slices(self) -> tuple[int, ...]:
        """Slices that no file holds."""
        ...


@dataclass(frozen=True)
class DrawnStructures:
    """The structures of an RTSTRUCT on a CT's grid, and what happened on the way."""

    structures: StructureMap
    assignment: RoiAssignment
    rois: tuple[RoiRecord, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Case:
    """A case in memory: CT in HU (int16), structures on the same grid, record."""

    ct: CTVolume
    structures: StructureMap
    record: CaseRecord


def draw_structures(
    rtstruct: RTStruct,
    ct: DrawnOn,
    label_set: LabelSet,
    rules: RoiRules,
    *,
    roi_map: RoiMap | None = None,
    corrections: Mapping[str | int, str | None] | None = None,
) -> DrawnStructures:
    """Turn the contours of an RTSTRUCT into structures on the grid of a CT.

    Raises
    ------
    BadInputError
        If none of the ROIs is a structure of the label set.
    GeometryError
        If all contours lie outside the CT.
    """
    assignment, elsewhere = assign_rois(
        rtstruct, ct.frame_of_reference_uid, label_set, rules, roi_map=roi_map, corrections=corrections
    )
    chosen = {key: [n for n in numbers if n not in elsewhere] for key, numbers in assignment.structures().items()}
    chosen = {key: numbers for key, numbers in chosen.items() if numbers}
    if not chosen:
        raise _nothing_drawn(rtstruct, assignment, label_set)
    by_number = {roi.number: roi for roi in rtstruct.rois}
    bits = np.zeros(ct.grid.shape, np.uint8)
    volumes: dict[int, float] = {}
    warnings = [*rtstruct.warnings, *assignment.warnings]
    if elsewhere:
        names = _listed(roi.name for roi in rtstruct.rois if roi.number in elsewhere)
        warnings.append(f"ROI {names}: drawn in another frame of reference than this CT, not used.")
    for key, numbers in chosen.items():
        shift = label_set[key].label - 1
        for number in numbers:
            roi = by_number[number]
            drawn = rasterize(roi.contours, ct.grid)
            bits[drawn.box] |= drawn.voxels.view(np.uint8) << shift
            volumes[number] = drawn.voxel_count * ct.grid.voxel_volume
            warnings += drawn.report.warnings(roi.name)
            if drawn.voxel_count == 0:
                warnings.append(f"ROI “{roi.name}” covers no voxel: {label_set[key].name} is not taken from it.")
    if not bits.any():
        raise GeometryError(
            f"No contour of {_listed(by_number[n].name for numbers in chosen.values() for n in numbers)} in "
            f"{rtstruct.path.name} lies in the CT of series …{ct.series_uid[-12:]}.",
            "The RTSTRUCT belongs to another CT, or slices of this one are missing.",
        )
    structures = StructureMap(label_set, bits)
    warnings += _fill_interpolated(structures, chosen, ct.interpolated_slices)
    rois = tuple(
        RoiRecord(
            number=decision.number,
            name=decision.name,
            structure=decision.structure,
            kind=str(decision.kind),
            by=decision.by,
            reason=decision.reason,
            contours=len(by_number[decision.number].contours),
            volume_cc=round(volumes[decision.number], 4) if decision.number in volumes else None,
        )
        for decision in assignment.decisions
    )
    return DrawnStructures(structures, assignment, rois, tuple(warnings))


def _nothing_drawn(rtstruct: RTStruct, assignment: RoiAssignment, label_set: LabelSet) -> BadInputError:
    empty = [decision.name for decision in assignment.decisions if decision.kind is RoiKind.EMPTY]
    if empty:
        return BadInputError(
            f"{rtstruct.path.name} names {_listed(empty)}, but draws no closed contour of a structure.",
            "Export the RTSTRUCT again, with its contours.",
        )
    return BadInputError(
        f"{rtstruct.path.name} draws no structure of the label set {label_set.name}; its ROIs are "
        f"{_listed(roi.name for roi in rtstruct.rois)}.",
        "Say which is which with --roi-map FILE or --correct.",
    )


def _listed(names: Iterable[str]) -> str:
    quoted = [f"“{name}”" for name in names]
    return ", ".join(quoted[:12]) + (f" and {len(quoted) - 12} more" if len(quoted) > 12 else "") or "none"


def _fill_interpolated(structures: StructureMap, keys: Mapping[str, object], slices: tuple[int, ...]) -> list[str]:
    warnings = []
    for key in keys if slices else ():
        mask = structures.mask(key)
        filled = fill_interpolated_slices(mask, slices)
        if filled:
            bit = np.uint8(1 << (structures.label_set[key].label - 1))
            np.bitwise_or(structures.bits, bit, out=structures.bits, where=mask)
            name = structures.label_set[key].name
            warnings.append(f"{name}: shaped between its neighbors on the interpolated slice {filled[0] + 1}.")
    return warnings


def import_case(
    planned: PlannedCase,
    label_set: LabelSet,
    rules: RoiRules,
    *,
    roi_map: RoiMap | None = None,
    corrections: Mapping[str | int, str | None] | None = None,
    synthetic_ptv: float | None = None,
    fingerprint: str = "",
    ct_ready: Callable[[CTVolume], None] | None = None,
) -> Case:
    """Read a planned case from its DICOM files.

    Parameters
    ----------
    planned
        The CT and the RTSTRUCT.
    synthetic_ptv
        mm: where no PTV was drawn, one is made as this margin around the GTV, inside the body.
    fingerprint
        Stored in the record: tells whether a later conversion would give the same.
    ct_ready
        Called with the CT as soon as it is read, for work that does not need the contours.
    """
    with ThreadPoolExecutor(1) as beside:
        contours = beside.submit(read_rtstruct, planned.link.rtstruct.path)
        ct = read_ct(planned.series)
        if ct_ready is not None:
            ct_ready(ct)
        rtstruct = contours.result()
    drawn = draw_structures(rtstruct, ct, label_set, rules, roi_map=roi_map, corrections=corrections)
    structures, warnings = drawn.structures, [*ct.warnings, *drawn.warnings]
    synthetic: tuple[str, ...] = ()
    if synthetic_ptv is not None:
        structures, synthetic = _with_synthetic_ptv(structures, ct, synthetic_ptv)
        if synthetic:
            warnings.append(f"PTV is synthetic: the GTV with a margin of {synthetic_ptv:g} mm inside the body.")
    counts = structures.voxel_counts()
    warnings += _side_warnings(structures, ct)
    record = CaseRecord(
        case=planned.name,
        label_set=label_set.name,
        source=Source(
            patient_id=planned.patient_id,
            study_uid=ct.study_uid,
            series_uid=ct.series_uid,
            volume_key=volume_key(planned.series),
            frame_of_reference_uid=ct.frame_of_reference_uid,
            rtstruct_uid=rtstruct.sop_instance_uid,
            rtstruct_label=rtstruct.label,
            linked_by=planned.link.by,
            ct_folder=str(planned.series.files[0].parent.resolve()),
            rtstruct_file=str(rtstruct.path.resolve()),
            sop_instance_uids=ct.sop_instance_uids,
        ),
        geometry=Geometry.of(ct.grid),
        rois=drawn.rois,
        annotated=tuple(key for key in label_set.keys if counts[key]),
        synthetic=synthetic,
        structures={
            key: StructureRecord(voxels=counts[key], volume_cc=round(counts[key] * ct.grid.voxel_volume, 4))
            for key in label_set.keys
            if counts[key]
        },
        interpolated_slices=ct.interpolated_slices,
        choice_warnings=planned.warnings,
        warnings=tuple(dict.fromkeys(warnings)),
        fingerprint=fingerprint,
        file_sizes={},
    )
    return Case(ct, structures, record)


def _with_synthetic_ptv(structures: StructureMap, ct: CTVolume, margin: float) -> tuple[StructureMap, tuple[str, ...]]:
    label_set = structures.label_set
    gtv, ptv = (next((s for s in label_set.structures if s.interpreted_type == kind), None) for kind in ("GTV", "PTV"))
    if gtv is None or ptv is None or structures.mask(ptv.key).any():
        return structures, ()
    tumor = structures.mask(gtv.key)
    if not tumor.any():
        return structures, ()
    body = body_mask(sitk.GetArrayViewFromImage(ct.image), coarse=1, slices=_slices_near(tumor, ct, margin))
    grown = with_margin(tumor, ct.grid.spacing, margin, within=body)
    bit = np.uint8(1 << (ptv.label - 1))
    return StructureMap(label_set, np.where(grown, structures.bits | bit, structures.bits)), (ptv.key,)


def _slices_near(mask: NDArray[np.bool_], ct: CTVolume, margin: float) -> slice:
    held = np.flatnonzero(mask.any(axis=(1, 2)))
    reach = int(np.ceil(margin / ct.grid.spacing[2])) + 1
    return slice(max(0, int(held[0]) - reach), int(held[-1]) + reach + 1)


def _side_warnings(structures: StructureMap, ct: CTVolume) -> list[str]:
    """Say so if what is called right lies left of its mirror partner: the names or the images are exchanged."""
    warnings = []
    for structure in structures.label_set.structures:
        partner = structures.label_set.mirrored(structure.key)
        if structure.modifier is None or structure.modifier.meaning != "Right" or partner is structure:
            continue
        right, left = structures.box(structure.key), structures.box(partner.key)
        if right is not None and left is not None and _middle_x(right, ct) > _middle_x(left, ct):
            warnings.append(
                f"The {structure.name} lies to the patient's left of the {partner.name}: the ROI names or the images "
                "are exchanged. Look at this case before you use it."
            )
    return warnings


def _middle_x(box: tuple[slice, slice, slice], ct: CTVolume) -> float:
    """Return the middle of a box along LPS x, mm: enough to tell a right lung from a left one."""
    z, y, x = (float(span.start + span.stop - 1) / 2 for span in box)
    return float(ct.grid.to_physical([[x, y, z]])[0, 0])


def write_structures(case: Case, files: CasePaths) -> None:
    """Write the structure bits and the label map that is derived from them."""
    grid = case.ct.grid
    with ThreadPoolExecutor(1) as beside:
        labels = beside.submit(lambda: write_volume(grid.image(case.structures.label_map()), files.labels))
        write_volume(grid.image(case.structures.bits), files.structures)
        labels.result()
