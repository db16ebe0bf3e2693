"""A folder of DICOM becomes a cohort: each case whole or not at all, only what is new or changed, on several processes.

Killed at any moment, the next call completes the cohort: a case folder is renamed into place when it is whole, and its
record holds a fingerprint of all that it was made from.
"""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from LungSegmentationLib.cohort.batch import Failure, remove_leftovers, side_by_side
from LungSegmentationLib.cohort.case import import_case, write_structures
from LungSegmentationLib.cohort.corrections import RoiCorrections
from LungSegmentationLib.cohort.paths import CasePaths, CohortPaths
from LungSegmentationLib.cohort.records import CaseRecord, CohortRecord, read_record, write_record
from LungSegmentationLib.cohort.selection import Plan, PlannedCase, plan_cases, volume_key
from LungSegmentationLib.cohort.table import TableRow, write_table
from LungSegmentationLib.dicom.roi_names import RoiMap, load_roi_rules
from LungSegmentationLib.dicom.scan import ScanResult, scan
from LungSegmentationLib.errors import BadInputError, StorageError, UsageError
from LungSegmentationLib.jobs.events import Reporter, SilentReporter
from LungSegmentationLib.jobs.lock import RunLock
from LungSegmentationLib.labels import LabelSet, label_set_from_dict, label_set_to_dict, load_label_set
from LungSegmentationLib.resources import resource_path
from LungSegmentationLib.storage import atomic_folder, storage_errors
from LungSegmentationLib.volumes import write_volume

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Conversion", "ConversionOptions", "Outcome", "convert", "fingerprint_of"]

CONVERSION_VERSION = 1
"""Rises when the same DICOM would give other voxels: every case is then converted anew."""

IGNORE = "ignore"


@dataclass(frozen=True)
class ConversionOptions:
    """How to convert.

    Attributes
    ----------
    jobs
        Processes that work side by side; 1 works in this one.
    label_set
        Name or file of the label set.
    roi_map
        A user's file of ROI names; wins over the rules.
    synthetic_ptv
        mm: where no PTV was drawn, make one as this margin around the GTV.
    ct, rtstruct
        Which of several, see :mod:`LungSegmentationLib.cohort.selection`.
    corrections
        ``CASE/ROI=STRUCTURE`` each: the ROI of that case is this structure, or with ``ignore`` is not used. The cohort
        remembers them.
    """

    jobs: int = 1
    label_set: str = "thorax"
    roi_map: Path | None = None
    synthetic_ptv: float | None = None
    ct: str = "all"
    rtstruct: str = "most-structures"
    corrections: tuple[str, ...] = ()


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
    reason: str = ""
    trace: str = ""
    storage_failed: bool = False


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

    Raises
    ------
    BadInputError
        If the folder holds no CT with contours, or not one case could be converted.
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
    if options.jobs < 1:
        raise UsageError(f"--jobs {options.jobs} cannot be meant.", "Give 1 or more.")
    paths = CohortPaths(cohort)
    label_set = load_label_set(options.label_set)
    roi_map = RoiMap.read(options.roi_map) if options.roi_map else None
    found = scan(dicom, progress=partial(reporter.progress, "scan"))
    _report_scan(found, reporter)
    with storage_errors(cohort):
        paths.cases.mkdir(parents=True, exist_ok=True)
    with RunLock(paths.root, doing="is being converted", cure="Wait until it is done, or stop it."):
        remove_leftovers(paths.root, paths.cases)
        _check_label_set(paths, label_set)
        known = _known_cases(paths, reporter)
        plan = plan_cases(
            found,
            label_set,
            load_roi_rules(),
            ct=options.ct,
            rtstruct=options.rtstruct,
            known_names={record.source.volume_key: name for name, record in known.items()},
        )
        if not plan.cases:
            raise _nothing_to_convert(dicom, found, plan)
        corrections = RoiCorrections.read(paths)
        if options.corrections:
            _correct(corrections, options.corrections, plan, label_set)
            corrections.write(paths)
        outcomes, todo = _divide(plan, paths, known, corrections, label_set, options, roi_map)
        reporter.log(f"{len(todo)} of {len(plan.cases)} cases are new or changed")
        try:
            for outcome in outcomes:
                _retire_stale(outcome, paths)
                _report_outcome(outcome, reporter)
            for outcome in side_by_side(_convert_one, todo, options.jobs):
                outcomes.append(outcome)
                _retire_stale(outcome, paths)
                reporter.progress("convert", len(outcomes), len(plan.cases), outcome.case)
                _report_outcome(outcome, reporter)
                reporter.check_cancelled()
        finally:
            # Also after a stop: the table tells what there is.
            _write_tables(paths, label_set, plan, outcomes)
    conversion = Conversion(paths, plan, tuple(sorted(outcomes, key=lambda outcome: outcome.case)))
    if conversion.count("failed") == len(conversion.outcomes):
        first = conversion.outcomes[0]
        raise BadInputError(f"None of the {len(outcomes)} case(s) could be converted. {first.case}: {first.reason}")
    return conversion


