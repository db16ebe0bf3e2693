"""A folder of DICOM becomes a cohort: each case whole or not at all, only what is new or changed, on several processes.

Killed at any moment, the next call completes the cohort: a case folder is renamed into place when it is whole, and its
record holds a fingerprint of all that it was made from.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from LungSegmentationLib.cohort.batch import Failure, remove_leftovers, side_by_side
from LungSegmentationLib.cohort.case import import_case, write_structures
from LungSegmentationLib.cohort.corrections import RoiCorrections, apply_corrections, rtstruct_key
from LungSegmentationLib.cohort.fingerprints import fingerprint_of
from LungSegmentationLib.cohort.options import ConversionOptions, describe_settings, settle
from LungSegmentationLib.cohort.paths import CasePaths, CohortPaths
from LungSegmentationLib.cohort.records import CaseRecord, CohortRecord, ConversionSettings, read_record, write_record
from LungSegmentationLib.cohort.selection import Plan, PlannedCase, plan_cases, volume_key
from LungSegmentationLib.cohort.table import TableRow, write_table
from LungSegmentationLib.dicom.roi_names import RoiMap, load_roi_rules
from LungSegmentationLib.dicom.scan import ScanResult, scan
from LungSegmentationLib.errors import BadInputError, MemoryLimitError, StorageError, UsageError
from LungSegmentationLib.jobs.events import Reporter, SilentReporter
from LungSegmentationLib.jobs.lock import RunLock
from LungSegmentationLib.labels import LabelSet, label_set_from_dict, label_set_to_dict, load_label_set
from LungSegmentationLib.storage import atomic_folder, storage_errors
from LungSegmentationLib.volumes import write_volume

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Conversion", "Outcome", "convert"]


@dataclass(frozen=True)
class _Work:
    """All that a process needs to convert one case."""

    planned: PlannedCase
    folder: Path
    label_set: LabelSet
    roi_map: RoiMap | None
    corrections: dict[str | int, str | None]
    synthetic_ptv: float | None
    fingerprint: str


@dataclass(frozen=True)
class Outcome:
    """What became of one case: ``converted`` now, ``kept`` from before, or ``failed`` with the reason."""

    case: str
    state: Literal["converted", "kept", "failed"]
    record: CaseRecord | None = None
    failure: Failure | None = None

    @property
    def reason(self) -> str:
        """Why it failed; empty if it did not."""
        return self.failure.reason if self.failure else ""


@dataclass(frozen=True)
class Conversion:
    """What a call of :func:`convert` did."""

    paths: CohortPaths
    plan: Plan
    outcomes: tuple[Outcome, ...] = field(default=())

    def count(self, state: str) -> int:
        """Return the number of cases in this state."""
        return sum(outcome.state == state for outcome in self.outcomes)


def convert(
    dicom: Path,
    cohort: Path,
    options: ConversionOptions | None = None,
    reporter: Reporter | None = None,
    *,
    found: ScanResult | None = None,
) -> Conversion:
    """Convert every annotated CT below a folder into a case of a cohort.

    Parameters
    ----------
    dicom
        Folder with DICOM files, in any order and depth.
    cohort
        Folder of the cohort; made if missing, completed if it exists.
    options
        How.
    reporter
        Hears progress and warnings, and may ask to stop: the cases finished by then stay.
    found
        What a scan of ``dicom`` found, if there was one already.

    Raises
    ------
    UsageError
        If an option is wrong; nothing was touched then.
    BadInputError
        If the folder holds no CT with contours, or not one case could be converted.
    MemoryLimitError
        If not one case fitted into memory.
    StorageError
        If the disk is full or the cohort cannot be written.
    CancelledError
        If the reporter asked to stop.

    Notes
    -----
    With ``jobs`` above 1 joblib's processes do the work; inside ``joblib.parallel_config(backend="dask")`` the workers
    of a Dask cluster do, if they see the same folders.
    """
    options = options or ConversionOptions()
    reporter = reporter or SilentReporter()
    paths = CohortPaths(cohort)
    label_set = load_label_set(options.label_set)
    options.check(label_set)
    if found is None:
        found = scan(dicom, progress=_stoppable(reporter, "scan"))
    _report_scan(found, reporter)
    with storage_errors(cohort):
        paths.cases.mkdir(parents=True, exist_ok=True)
    cure = "Wait until it is done, or stop it."
    with RunLock(paths.root, doing="is being converted", cure=cure, forcible=False):
        remove_leftovers(paths.root, paths.cases)
        settings = _settle(paths, label_set, options, reporter)
        roi_map = RoiMap.read(paths.root / settings.roi_map, label_set) if settings.roi_map else None
        known = _known_cases(paths, reporter)
        plan = plan_cases(
            found,
            label_set,
            load_roi_rules(),
            ct=settings.ct,
            rtstruct=settings.rtstruct,
            known_names={record.source.volume_key: name for name, record in known.items()},
        )
        _retire_unplanned(known, found, plan, paths, reporter)
        if not plan.cases:
            raise _nothing_to_convert(dicom, found, plan)
        if roi_map is not None:
            _report_unmatched(roi_map, plan, reporter)
        corrections = RoiCorrections.read(paths)
        if options.corrections:
            apply_corrections(corrections, options.corrections, plan, label_set)
            corrections.write(paths)
        outcomes, todo = _divide(plan, paths, known, corrections, label_set, settings, roi_map)
        reporter.log(f"{len(todo)} of {len(plan.cases)} cases are new or changed")
        try:
            for outcome in outcomes:
                _report_outcome(outcome, reporter)
            for outcome in side_by_side(_convert_one, todo, options.jobs, _ended, reporter.warning):
                outcomes.append(outcome)
                _retire_stale(outcome, paths)
                reporter.progress("convert", len(outcomes), len(plan.cases), outcome.case)
                _report_outcome(outcome, reporter)
                reporter.check_cancelled()
        finally:
            # Also after a stop: the table tells what there is.
            _write_tables(paths, label_set, plan, outcomes)
    conversion = Conversion(paths, plan, tuple(sorted(outcomes, key=lambda outcome: outcome.case)))
    failures = [outcome.failure for outcome in outcomes if outcome.failure]
    if len(failures) == len(outcomes):
        memory = all(failure.kind == "memory" for failure in failures)
        error = MemoryLimitError if memory else BadInputError
        first = conversion.outcomes[0]
        raise error(f"None of the {len(outcomes)} case(s) could be converted. {first.case}: {first.reason}")
    return conversion


def _stoppable(reporter: Reporter, stage: str) -> Callable[[int, int], None]:
    def progress(done: int, total: int) -> None:
        reporter.progress(stage, done, total)
        reporter.check_cancelled()

    return progress


def _settle(
    paths: CohortPaths, label_set: LabelSet, options: ConversionOptions, reporter: Reporter
) -> ConversionSettings:
    """Join the options with what the cohort remembers, and write that down."""
    record = CohortRecord(label_set=label_set_to_dict(label_set))
    if paths.cohort.is_file():
        record = read_record(CohortRecord, paths.cohort)
        if label_set_from_dict(record.label_set, paths.cohort) != label_set:
            raise UsageError(
                f"{paths.root} was made with another version of the label set “{record.label_set.get('name')}”.",
                "Convert into a new folder.",
            )
    settings = settle(options, record.conversion, paths)
    if settings == record.conversion and (words := describe_settings(settings)):
        reporter.log(f"as before, with {words}", "warning")
    write_record(record.model_copy(update={"conversion": settings}), paths.cohort)
    return settings


def _report_unmatched(roi_map: RoiMap, plan: Plan, reporter: Reporter) -> None:
    names = [name for planned in plan.cases for name in planned.link.rtstruct.roi_names]
    unmatched = roi_map.unmatched(names)
    if unmatched:
        shown = ", ".join(f"“{name}”" for name in unmatched[:8])
        reporter.warning(f"No ROI of these patients has the name(s) {shown} of the file of ROI names.")


def _divide(
    plan: Plan,
    paths: CohortPaths,
    known: dict[str, CaseRecord],
    corrections: RoiCorrections,
    label_set: LabelSet,
    settings: ConversionSettings,
    roi_map: RoiMap | None,
) -> tuple[list[Outcome], list[_Work]]:
    """Tell what is known already from what is to be done."""
    outcomes, todo = [], []
    for planned in plan.cases:
        try:
            mended = corrections.of(rtstruct_key(planned.link.rtstruct))
            fingerprint = fingerprint_of(planned, label_set, settings, mended, paths)
        except OSError as error:
            failure = Failure(f"{error.filename} vanished or cannot be read.", "storage")
            outcomes.append(Outcome(planned.name, "failed", failure=failure))
            continue
        before = known.get(planned.name)
        if before is not None and before.fingerprint == fingerprint and _whole(paths, before):
            if before.choice_warnings != planned.warnings:
                # Other files of the patient came or went: the voxels stay, what is said of the choice does not.
                before = before.model_copy(update={"choice_warnings": planned.warnings})
                write_record(before, paths.case(planned.name).record)
            outcomes.append(Outcome(planned.name, "kept", record=before))
            continue
        folder = paths.case(planned.name).folder
        todo.append(_Work(planned, folder, label_set, roi_map, mended, settings.synthetic_ptv, fingerprint))
    return outcomes, todo


def _convert_one(work: _Work) -> Outcome:
    name = work.planned.name
    try:
        with atomic_folder(work.folder) as folder, ThreadPoolExecutor(1) as beside:
            files = CasePaths(folder)
            writing: list[Future[None]] = []
            # The CT is compressed while its contours are still being drawn.
            case = import_case(
                work.planned,
                work.label_set,
                load_roi_rules(),
                roi_map=work.roi_map,
                corrections=work.corrections,
                synthetic_ptv=work.synthetic_ptv,
                fingerprint=work.fingerprint,
                ct_ready=lambda ct: writing.append(beside.submit(write_volume, ct.image, files.ct)),
            )
            write_structures(case, files)
            writing[0].result()
            sizes = {file.name: file.stat().st_size for file in (files.ct, files.structures, files.labels)}
            record = case.record.model_copy(update={"file_sizes": sizes})
            write_record(record, files.record)
    except Exception as error:  # noqa: BLE001 - one case's fault must not stop a night's work; its trace is kept
        return Outcome(name, "failed", failure=Failure.of(error))
    return Outcome(name, "converted", record=record)


def _ended(work: _Work) -> Outcome:
    return Outcome(work.planned.name, "failed", failure=Failure.of_process())


def _report_scan(found: ScanResult, reporter: Reporter) -> None:
    for warning in found.warnings:
        reporter.warning(warning)
    if found.unreadable:
        path, reason = found.unreadable[0]
        told = reason if str(path) in reason else f"{path}: {reason}"
        reporter.warning(f"{len(found.unreadable)} file(s) could not be read, the first: {told}")


def _report_outcome(outcome: Outcome, reporter: Reporter) -> None:
    if outcome.failure is not None:
        reporter.warning(f"not converted: {outcome.reason}", outcome.case)
        if outcome.failure.trace:
            reporter.log(outcome.failure.trace, "error")
        if outcome.failure.storage:
            raise StorageError(outcome.reason)
    elif outcome.state == "converted" and outcome.record is not None:
        for warning in outcome.record.all_warnings:
            reporter.warning(warning, outcome.case)


def _retire_stale(outcome: Outcome, paths: CohortPaths) -> None:
    # What was made from files that have changed since must not be trained on. Of a machine that ran out of memory
    # nothing follows for the data.
    if outcome.failure is not None and outcome.failure.kind == "data":
        _retire(paths, outcome.case)


def _retire(paths: CohortPaths, case: str) -> bool:
    record = paths.case(case).record
    if not record.is_file():
        return False
    record.replace(record.with_name("case.stale.json"))
    return True


def _retire_unplanned(
    known: dict[str, CaseRecord], found: ScanResult, plan: Plan, paths: CohortPaths, reporter: Reporter
) -> None:
    """Take out cases whose CT is here but is not to become a case any more."""
    here = {volume_key(series) for patient in found.patients for series in patient.series}
    planned = {one.name for one in plan.cases}
    for name, record in known.items():
        if name not in planned and record.source.volume_key in here and _retire(paths, name):
            reporter.warning("no longer a case: its CT or RTSTRUCT is not taken any more.", name)


def _known_cases(paths: CohortPaths, reporter: Reporter) -> dict[str, CaseRecord]:
    known = {}
    for case in paths.finished_cases():
        try:
            known[case.name] = read_record(CaseRecord, case.record)
        except BadInputError as error:
            reporter.warning(f"{error} It is converted anew if its DICOM is there.", case.name)
    return known


def _whole(paths: CohortPaths, record: CaseRecord) -> bool:
    folder = paths.case(record.case).folder
    files = {folder / name: size for name, size in record.file_sizes.items()}
    return bool(files) and all(file.is_file() and file.stat().st_size == size for file, size in files.items())


def _nothing_to_convert(dicom: Path, found: ScanResult, plan: Plan) -> BadInputError:
    if not found.patients:
        return BadInputError(
            f"{dicom} holds no CT and no RTSTRUCT ({found.files} files looked at).", "Choose the folder of the DICOM."
        )
    reasons = "; ".join(sorted({f"{skipped.description}: {skipped.reason}" for skipped in plan.skipped})[:3])
    return BadInputError(f"{dicom} holds no CT with contours: {reasons}.", "Put CT and RTSTRUCT into one folder.")


def _write_tables(paths: CohortPaths, label_set: LabelSet, plan: Plan, outcomes: list[Outcome]) -> None:
    rows: list[TableRow] = []
    failed = {outcome.case: outcome for outcome in outcomes if outcome.state == "failed"}
    for case in paths.finished_cases():
        if case.name in failed:
            continue
        with suppress(BadInputError):
            rows.append(TableRow.of_record(read_record(CaseRecord, case.record)))
    patients = {planned.name: planned for planned in plan.cases}
    rows += [TableRow.failed(name, patients[name].patient_id, outcome.reason) for name, outcome in failed.items()]
    rows += [TableRow.skipped(one.patient_id, one.description, one.reason) for one in plan.skipped]
    write_table(rows, label_set, paths.cases_table)
