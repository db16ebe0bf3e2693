"""The job ``train``: from a request to a run; what can be refused is refused before a run folder is touched."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from LungSegmentationLib.cohort.cache import open_split, refuse_flat
from LungSegmentationLib.cohort.paths import CohortPaths, RunPaths
from LungSegmentationLib.cohort.readers import wait_for_slices
from LungSegmentationLib.cohort.records import CohortRecord, read_record
from LungSegmentationLib.cohort.splits import read_split
from LungSegmentationLib.cohort.weights import current_class_weights
from LungSegmentationLib.errors import CancelledError, MemoryLimitError, UsageError
from LungSegmentationLib.jobs.events import SilentReporter
from LungSegmentationLib.jobs.lock import RunLock
from LungSegmentationLib.jobs.running import run_command
from LungSegmentationLib.labels import label_set_from_dict
from LungSegmentationLib.storage import read_json, safe_name, write_json
from LungSegmentationLib.training.checkpoint import Checkpoint, load_latest, remove_partial_files
from LungSegmentationLib.training.config import TrainingConfig
from LungSegmentationLib.training.devices import ChosenDevice, choose_device, is_out_of_memory
from LungSegmentationLib.training.distributed import Launch, Processes, joined_processes, launched
from LungSegmentationLib.training.history import HISTORY_FILE
from LungSegmentationLib.training.memory import keep_freed_memory
from LungSegmentationLib.training.segmentation import SegmentationTask, check_structures
from LungSegmentationLib.training.steps import SMALLER
from LungSegmentationLib.training.tensorboard import TensorBoardLog
from LungSegmentationLib.training.trainer import Trained, Trainer

if TYPE_CHECKING:
    from LungSegmentationLib.jobs.reporter import Reporter
    from LungSegmentationLib.labels import LabelSet
    from LungSegmentationLib.training.history import History

__all__ = ["TrainingPlan", "plan_training", "train", "train_command"]

Draw = Callable[["History", "LabelSet", Path], object]


@dataclass(frozen=True)
class TrainingPlan:
    """A training that can be started.

    Attributes
    ----------
    cohort, run
        Where it reads and writes.
    config
        Settings; those of the run that is resumed, with the changes that are allowed.
    checkpoint
        Where it goes on; ``None`` at the beginning.
    device
        Where it runs.
    launch
        What ``torchrun`` said.
    note
        What a person should know of the checkpoint; mostly nothing.
    """

    cohort: CohortPaths
    run: RunPaths
    config: TrainingConfig
    checkpoint: Checkpoint | None
    device: ChosenDevice
    launch: Launch
    note: str = ""


def plan_training(
    cohort: Path,
    run: str | None = None,
    *,
    config_file: Path | None = None,
    settings: Sequence[str] = (),
    resume: bool = False,
    launch: Launch | None = None,
) -> TrainingPlan:
    """Find out whether a training can be started; nothing is written.

    Parameters
    ----------
    cohort
        Folder of a prepared cohort.
    run
        Name of the run. Default: date and time, or, to resume, the run whose checkpoint is the newest.
    config_file, settings
        See :meth:`.TrainingConfig.load`.
    resume
        Go on with a run; one that was interrupted before its first checkpoint begins anew, one that lost its
        checkpoint but not its results is refused.
    launch
        Default: from the environment.

    Raises
    ------
    BadInputError
        If the cohort is none, or not prepared, or a checkpoint is damaged.
    UsageError
        If a setting is wrong or names a structure that is none, the run exists (or does not, to resume), or there is
        no such device.
    """
    paths = CohortPaths(cohort)
    paths.require()
    read_split(paths, "train")
    launch = launch or launched()
    folder = _resumed_run(paths, run) if resume else _new_run(paths, run, launch)
    if resume and not launch.rank and not folder.checkpoint.is_file():
        _refuse_results(folder)
    checkpoint, note = load_latest(folder) if resume and folder.checkpoint.is_file() else (None, "")
    base = None
    if checkpoint is not None:
        base = checkpoint.config
    elif resume and folder.config.is_file():
        base = read_json(folder.config, "settings")
    config = TrainingConfig.load(config_file, settings, base)
    if checkpoint is not None:
        differences = TrainingConfig.load(base=base).fixed_differences(config)
        if differences:
            raise UsageError(
                f"The run {folder.name} cannot go on with another {', '.join(differences)}.",
                "Leave that as it was, or start a new run with it.",
            )
    check_structures(config, _label_set(paths))
    name = config.device
    if launch.world > 1 and name in {"auto", "cuda"} and torch.cuda.is_available():
        name = f"cuda:{launch.local_rank}"
    return TrainingPlan(paths, folder, config, checkpoint, choose_device(name, config.precision), launch, note)


def train(plan: TrainingPlan, reporter: Reporter, *, draw: Draw | None = None, force: bool = False) -> Trained:
    """Train as planned; the run folder is locked meanwhile.

    Parameters
    ----------
    plan
        From :func:`plan_training`.
    reporter
        Is told, and says whether somebody asked to stop.
    draw
        Makes the picture of the history, for example :func:`LungSegmentationLib.figures.training.draw_history`.
    force
        Take over the lock of another computer.

    Raises
    ------
    LungSegError
        Of all kinds: each says what happened and what helps.
    """
    config, device = plan.config, plan.device
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    if device.device.type == "cuda":
        # Slices have one size, so it pays to try which convolution is fastest.
        torch.backends.cudnn.benchmark = True
    with ExitStack() as stack:
        stack.enter_context(_limited_memory(device.device))
        if device.device.type == "cpu" and keep_freed_memory():
            stack.callback(keep_freed_memory, keep=False)
        processes = stack.enter_context(joined_processes(plan.launch, device.device))
        run = RunPaths(Path(processes.gathered(str(plan.run.folder))[0]))
        if processes.first:
            run.folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(RunLock(run.folder, force=force, nested=True))
            wait_for_slices(plan.cohort, force=force)
            remove_partial_files(run)
            write_json(run.config, config.model_dump(mode="json"))
        # None opens a slice before the first one has found that nobody replaces them.
        processes.largest(0)
        reporter.log(device.statement)
        if plan.note:
            reporter.warning(plan.note)
        if device.warning:
            reporter.warning(device.warning)
        label_set = _label_set(plan.cohort)
        task = _task(plan, label_set, processes, reporter)
        log = None
        if config.tensorboard and processes.first:
            log = stack.enter_context(
                TensorBoardLog(run.folder, resumed_at=plan.checkpoint.epoch if plan.checkpoint else 0)
            )
        trainer = Trainer(
            task,
            config,
            run,
            device=device.device,
            precision=device.precision,
            reporter=reporter,
            processes=processes,
            draw=None if draw is None else lambda history, path: draw(history, label_set, path),
            on_epoch=None if log is None else log.epoch,
        )
        if plan.checkpoint is not None:
            trainer.restore(plan.checkpoint)
        trained = trainer.train()
        reporter.result(
            {"run": run.folder, "model": run.model, "checkpoint": run.checkpoint},
            {
                "epochs": trained.epochs,
                "best_epoch": trained.best_epoch,
                config.monitor: trained.best,
                "mean_dice": trained.mean_score,
                "seconds": round(trained.seconds, 1),
                "stopped_early": trained.early,
            },
        )
    return trained


def train_command(
    cohort: Path,
    run: str | None = None,
    *,
    config_file: Path | None = None,
    settings: Sequence[str] = (),
    resume: bool = False,
    force: bool = False,
    draw: Draw | None = None,
    events: bool = False,
    verbose: bool = False,
) -> int:
    """Do what ``lungseg train`` does, and return its exit code; parameters as in the functions above.

    Raises
    ------
    LungSegError
        Before the job starts: nothing was written.
    """
    plan = plan_training(cohort, run, config_file=config_file, settings=settings, resume=resume)

    def work(reporter: Reporter) -> None:
        # One process reports; the others only listen for the wish to stop.
        train(plan, reporter if not plan.launch.rank else _listener(reporter), draw=draw, force=force)

    if plan.launch.rank:
        return run_command("train", work)
    return run_command("train", work, events=events, verbose=verbose, run_folder=plan.run.folder, force=force)


@contextmanager
def _limited_memory(device: torch.device) -> Iterator[None]:
    """Say what it means when memory is short where nothing can be made smaller."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise MemoryLimitError(
            f"The memory of {device} is too small, or other programs hold it.",
            f"Close other programs. {SMALLER} What was saved before is kept.",
        ) from error


