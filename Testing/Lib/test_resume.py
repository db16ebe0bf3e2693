"""A training that was stopped or killed goes on as if nothing had been: the same losses, bit by bit."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from training_files import TINY, Recorder, make_trainer, patient, write_case, write_cohort

from LungSegmentationLib.cohort.paths import CohortPaths
from LungSegmentationLib.errors import BadInputError, CancelledError, StorageError, UsageError
from LungSegmentationLib.training.checkpoint import load_checkpoint, save_checkpoint
from LungSegmentationLib.training.command import plan_training, train
from LungSegmentationLib.training.distributed import Launch

# All that has a state: moving average, schedule with a memory, dropout, momentum, running means.
SETTINGS = (
    "epochs=4",
    "ema=0.9",
    "schedule=plateau",
    "plateau_patience=0",
    "warmup_epochs=1",
    "network.dropout=0.2",
    "network.norm=batch",
    "augmentation=default",
    "gradient_clip=1",
    "sampling.oversample_rare=1",
    "sampling.rare=heart",
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def cohort(tmp_path: Path) -> CohortPaths:
    return write_cohort(tmp_path / "cohort")


def run(cohort: CohortPaths, name: str, reporter: Recorder, *settings: str, resume: bool = False) -> Any:
    chosen = settings if resume else (*TINY, *SETTINGS, *settings)
    return train(plan_training(cohort.root, name, settings=chosen, resume=resume), reporter)


def final(cohort: CohortPaths, name: str) -> dict[str, Any]:
    state = load_checkpoint(cohort.run(name).checkpoint)
    slots = state.optimizer["state"].items()
    return {
        **{f"network {key}": value for key, value in state.network.items()},
        **{f"average {key}": value for key, value in (state.average or {})["average"].items()},
        **{f"optimizer {n} {key}": value for n, slot in slots for key, value in slot.items()},
    }


def assert_same(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert a.keys() == b.keys()
    assert all(torch.equal(torch.as_tensor(a[name]), torch.as_tensor(b[name])) for name in a)


# Five steps an epoch: in the first one, within another, right at its end before it is validated.
@pytest.mark.parametrize("stop_after", [1, 7, 10, 12])
def test_a_stopped_training_goes_on_with_the_same_losses_and_weights(cohort: CohortPaths, stop_after: int) -> None:
    whole, before, after = Recorder(), Recorder(stop=lambda self: self.steps >= stop_after), Recorder()
    run(cohort, "whole", whole)
    with pytest.raises(CancelledError):
        run(cohort, "stopped", before)
    assert before.steps == stop_after
    run(cohort, "stopped", after, resume=True)
    assert before.losses + after.losses == whole.losses
    assert [event.dice for event in before.epochs + after.epochs] == [event.dice for event in whole.epochs]
    assert [event.lr for event in before.epochs + after.epochs] == [event.lr for event in whole.epochs]
    assert_same(final(cohort, "whole"), final(cohort, "stopped"))
    assert cohort.run("whole").model.stat().st_size > 0


def test_a_training_stopped_at_every_step_goes_on_all_the_same(cohort: CohortPaths) -> None:
    whole = Recorder()
    trained = run(cohort, "whole", whole, "epochs=2")
    losses: list[Any] = []
    first = True
    for _ in range(100):
        reporter = Recorder(stop=lambda self: any(event.stage == "training" for event in self.of("progress")))
        try:
            again = run(cohort, "stopped", reporter, "epochs=2", resume=not first)
        except CancelledError:
            first = False
            losses += reporter.losses
        else:
            losses += reporter.losses
            break
    assert losses == whole.losses
    assert_same(final(cohort, "whole"), final(cohort, "stopped"))
    assert (again.best_epoch, again.best) == (trained.best_epoch, trained.best)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a fork of this process")
@pytest.mark.parametrize("step", [2, 8])
def test_a_killed_training_goes_on_from_its_last_checkpoint(cohort: CohortPaths, step: int) -> None:
    whole, after = Recorder(), Recorder()
    run(cohort, "whole", whole)
    child = os.fork()
    if child == 0:

        def kill(self: Recorder) -> bool:
            if self.steps >= step:
                os.kill(os.getpid(), signal.SIGKILL)
            return False

        try:
            run(cohort, "killed", Recorder(stop=kill))
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    done = load_checkpoint(cohort.run("killed").checkpoint).epoch
    run(cohort, "killed", after, resume=True)
    assert after.losses == whole.losses[done:]
    assert_same(final(cohort, "whole"), final(cohort, "killed"))


def test_more_epochs_can_be_asked_for_and_others_settings_not(cohort: CohortPaths) -> None:
    short, rest, whole = Recorder(), Recorder(), Recorder()
    run(cohort, "run", short, "epochs=2")
    run(cohort, "whole", whole, "epochs=3")
    run(cohort, "run", rest, "epochs=3", resume=True)
    assert short.losses + rest.losses == whole.losses
    for setting in ("network=tiny", "structures=heart", "seed=1", "learning_rate=0.5", "overlap=keep"):
        with pytest.raises(UsageError, match=rf"cannot go on with another .*{setting.split('=')[0].split('_')[0]}"):
            run(cohort, "run", Recorder(), setting, resume=True)


def test_a_finished_run_that_is_resumed_does_nothing_more(cohort: CohortPaths) -> None:
    run(cohort, "run", Recorder())
    before = cohort.run("run").checkpoint.read_bytes()
    again = Recorder()
    trained = run(cohort, "run", again, resume=True)
    assert (trained.epochs, again.losses) == (4, [])
    assert cohort.run("run").checkpoint.read_bytes() == before


def test_early_stopping_counts_on_over_a_resume(cohort: CohortPaths) -> None:
    settings = ("epochs=9", "patience=3", "optimizer=sgd", "learning_rate=1e-30", "network.norm=instance", "ema=none")
    stopped = Recorder(stop=lambda self: len(self.epochs) == 2)
    with pytest.raises(CancelledError):
        run(cohort, "run", stopped, *settings)
    trained = run(cohort, "run", Recorder(), resume=True)
    assert (trained.epochs, trained.best_epoch, trained.early) == (4, 1, True)


def test_a_changed_cohort_is_not_gone_on_with(cohort: CohortPaths) -> None:
    run(cohort, "run", Recorder(), "epochs=1")
    write_case(cohort, "a", *patient(77))
    with pytest.raises(BadInputError, match="The cohort changed"):
        run(cohort, "run", Recorder(), "epochs=2", resume=True)


def test_another_number_of_processes_is_refused(cohort: CohortPaths) -> None:
    from dataclasses import replace

    from LungSegmentationLib.training.distributed import Processes

    run(cohort, "run", Recorder(), "epochs=1")
    trainer = make_trainer(cohort, "other", *SETTINGS)
    trainer.processes = replace(Processes(), world=2)
    with pytest.raises(BadInputError, match=r"by 1 process\(es\), now there are 2"):
        trainer.restore(load_checkpoint(cohort.run("run").checkpoint))


@pytest.mark.parametrize(("device", "parts"), [("cpu", 4), ("auto", 1)])
def test_parts_that_memory_asked_for_stay_on_their_device_only(cohort: CohortPaths, device: str, parts: int) -> None:
    run(cohort, "one", Recorder(), "epochs=1")
    path = cohort.run("one").checkpoint
    save_checkpoint(path, replace(load_checkpoint(path), parts=4))
    run(cohort, "one", Recorder(), "epochs=2", f"device={device}", resume=True)
    assert load_checkpoint(path).parts == parts


def test_without_a_name_the_newest_run_is_resumed(cohort: CohortPaths) -> None:
    for name in ("b", "a"):
        run(cohort, name, Recorder(), "epochs=1")
    assert plan_training(cohort.root, resume=True).run.name == "a"


@pytest.mark.parametrize("resume", [True, False])
def test_results_whose_checkpoint_is_lost_are_not_overwritten(cohort: CohortPaths, resume: bool) -> None:
    run(cohort, "run", Recorder(), "epochs=2", "checkpoint_every=1")
    lost = cohort.run("run")
    lost.checkpoint.unlink()
    before = {path.name: path.read_bytes() for path in lost.folder.iterdir()}
    with pytest.raises(UsageError, match=r"no last\.pt .*Copy epoch_0002\.pt to last\.pt"):
        plan_training(cohort.root, "run", resume=resume)
    for path in lost.epoch_checkpoints():
        path.unlink()
        del before[path.name]
    for name in ("best_unet_multi_organ.safetensors", "training_history.json"):
        with pytest.raises(UsageError, match=rf"has {name}, but no last\.pt .*choose another name"):
            plan_training(cohort.root, "run", resume=resume)
        assert before == {path.name: path.read_bytes() for path in lost.folder.iterdir()}
        (lost.folder / name).unlink()
        del before[name]


def test_a_lost_checkpoint_is_replaced_by_a_kept_one(cohort: CohortPaths) -> None:
    whole, before, after = Recorder(), Recorder(), Recorder()
    run(cohort, "whole", whole, "epochs=3")
    run(cohort, "run", before, "epochs=2", "checkpoint_every=1")
    lost = cohort.run("run")
    lost.epoch_checkpoint(1).replace(lost.checkpoint)
    run(cohort, "run", after, "epochs=3", resume=True)
    assert before.losses[:1] + after.losses == whole.losses


@pytest.mark.parametrize("first", [False, True], ids=["without, then with a scaler", "with, then without"])
def test_a_training_goes_on_where_another_precision_is_used(cohort: CohortPaths, first: bool) -> None:
    from dataclasses import replace

    from LungSegmentationLib.training.precision import Precision

    def go(scaler: bool, *settings: str, resume: bool) -> Any:
        plan = plan_training(cohort.root, "run", settings=settings, resume=resume)
        precision = Precision("bfloat16", autocast=True, scaler=scaler, reason="as on an older GPU")
        return train(replace(plan, device=replace(plan.device, precision=precision)), Recorder())

    go(first, *TINY, "epochs=1", resume=False)
    assert bool(load_checkpoint(cohort.run("run").checkpoint).scaler) == first
    assert go(not first, "epochs=2", resume=True).epochs == 2
    assert bool(load_checkpoint(cohort.run("run").checkpoint).scaler) != first
    assert go(not first, "epochs=3", resume=True).epochs == 3


def test_a_run_that_never_came_to_a_checkpoint_begins_anew_with_its_settings(cohort: CohortPaths) -> None:
    run(cohort, "run", Recorder(), "epochs=1")
    for path in cohort.run("run").folder.iterdir():
        if path != cohort.run("run").config:
            path.unlink()
    plan = plan_training(cohort.root, "run", resume=True)
    assert plan.checkpoint is None
    assert plan.config.network.name == "small"


def test_runs_that_are_not_there_and_names_that_are_none_are_refused(cohort: CohortPaths) -> None:
    with pytest.raises(UsageError, match="no run to resume"):
        plan_training(cohort.root, resume=True)
    run(cohort, "one", Recorder(), "epochs=1")
    with pytest.raises(UsageError, match=r"There are: one\."):
        plan_training(cohort.root, "two", resume=True)
    with pytest.raises(UsageError, match="exists already"):
        plan_training(cohort.root, "one", launch=Launch())
    for name in ("../one", "a/b", "", "con"):
        with pytest.raises(UsageError, match="cannot be the name"):
            plan_training(cohort.root, name)


def test_checkpoints_are_kept_now_and_then(cohort: CohortPaths) -> None:
    run(cohort, "run", Recorder(), "checkpoint_every=1", "keep_checkpoints=2")
    assert [path.name for path in cohort.run("run").epoch_checkpoints()] == ["epoch_0003.pt", "epoch_0004.pt"]
    assert load_checkpoint(cohort.run("run").epoch_checkpoint(3)).epoch == 3


def test_a_damaged_checkpoint_costs_the_epochs_since_the_kept_one_and_nothing_else(cohort: CohortPaths) -> None:
    whole, before, after = Recorder(), Recorder(stop=lambda self: self.steps >= 17), Recorder()
    run(cohort, "whole", whole)
    with pytest.raises(CancelledError):
        run(cohort, "run", before, "checkpoint_every=2")
    damaged = cohort.run("run").checkpoint
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    run(cohort, "run", after, resume=True)
    assert after.losses == whole.losses[2:]
    assert_same(final(cohort, "whole"), final(cohort, "run"))
    (warning,) = [event.message for event in after.of("warning") if "damaged" in event.message]
    assert "epoch_0002.pt" in warning


def test_a_cache_that_vanishes_in_the_middle_is_saved_before_it_is_said(cohort: CohortPaths) -> None:
    gone = cohort.cached("a").ct

    def vanish(self: Recorder) -> bool:
        if self.steps == 6 and gone.exists():
            gone.rename(gone.with_suffix(".gone"))
        return False

    whole, before, after = Recorder(), Recorder(stop=vanish), Recorder()
    run(cohort, "whole", whole)
    with pytest.raises(StorageError, match="--resume"):
        run(cohort, "run", before)
    gone.with_suffix(".gone").rename(gone)
    run(cohort, "run", after, resume=True)
    assert before.losses + after.losses == whole.losses
