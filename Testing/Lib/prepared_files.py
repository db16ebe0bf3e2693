"""Small cohorts for tests of what comes after the conversion: made without DICOM, in a fraction of a second."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from LungSegmentationLib.cohort.paths import CohortPaths
from LungSegmentationLib.cohort.prepare import PreparationOptions, prepare
from LungSegmentationLib.cohort.records import (
    CaseRecord,
    CohortRecord,
    Geometry,
    Source,
    StructureRecord,
    write_record,
)
from LungSegmentationLib.geometry import Grid
from LungSegmentationLib.jobs.events import Log, Progress, SilentReporter, Warning_
from LungSegmentationLib.labels import label_set_to_dict, load_label_set
from LungSegmentationLib.volumes import write_volume

LABELS = load_label_set()
SMALL = PreparationOptions(slice_size=32)
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


def new_cohort(root: Path) -> CohortPaths:
    """An empty cohort."""
    paths = CohortPaths(root)
    paths.cases.mkdir(parents=True)
    write_record(CohortRecord(label_set=label_set_to_dict(LABELS)), paths.cohort)
    return paths


def add_case(
    paths: CohortPaths,
    name: str,
    *,
    patient: str | None = None,
    keys: Sequence[str] = ("gtv", "lung_right", "lung_left"),
    shape: tuple[int, int, int] = (6, 40, 40),
    direction: tuple[float, ...] = AXIAL,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Write a case with a box a structure; returns CT and bits as written, (z, y, x)."""
    rng = np.random.default_rng(seed)
    grid = Grid((shape[2], shape[1], shape[0]), (1.5, 1.5, 3.0), (-30.0, -30.0, 10.0), direction)
    ct = rng.integers(-1024, 1200, shape, dtype=np.int16)
    bits = np.zeros(shape, np.uint8)
    for key in keys:
        start = 2 + 3 * LABELS[key].label
        bits[1:-1, start : start + 9, 6:27] |= np.uint8(1 << (LABELS[key].label - 1))
    folder = paths.case(name)
    folder.folder.mkdir(parents=True)
    write_volume(grid.image(ct), folder.ct)
    write_volume(grid.image(bits), folder.structures)
    write_record(
        CaseRecord(
            case=name,
            label_set=LABELS.name,
            source=Source(
                patient_id=patient or name,
                study_uid="1",
                series_uid="2",
                volume_key="2",
                frame_of_reference_uid="3",
                rtstruct_uid="4",
                rtstruct_label="",
                linked_by="reference",
                ct_folder="",
                rtstruct_file="",
                sop_instance_uids=(),
            ),
            geometry=Geometry.of(grid),
            rois=(),
            annotated=tuple(key for key in LABELS.keys if key in keys),
            synthetic=(),
            structures={key: StructureRecord(voxels=1, volume_cc=0.0) for key in keys},
            interpolated_slices=(),
            warnings=(),
            fingerprint=f"{name} {seed}",
            file_sizes={},
            choice_warnings=(),
        ),
        folder.record,
    )
    return ct, bits


class Listener(SilentReporter):
    """Keeps what it hears; stops after ``stop_after`` progress reports."""

    def __init__(self, stop_after: int | None = None) -> None:
        super().__init__(lambda: stop_after is not None and len(self.progressed) > stop_after)
        self.progressed: list[Progress] = []
        self.warned: list[Warning_] = []
        self.logged: list[str] = []

    def emit(self, event: object) -> None:
        if isinstance(event, Progress):
            self.progressed.append(event)
        elif isinstance(event, Warning_):
            self.warned.append(event)
        elif isinstance(event, Log):
            self.logged.append(event.message)


def four_patients(root: Path) -> CohortPaths:
    """A cohort of four patients; one has a heart."""
    paths = new_cohort(root)
    for number in range(4):
        keys = ("gtv", "lung_right", "lung_left", *(["heart"] * (number == 1)))
        add_case(paths, f"P{number}", seed=number, keys=keys)
    return paths


def states_of(paths: CohortPaths, options: PreparationOptions = SMALL) -> dict[str, str]:
    """Prepare a cohort; return what became of each case."""
    return {outcome.case: outcome.state for outcome in prepare(paths.root, options).outcomes}


def stamps_of(paths: CohortPaths) -> dict[str, int]:
    """Return when each file of the cache was written."""
    return {file.name: file.stat().st_mtime_ns for file in paths.cache.iterdir()}
