"""The training loop: it learns, the same each time, in as much memory as there is, and stops where numbers end."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from training_files import LABELS, Recorder, make_task, make_trainer, patient, write_case, write_cohort

from LungSegmentationLib.cohort.cache import open_split
from LungSegmentationLib.errors import BadInputError, ExitCode, MemoryLimitError
from LungSegmentationLib.networks.model_file import load_model
from LungSegmentationLib.training.checkpoint import load_checkpoint
from LungSegmentationLib.training.distributed import Processes
from LungSegmentationLib.training.segmentation import SegmentationTask
from LungSegmentationLib.training.validation import count_overlap


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def weights(trainer: Any) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in trainer.network.state_dict().items()}


def test_a_network_learns_the_structures_of_an_unseen_patient(tmp_path: Path) -> None:
    reporter = Recorder()
    settings = ("epochs=16", "learning_rate=0.02", "network.widths=[8,16,16]")
    make_trainer(write_cohort(tmp_path), "run", *settings, reporter=reporter).train()
    first, last = reporter.epochs[0], reporter.epochs[-1]
    assert last.val_loss is not None
    assert first.val_loss is not None
    assert last.val_loss < first.val_loss / 2
    assert all(value is not None and value > 0.9 for value in last.dice.values())


def test_two_trainings_give_identical_losses_and_weights(tmp_path: Path) -> None:
    paths = write_cohort(tmp_path)
    settings = ("augmentation=default", "network.dropout=0.3", "ema=0.9")
    reporters = Recorder(), Recorder()
    trainers = [make_trainer(paths, f"run{k}", *settings, reporter=reporters[k]) for k in range(2)]
    torch.rand(17)  # what others draw in between must not matter
    for trainer in trainers:
        trainer.train()
    assert reporters[0].losses == reporters[1].losses
    a, b = map(weights, trainers)
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_another_seed_gives_another_training(tmp_path: Path) -> None:
    paths = write_cohort(tmp_path)
    losses = []
    for seed in (1, 2):
        reporter = Recorder()
        make_trainer(paths, f"run{seed}", f"seed={seed}", reporter=reporter).train()
        losses.append(reporter.losses)
    assert losses[0] != losses[1]


def test_dice_is_that_of_whole_volumes_averaged_over_the_patients_in_whom_it_was_drawn(tmp_path: Path) -> None:
    paths = write_cohort(tmp_path, ("a",), ("c", "d"))
    ct, masks = patient(9)
    write_case(paths, "d", ct, masks, annotated=("lung_right", "lung_left"))
    reporter = Recorder()
    trainer = make_trainer(paths, "run", "epochs=3", "batch_size=2", reporter=reporter)
    trainer.train()
    network, _ = load_model(paths.run("run").model)
    # All slices of a patient at once, by numpy, from the arrays on the disk.
    expected: dict[str, list[float]] = {key: [] for key in ("lung_right", "lung_left", "heart")}
    for case in open_split(paths, "val"):
        hounsfield = case.ct.clip(-1000, 400).astype(np.float64)
        images = (hounsfield - case.record.mean) / (case.record.std + 1e-8)
        with torch.no_grad():
            found = network(torch.from_numpy(images).float()[:, None]).argmax(1).numpy()
        for channel, key in enumerate(expected, start=1):
            drawn = (case.structures >> (LABELS[key].label - 1)) & 1 == 1
            if key in case.record.annotated:
                both = int((drawn & (found == channel)).sum())
                expected[key].append(2 * both / (int(drawn.sum()) + int((found == channel).sum())))
    best = next(event for event in reversed(reporter.epochs) if event.epoch == load_best_epoch(trainer))
    assert best.dice == pytest.approx({key: np.mean(values) for key, values in expected.items()}, abs=1e-6)
    assert best.mean_dice == pytest.approx(np.mean(list(best.dice.values())))
    assert len(expected["heart"]) == 1


def load_best_epoch(trainer: Any) -> int:
    return int(load_checkpoint(trainer.run.checkpoint).best["epoch"])


def test_a_structure_that_no_validation_patient_has_scores_nothing(tmp_path: Path) -> None:
    paths = write_cohort(tmp_path)
    ct, masks = patient(9)
    write_case(paths, "c", ct, masks, annotated=("lung_right", "lung_left"))
    reporter = Recorder()
    make_trainer(paths, "run", "epochs=1", reporter=reporter).train()
    dice = reporter.epochs[0].dice
    assert dice["heart"] is None
    assert reporter.epochs[0].mean_dice == pytest.approx(np.mean([dice["lung_right"], dice["lung_left"]]))


def test_kept_overlaps_are_counted_as_drawn() -> None:
    logits = torch.tensor([[[[5.0, 5.0, -5.0]], [[5.0, -5.0, -5.0]]]])  # the second lies within the first
    target = torch.tensor([[[[1, 0, 1]], [[1, 0, 0]]]])
    assert count_overlap(logits, target, "keep").tolist() == [[1, 2, 2], [1, 1, 1]]


def test_exclusive_classes_are_counted_without_background() -> None:
    logits = torch.tensor([[[[9.0, 0.0, 0.0, 0.0]], [[0.0, 9.0, 9.0, 0.0]], [[0.0, 0.0, 0.0, 9.0]]]])
    target = torch.tensor([[[0, 1, 2, 2]]])
    assert count_overlap(logits, target, "exclusive").tolist() == [[1, 2, 1], [1, 1, 2]]


def test_the_best_model_is_that_of_the_lowest_validation_loss(tmp_path: Path) -> None:
    paths = write_cohort(tmp_path)
    reporter = Recorder()
    trained = make_trainer(paths, "run", "epochs=6", "learning_rate=0.3", reporter=reporter).train()
    losses = [event.val_loss for event in reporter.epochs]
    assert trained.best_epoch == 1 + int(np.argmin(losses))
    _, card = load_model(paths.run("run").model)
    assert card.training.best_epoch == trained.best_epoch
    assert card.training.best_loss == pytest.approx(min(losses))


def test_the_model_file_says_what_inference_needs_and_nothing_on_patients(tmp_path: Path) -> None:
    paths = write_cohort(tmp_path)
    make_trainer(paths, "run", "epochs=1", "structures=heart,lung_right").train()
    _, card = load_model(paths.run("run").model)
    assert card.structures == ("lung_right", "heart")
    assert (card.preprocessing.size, card.preprocessing.window) == ((16, 16), (-1000, 400))
    assert card.training.patients == {"train": 2, "val": 1}
    assert card.training.slices == {"train": 10, "val": 5}
    assert card.training.spacing_mm == ((1, 1), (1, 1), (3, 3))
    assert card.scores["heart"].patients == 1
    assert "patient of" not in paths.run("run").model.read_bytes().decode("latin-1")
    assert "patient of" not in paths.run("run").checkpoint.read_bytes().decode("latin-1")


def test_training_stops_early_when_nothing_becomes_better(tmp_path: Path) -> None:
    paths = write_cohort(tmp_path)
    # Steps of this size cannot change a float32 weight, so the first epoch stays the best.
    trained = make_trainer(paths, "run", "epochs=9", "patience=2", "optimizer=sgd", "learning_rate=1e-30").train()
    assert (trained.epochs, trained.best_epoch, trained.early) == (3, 1, True)


def test_without_validation_patients_the_last_network_is_kept(tmp_path: Path) -> None:
    paths = write_cohort(tmp_path, ("a", "b"), ())
    reporter = Recorder()
    trained = make_trainer(paths, "run", "epochs=3", "patience=1", reporter=reporter).train()
    assert (trained.epochs, trained.best_epoch, trained.best) == (3, 3, None)
    assert any("to validate on" in event.message for event in reporter.of("warning"))
    network, card = load_model(paths.run("run").model)
    assert (card.training.best_epoch, card.training.best_loss, card.scores) == (3, None, {})
    state = load_checkpoint(paths.run("run").checkpoint).network
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("overlap", ["exclusive", "keep"])
def test_validation_patients_in_whom_nothing_of_it_was_drawn_choose_no_network(tmp_path: Path, overlap: str) -> None:
    """What is unknown there costs nothing, whatever the network says: the first epoch would be the best."""
    paths = write_cohort(tmp_path)
    ct, masks = patient(5)
    del masks["heart"]
    write_case(paths, "c", ct, masks)
    reporter = Recorder()
    settings = ("epochs=4", "patience=1", "structures=heart", f"overlap={overlap}")
    trained = make_trainer(paths, "run", *settings, reporter=reporter).train()
    assert (trained.epochs, trained.best_epoch) == (4, 4)
    assert [loss for _, loss in reporter.losses] == [None] * 4
    assert "What is learned was drawn in no case to validate on: they are left out." in [
        warning.message for warning in reporter.of("warning")
    ]


def test_validation_can_be_rarer_and_the_last_epoch_has_one(tmp_path: Path) -> None:
    reporter = Recorder()
    make_trainer(write_cohort(tmp_path), "run", "epochs=5", "validate_every=2", reporter=reporter).train()
    assert [event.val_loss is not None for event in reporter.epochs] == [False, True, False, True, True]


@pytest.mark.parametrize(
    "settings",
    [
        ("overlap=keep",),
        ("normalization=window", "neighbors=1"),
        ("network.deep_supervision=1", "network.widths=[4,4,8]"),
        ("ema=0.5", "gradient_clip=1", "schedule=cosine", "warmup_epochs=1"),
        ("schedule=plateau", "optimizer=adamw", "weight_decay=0.01", "monitor=val_dice"),
        ("gradient_checkpointing=true", "network.norm=batch"),
        ("sampling.oversample_rare=1", "sampling.rare=heart", "steps_per_epoch=2"),
        ("loss.pixel=focal", "loss.region=tversky", "augmentation=default", "channels_last=false"),
    ],
    ids=lambda settings: settings[0],
)
def test_each_way_of_training_runs_and_its_model_can_be_loaded(tmp_path: Path, settings: tuple[str, ...]) -> None:
    paths = write_cohort(tmp_path)
    reporter = Recorder()
    make_trainer(paths, "run", *settings, reporter=reporter).train()
    assert all(loss is not None and math.isfinite(loss) for pair in reporter.losses for loss in pair)
    load_model(paths.run("run").model)


def test_bfloat16_learns_as_float32_does_but_for_rounding(tmp_path: Path) -> None:
    from LungSegmentationLib.training.precision import choose_precision

    paths = write_cohort(tmp_path)
    reporters = Recorder(), Recorder()
    for reporter, precision in zip(reporters, ("float32", "bfloat16"), strict=True):
        trainer = make_trainer(paths, precision, reporter=reporter)
        trainer.runner.precision = choose_precision("cpu", precision)
        trainer.train()
    (a, _), (b, _) = reporters[0].losses[-1], reporters[1].losses[-1]
    assert a is not None
    assert a != b
    assert b == pytest.approx(a, rel=0.05)


def test_the_moving_average_is_what_is_validated_and_saved(tmp_path: Path) -> None:
    paths = write_cohort(tmp_path)
    trainer = make_trainer(paths, "run", "ema=0.9", "epochs=1")
    trainer.train()
    network, _ = load_model(paths.run("run").model)
    state = load_checkpoint(paths.run("run").checkpoint)
    assert state.average is not None
    for name, value in network.state_dict().items():
        assert torch.equal(value, state.average["average"][name])
    assert any(not torch.equal(value, state.network[name]) for name, value in network.state_dict().items())


class Greedy(nn.Module):
    """A network for which more than so many samples at a time do not fit into memory."""

    def __init__(self, network: nn.Module, most: int, error: type[Exception], message: str) -> None:
        super().__init__()
        self.network = network
        self.most = most
        self.error = error
        self.message = message

    def forward(self, images: Tensor) -> Any:
        if len(images) > self.most:
            raise self.error(self.message)
        return self.network(images)


def greedy(most: int, error: type[Exception] = torch.OutOfMemoryError, message: str = "CUDA out of memory") -> Any:
    class Task(SegmentationTask):
        def build(self) -> nn.Module:
            return Greedy(super().build(), most, error, message)

        def save(self, path: Path, network: Any, learned: Any) -> None:
            super().save(path, network.network, learned)

    return Task


def test_a_batch_that_does_not_fit_is_halved_and_the_step_stays_the_same(tmp_path: Path) -> None:
    """With the loss as it is by default: a weighted mean and Dice, neither of which is a mean over parts."""
    paths = write_cohort(tmp_path)
    settings = ("augmentation=default", "batch_size=4")
    roomy, tight = Recorder(), Recorder()
    whole = make_trainer(paths, "whole", *settings, reporter=roomy)
    halved = make_trainer(paths, "halved", *settings, reporter=tight, kind=greedy(2))
    whole.train()
    halved.train()
    assert halved.runner.parts == 2
    assert [loss for loss, _ in tight.losses] == pytest.approx([loss for loss, _ in roomy.losses], rel=1e-5)
    assert [loss for _, loss in tight.losses] == pytest.approx([loss for _, loss in roomy.losses], rel=1e-4)
    (warning,) = [event.message for event in tight.of("warning") if "memory" in event.message]
    assert "4 samples" in warning
    assert "2 at a time" in warning


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (torch.OutOfMemoryError, "CUDA out of memory. Tried to allocate 2.00 GiB"),
        (RuntimeError, "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
        (RuntimeError, "DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
        (MemoryError, ""),
    ],
)
def test_memory_for_not_even_one_sample_is_an_own_error(tmp_path: Path, error: Any, message: str) -> None:
    reporter = Recorder()
    trainer = make_trainer(write_cohort(tmp_path), reporter=reporter, kind=greedy(0, error, message))
    with pytest.raises(MemoryLimitError, match="one sample") as caught:
        trainer.train()
    assert caught.value.exit_code == ExitCode.OUT_OF_MEMORY
    assert "network" in caught.value.hint
    halved = [event for event in reporter.of("warning") if "do not fit" in event.message]
    assert [trainer.runner.parts, len(halved)] == [4, 2]


def test_other_errors_of_a_network_stay_what_they_are(tmp_path: Path) -> None:
    trainer = make_trainer(write_cohort(tmp_path), kind=greedy(0, RuntimeError, "shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes"):
        trainer.train()


@pytest.mark.parametrize(
    "settings",
    [
        (),
        ("overlap=keep", "augmentation=default"),
        ("loss.pixel=focal", "loss.region=tversky", "sampling.oversample_rare=1", "sampling.rare=heart"),
        ("network.deep_supervision=1", "network.widths=[4,4,8]", "gradient_checkpointing=true"),
    ],
    ids=lambda settings: " ".join(settings) or "default",
)
def test_accumulated_parts_make_the_step_of_the_whole_batch(tmp_path: Path, settings: tuple[str, ...]) -> None:
    paths = write_cohort(tmp_path)
    # One of the cases lacks the heart, and plain descent shows each difference of a gradient as it is.
    ct, masks = patient(1)
    write_case(paths, "b", ct, masks, annotated=("lung_right", "lung_left"))
    losses, ends = [], []
    for parts in (1, 2, 4):
        reporter = Recorder()
        trainer = make_trainer(
            paths, f"run{parts}", "optimizer=sgd", f"accumulation={parts}", *settings, reporter=reporter
        )
        trainer.train()
        losses.append([loss for loss, _ in reporter.losses])
        ends.append(weights(trainer))
    for other in (1, 2):
        assert losses[other] == pytest.approx(losses[0], rel=1e-5)
        assert all(torch.allclose(ends[other][name], ends[0][name], rtol=1e-4, atol=1e-6) for name in ends[0])


def test_parts_teach_the_running_means_of_a_norm_once(tmp_path: Path) -> None:
    trainer = make_trainer(
        write_cohort(tmp_path), "run", "network.norm=batch", "accumulation=2", "epochs=1", "steps_per_epoch=2"
    )
    trainer.train()
    counted = [value for name, value in trainer.network.state_dict().items() if name.endswith("num_batches_tracked")]
    assert counted
    assert {int(value) for value in counted} == {4}


def test_dropout_draws_the_same_in_both_passes_over_a_part(tmp_path: Path) -> None:
    seen: list[Tensor] = []
    trainer = make_trainer(
        write_cohort(tmp_path), "run", "network.dropout=0.5", "accumulation=2", "epochs=1", "steps_per_epoch=1"
    )
    trainer.network.register_forward_hook(lambda *passed: seen.append(passed[-1].detach().clone()))
    trainer.train()
    first, again = seen[:2], seen[2:4]  # what follows is the validation
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], first[1])


@pytest.mark.parametrize("stop", [True, False], ids=["at a stop", "at the end of an epoch"])
def test_weights_that_are_no_numbers_are_not_saved(tmp_path: Path, stop: bool) -> None:
    """The loss of the step that spoiled them was finite; there is no validation to tell."""
    paths = write_cohort(tmp_path, ("a", "b"), ())
    spoiled = False

    def spoil(self: Recorder) -> bool:
        nonlocal spoiled
        if self.steps >= (5 if stop else 6) and not spoiled:  # three steps an epoch
            spoiled = True
            with torch.no_grad():
                next(trainer.network.parameters())[0] = math.nan
        return stop and spoiled

    reporter = Recorder(stop=spoil if stop else None)
    trainer: Any = make_trainer(paths, "run", "epochs=3", reporter=reporter)
    if not stop:
        update = trainer.runner.run

        def run(*arguments: Any) -> Any:
            reading = update(*arguments)
            if reporter.steps == 5:
                with torch.no_grad():
                    next(trainer.network.parameters())[0] = math.inf
            return reading

        trainer.runner.run = run
    with pytest.raises(BadInputError, match=r"weights are not finite .* epoch") as caught:
        trainer.train()
    assert "learning rate" in caught.value.hint
    kept = load_checkpoint(paths.run("run").checkpoint)
    assert kept.epoch == 1
    assert all(bool(torch.isfinite(value).all()) for value in kept.network.values())
    network, card = load_model(paths.run("run").model)
    assert card.training.epochs == 1
    assert all(bool(torch.isfinite(value).all()) for value in network.state_dict().values())


def test_patience_is_counted_in_epochs_where_not_each_is_validated(tmp_path: Path) -> None:
    settings = ("epochs=20", "patience=4", "validate_every=2", "optimizer=sgd", "learning_rate=1e-30")
    trained = make_trainer(write_cohort(tmp_path), "run", *settings).train()
    # Validated after 2 (the best), 4 and 6: then there were four epochs without a better one.
    assert (trained.epochs, trained.best_epoch, trained.early) == (6, 2, True)


def poisoned(step: int, value: float) -> Any:
    class Task(SegmentationTask):
        calls = 0

        def loss(self, forward: Any, batch: Any) -> Any:
            result = super().loss(forward, batch)
            type(self).calls += 1
            if self.calls > step:
                return type(result)(result.total * value, result.parts)
            return result

    return Task


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_the_training_and_says_which_slices(tmp_path: Path, value: float) -> None:
    paths = write_cohort(tmp_path)
    trainer = make_trainer(paths, "run", "epochs=3", kind=poisoned(4, value))  # three steps an epoch
    with pytest.raises(BadInputError, match=r"epoch 2, step 2: \w slice \d") as caught:
        trainer.train()
    assert "learning rate" in caught.value.hint
    kept = load_checkpoint(paths.run("run").checkpoint)
    assert (kept.epoch, kept.step) == (1, 0)
    assert all(bool(torch.isfinite(value).all()) for value in kept.network.values())
    load_model(paths.run("run").model)


def test_a_stop_right_after_a_loss_that_is_no_number_saves_nothing_bad(tmp_path: Path) -> None:
    paths = write_cohort(tmp_path)
    reporter = Recorder(stop=lambda self: self.steps >= 5)
    trainer = make_trainer(paths, "run", "epochs=3", reporter=reporter, kind=poisoned(4, math.nan))
    with pytest.raises(BadInputError, match="epoch 2, step 2"):
        trainer.train()
    assert load_checkpoint(paths.run("run").checkpoint).epoch == 1


def test_a_validation_loss_that_is_no_number_stops_too(tmp_path: Path) -> None:
    paths = write_cohort(tmp_path)

    class Task(SegmentationTask):
        def validate(self, *arguments: Any) -> Any:
            from dataclasses import replace

            return replace(super().validate(*arguments), loss=math.nan)

    with pytest.raises(BadInputError, match="validation loss is not a finite number"):
        make_trainer(paths, "run", kind=Task).train()
    assert load_checkpoint(paths.run("run").checkpoint).epoch == 0


def test_the_history_is_written_each_epoch(tmp_path: Path) -> None:
    paths = write_cohort(tmp_path)
    reporter = Recorder()
    make_trainer(paths, "run", "epochs=3", reporter=reporter).train()
    content = json.loads((paths.run("run").folder / "training_history.json").read_text())
    assert [epoch["epoch"] for epoch in content["epochs"]] == [1, 2, 3]
    assert [epoch["val_loss"] for epoch in content["epochs"]] == [event.val_loss for event in reporter.epochs]


def test_progress_counts_all_steps_of_the_training(tmp_path: Path) -> None:
    reporter = Recorder()
    make_trainer(write_cohort(tmp_path), "run", reporter=reporter).train()
    training = [event for event in reporter.of("progress") if event.stage == "training"]
    assert [event.done for event in training] == [1, 2, 3, 4, 5, 6]
    assert {event.total for event in training} == {6}


def test_partly_drawn_patients_do_not_teach_that_the_heart_is_missing(tmp_path: Path) -> None:
    """Of four patients one has a heart drawn; the naive loss learns from the others that there is none."""
    paths = write_cohort(tmp_path, ("a", "b", "d", "e"), ("c",))
    for number, name in enumerate(("b", "d", "e"), start=5):
        ct, masks = patient(number)
        write_case(paths, name, ct, {key: mask for key, mask in masks.items() if key != "heart"})
    dice = {}
    for partial in ("marginal", "naive"):
        reporter = Recorder()
        settings = ("epochs=10", "learning_rate=0.01", "network.widths=[8,16,16]", f"loss.partial={partial}")
        make_trainer(paths, partial, *settings, reporter=reporter).train()
        dice[partial] = reporter.epochs[-1].dice["heart"]
    assert dice["marginal"] > dice["naive"] + 0.1


def test_validation_takes_as_little_memory_as_there_is_and_gives_the_same(tmp_path: Path) -> None:
    paths = write_cohort(tmp_path)
    results = []
    for kind in (SegmentationTask, greedy(1)):
        task = make_task(paths, kind=kind)
        torch.manual_seed(0)
        network = task.build().eval()
        results.append(task.validate(network, torch.device("cpu"), Processes(), Recorder()))
    assert results[0].loss == pytest.approx(results[1].loss, rel=1e-6)
    assert results[0].scores == results[1].scores
