"""Convolutions with fewer products: the same numbers as PyTorch's own, and used where that is known to be faster."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from inference_files import make_card
from torch import nn

from LungSegmentationLib.inference import forward, winograd
from LungSegmentationLib.inference.winograd import WinogradConvolution, is_faster
from LungSegmentationLib.networks.config import network_preset
from LungSegmentationLib.networks.model_file import save_model
from LungSegmentationLib.networks.unet import build_network

CPU = torch.device("cpu")


def convolution(channels: int, outputs: int, *, bias: bool = True, seed: int = 0) -> nn.Conv2d:
    torch.manual_seed(seed)
    made = nn.Conv2d(channels, outputs, 3, padding=1, bias=bias)
    return made.requires_grad_(requires_grad=False)


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 3),
    channels=st.integers(1, 6),
    outputs=st.integers(1, 6),
    height=st.integers(1, 11),
    width=st.integers(1, 11),
    bias=st.booleans(),
    part=st.sampled_from([1, 100, 1 << 22]),
)
def test_any_size_gives_what_the_plain_convolution_gives(
    count: int, channels: int, outputs: int, height: int, width: int, bias: bool, part: int
) -> None:
    plain = convolution(channels, outputs, bias=bias)
    x = torch.randn(count, channels, height, width).to(memory_format=torch.channels_last)
    before = x.clone()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(winograd, "PART", part)
        found = WinogradConvolution(plain)(x)
    expected = plain.double()(x.double())
    assert found.shape == expected.shape
    assert float((found.double() - expected).abs().max()) < 1e-5
    assert torch.equal(x, before)


@pytest.mark.parametrize(("height", "width"), [(6, 8), (5, 8), (6, 7), (1, 1)])
def test_without_padding_the_border_is_taken_from_what_is_there(height: int, width: int) -> None:
    plain = convolution(3, 4)
    x = torch.randn(2, 3, height + 2, width + 2)
    expected = nn.functional.conv2d(x.double(), plain.weight.double(), plain.bias.double())
    assert float((WinogradConvolution(plain).valid(x).double() - expected).abs().max()) < 1e-5


def test_a_single_weight_moves_the_picture_as_it_says() -> None:
    plain = convolution(1, 1, bias=False)
    x = torch.arange(30.0).reshape(1, 1, 5, 6)
    padded = nn.functional.pad(x, (1, 1, 1, 1))
    for row in range(3):
        for column in range(3):
            plain.weight.zero_()[0, 0, row, column] = 2.0
            moved = 2 * padded[..., row : row + 5, column : column + 6]
            assert torch.equal(WinogradConvolution(plain)(x), moved)


def test_bfloat16_errs_little_more_than_the_plain_convolution() -> None:
    plain = convolution(128, 64)
    x = torch.randn(1, 128, 24, 24).relu().bfloat16()
    exact = plain.double()(x.double())
    plain.float()
    found = WinogradConvolution(plain).bfloat16()(x)
    assert found.dtype == torch.bfloat16
    error = ((found.double() - exact).square().mean() / exact.square().mean()).sqrt()
    usual = ((plain.bfloat16()(x).double() - exact).square().mean() / exact.square().mean()).sqrt()
    assert float(error) < 2.5 * float(usual)


def test_the_same_input_gives_the_same_bits() -> None:
    made = WinogradConvolution(convolution(16, 16)).bfloat16()
    x = torch.randn(2, 16, 20, 20).bfloat16()
    assert torch.equal(made(x), made(x))


@pytest.mark.parametrize(
    "other",
    [
        nn.Conv2d(4, 4, 1),
        nn.Conv2d(4, 4, 3),
        nn.Conv2d(4, 4, 3, padding=1, stride=2),
        nn.Conv2d(4, 4, 3, padding=1, dilation=2),
        nn.Conv2d(4, 4, 3, padding=1, groups=2),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
    ],
)
def test_other_convolutions_are_refused(other: nn.Conv2d) -> None:
    assert not WinogradConvolution.can_be(other)
    with pytest.raises(ValueError, match="no 3×3 convolution"):
        WinogradConvolution(other)


@pytest.mark.parametrize(
    ("machine", "instructions", "dtype", "expected"),
    [
        ("x86_64", "AVX512-BF16", torch.bfloat16, True),
        ("AMD64", "AVX512-BF16", torch.bfloat16, True),
        ("x86_64", "AMX-BF16", torch.bfloat16, False),
        ("x86_64", "", torch.bfloat16, False),
        ("x86_64", "", torch.float32, True),
        ("x86_64", "", torch.float16, False),
        ("arm64", "", torch.float32, False),
    ],
)
def test_it_is_used_where_it_was_measured_to_be_faster(
    machine: str, instructions: str, dtype: torch.dtype, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(winograd, "cpu_bfloat16", lambda: instructions)
    wide = nn.Conv2d(256, 256, 3, padding=1, device="meta")
    assert is_faster(wide, CPU, dtype) is expected
    assert not is_faster(wide, torch.device("cuda"), dtype)
    for channels, outputs in ((64, 256), (128, 128)):
        assert not is_faster(nn.Conv2d(channels, outputs, 3, padding=1, device="meta"), CPU, dtype)


@pytest.mark.parametrize("changes", [{}, {"residual": True}, {"norm": "group"}])
def test_a_loaded_model_says_what_the_trained_network_said(
    changes: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(1)
    config = network_preset("tiny", out_channels=8).model_copy(update=changes)
    network = build_network(config).eval()
    file = tmp_path / "model.safetensors"
    save_model(file, network, make_card(network=config.model_dump(), size=64))
    monkeypatch.setattr(forward, "is_faster", lambda convolution, *_: WinogradConvolution.can_be(convolution))
    loaded = forward.load(file, CPU, torch.float32)
    replaced = [module for module in loaded.network.network.modules() if isinstance(module, WinogradConvolution)]
    assert len(replaced) == 18
    images = torch.randn(2, 1, 64, 64)
    box = (range(9, 50), range(3, 61))
    with torch.inference_mode():
        expected = network(images)
        whole = loaded.network(images)
        assert float((whole - expected).abs().max()) < 1e-4
        if loaded.network.partial:
            part = loaded.network(images, box)
            assert float((part - expected[..., 9:50, 3:61]).abs().max()) < 1e-4
