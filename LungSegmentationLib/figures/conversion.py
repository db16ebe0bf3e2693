"""The pictures of the conversion: stored values to HU to saved volume, and the label map over the CT."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import SimpleITK as sitk

from LungSegmentationLib.cohort.paths import CasePaths, CohortPaths
from LungSegmentationLib.cohort.records import CaseRecord, CohortRecord, read_record
from LungSegmentationLib.dicom.stored_values import stored_slice
from LungSegmentationLib.errors import BadInputError, LungSegError
from LungSegmentationLib.figures.style import (
    OVERLAY_OPACITY,
    WINDOW,
    colored,
    mark_sides,
    new_figure,
    overlaid,
    save,
    show_slice,
    structure_legend,
)
from LungSegmentationLib.labels import label_set_from_dict
from LungSegmentationLib.structures import StructureMap
from LungSegmentationLib.volumes import read_volume

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from LungSegmentationLib.labels import LabelSet

__all__ = ["conversion_figures"]

PHASE_2 = "phase2_dicom_to_nifti.png"
PHASE_2_5 = "phase2_5_multi_organ.png"


@dataclass(frozen=True)
class _Pictured:
    record: CaseRecord
    ct: NDArray[np.int16]
    structures: StructureMap
    slice_index: int

    @property
    def aspect(self) -> float:
        x, y, _ = self.record.geometry.spacing
        return y / x


def conversion_figures(cohort: Path, case: str | None = None) -> list[Path]:
    """Make ``phase2_dicom_to_nifti.png`` and ``phase2_5_multi_organ.png`` in the cohort's ``figures``.

    Parameters
    ----------
    cohort
        Folder of the cohort.
    case
        The case to show; by default the one with most annotated structures.

    Raises
    ------
    BadInputError
        If the cohort has no finished case, or none of that name.
    """
    paths = CohortPaths(cohort)
    paths.require()
    label_set = label_set_from_dict(read_record(CohortRecord, paths.cohort).label_set, paths.cohort)
    pictured = _load(_choose(paths, case), label_set)
    return [
        _stored_to_saved(pictured, paths.figures / PHASE_2),
        _label_map(pictured, label_set, paths.figures / PHASE_2_5),
    ]


def _choose(paths: CohortPaths, name: str | None) -> CasePaths:
    finished = paths.finished_cases()
    if not finished:
        raise BadInputError(f"{paths.root} has no finished case.", "Convert some: lungseg convert DICOM_DIR COHORT")
    if name is not None:
        for one in finished:
            if one.name == name:
                return one
        raise BadInputError(f"{paths.root} has no case “{name}”.", f"It has {', '.join(c.name for c in finished[:8])}.")
    return max(finished, key=lambda one: len(read_record(CaseRecord, one.record).annotated))


def _load(case: CasePaths, label_set: LabelSet) -> _Pictured:
    structures = StructureMap(label_set, sitk.GetArrayFromImage(read_volume(case.structures)))
    ct = sitk.GetArrayFromImage(read_volume(case.ct))
    return _Pictured(read_record(CaseRecord, case.record), ct, structures, _fullest_slice(structures))


def _fullest_slice(structures: StructureMap) -> int:
    """Return the slice with most structures; among equals the one where the smallest structure is largest."""
    areas = np.array([structures.mask(key).sum(axis=(1, 2)) for key in structures.label_set.keys])
    present = areas > 0
    counts = present.sum(axis=0)
    smallest = np.where(present, areas, np.iinfo(np.int64).max).min(axis=0)
    return int(np.lexsort((smallest, counts))[-1])


def _stored_to_saved(pictured: _Pictured, path: Path) -> Path:
    record, z = pictured.record, pictured.slice_index
    saved = pictured.ct[z]
    figure = new_figure(13, 5.4)
    panels = figure.subplots(1, 3)
    uid = record.source.sop_instance_uids[z]
    try:
        if uid is None:
            raise BadInputError("this slice was interpolated.")
        stored = stored_slice(Path(record.source.ct_folder), uid)
    except LungSegError as error:
        for panel in panels[:2]:
            panel.text(0.5, 0.5, f"The DICOM file is not shown:\n{error}", ha="center", va="center", wrap=True)
            panel.set_axis_off()
    else:
        hu = stored.values * stored.slope + stored.intercept
        _with_scale(
            figure,
            panels[0],
            stored.values,
            pictured.aspect,
            f"Stored values ({stored.values.min()} … {stored.values.max()})",
            (float(stored.values.min()), float(np.percentile(stored.values, 99.5))),
            "stored value",
        )
        shift = f"{stored.intercept:+g}".replace("-", "− ").replace("+", "+ ")
        title = f"HU = {stored.slope:g} × stored {shift}  ({hu.min():.0f} … {hu.max():.0f})"
        _with_scale(figure, panels[1], hu, pictured.aspect, title, WINDOW, "HU")
    title = f"ct.nii.gz ({saved.min()} … {saved.max()} HU)"
    _with_scale(figure, panels[2], saved, pictured.aspect, title, WINDOW, "HU")
    for panel in panels:
        if panel.images:
            mark_sides(panel, record.geometry.direction)
    x, y, count = record.geometry.size
    spacing = " × ".join(f"{step:.3g}" for step in record.geometry.spacing)
    figure.suptitle(f"{record.case}: from DICOM to the saved volume   {x} × {y} × {count}, {spacing} mm, slice {z + 1}")
    return save(figure, path)


def _with_scale(
    figure: Any, panel: Any, image: NDArray[Any], aspect: float, title: str, limits: tuple[float, float], unit: str
) -> None:
    shown = show_slice(panel, image, aspect, title, cmap="gray", vmin=limits[0], vmax=limits[1])
    figure.colorbar(shown, ax=panel, shrink=0.8, label=unit, location="bottom", pad=0.02)


def _label_map(pictured: _Pictured, label_set: LabelSet, path: Path) -> Path:
    record, z = pictured.record, pictured.slice_index
    ct, labels = pictured.ct[z], pictured.structures.label_map()[z]
    figure = new_figure(13, 5.2)
    panels = figure.subplots(1, 3)
    low, high = WINDOW
    show_slice(panels[0], ct, pictured.aspect, "CT", cmap="gray", vmin=low, vmax=high)
    show_slice(panels[1], colored(labels, label_set), pictured.aspect, "Label map")
    title = f"Overlay at {OVERLAY_OPACITY:.0%}"
    show_slice(panels[2], overlaid(ct, labels, label_set), pictured.aspect, title)
    for panel in panels:
        mark_sides(panel, record.geometry.direction)
    figure.legend(
        handles=structure_legend(label_set, record.annotated),
        loc="outside lower center",
        ncols=len(label_set),
        frameon=False,
    )
    count = len({int(label) for label in np.unique(labels)} - {0})
    figure.suptitle(f"{record.case}: {count} structures on slice {z + 1} of {len(pictured.ct)}")
    return save(figure, path)
