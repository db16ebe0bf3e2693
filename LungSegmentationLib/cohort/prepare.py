"""Phases 3 and 4: the cases of a cohort become slices that a training reads, a split, weights and statistics.

As with the conversion: each case whole or not at all, only what is new or changed, on several processes. Killed at any
moment, the next call completes the cache.
"""

from __future__ import annotations

import hashlib
import shutil
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from LungSegmentationLib.cohort.batch import Failure, remove_leftovers, side_by_side
from LungSegmentationLib.cohort.cache import CachedCase, CacheRecord, read_cache_record
from LungSegmentationLib.cohort.paths import CasePaths, CohortPaths
from LungSegmentationLib.cohort.readers import replacing_slices
from LungSegmentationLib.cohort.records import CaseRecord, CohortRecord, SplitSettings, read_record, write_record
from LungSegmentationLib.cohort.resampling import FieldOfView, InPlaneMapping, LabelResampling
from LungSegmentationLib.cohort.slicing import SliceSettings, make_slices, write_slices
from LungSegmentationLib.cohort.splits import (
    RATIOS,
    SEED,
    Split,
    SplitCase,
    make_split,
    part_sizes,
    read_splits,
    split_warnings,
    write_splits,
)
from LungSegmentationLib.cohort.weights import class_weights, write_class_weights
from LungSegmentationLib.errors import BadInputError, LungSegError, StorageError, UsageError
from LungSegmentationLib.jobs.events import Reporter, SilentReporter
from LungSegmentationLib.jobs.lock import RunLock
from LungSegmentationLib.labels import LabelSet, label_set_from_dict
from LungSegmentationLib.storage import storage_errors

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["Preparation", "PreparationOptions", "Prepared", "prepare"]

PREPARATION_VERSION: Final = 1
"""Rises when the same case would give other slices: every case is then prepared anew."""

SPARE_BYTES: Final = 32 << 20
BYTES_A_PIXEL: Final = 3  # int16 HU and uint8 bits
BYTES_A_RECORD_ROW: Final = 256

SLICE_FIELDS: Final = ("slice_size", "window", "field_of_view", "label_resampling")
SPLIT_FIELDS: Final = ("seed", "ratios", "stratify")


@dataclass(frozen=True)
class PreparationOptions:
    """How to prepare. What is ``None`` stays as it was in the cohort's last preparation.

    Attributes
    ----------
    slice_size, window, field_of_view, label_resampling
        See :class:`LungSegmentationLib.cohort.slicing.SliceSettings`, which also has what holds at first.
    jobs
        Processes that work side by side; 1 works in this one.
    new_splits
        Split anew, although there is a split.
    stratify, seed, ratios
        See :func:`LungSegmentationLib.cohort.splits.make_split`; they hold when a split is made, and from then on for
        the cases that are added to it.

    Raises
    ------
    UsageError
        If a value is impossible.
    """

    slice_size: int | None = None
    window: tuple[float, float] | None = None
    field_of_view: FieldOfView | None = None
    label_resampling: LabelResampling | None = None
    jobs: int = 1
    new_splits: bool = False
    stratify: bool | None = None
    seed: int | None = None
    ratios: tuple[float, float, float] | None = None

    def __post_init__(self) -> None:
        SliceSettings(**self._given(SLICE_FIELDS))
        if self.jobs < 1:
            raise UsageError(f"--jobs {self.jobs} cannot be meant.", "Give 1 or more.")
        if self.ratios is not None:
            part_sizes(1, self.ratios)

    def slices(self, before: CohortRecord) -> SliceSettings:
        """Join what is asked for now with what the cohort remembers: how the slices are made."""
        known = {key: value for key in SLICE_FIELDS if (value := getattr(before, key)) is not None}
        return SliceSettings(**(known | self._given(SLICE_FIELDS)))

    def splitting(self, before: SplitSettings | None = None) -> SplitSettings:
        """Join what is asked for now with how the cohort was split, or with the defaults."""
        known = before or SplitSettings(seed=SEED, ratios=RATIOS, stratify=True)
        return known.model_copy(update=self._given(SPLIT_FIELDS))

    def _given(self, fields: tuple[str, ...]) -> dict[str, Any]:
        return {key: value for key in fields if (value := getattr(self, key)) is not None}