def _label_set(paths: CohortPaths) -> LabelSet:
    return label_set_from_dict(read_record(CohortRecord, paths.cohort).label_set, paths.cohort)


def _task(plan: TrainingPlan, label_set: LabelSet, processes: Processes, reporter: Reporter) -> SegmentationTask:
    train_cases, val_cases = open_split(plan.cohort, "train"), open_split(plan.cohort, "val")
    if plan.config.normalization == "zscore":
        refuse_flat((*train_cases, *val_cases))

    def weights(structures: Sequence[str]) -> dict[str, float]:
        records = (case.record for case in train_cases)
        return current_class_weights(plan.cohort, records, label_set, structures, reporter.warning).weights

    return SegmentationTask(
        plan.config,
        label_set,
        train_cases,
        val_cases,
        class_weights=weights if plan.config.class_weights == "file" else None,
        pinned=plan.device.device.type == "cuda",
        processes=processes,
    )


def _listener(reporter: Reporter) -> SilentReporter:
    def asked() -> bool:
        try:
            reporter.check_cancelled()
        except CancelledError:
            return True
        return False

    return SilentReporter(cancelled=asked)


def _new_run(paths: CohortPaths, run: str | None, launch: Launch) -> RunPaths:
    if run is not None:
        folder = paths.run(_checked(run))
        if launch.rank:  # the first process may have begun to write it
            return folder
        if folder.checkpoint.exists():
            raise UsageError(
                f"The run {run} exists already.", "Go on with it by --resume, or choose another name with --run."
            )
        _refuse_results(folder)
        return folder
    name = datetime.now().astimezone().strftime("%Y-%m-%d_%H-%M")
    number = 1
    while paths.run(name if number == 1 else f"{name}_{number}").folder.exists():
        number += 1
    return paths.run(name if number == 1 else f"{name}_{number}")


