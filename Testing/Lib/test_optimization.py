"""Optimizers, learning rates, early stopping and averaged weights, against formulas worked out by hand or in NumPy."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from LungSegmentationLib.networks.config import NetworkConfig
from LungSegmentationLib.networks.unet import build_network
from LungSegmentationLib.training.averaging import ExponentialMovingAverage
from LungSegmentationLib.training.optimization import build_optimizer, clip_gradients, has_finite_weights
from LungSegmentationLib.training.schedule import EarlyStopping, Schedule, build_schedule

torch.set_num_threads(1)

START = np.array([[1.0, -2.0], [0.5, 3.0]])
GRADIENTS = [np.array([[0.1, -0.4], [0.0, 2.0]]), np.array([[-0.3, 0.2], [0.7, -1.0]]), np.array([[0.5, 0.5], [0, 0]])]


def run(name: str, gradients: list[np.ndarray] = GRADIENTS, **options) -> np.ndarray:
    weight = nn.Parameter(torch.tensor(START))
    optimizer = build_optimizer(name, [weight], **options)
    for gradient in gradients:
        weight.grad = torch.tensor(gradient, dtype=torch.float64)
        optimizer.step()
    return weight.detach().numpy()


def adam_by_hand(rate: float, penalty: float = 0.0, decoupled: float = 0.0) -> np.ndarray:
    weight, first, second = START.copy(), np.zeros((2, 2)), np.zeros((2, 2))
    for step, gradient in enumerate(GRADIENTS, start=1):
        weight = weight * (1 - rate * decoupled)
        slope = gradient + penalty * weight
        first = 0.9 * first + 0.1 * slope
        second = 0.999 * second + 0.001 * slope**2
        weight = weight - rate * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
    return weight


@pytest.mark.parametrize("fused", [False, True, None])
def test_adam_is_the_published_formula_with_its_l2_penalty(fused: bool | None) -> None:
    np.testing.assert_allclose(run("adam", learning_rate=0.01, fused=fused), adam_by_hand(0.01), rtol=1e-12)
    np.testing.assert_allclose(
        run("adam", learning_rate=0.01, weight_decay=0.1, fused=fused), adam_by_hand(0.01, penalty=0.1), rtol=1e-12
    )


@pytest.mark.parametrize("fused", [False, True])
def test_adamw_decays_the_weights_themselves(fused: bool) -> None:
    np.testing.assert_allclose(
        run("adamw", learning_rate=0.01, weight_decay=0.1, fused=fused), adam_by_hand(0.01, decoupled=0.1), rtol=1e-12
    )


def test_sgd_has_nesterov_momentum() -> None:
    weight, velocity = START.copy(), np.zeros((2, 2))
    for step, gradient in enumerate(GRADIENTS):
        velocity = gradient if step == 0 else 0.8 * velocity + gradient
        weight = weight - 0.1 * (gradient + 0.8 * velocity)
    np.testing.assert_allclose(run("sgd", learning_rate=0.1, momentum=0.8), weight, rtol=1e-12)
    plain = START - 0.1 * sum(GRADIENTS)
    np.testing.assert_allclose(run("sgd", learning_rate=0.1, momentum=0.0), plain, rtol=1e-12)


def test_adamw_decays_kernels_only_and_no_norm_or_bias() -> None:
    network = build_network(NetworkConfig(widths=(4, 8)))
    optimizer = build_optimizer("adamw", network.parameters(), learning_rate=1e-3, weight_decay=0.3)
    decay = {id(weight): group["weight_decay"] for group in optimizer.param_groups for weight in group["params"]}
    for name, weight in network.named_parameters():
        is_kernel = name.endswith("weight") and "norm" not in name
        assert decay.pop(id(weight)) == (0.3 if is_kernel else 0.0), name
    assert not decay


def test_only_what_learns_is_optimized_and_nothing_to_learn_is_an_error() -> None:
    frozen = nn.Parameter(torch.ones(2, 2), requires_grad=False)
    free = nn.Parameter(torch.ones(2, 2))
    optimizer = build_optimizer("adam", iter([frozen, free]), learning_rate=1e-3)
    assert [id(w) for group in optimizer.param_groups for w in group["params"]] == [id(free)]
    with pytest.raises(ValueError, match="no parameter has a gradient"):
        build_optimizer("adam", [frozen], learning_rate=1e-3)
    with pytest.raises(ValueError, match="there is no optimizer 'lion'"):
        build_optimizer("lion", [free], learning_rate=1e-3)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_an_optimizer_comes_back_exactly_from_its_state(name: str) -> None:
    def steps(weight: nn.Parameter, optimizer: torch.optim.Optimizer, numbers: range) -> None:
        for number in numbers:
            weight.grad = torch.sin(weight.detach() * (number + 1))
            optimizer.step()

    whole = nn.Parameter(torch.linspace(-1, 1, 12).view(3, 4))
    steps(whole, build_optimizer(name, [whole], learning_rate=0.05, weight_decay=0.01), range(6))

    first = nn.Parameter(torch.linspace(-1, 1, 12).view(3, 4))
    optimizer = build_optimizer(name, [first], learning_rate=0.05, weight_decay=0.01)
    steps(first, optimizer, range(3))
    file = io.BytesIO()
    torch.save({"optimizer": optimizer.state_dict(), "weight": first.detach()}, file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    second = nn.Parameter(state["weight"])
    again = build_optimizer(name, [second], learning_rate=0.9, weight_decay=0.01)
    again.load_state_dict(state["optimizer"])
    steps(second, again, range(3, 6))
    assert torch.equal(second, whole)


def gradient_of(*values: list[float]) -> list[nn.Parameter]:
    parameters = [nn.Parameter(torch.zeros(len(value))) for value in values]
    for parameter, value in zip(parameters, values, strict=True):
        parameter.grad = torch.tensor(value)
    return parameters


def test_clipping_scales_all_gradients_together_and_returns_the_norm_before() -> None:
    parameters = [*gradient_of([3.0, 0.0], [0.0, 4.0]), nn.Parameter(torch.zeros(1))]
    norm = clip_gradients(iter(parameters), 1.0)
    assert float(norm) == pytest.approx(5.0)
    np.testing.assert_allclose(parameters[0].grad.numpy(), [0.6, 0], rtol=1e-5)
    np.testing.assert_allclose(parameters[1].grad.numpy(), [0, 0.8], rtol=1e-5)
    assert parameters[2].grad is None


@pytest.mark.parametrize("largest", [5.1, None])
def test_gradients_within_the_bound_are_not_touched(largest: float | None) -> None:
    parameters = gradient_of([3.0], [4.0])
    assert float(clip_gradients(parameters, largest)) == pytest.approx(5.0)
    assert [float(parameter.grad) for parameter in parameters] == [3.0, 4.0]


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
@pytest.mark.parametrize("largest", [1.0, None])
def test_the_norm_tells_a_gradient_that_is_no_number(wrong: float, largest: float | None) -> None:
    assert not math.isfinite(float(clip_gradients(gradient_of([1.0], [wrong]), largest)))


def test_no_gradients_have_the_norm_zero() -> None:
    assert float(clip_gradients([nn.Parameter(torch.zeros(3))], 1.0)) == 0


def optimizer_of(rate: float = 0.1) -> torch.optim.Optimizer:
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=rate)


def test_without_a_schedule_the_rate_stays() -> None:
    schedule = build_schedule(optimizer_of(0.1), "none", epochs=10)
    for progress in (0, 0.5, 3, 10, 12):
        schedule.step(progress, monitored=1.0)
        assert schedule.learning_rate == 0.1


def test_the_cosine_is_that_of_torch() -> None:
    mine, theirs = optimizer_of(0.1), optimizer_of(0.1)
    schedule = Schedule(mine, "cosine", epochs=20, minimum_learning_rate=0.003)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(theirs, T_max=20, eta_min=0.003)
    for epoch in range(1, 21):
        theirs.step()
        reference.step()
        schedule.step(epoch)
        assert mine.param_groups[0]["lr"] == pytest.approx(theirs.param_groups[0]["lr"], rel=1e-9)
    assert schedule.learning_rate == pytest.approx(0.003)
    schedule.step(25)
    assert schedule.learning_rate == pytest.approx(0.003)


@pytest.mark.parametrize("higher", [False, True])
@pytest.mark.parametrize("patience", [0, 2])
def test_plateaus_are_those_of_torch(higher: bool, patience: int) -> None:
    losses = np.random.default_rng(4).normal(size=60).cumsum() * (1 if higher else -1) / 3
    mine, theirs = optimizer_of(1.0), optimizer_of(1.0)
    schedule = Schedule(
        mine,
        "plateau",
        epochs=60,
        plateau_factor=0.3,
        plateau_patience=patience,
        minimum_learning_rate=1e-4,
        least_improvement=0.1,
        higher_is_better=higher,
    )
    reference = torch.optim.lr_scheduler.ReduceLROnPlateau(
        theirs,
        mode="max" if higher else "min",
        factor=0.3,
        patience=patience,
        threshold=0.1,
        threshold_mode="abs",
        min_lr=1e-4,
        eps=0,
    )
    rates = set()
    for epoch, loss in enumerate(losses, start=1):
        reference.step(loss)
        schedule.step(epoch, loss)
        rates.add(theirs.param_groups[0]["lr"])
        assert schedule.learning_rate == pytest.approx(theirs.param_groups[0]["lr"], rel=1e-9)
    assert len(rates) > 3


def test_steps_within_an_epoch_do_not_count_as_epochs_of_a_plateau() -> None:
    schedule = Schedule(optimizer_of(1.0), "plateau", epochs=9, plateau_patience=1)
    for epoch in range(1, 4):
        for part in np.linspace(epoch - 1, epoch, 7):
            schedule.step(part)
        schedule.step(epoch, 5.0)
    assert schedule.learning_rate == 0.5


def test_losses_that_are_no_number_count_as_no_improvement() -> None:
    schedule = Schedule(optimizer_of(1.0), "plateau", epochs=9, plateau_patience=1)
    for epoch, loss in enumerate([1.0, math.nan, math.nan], start=1):
        schedule.step(epoch, loss)
    assert schedule.learning_rate == 0.5


@pytest.mark.parametrize("name", ["none", "plateau", "cosine"])
def test_a_warm_up_rises_in_a_line_and_then_the_schedule_begins(name: str) -> None:
    schedule = Schedule(optimizer_of(0.2), name, epochs=12, warmup_epochs=2)
    assert schedule.learning_rate == pytest.approx(0.002)
    for progress, share in ((0.5, 0.2575), (1.0, 0.505), (1.5, 0.7525), (2.0, 1.0)):
        schedule.step(progress, monitored=9.0 if progress == int(progress) else None)
        assert schedule.learning_rate == pytest.approx(0.2 * share)
    schedule.step(7)
    assert schedule.learning_rate == pytest.approx(0.1 if name == "cosine" else 0.2)


def test_a_warm_up_of_a_few_steps_is_a_part_of_an_epoch() -> None:
    schedule = Schedule(optimizer_of(1.0), "none", epochs=5, warmup_epochs=4 / 100)
    rates = []
    for step in range(6):
        schedule.step(step / 100)
        rates.append(schedule.learning_rate)
    assert rates == pytest.approx([0.01, 0.2575, 0.505, 0.7525, 1.0, 1.0])


def test_a_warm_up_as_long_as_the_training_and_a_minimum_above_the_rate_do_no_harm() -> None:
    schedule = Schedule(optimizer_of(0.1), "cosine", epochs=3, warmup_epochs=3, minimum_learning_rate=0.5)
    for progress in (0, 1, 2, 3, 4):
        schedule.step(progress)
        assert 0 < schedule.learning_rate <= 0.1


def test_groups_keep_the_ratio_of_their_rates() -> None:
    optimizer = torch.optim.SGD(
        [{"params": [nn.Parameter(torch.zeros(1))], "lr": 0.1}, {"params": [nn.Parameter(torch.zeros(1))], "lr": 0.3}]
    )
    schedule = Schedule(optimizer, "cosine", epochs=4, warmup_epochs=1)
    for progress in (0.3, 1, 2.2, 3):
        schedule.step(progress)
        first, second = (group["lr"] for group in optimizer.param_groups)
        assert second == pytest.approx(3 * first)
    with pytest.raises(ValueError, match="has 2 groups"):
        Schedule(optimizer_of(), epochs=4).load_state_dict(schedule.state_dict())


def test_an_unknown_schedule_is_refused() -> None:
    with pytest.raises(ValueError, match="there is no schedule 'step'"):
        Schedule(optimizer_of(), "step", epochs=4)  # type: ignore[arg-type]


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(["none", "plateau", "cosine"]),
    warmup=st.floats(0, 4),
    losses=st.lists(st.floats(-5, 5), min_size=2, max_size=12),
    data=st.data(),
)
def test_a_schedule_comes_back_exactly_from_its_state(
    name: str, warmup: float, losses: list[float], data: st.DataObject
) -> None:
    def make(rate: float) -> Schedule:
        return Schedule(
            optimizer_of(rate), name, epochs=len(losses), warmup_epochs=warmup, plateau_patience=1, plateau_factor=0.7
        )

    stopped = data.draw(st.integers(1, len(losses) - 1))
    whole, first, second = make(0.1), make(0.1), make(9.9)
    expected = []
    for epoch, loss in enumerate(losses, start=1):
        whole.step(epoch, loss)
        expected.append(whole.learning_rate)
    for epoch in range(1, stopped + 1):
        first.step(epoch, losses[epoch - 1])
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert second.learning_rate == expected[stopped - 1]
    for epoch in range(stopped + 1, len(losses) + 1):
        second.step(epoch, losses[epoch - 1])
        assert second.learning_rate == expected[epoch - 1]


def test_early_stopping_waits_for_its_patience() -> None:
    stopping = EarlyStopping(patience=3)
    seen = [(stopping.update(loss), stopping.should_stop) for loss in (1.0, 0.9, 0.95, 0.9, 0.92, 0.8)]
    assert seen == [(True, False), (True, False), (False, False), (False, False), (False, True), (True, False)]
    assert stopping.best == 0.8


def test_a_small_gain_makes_the_best_model_but_does_not_start_the_count_again() -> None:
    stopping = EarlyStopping(patience=2, least_improvement=0.1)
    assert [stopping.update(loss) for loss in (1.0, 0.95, 0.94)] == [True, True, True]
    assert stopping.should_stop
    assert stopping.best == 0.94
    slow = EarlyStopping(patience=2, least_improvement=0.1)
    for loss in (1.0, 0.95, 0.89):
        slow.update(loss)
    assert slow.epochs_without_improvement == 0


def test_scores_are_better_when_higher() -> None:
    stopping = EarlyStopping(patience=1, higher_is_better=True)
    assert [stopping.update(dice) for dice in (0.5, 0.7, 0.6)] == [True, True, False]
    assert (stopping.best, stopping.should_stop) == (0.7, True)


def test_epochs_without_validation_count_with_the_next_value() -> None:
    stopping = EarlyStopping(patience=4)
    seen = []
    for value in (None, 1.0, None, 1.1, None, 1.2):
        stopping.update(value)
        seen.append((stopping.epochs_without_improvement, stopping.should_stop))
    assert seen == [(0, False), (0, False), (0, False), (2, False), (2, False), (4, True)]
    again = EarlyStopping(patience=4)
    first = EarlyStopping(patience=4)
    for value in (1.0, None):
        first.update(value)
    again.load_state_dict(first.state_dict())
    again.update(1.1)
    assert again.epochs_without_improvement == 2


def test_a_plateau_is_counted_in_epochs_where_not_each_is_validated() -> None:
    schedule = Schedule(optimizer_of(1.0), "plateau", epochs=9, plateau_patience=3)
    rates = []
    for epoch in range(1, 9):
        schedule.step(epoch, 1.0 if epoch % 2 == 0 else None)
        rates.append(schedule.learning_rate)
    # The best at 2; at 4 two epochs without a better one, at 6 four, which is more than three.
    assert rates == [1, 1, 1, 1, 1, 0.5, 0.5, 0.5]


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_one_weight_or_running_mean_that_is_no_number_is_found(wrong: float) -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    with torch.no_grad():
        network[0].weight[0, 0, 0, 0] = 1e30  # its square is no float32, itself it is
    assert has_finite_weights(network)
    for place in (network[0].weight, network[1].running_var):
        before = place.detach().clone()
        with torch.no_grad():
            place.flatten()[-1] = wrong
        assert not has_finite_weights(network)
        with torch.no_grad():
            place.copy_(before)


def test_without_patience_it_never_stops_and_epochs_without_validation_do_not_count() -> None:
    endless = EarlyStopping(patience=None)
    for _ in range(100):
        endless.update(1.0)
    assert not endless.should_stop
    stopping = EarlyStopping(patience=1)
    assert stopping.best is None
    assert not stopping.update(None)
    assert not stopping.should_stop
    assert not stopping.update(math.nan)
    assert (stopping.should_stop, stopping.best) == (True, None)


def test_early_stopping_comes_back_exactly_and_with_another_patience() -> None:
    losses = [1.0, 0.7, 0.9, 0.69, 0.8, 0.75]
    first = EarlyStopping(patience=3, least_improvement=0.05)
    for loss in losses[:3]:
        first.update(loss)
    second = EarlyStopping(patience=4, least_improvement=0.05)
    second.load_state_dict(first.state_dict())
    for loss in losses[3:]:
        assert first.update(loss) == second.update(loss)
    assert first.state_dict() == second.state_dict()
    assert (first.should_stop, second.should_stop) == (True, True)


class Counter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2, dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(1, dtype=torch.float64))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    def move(self, value: float) -> None:
        with torch.no_grad():
            self.weight.fill_(value)
            self.mean.fill_(-value)
            self.batches += 1


def test_the_average_is_that_of_the_formula_and_whole_numbers_are_copied() -> None:
    network = Counter()
    average = ExponentialMovingAverage(network, decay=0.6, warm_start=False)
    expected = 0.0
    for value in (1.0, 5.0, -2.0):
        network.move(value)
        average.update(network)
        expected = 0.6 * expected + 0.4 * value
    stored = average.state_dict()["average"]
    np.testing.assert_allclose(stored["weight"].numpy(), [expected] * 2, rtol=1e-14)
    np.testing.assert_allclose(stored["mean"].numpy(), [-expected], rtol=1e-14)
    assert int(stored["batches"]) == 3


def test_a_warm_start_soon_forgets_the_random_weights() -> None:
    network = Counter()
    network.move(100.0)
    average = ExponentialMovingAverage(network, decay=0.31)
    expected = 100.0
    for value, decay in ((1.0, 2 / 11), (2.0, 3 / 12), (3.0, 4 / 13), (4.0, 0.31), (5.0, 0.31)):
        network.move(value)
        average.update(network)
        expected = decay * expected + (1 - decay) * value
    assert float(average.state_dict()["average"]["weight"][0]) == pytest.approx(expected, rel=1e-14)


def test_the_network_has_the_average_inside_the_block_only_also_when_it_fails() -> None:
    network = Counter()
    average = ExponentialMovingAverage(network, decay=0.5, warm_start=False)
    network.move(8.0)
    average.update(network)
    places = [parameter.data_ptr() for parameter in network.parameters()]
    with average.applied_to(network):
        assert network.weight.tolist() == [4.0, 4.0]
        with pytest.raises(ValueError, match="swap them back"):
            average.update(network)
        with pytest.raises(ValueError, match="swap them back"):
            average.state_dict()
    assert network.weight.tolist() == [8.0, 8.0]

    def fail() -> None:
        with average.applied_to(network):
            raise RuntimeError("validation failed")

    with pytest.raises(RuntimeError, match="validation failed"):
        fail()
    assert network.weight.tolist() == [8.0, 8.0]
    assert average.state_dict()["average"]["weight"].tolist() == [4.0, 4.0]
    assert [parameter.data_ptr() for parameter in network.parameters()] == places


def test_swapping_twice_changes_nothing_for_a_real_network() -> None:
    torch.manual_seed(0)
    network = build_network(NetworkConfig(widths=(4, 8))).to(memory_format=torch.channels_last)
    average = ExponentialMovingAverage(network, decay=0.9)
    for parameter in network.parameters():
        parameter.data.add_(torch.randn_like(parameter))
    average.update(network)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    average.swap(network)
    assert any(not torch.equal(value, before[name]) for name, value in network.state_dict().items())
    average.swap(network)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_an_average_comes_back_exactly_from_its_state() -> None:
    def go_on(network: Counter, average: ExponentialMovingAverage, values: list[float]) -> torch.Tensor:
        for value in values:
            network.move(value)
            average.update(network)
        return average.state_dict()["average"]["weight"]

    network = Counter()
    whole = go_on(network, ExponentialMovingAverage(network, decay=0.99), [1.0, 0.3, 7.0, -2.5, 0.1])
    first_network = Counter()
    first = ExponentialMovingAverage(first_network, decay=0.99)
    go_on(first_network, first, [1.0, 0.3])
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = ExponentialMovingAverage(Counter(), decay=0.99)
    second.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(go_on(first_network, second, [7.0, -2.5, 0.1]), whole)


@pytest.mark.parametrize("make", [lambda: nn.Linear(2, 2), lambda: nn.Linear(2, 3)])
def test_an_average_of_another_network_is_refused(make: Callable[[], nn.Module]) -> None:
    network = nn.Linear(2, 4) if make().out_features == 3 else Counter()
    average = ExponentialMovingAverage(network)
    other = ExponentialMovingAverage(make())
    with pytest.raises(ValueError, match="of another network"):
        average.load_state_dict(other.state_dict())
    if isinstance(network, Counter):
        with pytest.raises(ValueError, match="of another network"):
            average.update(make())


@pytest.mark.parametrize("decay", [1.0, -0.1, math.nan])
def test_a_decay_outside_its_bounds_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match=r"not in \[0, 1\)"):
        ExponentialMovingAverage(Counter(), decay)