@dataclass(frozen=True)
class Prepared:
    """What became of one case: ``prepared`` now, ``kept`` from before, or ``failed``."""

    case: str
    state: Literal["prepared", "kept", "failed"]
    record: CacheRecord | None = None
    failure: Failure | None = None


@dataclass(frozen=True)
class Preparation:
    """What a call of :func:`prepare` did."""

    paths: CohortPaths
    outcomes: tuple[Prepared, ...]
    split: Split

    def count(self, state: str) -> int:
        """Return the number of cases in this state."""
        return sum(outcome.state == state for outcome in self.outcomes)

    @property
    def summary(self) -> dict[str, int]:
        """Numbers for a person: cases by state, and cases of each part."""
        states = {state: self.count(state) for state in ("prepared", "kept", "failed")}
        return states | {part: len(names) for part, names in self.split.items()}


@dataclass(frozen=True)
class _Work:
    """All that a process needs to prepare one case."""

    paths: CohortPaths
    case: CaseRecord
    label_set: LabelSet
    settings: SliceSettings
    made_from: str

    @property
    def bytes_needed(self) -> int:
        slices = InPlaneMapping.of(self.case.geometry.grid, self.settings.slice_size).slices
        return slices * (self.settings.slice_size**2 * BYTES_A_PIXEL + BYTES_A_RECORD_ROW)


def prepare(cohort: Path, options: PreparationOptions | None = None, reporter: Reporter | None = None) -> Preparation:
    """Prepare a cohort for training: cache, split and class weights.

    Parameters
    ----------
    cohort
        Folder of the cohort.
    options
        How.
    reporter
        Hears the disk need before anything is written, progress and warnings, and may ask to stop: the cases finished
        by then stay.

    Raises
    ------
    BadInputError
        If the folder is no cohort, has no case, or not one case could be prepared.
    LockedError
        If another process converts or prepares the cohort, or a training reads slices that would be replaced.
    StorageError
        If the disk has too little room (nothing is written then) or cannot be written.
    CancelledError
        If the reporter asked to stop.
    """
    options = options or PreparationOptions()
    reporter = reporter or SilentReporter()
    paths = CohortPaths(cohort)
    paths.require()
    with ExitStack() as stack:
        cure = "Wait until it is done, or stop it."
        stack.enter_context(RunLock(paths.root, doing="is being prepared", cure=cure, forcible=False))
        remove_leftovers(paths.root, paths.cache)
        known = read_record(CohortRecord, paths.cohort)
        label_set = label_set_from_dict(known.label_set, paths.cohort)
        if not paths.finished_cases():
            raise BadInputError(f"{cohort} has no finished case.", "Convert some: lungseg convert DICOM_DIR COHORT")
        before = None if options.new_splits else read_splits(paths)
        settings = options.slices(known)
        outcomes, todo = _divide(paths, label_set, settings)
        total = len(outcomes) + len(todo)
        kept = {outcome.case for outcome in outcomes if outcome.state == "kept"}
        replaced = [name for name in paths.cached_names() if name not in kept]
        stack.enter_context(replacing_slices(paths, replaced))
        _report_settings(known, settings, len(set(replaced) & {work.case.case for work in todo}), reporter)
        splitting = _splitting(options, known, before, reporter)
        need = _check_room(paths, todo, reporter)
        with storage_errors(paths.cache):
            paths.cache.mkdir(exist_ok=True)
        _retire(paths, kept)
        known = known.model_copy(update=asdict(settings))
        write_record(known, paths.cohort)
        for outcome in outcomes:
            _report(outcome, reporter)
        reporter.progress("prepare", len(outcomes), total, need)
        for outcome in side_by_side(_prepare_one, todo, options.jobs, _ended, reporter.warning):
            outcomes.append(outcome)
            reporter.progress("prepare", len(outcomes), total, outcome.case)
            _report(outcome, reporter)
            reporter.check_cancelled()
        outcomes.sort(key=lambda outcome: outcome.case)
        records = [outcome.record for outcome in outcomes if outcome.record is not None]
        if not records:
            first = outcomes[0]
            reason = first.failure.reason if first.failure else ""
            raise BadInputError(f"None of the {total} case(s) could be prepared. {first.case}: {reason}")
        split = _split(paths, records, before, splitting, reporter)
        write_record(known.model_copy(update={"splitting": splitting}), paths.cohort)
        learned = set(split.train)
        weights = class_weights((record for record in records if record.case in learned), label_set)
        write_class_weights(paths, weights)
    return Preparation(paths, tuple(outcomes), split)


