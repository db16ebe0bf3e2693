"""The job ``predict``: every CT of a path segmented and written, one in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np

from LungSegmentationLib.cohort.batch import Failure
from LungSegmentationLib.errors import (
    BadInputError,
    CancelledError,
    LungSegError,
    MemoryLimitError,
    StorageError,
    UsageError,
)
from LungSegmentationLib.inference.input_cases import InputCase, LoadedInput
from LungSegmentationLib.inference.options import PredictionOptions
from LungSegmentationLib.inference.outcomes import PredictedCase, Predictions
from LungSegmentationLib.inference.outputs import (
    CONFIDENCE,
    DICOM_FORMATS,
    LABEL_MAPS,
    STRUCTURES,
    ResultFiles,
    parse_formats,
    plan_outputs,
    put_in_place,
    staging,
)
from LungSegmentationLib.inference.prediction import Prediction
from LungSegmentationLib.inference.predictor import Predictor
from LungSegmentationLib.inference.record import (
    InputRecord,
    ModelRecord,
    PredictionRecord,
    StructureRecord,
    file_digest,
    prediction_key,
    read_record_of,
    write_record_of,
)
from LungSegmentationLib.inference.sources import find_inputs
from LungSegmentationLib.jobs.lock import LockedError
from LungSegmentationLib.jobs.reporter import Reporter, SilentReporter
from LungSegmentationLib.networks.card import software_versions
from LungSegmentationLib.networks.description import version_warning
from LungSegmentationLib.networks.model_file import model_file
from LungSegmentationLib.volumes import write_volume

__all__ = ["Existing", "PredictedCase", "Predictions", "predict_command"]

MARKED = "CHECK THIS RESULT: the CT lies outside what the model is made for. What is written says so."

_NO_EMPTY_SEG = "no structure was found, and DICOM has no empty segmentation"

Existing = Literal["refuse", "overwrite", "keep"]


@dataclass(frozen=True)
class _Job:
    """What is the same for all cases."""

    predictor: Predictor
    models: tuple[ModelRecord, ...]
    keys: tuple[str, ...]
    kinds: tuple[str, ...]
    key: str
    reporter: Reporter


def predict_command(
    models: Sequence[Path],
    source: Path,
    output: Path,
    options: PredictionOptions | None = None,
    *,
    formats: Sequence[str] = (),
    structures: Sequence[str] = (),
    existing: Existing = "refuse",
    only: Collection[str] | None = None,
    reporter: Reporter | None = None,
) -> Predictions:
    """Segment every CT of a path and write the results; of each case all files or none.

    Parameters
    ----------
    models
        One model, or several that are averaged: files, or folders of runs.
    source
        See :func:`~LungSegmentationLib.inference.sources.find_inputs`.
    output
        See :func:`~LungSegmentationLib.inference.outputs.plan_outputs`.
    options
        How; with ``confidence`` the confidence map is written too.
    formats
        Texts such as ``nifti,rtstruct``; by default what the ending of ``output`` says, or NIfTI.
    structures
        Keys of those to write; by default all that the models learned.
    existing
        What to do where results are: refuse before anything is done; overwrite; or keep those of the same models,
        options, software and CT, whose record says that they are whole.
    only
        Names of the cases to segment; by default all.
    reporter
        Hears progress, warnings, and one result a case; may ask to stop: the cases finished by then stay.

    Raises
    ------
    UsageError
        If the command cannot be meant; nothing was touched then.
    BadInputError
        If there is no CT or no model, or after the other cases, if some could not be segmented.
    StorageError
        If results cannot be written: then the other cases are not tried.
    MemoryLimitError
        If no case fitted into memory.
    CancelledError
        If the reporter asked to stop.
    """
    reporter = reporter or SilentReporter()
    options = options or PredictionOptions()
    chosen_formats = parse_formats(formats)
    found = find_inputs(source, progress=_stoppable(reporter))
    for warning in found.warnings:
        reporter.warning(warning)
    for note in found.notes:
        reporter.log(note)
    cases = found.cases if only is None else _chosen(found.cases, only, source)
    planned, chosen_formats = plan_outputs(output, cases, chosen_formats)
    kinds = (*chosen_formats, *((CONFIDENCE,) if options.confidence else ()))
    if existing == "refuse":
        _refuse_existing(planned, kinds)
    job = _prepare(models, replace(options, contours="rtstruct" in kinds), structures, kinds, reporter)
    outcomes: list[PredictedCase] = []
    faults: list[tuple[Failure, Exception]] = []
    for number, (case, files) in enumerate(zip(cases, planned, strict=True)):
        if len(planned) > 1:
            reporter.progress("cases", number, len(planned), case.name)
        reporter.check_cancelled()
        outcomes.append(_one_case(case, files, job, existing, faults))
    if len(planned) > 1:
        reporter.progress("cases", len(planned), len(planned))
    done = Predictions(tuple(outcomes))
    reporter.result({"output": output}, {"cases": len(outcomes), **done.summary()})
    if faults:
        raise _failed(done, faults)
    return done


def _chosen(cases: Sequence[InputCase], only: Collection[str], source: Path) -> tuple[InputCase, ...]:
    chosen = tuple(case for case in cases if case.name in only)
    missing = sorted(set(only) - {case.name for case in chosen})
    if missing:
        more = f" (and {len(missing) - 3} more)" if len(missing) > 3 else ""
        raise BadInputError(f"{source} has no CT of {', '.join(missing[:3])}{more}.", "Convert these cases again.")
    return chosen


def _stoppable(reporter: Reporter) -> Callable[[int, int], None]:
    def progress(done: int, total: int) -> None:
        reporter.progress("scan", done, total)
        reporter.check_cancelled()

    return progress


def _prepare(
    models: Sequence[Path],
    options: PredictionOptions,
    structures: Sequence[str],
    kinds: tuple[str, ...],
    reporter: Reporter,
) -> _Job:
    models = [model_file(model) for model in models]
    predictor = Predictor(models, options)
    structures = [text.strip() for text in structures if text.strip()]
    keys = tuple(key for key in predictor.keys if not structures or key in structures)
    unknown = [key for key in structures if key not in predictor.keys]
    if unknown:
        raise UsageError(f"The model did not learn {', '.join(unknown)}.", f"It knows {', '.join(predictor.keys)}.")
    reporter.log(predictor.device.statement)
    if predictor.device.warning:
        reporter.warning(predictor.device.warning)
    records = []
    for model, card in zip(models, predictor.cards, strict=True):
        if warning := version_warning(card):
            reporter.warning(warning, model.name)
        records.append(
            ModelRecord(
                # A name that is no UTF-8 reaches Python as half characters, which no file of text takes.
                file=model.name.encode("utf-8", "replace").decode(),
                sha256=file_digest(model),
                software_version=card.software["lungsegmentation"],
                data_fingerprint=card.data_fingerprint,
            )
        )
    key = prediction_key(records, options, keys)
    return _Job(predictor, tuple(records), keys, kinds, key, reporter)


def _refuse_existing(planned: Sequence[ResultFiles], kinds: Sequence[str]) -> None:
    there = [path for files in planned for path in files.paths(kinds) if path.exists()]
    if there:
        more = f" (and {len(there) - 1} more)" if len(there) > 1 else ""
        raise UsageError(
            f"{there[0]} exists already{more}.",
            "Add --overwrite to replace it, --keep to do only what is missing, or choose another output.",
        )


def _one_case(
    case: InputCase, files: ResultFiles, job: _Job, existing: Existing, faults: list[tuple[Failure, Exception]]
) -> PredictedCase:
    try:
        fingerprint = case.fingerprint()
    except LungSegError as error:
        return _not_done(case, error, job, faults)
    done = _kept(case, files, job, existing, fingerprint, faults)
    if done is not None:
        return done
    try:
        with staging(files) as staged:
            # Another process may have been here since.
            if existing == "refuse":
                _refuse_existing([files], job.kinds)
            done = _kept(case, files, job, existing, fingerprint, faults)
            return done or _made(case, files, job, fingerprint, staged, faults)
    except (LockedError, UsageError) as error:
        return _not_done(case, error, job, faults)


def _kept(
    case: InputCase,
    files: ResultFiles,
    job: _Job,
    existing: Existing,
    fingerprint: str,
    faults: list[tuple[Failure, Exception]],
) -> PredictedCase | None:
    """Return what is there already, if that is to be kept."""
    before = read_record_of(files.record_path) if existing == "keep" else None
    if before is None or not before.is_of(job.key, fingerprint) or not _is_whole(before, files, job):
        return None
    job.reporter.log(f"{case.name}: kept, as nothing has changed")
    if before.marked:
        job.reporter.warning(" ".join((MARKED, *before.warnings)), case.name)
    return _told("kept", case, files, before, job, faults)


def _made(
    case: InputCase,
    files: ResultFiles,
    job: _Job,
    fingerprint: str,
    staged: Path,
    faults: list[tuple[Failure, Exception]],
) -> PredictedCase:
    reporter = job.reporter
    before = read_record_of(files.record_path)
    stale: tuple[str, ...] = ()
    if before is not None and not before.is_of(job.key, fingerprint):
        stale = _tell_others(before, case, files, job)
        before = None
    try:
        loaded = case.load()
        for warning in loaded.warnings:
            reporter.warning(warning, case.name)
        prediction = job.predictor.predict((loaded.ct, loaded.grid), reporter, name=case.name)
        loaded = loaded.without_voxels()
        if prediction.marked:  # why, the predictor has said
            reporter.warning(MARKED, case.name)
    except CancelledError:
        raise
    except Exception as error:  # noqa: BLE001 - one case's fault must not stop a night's work; its trace is told
        return _not_done(case, error, job, faults)
    try:
        written, left_out = _write(prediction, loaded, case, files, staged, job)
    except (CancelledError, StorageError, OSError):
        raise  # the next case could not be written either
    except Exception as error:  # noqa: BLE001 - as above
        return _not_done(case, error, job, faults)
    if before is not None:
        there = {kind: name for kind, name in before.files.items() if (files.folder / name).is_file()}
        kept = {kind: name for kind, name in there.items() if kind not in left_out}
        written = {**kept, **written}
        left_out = {**{kind: reason for kind, reason in before.left_out.items() if kind not in written}, **left_out}
    record = _record(prediction, loaded, case, job, fingerprint, written, left_out)
    write_record_of(record, staged / files.record)
    # What an earlier prediction found would stand for what this one did not.
    put_in_place(staged, files, (*stale, *(files.name(kind) for kind in job.kinds if kind in left_out)))
    return _told("predicted", case, files, record, job, faults)


def _told(
    state: Literal["predicted", "kept"],
    case: InputCase,
    files: ResultFiles,
    record: PredictionRecord,
    job: _Job,
    faults: list[tuple[Failure, Exception]],
) -> PredictedCase:
    """Tell what came of a case; it has failed where no format that was asked for can hold it."""
    left_out = [kind for kind in job.kinds if kind in record.left_out]
    if left_out and not set(job.kinds) - {CONFIDENCE, *left_out}:
        sentence = f"{files.path(left_out[0])} was not written: {record.left_out[left_out[0]]}."
        cure = "Write .seg.nrrd, .nii.gz or RTSTRUCT if an empty result is to be kept."
        return _not_done(case, BadInputError(sentence, cure), job, faults)
    for kind in left_out:
        job.reporter.warning(f"no {kind} was written: {record.left_out[kind]}", case.name)
    outcome = PredictedCase(case.name, state, _paths(files, record), record)
    job.reporter.result(outcome.files, outcome.summary())
    return outcome


def _not_done(case: InputCase, error: Exception, job: _Job, faults: list[tuple[Failure, Exception]]) -> PredictedCase:
    failure = Failure.of(error)
    if isinstance(error, MemoryLimitError):
        failure = Failure(str(error), "memory")
    faults.append((failure, error))
    job.reporter.warning(f"not segmented: {failure.reason}", case.name)
    if failure.trace:
        job.reporter.log(failure.trace, "error")
    return PredictedCase(case.name, "failed", reason=failure.reason)


def _tell_others(before: PredictionRecord, case: InputCase, files: ResultFiles, job: _Job) -> tuple[str, ...]:
    """Tell which files of an earlier prediction will stay beside the new ones, and return those that must not."""
    # An evaluation takes the structure bits before the label map: they would speak for another prediction.
    stale = tuple(name for kind, name in before.files.items() if kind == STRUCTURES and name == files.structures)
    ours = {*stale, *(files.name(kind) for kind in job.kinds)}
    others = [name for name in before.files.values() if name not in ours and (files.folder / name).is_file()]
    if others:
        job.reporter.warning(
            f"{', '.join(others)} is of an earlier prediction (another model, CT, version, option) and stays as it is",
            case.name,
        )
    return stale


def _is_whole(record: PredictionRecord, files: ResultFiles, job: _Job) -> bool:
    kinds = [kind for kind in job.kinds if kind not in record.left_out]
    kinds += [STRUCTURES] if STRUCTURES in record.files else []
    return all(record.files.get(kind) == files.name(kind) and files.path(kind).is_file() for kind in kinds)


def _paths(files: ResultFiles, record: PredictionRecord) -> dict[str, Path]:
    found = {kind: files.folder / name for kind, name in record.files.items()}
    return {**found, "record": files.record_path}


def _write(
    prediction: Prediction, loaded: LoadedInput, case: InputCase, files: ResultFiles, staged: Path, job: _Job
) -> tuple[dict[str, str], dict[str, str]]:
    """Write all files but the record, and return their names by kind, and why kinds were left out."""
    kinds = list(job.kinds)
    if loaded.no_source is not None and any(kind in DICOM_FORMATS for kind in kinds):
        raise loaded.no_source
    found = prediction.structures.voxel_counts()
    empty = not any(found[key] for key in job.keys)
    if empty:
        job.reporter.warning("no structure was found", case.name)
    left_out = {"dicom-seg": _NO_EMPTY_SEG} if empty and "dicom-seg" in kinds else {}
    kinds = [kind for kind in kinds if kind not in left_out]
    if files.structures and not prediction.exclusive and any(kind in LABEL_MAPS for kind in kinds):
        kinds.append(STRUCTURES)
    for number, kind in enumerate(kinds):
        job.reporter.progress("writing", number, len(kinds), kind)
        job.reporter.check_cancelled()
        path = staged / files.name(kind)
        if kind == CONFIDENCE:
            image = prediction.confidence_image()
            if image is not None:
                write_volume(image, path)
        elif kind == STRUCTURES:
            chosen = sum(1 << (prediction.structures.label_set[key].label - 1) for key in job.keys)
            bits = prediction.grid.image(prediction.structures.bits & np.uint8(chosen))
            write_volume(bits, path, prediction.description)
        else:
            source = loaded.source if kind in DICOM_FORMATS else None
            prediction.write(path, source, kind, keys=job.keys)
    job.reporter.progress("writing", len(kinds), len(kinds))
    return {kind: files.name(kind) for kind in kinds}, left_out


def _record(
    prediction: Prediction,
    loaded: LoadedInput,
    case: InputCase,
    job: _Job,
    fingerprint: str,
    written: dict[str, str],
    left_out: dict[str, str],
) -> PredictionRecord:
    counts = prediction.structures.voxel_counts()
    label_set = prediction.structures.label_set
    versions = (version_warning(card) for card in job.predictor.cards)
    return PredictionRecord(
        created=datetime.now(UTC),
        case=case.name,
        marked=prediction.marked,
        warnings=tuple(dict.fromkeys((*prediction.warnings, *loaded.warnings, *filter(None, versions)))),
        input=InputRecord(
            source=case.about,
            size=prediction.grid.size,
            spacing=prediction.grid.spacing,
            fingerprint=fingerprint,
        ),
        models=job.models,
        options=dict(vars(job.predictor.options)),
        device=job.predictor.device.statement,
        software=software_versions(),
        key=job.key,
        structures={
            key: StructureRecord(
                name=label_set[key].name,
                cc=round(counts[key] * prediction.grid.voxel_volume, 3),
                voxels=counts[key],
                confidence=_rounded(prediction.structure_confidence.get(key)),
            )
            for key in job.keys
        },
        changes=prediction.changes,
        files=written,
        left_out=left_out,
        seconds=round(prediction.seconds, 2),
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _failed(done: Predictions, faults: Sequence[tuple[Failure, Exception]]) -> Exception:
    if len(done.cases) == 1:
        return faults[0][1]
    kinds = {failure.kind for failure, _ in faults}
    if kinds == {"fault"}:
        return faults[0][1]
    names = [case for case in done.cases if case.state == "failed"]
    shown = "; ".join(f"{case.case}: {case.reason}" for case in names[:3]) + (" …" if len(names) > 3 else "")
    error = MemoryLimitError if kinds == {"memory"} else BadInputError
    return error(f"{len(names)} of {len(done.cases)} CTs could not be segmented. {shown}")
