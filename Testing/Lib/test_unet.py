"""The U-Net family: sizes known from the paper's arithmetic, and what must hold of every member."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from LungSegmentationLib.errors import UsageError
from LungSegmentationLib.networks.blocks import AttentionGate, DoubleConv
from LungSegmentationLib.networks.config import PRESETS, NetworkConfig, network_preset
from LungSegmentationLib.networks.unet import UNetMultiOrgan, build_network, count_parameters

torch.set_num_threads(1)

VARIANTS = {
    "plain": {},
    "instance": {"norm": "instance"},
    "group": {"norm": "group", "groups": 2},
    "no norm": {"norm": "none"},
    "dropout": {"dropout": 0.3},
    "bilinear": {"upsampling": "bilinear"},
    "attention": {"attention": True},
    "residual": {"residual": True},
    "residual without norm": {"residual": True, "norm": "none"},
    "deep supervision": {"deep_supervision": 2},
    "2.5D": {"in_channels": 5},
    "everything": {
        "in_channels": 3,
        "norm": "group",
        "groups": 4,
        "dropout": 0.1,
        "upsampling": "bilinear",
        "attention": True,
        "residual": True,
        "deep_supervision": 1,
    },
}


def small(**settings) -> NetworkConfig:
    return NetworkConfig(**{"name": "small", "out_channels": 4, "widths": (4, 8, 12, 16)} | settings)


def double(inputs: int, outputs: int) -> int:
    """Weights of two 3×3 convolutions without bias, each with a scale and a shift of batch norm."""
    return 9 * inputs * outputs + 2 * outputs + 9 * outputs * outputs + 2 * outputs


def test_the_classical_network_has_31036936_parameters():
    widths = [64, 128, 256, 512, 1024]
    down = double(1, 64) + sum(double(a, b) for a, b in pairwise(widths))
    up = sum(4 * b * a + a + double(2 * a, a) for a, b in pairwise(widths))
    assert down + up + 64 * 8 + 8 == 31_036_936
    with torch.device("meta"):
        assert count_parameters(UNetMultiOrgan(in_channels=1, out_channels=8)) == 31_036_936
        assert count_parameters(build_network(network_preset("standard"))) == 31_036_936
        assert count_parameters(UNetMultiOrgan(3, 2)) == 31_036_936 + 2 * 9 * 64 - 6 * 65


def test_presets_have_the_widths_of_their_names():
    assert network_preset("lite").widths == (32, 64, 128, 256, 512)
    assert network_preset("tiny").widths == (16, 32, 64, 128, 256)
    assert network_preset("attention").attention
    assert network_preset("residual").residual
    for name in PRESETS:
        with torch.device("meta"):
            assert build_network(network_preset(name)).config.name == name


@pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS)
def test_every_variant_keeps_the_size_and_teaches_all_its_weights(settings):
    torch.manual_seed(0)
    config = small(**settings)
    network = build_network(config)
    x = torch.randn(2, config.in_channels, 32, 48)
    outputs = network(x)
    levels = outputs if isinstance(outputs, list) else [outputs]
    assert isinstance(outputs, list) == (config.deep_supervision > 0)
    assert [tuple(level.shape) for level in levels] == [
        (2, 4, 32 >> level, 48 >> level) for level in range(config.deep_supervision + 1)
    ]
    sum(level.square().mean() for level in levels).backward()
    unused = [
        name for name, p in network.named_parameters() if p.grad is None or not bool(torch.isfinite(p.grad).all())
    ]
    assert unused == []
    still = [name for name, p in network.named_parameters() if p.grad.abs().max() == 0]
    assert still == []
    network.eval()
    with torch.no_grad():
        alone = network(x)
    assert alone.shape == (2, 4, 32, 48)


@settings(max_examples=25, deadline=None)
@given(height=st.integers(1, 70), width=st.integers(1, 70), deep=st.integers(0, 2))
def test_any_size_is_taken_and_given_back_exactly(height, width, deep):
    network = build_network(small(deep_supervision=deep, norm="instance"))
    levels = network(torch.randn(1, 1, height, width))
    levels = levels if isinstance(levels, list) else [levels]
    target = torch.zeros(1, height, width)
    for level, logits in enumerate(levels):
        assert logits.shape[-2:] == target[..., :: 2**level, :: 2**level].shape[-2:]


def test_padding_repeats_the_edge_below_and_on_the_right():
    network = build_network(small()).eval()
    x = torch.randn(1, 1, 20, 27)
    padded = torch.from_numpy(np.pad(x.numpy(), ((0, 0), (0, 0), (0, 4), (0, 5)), mode="edge"))
    with torch.no_grad():
        torch.testing.assert_close(network(x), network(padded)[..., :20, :27])


def test_a_double_convolution_is_its_formula():
    torch.manual_seed(1)
    block = DoubleConv(small(norm="none", residual=True), 2, 3).double()
    x = torch.randn(1, 2, 5, 5, dtype=torch.float64)
    conv = torch.nn.functional.conv2d
    inner = conv(x, block.conv1.weight, block.conv1.bias, padding=1).clamp(min=0)
    short = block.shortcut[0]
    expected = conv(inner, block.conv2.weight, block.conv2.bias, padding=1) + conv(x, short.weight, short.bias)
    torch.testing.assert_close(block(x), expected.clamp(min=0))


def test_a_residual_block_of_equal_widths_passes_its_input_on():
    block = DoubleConv(small(norm="none", residual=True), 3, 3)
    torch.nn.init.zeros_(block.conv2.weight)
    torch.nn.init.zeros_(block.conv2.bias)
    x = torch.rand(1, 3, 4, 4)
    assert torch.equal(block(x), x)


def test_an_attention_gate_can_shut_and_open():
    gate = AttentionGate(4, 6)
    skip, gating = torch.randn(1, 4, 8, 8), torch.randn(1, 6, 4, 4)
    torch.nn.init.zeros_(gate.psi.weight)
    for bias, factor in ((-50.0, 0.0), (0.0, 0.5), (50.0, 1.0)):
        torch.nn.init.constant_(gate.psi.bias, bias)
        torch.testing.assert_close(gate(skip, gating), skip * factor)


def test_an_attention_gate_follows_the_coarse_level_in_place():
    gate = AttentionGate(2, 2)
    for parameter in gate.parameters():
        torch.nn.init.zeros_(parameter)
    torch.nn.init.ones_(gate.phi.weight)
    torch.nn.init.ones_(gate.psi.weight)
    torch.nn.init.constant_(gate.psi.bias, -20.0)
    gating = torch.zeros(1, 2, 4, 4)
    gating[..., :2] = 100
    opened = gate(torch.ones(1, 2, 8, 8), gating)
    assert bool((opened[..., :3] > 0.99).all())
    assert bool((opened[..., 5:] < 0.01).all())


@pytest.mark.parametrize("settings", [VARIANTS["plain"], VARIANTS["dropout"], VARIANTS["everything"]])
def test_gradient_checkpointing_changes_nothing_but_memory(settings):
    x = torch.randn(2, settings.get("in_channels", 1), 32, 32)
    states = []
    for flag in (False, True):
        torch.manual_seed(3)
        network = build_network(small(**settings), gradient_checkpointing=flag)
        outputs = network(x)
        levels = outputs if isinstance(outputs, list) else [outputs]
        sum(level.square().mean() for level in levels).backward()
        states.append((network.state_dict(), [p.grad for p in network.parameters()]))
    for name, tensor in states[0][0].items():
        assert torch.equal(tensor, states[1][0][name]), name
    for one, other in zip(states[0][1], states[1][1], strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS)
def test_bfloat16_and_channels_last_give_nearly_the_same(settings):
    torch.manual_seed(4)
    network = build_network(small(**settings)).eval()
    x = torch.randn(1, network.config.in_channels, 32, 32)
    with torch.no_grad():
        plain = network(x)
        network = network.to(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            mixed = network(x.to(memory_format=torch.channels_last))
    assert float((plain - mixed).abs().max() / plain.abs().max()) < 0.1


def test_bfloat16_and_channels_last_can_be_trained():
    network = build_network(small(**VARIANTS["everything"]), gradient_checkpointing=True)
    network = network.to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        levels = network(torch.randn(1, 3, 20, 20).to(memory_format=torch.channels_last))
        loss = sum(level.float().square().mean() for level in levels)
    loss.backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in network.parameters())


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_whole_network_is_one_graph_for_the_compiler(checkpointing):
    torch.manual_seed(5)
    network = build_network(small(attention=True), gradient_checkpointing=checkpointing)
    x = torch.randn(1, 1, 30, 32)
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    plain = network(x)
    moved = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network.load_state_dict(state)
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)(x)
    compiled.sum().backward()
    torch.testing.assert_close(compiled, plain)
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(tensor, moved[name])


def test_the_same_seed_gives_the_same_network():
    networks = []
    for _ in range(2):
        torch.manual_seed(42)
        networks.append(build_network(small()).state_dict())
    assert all(torch.equal(networks[0][name], networks[1][name]) for name in networks[0])


def test_instance_norm_does_not_mix_samples():
    network = build_network(small(norm="instance"))
    x = torch.randn(3, 1, 16, 16)
    torch.testing.assert_close(network(x)[1:2], network(x[1:2]), atol=1e-5, rtol=1e-4)


def test_a_tiny_network_learns_a_square():
    torch.manual_seed(0)
    network = build_network(small(out_channels=2, widths=(8, 16)))
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    x = torch.randn(4, 1, 16, 16) * 0.1
    target = torch.zeros(4, 16, 16, dtype=torch.long)
    for i in range(4):
        target[i, 2 + i : 8 + i, 4:10] = 1
    x[:, 0] += target
    for _ in range(60):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(x), target).backward()
        optimizer.step()
    assert float((network(x).argmax(1) == target).float().mean()) > 0.98


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"name": "huge"}, "There is no network “huge”"),
        ({"name": "tiny", "depht": 3}, "depht is no setting of a network"),
        ({"name": "tiny", "depth": 0}, "depth 0"),
        ({"name": "tiny", "depth": 99}, "depth 99"),
        ({"name": "tiny", "depth": 2, "widths": (4, 8)}, "widths or depth"),
        ({"name": "tiny", "in_channels": 2}, "in_channels"),
        ({"name": "tiny", "dropout": 1.0}, "dropout"),
        ({"name": "tiny", "dropout": float("nan")}, "dropout"),
        ({"name": "tiny", "widths": (16,)}, "widths"),
        ({"name": "tiny", "widths": (16, 0)}, "widths"),
        ({"name": "tiny", "widths": (10**9, 10**9)}, "widths"),
        ({"name": "tiny", "norm": "layer"}, "norm"),
        ({"name": "tiny", "norm": "group", "groups": 3}, "groups=3 does not divide"),
        ({"name": "tiny", "deep_supervision": 4}, "3 inner outputs"),
    ],
)
def test_a_network_that_cannot_be_meant_is_refused_in_a_sentence(wrong, said):
    with pytest.raises(UsageError, match=said):
        network_preset(**wrong)


def test_depth_leaves_levels_out_or_adds_them():
    assert network_preset("tiny", depth=3).widths == (16, 32, 64, 128)
    assert network_preset("tiny", depth=5).widths == (16, 32, 64, 128, 256, 512)
    assert network_preset("tiny", depth=5).depth == 5


def test_a_description_cannot_be_changed():
    with pytest.raises(ValidationError):
        small().dropout = 0.5


def test_an_input_of_other_channels_is_refused():
    with pytest.raises(ValueError, match=r"takes \(B, 3, H, W\)"):
        build_network(small(in_channels=3))(torch.zeros(1, 1, 16, 16))


def test_descriptions_and_cards_come_without_torch():
    code = (
        "import sys, LungSegmentationLib.networks.config, LungSegmentationLib.networks.model_file;"
        "sys.exit('torch' in sys.modules)"
    )
    root = Path(__file__).resolve().parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