def fingerprint_of(
    planned: PlannedCase,
    label_set: LabelSet,
    options: ConversionOptions,
    corrections: dict[str | int, str | None],
) -> str:
    """Return a digest of all that the result depends on: files, rules, map, corrections, options, our version.

    CT files count by name, size and time; the RTSTRUCT and the small files by content.
    """
    digest = hashlib.sha256()

    def add(*values: object) -> None:
        digest.update(repr(values).encode("utf-8", "surrogatepass"))

    add(CONVERSION_VERSION, planned.link.by, volume_key(planned.series))
    for file in sorted(planned.series.files):
        state = file.stat()
        add(file.name, state.st_size, state.st_mtime_ns)
    digest.update(planned.link.rtstruct.path.read_bytes())
    add(json.dumps(label_set_to_dict(label_set), sort_keys=True))
    for rules in sorted(resource_path("RoiNames").glob("*.json")):
        digest.update(rules.read_bytes())
    if options.roi_map:
        digest.update(options.roi_map.read_bytes())
    add(sorted(corrections.items(), key=repr), options.synthetic_ptv)
    return digest.hexdigest()


def _correct(corrections: RoiCorrections, wanted: Sequence[str], plan: Plan, label_set: LabelSet) -> None:
    by_name = {planned.name: planned for planned in plan.cases}
    for text in wanted:
        place, equals, structure = text.rpartition("=")
        case, slash, roi = place.partition("/")
        if not (equals and slash and case and roi):
            raise UsageError(f"“{text}” is no correction.", "Write it as CASE/ROI=STRUCTURE, for example P1/I1=gtv.")
        if case not in by_name:
            raise UsageError(f"There is no case “{case}”.", f"There are {', '.join(list(by_name)[:8])}.")
        file = by_name[case].link.rtstruct
        if roi not in file.roi_names:
            raise UsageError(f"{case} has no ROI “{roi}”.", f"It has {', '.join(file.roi_names)}.")
        if structure != IGNORE and structure not in label_set:
            raise UsageError(
                f"“{structure}” is no structure of the label set {label_set.name}.",
                f"Use {IGNORE} or one of {', '.join(label_set.keys)}.",
            )
        corrections.set(file.sop_instance_uid, roi, None if structure == IGNORE else structure)


def _divide(
    plan: Plan,
    paths: CohortPaths,
    known: dict[str, CaseRecord],
    corrections: RoiCorrections,
    label_set: LabelSet,
    options: ConversionOptions,
    roi_map: RoiMap | None,
) -> tuple[list[Outcome], list[_Work]]:
    """Tell what is known already from what is to be done."""
    outcomes, todo = [], []
    for planned in plan.cases:
        mended = corrections.of(planned.link.rtstruct.sop_instance_uid)
        try:
            fingerprint = fingerprint_of(planned, label_set, options, mended)
        except OSError as error:
            outcomes.append(Outcome(planned.name, "failed", reason=f"{error.filename} vanished or cannot be read."))
            continue
        before = known.get(planned.name)
        if before is not None and before.fingerprint == fingerprint and _whole(paths, planned.name):
            outcomes.append(Outcome(planned.name, "kept", record=before))
            continue
        folder = paths.case(planned.name).folder
        todo.append(_Work(planned, folder, label_set, roi_map, mended, options.synthetic_ptv, fingerprint))
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
            write_record(case.record, files.record)
    except Exception as error:  # noqa: BLE001 - one case's fault must not stop a night's work; its trace is kept
        failure = Failure.of(error)
        return Outcome(name, "failed", None, failure.reason, failure.trace, failure.storage)
    return Outcome(name, "converted", record=case.record)


def _report_scan(found: ScanResult, reporter: Reporter) -> None:
    for warning in found.warnings:
        reporter.warning(warning)
    if found.unreadable:
        path, reason = found.unreadable[0]
        reporter.warning(f"{len(found.unreadable)} file(s) could not be read, the first: {path}: {reason}")


def _report_outcome(outcome: Outcome, reporter: Reporter) -> None:
    if outcome.state == "failed":
        reporter.warning(f"not converted: {outcome.reason}", outcome.case)
        if outcome.trace:
            reporter.log(outcome.trace, "error")
        if outcome.storage_failed:
            raise StorageError(outcome.reason)
    elif outcome.state == "converted" and outcome.record is not None:
        for warning in outcome.record.warnings:
            reporter.warning(warning, outcome.case)


def _retire_stale(outcome: Outcome, paths: CohortPaths) -> None:
    # What was made from files that have changed since must not be trained on.
    record = paths.case(outcome.case).record
    if outcome.state == "failed" and record.is_file():
        record.replace(record.with_name("case.stale.json"))


def _check_label_set(paths: CohortPaths, label_set: LabelSet) -> None:
    record = CohortRecord(label_set=label_set_to_dict(label_set))
    if paths.cohort.is_file():
        before = read_record(CohortRecord, paths.cohort)
        if label_set_from_dict(before.label_set, paths.cohort) != label_set:
            raise UsageError(
                f"{paths.root} was made with another version of the label set “{before.label_set.get('name')}”.",
                "Convert into a new folder.",
            )
        record = before
    write_record(record, paths.cohort)


def _known_cases(paths: CohortPaths, reporter: Reporter) -> dict[str, CaseRecord]:
    known = {}
    for case in paths.finished_cases():
        try:
            known[case.name] = read_record(CaseRecord, case.record)
        except BadInputError as error:
            reporter.warning(f"{error} It is converted anew if its DICOM is there.", case.name)
    return known


def _whole(paths: CohortPaths, name: str) -> bool:
    case = paths.case(name)
    return all(file.is_file() and file.stat().st_size > 0 for file in (case.ct, case.structures, case.labels))


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
    patients: dict[str, Any] = {planned.name: planned for planned in plan.cases}
    rows += [TableRow.failed(name, patients[name].patient_id, outcome.reason) for name, outcome in failed.items()]
    rows += [TableRow.skipped(one.patient_id, one.description, one.reason) for one in plan.skipped]
    write_table(rows, label_set, paths.cases_table)
