"""A synthetic patient in memory: CT numbers, exact structures and the contours that a physician drew."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from LungSegmentationLib.errors import UsageError
from LungSegmentationLib.geometry import Grid
from LungSegmentationLib.labels import load_label_set
from LungSegmentationLib.phantom.anatomy import FAR, Anatomy, draw_anatomy
from LungSegmentationLib.phantom.contours import keyhole, nudge, outlines
from LungSegmentationLib.phantom.options import PhantomOptions
from LungSegmentationLib.phantom.organs import Organs, find_body, find_organs
from LungSegmentationLib.phantom.rois import PlannedRoi, drawn_structures, plan_rois
from LungSegmentationLib.phantom.scanner import Scan, couch_share, draw_scan, field_of_view, noise_plane
from LungSegmentationLib.phantom.tissue import AIR, Palette, paint
from LungSegmentationLib.phantom.tumors import grow_tumors
from LungSegmentationLib.phantom.vessels import grow_vessels, spread_vessels
from LungSegmentationLib.phantom.view import Patch, Planes
from LungSegmentationLib.structures import StructureMap

__all__ = ["PhantomPatient", "PhantomRoi", "SliceContour", "make_patient"]

LOWEST_HU, HIGHEST_HU = -1024, 3071
NEIGHBOR_SHARE = 0.10
CLOSE = np.float32(2.0)
DEFAULTS = PhantomOptions()


@dataclass(frozen=True)
class SliceContour:
    """A closed polygon on a slice: its index, and vertices (n, 3) in LPS, mm."""

    slice_index: int
    points: NDArray[np.float64]


@dataclass(frozen=True)
class PhantomRoi:
    """A ROI as it stands in the RTSTRUCT: how it was planned, and its contours (one point for an isocenter)."""

    plan: PlannedRoi
    contours: tuple[SliceContour, ...]


@dataclass(frozen=True)
class PhantomPatient:
    """A synthetic patient.

    Attributes
    ----------
    patient_id, seed, index
        Who it is; the same seed, index and options give the same patient.
    ct
        HU, int16, shape (z, y, x); outside a round field of view −1024.
    grid
        Where the voxels lie (LPS, mm).
    structures
        The exact truth of all structures, whether drawn or not: the pixel centers inside the contours that were, or
        would have been, drawn.
    drawn
        Keys of the structures that the RTSTRUCT holds.
    rois
        The RTSTRUCT's ROIs with their contours, in file order.
    lung_excludes_gtv
        The lungs are contoured without the tumor.
    contrast
        The blood was enhanced by contrast medium.
    scan, options
        How it was scanned.
    """

    patient_id: str
    seed: int
    index: int
    ct: NDArray[np.int16]
    grid: Grid
    structures: StructureMap
    drawn: tuple[str, ...]
    rois: tuple[PhantomRoi, ...]
    lung_excludes_gtv: bool
    contrast: bool
    scan: Scan
    options: PhantomOptions

    @property
    def roi_names(self) -> Mapping[str, str | None]:
        """ROI name → key of the structure that it is, ``None`` for a ROI that must not be used."""
        return {roi.plan.name: roi.plan.key for roi in self.rois}


def make_patient(seed: int, index: int, options: PhantomOptions = DEFAULTS) -> PhantomPatient:
    """Make the synthetic patient number ``index`` of a seed.

    Parameters
    ----------
    seed, index
        Choose anatomy, scan, noise, ROI names and what was drawn; each index is another patient.
    options
        What is fixed instead of varied. Orientation, position and size do not change the anatomy.

    Raises
    ------
    UsageError
        If seed or index are negative.
    """
    if seed < 0 or index < 0:
        raise UsageError(f"Phantom seed {seed} and index {index} cannot be used.", "Choose 0 or more.")
    body = draw_anatomy(np.random.default_rng([seed, index, 1]), prone=options.position.endswith("P"))
    anatomy = grow_tumors(body, np.random.default_rng([seed, index, 9]))
    scan = draw_scan(anatomy, options, np.random.default_rng([seed, index, 2]))
    choices = np.random.default_rng([seed, index, 3])
    excludes, joins_holes = bool(choices.random() < 0.5), bool(choices.random() < 0.3)
    drawn = drawn_structures(seed, index, options)
    planned = plan_rois(choices, drawn, len(anatomy.tumors))
    palette = Palette.draw(choices, anatomy, scan.edge)

    grid, label_set = scan.grid, load_label_set("thorax")
    planes = Planes(grid, anatomy.placement)
    noise = np.random.default_rng([seed, index, 4])
    texture = _texture(scan, noise)
    filled = spread_vessels(grow_vessels(anatomy, np.random.default_rng([seed, index, 5])), grid, anatomy.placement)
    ct = np.empty(grid.shape, np.int16)
    bits = np.zeros(grid.shape, np.uint8)
    contours: dict[str, list[SliceContour]] = {roi.field: [] for roi in planned}
    couch = None
    # The table looks the same on every slice unless the planes move along its cross-section.
    moves = bool(np.abs(grid.axes[:2, 2]).max() > 1e-9)
    for number in range(grid.size[2]):
        plane = np.full(grid.shape[1:], AIR, np.float32)
        found = find_body(anatomy, planes.view(number), margin=4)
        if found is not None:
            organs = find_organs(anatomy, *found)
            window = organs.view.window
            grain = texture[number * 2 % 64 :, number * 3 % 64 :][window]
            plane[window] = paint(organs, anatomy, palette, grain, filled[number][window] * np.float32(1 / 255))
            fields = _boundaries(organs, anatomy, excludes, contours.keys())
            for name, patch in fields.items():
                _record(name, patch, number, organs, grid, bits, contours, joins_holes)
        if number == 0 or moves:
            couch = couch_share(scan, planes.patient_coordinates(number), anatomy)
        if couch is not None:
            np.maximum(plane, AIR + couch, out=plane)
        ct[number] = np.clip(plane, LOWEST_HU, HIGHEST_HU)
    _expose(ct, scan, noise)

    rois = tuple(_roi(plan, contours, anatomy) for plan in planned)
    rois = tuple(roi for roi in rois if roi.contours or roi.plan.field == "nothing")
    present = {roi.plan.key for roi in rois}
    return PhantomPatient(
        patient_id=f"PHANTOM{seed:03d}-{index + 1:03d}",
        seed=seed,
        index=index,
        ct=ct,
        grid=grid,
        structures=StructureMap(label_set, bits),
        drawn=tuple(key for key in label_set.keys if key in present),
        rois=rois,
        lung_excludes_gtv=excludes,
        contrast=anatomy.contrast,
        scan=scan,
        options=options,
    )


def _texture(scan: Scan, rng: np.random.Generator) -> NDArray[np.float32]:
    """Smooth random field of unit variance, 64 pixels larger than a slice: slices take it from shifted places."""
    from scipy.ndimage import gaussian_filter

    shape = tuple(length + 64 for length in scan.grid.shape[1:])
    field = gaussian_filter(rng.standard_normal(shape, dtype=np.float32), 2.6 / scan.grid.spacing[0], mode="wrap")
    result: NDArray[np.float32] = field / np.float32(field.std() + 1e-6)
    return result


def _expose(ct: NDArray[np.int16], scan: Scan, rng: np.random.Generator) -> None:
    """Mix neighboring slices as their sensitivity profiles do, add noise and cut to the circle, in place."""
    outside = field_of_view(scan.grid) if scan.round_view else None
    previous = ct[0].astype(np.float32)
    share = NEIGHBOR_SHARE * min(1.0, 5.0 / scan.grid.spacing[2])
    for number in range(len(ct)):
        own = ct[number].astype(np.float32)
        following = ct[min(number + 1, len(ct) - 1)]
        plane = own * np.float32(1 - 2 * share)
        plane += (previous + following) * np.float32(share)
        plane += noise_plane(scan, rng)
        np.clip(np.rint(plane, out=plane), LOWEST_HU, HIGHEST_HU, out=plane)
        if outside is not None:
            plane[outside] = LOWEST_HU
        ct[number] = plane
        previous = own


def _boundaries(organs: Organs, anatomy: Anatomy, excludes: bool, wanted: object) -> dict[str, Patch]:
    """Return each structure's field, and those of the other ROIs that are wanted."""
    view = organs.view
    whole = (slice(0, view.shape[0]), slice(0, view.shape[1]))
    target = np.full(view.shape, FAR, np.float32)
    fields: dict[str, Patch] = {}
    for number, tumor in enumerate(organs.tumors):
        if tumor is not None:
            fields[f"gtv_{number}"] = tumor
            np.minimum(target[tumor.window], tumor.values, out=target[tumor.window])
    right, left = organs.lung_right, organs.lung_left
    if excludes:
        right, left = np.maximum(right, -target), np.maximum(left, -target)
    scale = anatomy.placement.mean_scale
    planned = np.maximum(target - anatomy.ptv_margin / scale, organs.body + 4.0)
    fields |= {
        "gtv": Patch(whole, target),
        "ptv": Patch(whole, planned),
        "lung_right": Patch(whole, right),
        "lung_left": Patch(whole, left),
        "spinal_cord": Patch(whole, anatomy.cord(view.points)),
    }
    if organs.heart is not None:
        fields["heart"] = organs.heart
    if organs.esophagus is not None:
        fields["esophagus"] = organs.esophagus
    names = set(wanted)  # type: ignore[call-overload]
    if "ctv" in names:
        fields["ctv"] = Patch(whole, target - 0.5 * anatomy.ptv_margin / scale)
    if "ring" in names:
        fields["ring"] = Patch(whole, np.maximum(np.abs(planned - 4.0) - 4.0, organs.body + 4.0))
    if "body" in names:
        fields["body"] = Patch(whole, organs.body)
    if "cord_prv" in names:
        fields["cord_prv"] = Patch(whole, anatomy.cord(view.points, 5.0))
    if "lungs_less_gtv" in names:
        fields["lungs_less_gtv"] = Patch(whole, np.maximum(np.minimum(right, left), -target))
    if "airways" in names and organs.airways is not None:
        fields["airways"] = organs.airways
    return fields


