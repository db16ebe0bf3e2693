"""Losses against sums written out by hand (plain Python loops), and what must hold of their slopes."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from LungSegmentationLib.training.losses import LossConfig, build_loss, chance_logits, chance_weights

torch.set_num_threads(1)

CE_ONLY = {"weight_ce": 1.0, "weight_dice": 0.0}
DICE_ONLY = {"weight_ce": 0.0, "weight_dice": 1.0}


def example(seed: int = 0, structures: int = 3, batch: int = 2, size: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, structures + 1, size, size, generator=generator, dtype=torch.float64) * 2
    labels = torch.randint(0, structures + 1, (batch, size, size), generator=generator)
    return logits, labels


def loops(logits, labels, annotated, weights, smooth=1.0):
    """Marginal cross-entropy and Dice in plain loops: probabilities are exponentials over their sum."""
    logits, labels = np.asarray(logits), np.asarray(labels)
    batch, channels, rows, columns = logits.shape
    loss = whole = 0.0
    hits, predicted, true = np.zeros(channels), np.zeros(channels), np.zeros(channels)
    for b in range(batch):
        hidden = [c for c in range(1, channels) if not annotated[b][c - 1]]
        for y in range(rows):
            for x in range(columns):
                exponentials = [math.exp(v) for v in logits[b, :, y, x]]
                p = [e / sum(exponentials) for e in exponentials]
                p[0] += sum(p[c] for c in hidden)
                label = 0 if labels[b, y, x] in hidden else labels[b, y, x]
                loss -= weights[label] * math.log(p[label])
                whole += weights[label]
                for c in range(channels):
                    if c not in hidden:
                        hits[c] += p[c] * (label == c)
                        predicted[c] += p[c]
                        true[c] += label == c
    counts = [0, *(c for c in range(1, channels) if any(case[c - 1] for case in annotated))]
    dice = [(2 * hits[c] + smooth) / (predicted[c] + true[c] + smooth) for c in counts]
    return loss / whole, 1 - sum(dice) / len(dice)


@pytest.mark.parametrize(
    "annotated",
    [
        [[1, 1, 1], [1, 1, 1]],
        [[1, 0, 1], [1, 1, 0]],
        [[0, 0, 1], [0, 1, 1]],
        [[0, 0, 0], [0, 0, 0]],
    ],
)
def test_cross_entropy_and_dice_are_those_of_plain_loops(annotated):
    logits, labels = example(1)
    weights = [0.3, 1.0, 2.5, 0.7]
    result = build_loss(LossConfig(), 3, weights)(logits, labels, torch.tensor(annotated).bool())
    ce, dice = loops(logits, labels, annotated, weights)
    assert float(result.parts["cross_entropy"]) == pytest.approx(ce, abs=1e-6)
    assert float(result.parts["dice"]) == pytest.approx(dice, abs=1e-6)
    assert float(result.total) == pytest.approx(0.5 * ce + 0.5 * dice, abs=1e-6)


def test_one_pixel_written_out():
    # Probabilities 1/2, 1/3, 1/6 for background, heart, lung; the pixel has no label and the heart was not drawn.
    logits = torch.tensor([3.0, 2.0, 1.0]).log().view(1, 3, 1, 1)
    labels = torch.zeros(1, 1, 1, dtype=torch.uint8)
    annotated = torch.tensor([[False, True]])
    marginal = build_loss(LossConfig(absent="penalize"), ["heart", "lung"])(logits, labels, annotated)
    assert float(marginal.parts["cross_entropy"]) == pytest.approx(math.log(6 / 5), abs=1e-6)
    # Background (2·5/6 + 1) / (5/6 + 1 + 1), lung 1 / (1/6 + 1).
    assert float(marginal.parts["dice"]) == pytest.approx(1 - (16 / 17 + 6 / 7) / 2, abs=1e-6)
    naive = build_loss(LossConfig(partial="naive"), 2)(logits, labels, annotated)
    assert float(naive.parts["cross_entropy"]) == pytest.approx(math.log(2), abs=1e-6)


def test_marginal_is_naive_when_everything_was_drawn():
    logits, labels = example(2)
    everything = torch.ones(2, 3, dtype=torch.bool)
    marginal = build_loss(LossConfig(), 3)(logits, labels, everything)
    naive = build_loss(LossConfig(partial="naive"), 3)(logits, labels, everything)
    torch_ce = torch.nn.functional.cross_entropy(logits, labels)
    assert torch.equal(marginal.total, naive.total)
    assert torch.equal(marginal.total, build_loss(LossConfig(), 3)(logits, labels).total)
    torch.testing.assert_close(marginal.parts["cross_entropy"], torch_ce)


def test_weights_follow_torchs_weighted_mean():
    logits, labels = example(3)
    weights = torch.tensor([0.1, 2.0, 3.0, 0.0])
    ours = build_loss(LossConfig(**CE_ONLY), 3, weights)(logits, labels).total
    torch.testing.assert_close(ours, torch.nn.functional.cross_entropy(logits, labels, weights.double()))


def test_slope_where_a_structure_was_not_drawn_leaves_its_share_of_background_alone():
    logits, labels = example(4, batch=1, size=3)
    labels[:] = 0
    logits.requires_grad_()
    loss = build_loss(LossConfig(**CE_ONLY), 3)
    loss(logits, labels, torch.tensor([[False, True, True]])).total.backward()
    p = torch.softmax(logits.detach(), 1)
    merged = p[:, :2].sum(1, keepdim=True)
    expected = torch.cat((p[:, :2] - p[:, :2] / merged, p[:, 2:]), 1) / 9
    torch.testing.assert_close(logits.grad, expected)
    # Naive pushes the structure down, marginal pulls it up together with background.
    assert bool((logits.grad[:, 1] < 0).all())
    logits.grad = None
    build_loss(LossConfig(**CE_ONLY, partial="naive"), 3)(logits, labels).total.backward()
    assert bool((logits.grad[:, 1] > 0).all())


def test_a_structure_that_was_not_drawn_cannot_be_told_from_background_by_the_dice_term():
    logits, labels = example(5, batch=1)
    swapped = logits[:, [2, 1, 0, 3]]
    loss = build_loss(LossConfig(**DICE_ONLY), 3)
    labels[labels == 2] = 0
    hidden = torch.tensor([[True, False, True]])
    torch.testing.assert_close(loss(logits, labels, hidden).total, loss(swapped, labels, hidden).total)


def test_a_label_of_a_structure_that_was_not_drawn_counts_as_background():
    logits, labels = example(6)
    hidden = torch.tensor([[True, False, True]] * 2)
    loss = build_loss(LossConfig(), 3, [1.0, 2.0, 3.0, 4.0])
    without = labels.masked_fill(labels == 2, 0)
    torch.testing.assert_close(loss(logits, labels, hidden).total, loss(logits, without, hidden).total)


@pytest.mark.parametrize("overlap", ["exclusive", "keep"])
@pytest.mark.parametrize("pixel", ["cross_entropy", "focal"])
@pytest.mark.parametrize("region", ["dice", "tversky"])
@pytest.mark.parametrize("absent", ["penalize", "skip"])
def test_slopes_are_those_of_finite_differences(overlap, pixel, region, absent):
    loss = build_loss(LossConfig(overlap=overlap, pixel=pixel, region=region, absent=absent), 2)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, loss.channels, 3, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    target = (
        torch.randint(0, 3, (2, 3, 3), generator=generator)
        if overlap == "exclusive"
        else torch.randint(0, 2, (2, 2, 3, 3), generator=generator)
    )
    annotated = torch.tensor([[True, False], [True, True]])
    assert torch.autograd.gradcheck(lambda z: loss(z, target, annotated).total, (logits,))


def test_focal_with_gamma_zero_is_cross_entropy_and_written_out_otherwise():
    logits, labels = example(7)
    plain = build_loss(LossConfig(**CE_ONLY), 3)(logits, labels).total
    gamma_zero = build_loss(LossConfig(**CE_ONLY, pixel="focal", focal_gamma=0), 3)(logits, labels).total
    torch.testing.assert_close(gamma_zero, plain)
    focal = build_loss(LossConfig(**CE_ONLY, pixel="focal", focal_gamma=2), 3)(logits, labels)
    right = torch.softmax(logits, 1).gather(1, labels[:, None])
    torch.testing.assert_close(focal.parts["focal"], ((1 - right) ** 2 * -right.log()).mean())


def test_tversky_with_equal_weights_is_dice_and_written_out_otherwise():
    logits, labels = example(8)
    dice = build_loss(LossConfig(**DICE_ONLY), 3)(logits, labels).total
    equal = LossConfig(**DICE_ONLY, region="tversky", tversky_alpha=0.5, tversky_beta=0.5)
    torch.testing.assert_close(build_loss(equal, 3)(logits, labels).total, dice)
    # One structure, four pixels: hit 0.8, missed 0.2; false positive 0.4 → 0.8 + ½ over 0.8 + 0.3·0.4 + 0.7·0.2 + ½.
    p = torch.tensor([0.8, 0.4, 0.0, 0.0], dtype=torch.float64).clamp(1e-12)
    two = torch.stack((1 - p, p)).log().view(1, 2, 2, 2)
    config = LossConfig(**DICE_ONLY, region="tversky", dice_background=False)
    result = build_loss(config, 1)(two, torch.tensor([[[1, 0], [0, 0]]])).total
    assert float(result) == pytest.approx(1 - 1.3 / 1.56, abs=1e-9)


def test_keep_is_binary_cross_entropy_and_dice_of_each_structure_by_itself():
    generator = torch.Generator().manual_seed(9)
    logits = torch.randn(2, 2, 4, 4, generator=generator, dtype=torch.float64)
    masks = torch.randint(0, 2, (2, 2, 4, 4), generator=generator, dtype=torch.uint8)
    result = build_loss(LossConfig(overlap="keep"), 2, [3.0, 1.0])(logits, masks)
    z, t = logits.numpy(), masks.numpy().astype(float)
    p = 1 / (1 + np.exp(-z))
    weight = np.array([3.0, 1.0])[None, :, None, None]
    bce = -(weight * (t * np.log(p) + (1 - t) * np.log(1 - p))).mean()
    dice = (2 * (p * t).sum((0, 2, 3)) + 1) / (p.sum((0, 2, 3)) + t.sum((0, 2, 3)) + 1)
    assert float(result.parts["cross_entropy"]) == pytest.approx(bce, abs=1e-9)
    assert float(result.parts["dice"]) == pytest.approx(1 - dice.mean(), abs=1e-9)


def test_who_knows_only_frequencies_has_a_cross_entropy_of_one_for_each_structure_however_small():
    shares = [0.25, 1 / 256]
    masks = torch.zeros(1, 2, 16, 16).bool()
    masks[0, 0, :8, :8] = True
    masks[0, 1, 3, 3] = True
    for structure, share in enumerate(shares):
        only = torch.zeros(1, 2).bool()
        only[0, structure] = True
        logits = torch.tensor(chance_logits(shares)).view(1, 2, 1, 1).expand(1, 2, 16, 16)
        assert torch.sigmoid(logits[0, structure, 0, 0]).item() == pytest.approx(share)
        loss = build_loss(LossConfig(overlap="keep"), 2, chance_weights(shares))
        assert loss(logits, masks, only).parts["cross_entropy"].item() == pytest.approx(1)


def test_structures_of_no_pixel_or_of_all_have_finite_weights_and_logits():
    shares = [0.0, 1e-9, 1.0]
    weights, logits = chance_weights(shares), chance_logits(shares)
    # H(1e-4) = 1e-4 · ln(1e4) + 1e-4, nearly.
    assert weights == pytest.approx([1 / (1e-4 * (math.log(1e4) + 1))] * 3, rel=1e-3)
    assert logits == pytest.approx([-9.21, -9.21, 9.21], abs=0.01)


@pytest.mark.parametrize("weight", [0.1, 40.0])
def test_weights_of_structures_do_not_move_the_decision_of_a_sigmoid(weight):
    """With the same image everywhere the best sigmoid is the share of the pixels that are drawn, weighted or not."""
    masks = torch.zeros(1, 1, 10, 10).bool()
    masks[0, 0, :3] = True
    loss = build_loss(LossConfig(overlap="keep", **CE_ONLY), 1, [weight])
    logit = torch.tensor(math.log(0.3 / 0.7), dtype=torch.float64, requires_grad=True)
    loss(logit.expand(1, 1, 10, 10), masks).total.backward()
    assert logit.grad.item() == pytest.approx(0, abs=1e-7)


def test_keep_leaves_out_what_was_not_drawn():
    generator = torch.Generator().manual_seed(10)
    logits = torch.randn(2, 3, 4, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    masks = torch.randint(0, 2, (2, 3, 4, 4), generator=generator, dtype=torch.bool)
    annotated = torch.tensor([[True, False, False], [True, True, False]])
    loss = build_loss(LossConfig(overlap="keep"), 3)
    first = loss(logits, masks, annotated).total
    first.backward()
    assert torch.count_nonzero(logits.grad[0, 1:]) == 0
    assert torch.count_nonzero(logits.grad[1, 2]) == 0
    assert torch.count_nonzero(logits.grad[1, 1]) == 16
    flipped = masks.clone()
    flipped[~annotated] = ~flipped[~annotated]
    assert torch.equal(loss(logits, flipped, annotated).total, first)
    by_itself = build_loss(LossConfig(overlap="keep", **DICE_ONLY), 1)
    expected = (by_itself(logits[:, :1], masks[:, :1]).total + by_itself(logits[1:, 1:2], masks[1:, 1:2]).total) / 2
    torch.testing.assert_close(loss(logits, masks, annotated).parts["dice"], expected.detach())


def test_keep_without_any_annotation_teaches_nothing():
    logits = torch.randn(1, 2, 4, 4, requires_grad=True)
    result = build_loss(LossConfig(overlap="keep"), 2)(logits, torch.ones(1, 2, 4, 4), torch.zeros(1, 2).bool())
    result.total.backward()
    assert result.total.item() == 0
    assert torch.count_nonzero(logits.grad) == 0


def test_an_absent_structure_costs_by_what_is_predicted_of_it_or_is_skipped():
    p = torch.tensor([0.5, 0.25, 0.25, 0.0], dtype=torch.float64).clamp(1e-12)
    logits = torch.stack((1 - p, p)).log().view(1, 2, 2, 2)
    nothing = torch.zeros(1, 2, 2, dtype=torch.long)
    config = LossConfig(**DICE_ONLY, dice_background=False, absent="penalize")
    assert float(build_loss(config, 1)(logits, nothing).total) == pytest.approx(1 - 1 / 2)
    skipping = LossConfig(**DICE_ONLY, dice_background=False)
    assert float(build_loss(skipping, 1)(logits, nothing).total) == 0


def test_a_skipped_absent_structure_is_still_charged_for_by_its_pixels():
    logits = torch.zeros(1, 2, 2, 2, requires_grad=True)
    build_loss(LossConfig(), 1)(logits, torch.zeros(1, 2, 2).long()).total.backward()
    assert bool((logits.grad[:, 1] > 0).all())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("overlap", ["exclusive", "keep"])
@pytest.mark.parametrize("pixel", ["cross_entropy", "focal"])
@pytest.mark.parametrize("region", ["dice", "tversky"])
def test_extreme_logits_stay_finite_in_half_precision(dtype, overlap, pixel, region):
    loss = build_loss(LossConfig(overlap=overlap, pixel=pixel, region=region), 3)
    annotated = torch.tensor([[True, False, True], [False, False, False]])
    for right in (True, False):
        logits = torch.full((2, loss.channels, 8, 8), -1e4)
        logits[:, 0 if right else -1] = 1e4
        logits = logits.to(dtype).requires_grad_()
        target = torch.zeros(2, 8, 8).long() if overlap == "exclusive" else torch.zeros(2, 3, 8, 8).bool()
        result = loss(logits, target, annotated)
        result.total.backward()
        assert result.total.dtype == torch.float32
        assert bool(torch.isfinite(result.total))
        assert bool(torch.isfinite(logits.grad).all())


def test_half_precision_gives_the_loss_of_the_same_numbers_in_single():
    logits, labels = example(11)
    half = logits.bfloat16()
    loss = build_loss(LossConfig(), 3)
    assert torch.equal(loss(half, labels).total, loss(half.float(), labels).total)
    with torch.autocast("cpu", torch.bfloat16):
        inside = loss(half, labels).total
    torch.testing.assert_close(inside, loss(half.float(), labels).total)


def test_deep_supervision_halves_the_weight_of_each_level_and_keeps_labels():
    _, labels = example(12, size=5)
    levels = [torch.randn(2, 4, size, size, dtype=torch.float64) for size in (5, 3, 2)]
    loss = build_loss(LossConfig(), 3)
    result = loss(levels, labels)
    single = [
        loss(levels[0], labels).total,
        loss(levels[1], labels[:, [0, 2, 4]][:, :, [0, 2, 4]]).total,
        loss(levels[2], labels[:, [0, 4]][:, :, [0, 4]]).total,
    ]
    torch.testing.assert_close(result.total, (4 * single[0] + 2 * single[1] + single[2]) / 7)
    assert result.parts == loss(levels[0], labels).parts


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), structures=st.integers(1, 7), scale=st.floats(0, 50))
def test_any_batch_gives_a_finite_loss_and_marginal_never_costs_more_pixelwise_than_naive(seed, structures, scale):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, structures + 1, 4, 4, generator=generator) * scale
    labels = torch.randint(0, structures + 1, (3, 4, 4), generator=generator)
    annotated = torch.randint(0, 2, (3, structures), generator=generator).bool()
    drawn = torch.cat((torch.ones(3, 1).bool(), annotated), 1)
    labels = torch.stack([torch.where(drawn[b][labels[b]], labels[b], 0) for b in range(3)])
    marginal = build_loss(LossConfig(), structures)(logits, labels, annotated)
    naive = build_loss(LossConfig(partial="naive"), structures)(logits, labels, annotated)
    assert math.isfinite(float(marginal.total))
    assert 0 <= float(marginal.parts["dice"]) <= 1
    assert float(marginal.parts["cross_entropy"]) <= float(naive.parts["cross_entropy"]) + 1e-5


def test_marginal_learning_finds_a_structure_that_most_cases_did_not_draw():
    # Each "pixel" is one number; 1 is the heart. One case of four has it drawn, so naive sees it as background in
    # three quarters of the hearts, which is the better guess there.
    values = torch.tensor([0.0, 1.0]).repeat(32).view(1, 1, 8, 8).expand(4, -1, -1, -1)
    labels = values[:, 0].long().clone()
    labels[1:] = 0
    annotated = torch.tensor([[True], [False], [False], [False]])
    found = {}
    for partial in ("marginal", "naive"):
        torch.manual_seed(0)
        network = torch.nn.Conv2d(1, 2, 1)
        loss = build_loss(LossConfig(partial=partial, **CE_ONLY), 1)
        optimizer = torch.optim.Adam(network.parameters(), 0.1)
        for _ in range(100):
            optimizer.zero_grad()
            loss(network(values), labels, annotated).total.backward()
            optimizer.step()
        found[partial] = float(torch.softmax(network(values), 1)[0, 1][values[0, 0] == 1].mean().detach())
    assert found["marginal"] > 0.9
    assert found["naive"] == pytest.approx(0.25, abs=0.05)


TWO_PROCESSES = """
import sys, torch
from torch import distributed
from LungSegmentationLib.training.distributed import Processes
from LungSegmentationLib.training.losses import LossConfig, build_loss
torch.set_num_threads(1)
rank, meeting, overlap = int(sys.argv[1]), sys.argv[2], sys.argv[3]
distributed.init_process_group("gloo", init_method="file://" + meeting, rank=rank, world_size=2)
generator = torch.Generator().manual_seed(0)
loss = build_loss(LossConfig(overlap=overlap), 2, torch.rand(3 if overlap == "exclusive" else 2, generator=generator),
                  processes=Processes(rank, 2))