def _resumed_run(paths: CohortPaths, run: str | None) -> RunPaths:
    there = (
        [RunPaths(folder) for folder in sorted(paths.runs.iterdir()) if folder.is_dir()] if paths.runs.is_dir() else []
    )
    if run is not None:
        folder = paths.run(_checked(run))
        if folder.folder.is_dir():
            return folder
        names = ", ".join(one.name for one in there) or "none"
        raise UsageError(f"There is no run {run} to resume.", f"There are: {names}.")
    stopped = [one for one in there if one.checkpoint.is_file()]
    if not stopped:
        raise UsageError(f"{paths.root} has no run to resume.", "Start one without --resume.")
    return max(stopped, key=lambda one: one.checkpoint.stat().st_mtime)


def _refuse_results(run: RunPaths) -> None:
    """Refuse to begin anew where a training without its checkpoint left what it learned."""
    kept = run.epoch_checkpoints()
    results = [path for path in (run.model, run.folder / HISTORY_FILE, *kept) if path.exists()]
    if not results:
        return
    copy = f"Copy {kept[-1].name} to {run.checkpoint.name} and go on with --resume, or" if kept else "To train anew,"
    raise UsageError(
        f"The run {run.name} has {results[0].name}, but no {run.checkpoint.name} to go on from.",
        f"{copy} choose another name with --run. What is there is not overwritten.",
    )


def _checked(run: str) -> str:
    if safe_name(run) != run:
        raise UsageError(f"“{run}” cannot be the name of a run.", f"Choose for example {safe_name(run)}.")
    return run