def _record(
    name: str,
    patch: Patch,
    number: int,
    organs: Organs,
    grid: Grid,
    bits: NDArray[np.uint8],
    contours: dict[str, list[SliceContour]],
    joins_holes: bool,
) -> None:
    """Set the structure's bit and keep its outline, both from the same field."""
    inside = patch.values < CLOSE
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    if rows.size == 0:
        return
    tight = (slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1))
    values = nudge(patch.values[tight])
    top = organs.view.window[0].start + patch.window[0].start + tight[0].start
    left = organs.view.window[1].start + patch.window[1].start + tight[1].start
    label_set = load_label_set("thorax")
    if name in label_set:
        part = bits[number, top : top + values.shape[0], left : left + values.shape[1]]
        np.bitwise_or(part, np.uint8(1 << (label_set[name].label - 1)), out=part, where=values < 0)
    if name not in contours:
        return
    lines = outlines(values)
    for line in keyhole(lines) if joins_holes else lines:
        # An organ that the image cuts ends at the outer edge of the last pixel.
        plane = np.clip(line + np.array((left, top)), -0.5, np.array(grid.size[:2]) - 0.5)
        index = np.column_stack([plane, np.full(len(line), float(number))])
        contours[name].append(SliceContour(number, np.round(grid.to_physical(index), 3)))


def _roi(plan: PlannedRoi, contours: dict[str, list[SliceContour]], anatomy: Anatomy) -> PhantomRoi:
    if plan.field == "isocenter":
        center = np.asarray(anatomy.tumors[0].center)[None, :]
        return PhantomRoi(plan, (SliceContour(-1, np.round(anatomy.placement.to_patient(center), 3)),))
    return PhantomRoi(plan, tuple(contours[plan.field]))