weights = torch.randn(loss.channels, 1, 1, 1, generator=generator, dtype=torch.float64)
x = torch.randn(4, 1, 6, 6, generator=generator, dtype=torch.float64)
target = (torch.randint(0, 3, (4, 6, 6), generator=generator) if overlap == "exclusive"
          else torch.randint(0, 2, (4, 2, 6, 6), generator=generator))
annotated = torch.tensor([[True, True], [True, False], [False, False], [True, False]])
mine = slice(0, 3) if rank == 0 else slice(3, 4)
conv = weights.clone().requires_grad_()
result = loss(torch.nn.functional.conv2d(x[mine], conv), target[mine], annotated[mine]).total
result.backward()
distributed.all_reduce(conv.grad)
alone = weights.clone().requires_grad_()
expected = loss.eval()(torch.nn.functional.conv2d(x, alone), target, annotated).total
expected.backward()
torch.testing.assert_close(result, expected)
torch.testing.assert_close(conv.grad / 2, alone.grad)
distributed.destroy_process_group()
"""


@pytest.mark.parametrize("overlap", ["exclusive", "keep"])
def test_two_processes_learn_what_one_with_the_joined_batch_would(tmp_path: Path, overlap):
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", TWO_PROCESSES, str(rank), str(tmp_path / "meeting"), overlap],
            cwd=Path(__file__).resolve().parents[2],
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for process in processes:
        _, complaints = process.communicate(timeout=120)
        assert process.returncode == 0, complaints


@pytest.mark.parametrize(
    "wrong",
    [
        {"weight_ce": 0, "weight_dice": 0},
        {"weight_ce": -1},
        {"weight_dice": math.nan},
        {"smooth": 0},
        {"pixel": "hinge"},
        {"partial": "ignore"},
        {"weight_dise": 1},
    ],
)
def test_settings_that_cannot_be_meant_are_refused(wrong):
    with pytest.raises(ValidationError):
        LossConfig(**wrong)


def test_shapes_and_weights_that_do_not_fit_are_refused():
    loss = build_loss(LossConfig(), ["heart", "lung"])
    logits, labels = torch.zeros(1, 3, 4, 4), torch.zeros(1, 4, 4).long()
    with pytest.raises(ValueError, match="annotated is"):
        loss(logits, labels, torch.ones(1, 3).bool())
    with pytest.raises(ValueError, match="logits of level 0"):
        loss(logits[:, :2], labels)
    with pytest.raises(ValueError, match="logits of level 0"):
        loss(logits, labels[:, :3])
    with pytest.raises(ValueError, match="3 values"):
        build_loss(LossConfig(), 2, [1.0, 2.0])
    with pytest.raises(ValueError, match="finite"):
        build_loss(LossConfig(), 2, [1.0, 2.0, math.inf])
    with pytest.raises(ValueError, match="masks are"):
        build_loss(LossConfig(overlap="keep"), 3)(logits, labels)