def _report_settings(before: CohortRecord, settings: SliceSettings, anew: int, reporter: Reporter) -> None:
    """Say what differs from the last preparation, or, where nothing does, what it has other than usual."""
    was = {key: getattr(before, key) for key in SLICE_FIELDS}
    now, usual = asdict(settings), asdict(SliceSettings())
    changes = [
        f"{key.replace('_', ' ')} changes from {_words(was[key])} to {_words(now[key])}"
        for key in SLICE_FIELDS
        if was[key] is not None and was[key] != now[key]
    ]
    if changes:
        reporter.log(f"{', '.join(changes)}: {anew} case(s) are made anew", "warning")
    elif special := [key for key in SLICE_FIELDS if was[key] == now[key] != usual[key]]:
        words = ", ".join(f"{key.replace('_', ' ')} {_words(now[key])}" for key in special)
        reporter.log(f"as before, with {words}", "warning")


def _words(value: object) -> str:
    return " to ".join(f"{part:g}" for part in value) + " HU" if isinstance(value, tuple) else str(value)


def _splitting(
    options: PreparationOptions, known: CohortRecord, before: Split | None, reporter: Reporter
) -> SplitSettings:
    if before is None:
        # Split anew by --new-splits alone, a cohort is split in the way that it was.
        return options.splitting(known.splitting)
    holding = known.splitting or PreparationOptions().splitting()
    wanted = options.splitting(holding)
    ignored = [key for key in SPLIT_FIELDS if getattr(wanted, key) != getattr(holding, key)]
    if ignored:
        names = {
            "seed": "--seed",
            "ratios": "--ratios",
            "stratify": "--stratify" if wanted.stratify else "--no-stratify",
        }
        reporter.warning(
            f"{', '.join(names[key] for key in ignored)} has no effect: the cohort is split already. "
            "Add --new-splits to split it anew.",
            "split",
        )
    return holding


def _divide(paths: CohortPaths, label_set: LabelSet, settings: SliceSettings) -> tuple[list[Prepared], list[_Work]]:
    """Tell what is in the cache already from what is to be done."""
    outcomes, todo = [], []
    for case in paths.finished_cases():
        try:
            record = read_record(CaseRecord, case.record)
            made_from = _made_from(record, case, label_set, settings)
        except LungSegError as error:
            outcomes.append(Prepared(case.name, "failed", failure=Failure.of(error)))
            continue
        kept = _known(paths, case.name, made_from)
        if kept is not None:
            outcomes.append(Prepared(case.name, "kept", kept))
        else:
            todo.append(_Work(paths, record, label_set, settings, made_from))
    return outcomes, todo


def _known(paths: CohortPaths, name: str, made_from: str) -> CacheRecord | None:
    files = paths.cached(name)
    if not files.record.is_file():
        return None
    try:
        record = read_cache_record(paths, name)
        CachedCase(record, files)
    except BadInputError:
        return None  # damaged: made anew, and counted as such
    return record if record.made_from == made_from else None


def _made_from(record: CaseRecord, case: CasePaths, label_set: LabelSet, settings: SliceSettings) -> str:
    """Return a digest of all that the cached slices depend on; volumes count by size and time, so it takes no time."""
    states = []
    for file in (case.ct, case.structures):
        if not file.is_file():
            raise BadInputError(f"{file} is missing.", "Convert this case again.")
        states.append((file.stat().st_size, file.stat().st_mtime_ns))
    content = (
        PREPARATION_VERSION,
        record.fingerprint,
        record.annotated,
        record.source.patient_id,
        states,
        [(structure.key, structure.label) for structure in label_set.structures],
        label_set.paint_order,
        settings,
    )
    return hashlib.sha256(repr(content).encode("utf-8", "surrogatepass")).hexdigest()


def _check_room(paths: CohortPaths, todo: Sequence[_Work], reporter: Reporter) -> str:
    """Say how much disk the cache needs, and refuse if it is not there. What is replaced makes room first."""
    need = sum(work.bytes_needed for work in todo)
    freed = sum(file.stat().st_size for work in todo for file in paths.cached(work.case.case).all if file.is_file())
    free = shutil.disk_usage(paths.root).free
    told = f"{len(todo)} new or changed case(s) need {_size(need)} of disk; {_size(free + freed)} are free"
    reporter.log(told)
    if todo and need + SPARE_BYTES > free + freed:
        raise StorageError(
            f"The cache in {paths.cache} needs {_size(need)}, but only {_size(free + freed)} are free.",
            "Free some space, or choose a smaller slice size. Nothing was written.",
        )
    return told


def _size(count: int) -> str:
    factor, unit, digits = (1e9, "GB", 1) if count >= 1e9 else (1e6, "MB", 0) if count >= 1e7 else (1e3, "kB", 0)
    return f"{count / factor:.{digits}f} {unit}"


def _retire(paths: CohortPaths, keep: set[str]) -> None:
    # Slices of cases that are gone, have changed or failed must not be trained on; the record goes first.
    for name in paths.cached_names():
        if name not in keep:
            for file in paths.cached(name).all:
                file.unlink(missing_ok=True)
    for entry in paths.cache.iterdir():
        owner = entry.name.removesuffix(".npy").removesuffix(".ct").removesuffix(".structures")
        if entry.name.endswith(".npy") and owner not in keep:
            entry.unlink(missing_ok=True)


def _report(outcome: Prepared, reporter: Reporter) -> None:
    if outcome.failure is not None:
        reporter.warning(f"not prepared: {outcome.failure.reason}", outcome.case)
        if outcome.failure.trace:
            reporter.log(outcome.failure.trace, "error")
        if outcome.failure.storage:
            raise StorageError(outcome.failure.reason)
    elif outcome.state == "prepared" and outcome.record is not None:
        for warning in outcome.record.warnings:
            reporter.warning(warning, outcome.case)


def _split(
    paths: CohortPaths,
    records: Sequence[CacheRecord],
    before: Split | None,
    how: SplitSettings,
    reporter: Reporter,
) -> Split:
    cases = [SplitCase(record.case, record.patient_id, record.annotated) for record in records]
    split = make_split(cases, seed=how.seed, ratios=how.ratios, stratify=how.stratify, before=before)
    if before is not None and split != before:
        added = ", ".join(f"{len(split.part(part)) - len(names)} to {part}" for part, names in before.items())
        reporter.log(f"The cohort has grown; nobody changed parts, new cases were added: {added}")
    if split != before:
        write_splits(paths, split)
    for warning in split_warnings(split, cases):
        reporter.warning(warning, "split")
    return split


def _prepare_one(work: _Work) -> Prepared:
    name = work.case.case
    try:
        files = work.paths.case(name)
        record, ct, bits = make_slices(work.case, files, work.label_set, work.settings, work.made_from)
        write_slices(record, ct, bits, work.paths.cached(name))
    except Exception as error:  # noqa: BLE001 - one case's fault must not stop a night's work; its trace is kept
        return Prepared(name, "failed", failure=Failure.of(error))
    return Prepared(name, "prepared", record)


def _ended(work: _Work) -> Prepared:
    return Prepared(work.case.case, "failed", failure=Failure.of_process())
