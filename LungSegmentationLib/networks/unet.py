"""The 2D U-Net (Ronneberger et al. 2015, arXiv:1505.04597) and its family, built from a :class:`.NetworkConfig`."""

from __future__ import annotations

from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from LungSegmentationLib.networks.blocks import AttentionGate, DoubleConv, Upsampling
from LungSegmentationLib.networks.config import NetworkConfig

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["UNet", "UNetMultiOrgan", "build_network", "count_parameters"]


class UNet(nn.Module):
    """2D U-Net of any configuration. It returns logits; softmax or sigmoid belong to the loss and to inference.

    Any height and width are taken: the input is padded below and on the right, by repeating its last row and column,
    to a multiple of ``2**depth`` (two pixels at the deepest level at least), and the output is cut back to the exact
    size. Sizes that fit are not padded.

    Parameters
    ----------
    config
        The architecture.
    gradient_checkpointing
        Compute the features of each level again in the backward pass rather than keep them: less memory, about a
        third more time, the same result (running means of batch norm included). Can be switched at any time.

    Notes
    -----
    Shapes for ``widths=(64, 128, 256, 512, 1024)`` and an input of (B, 1, 256, 256)::

        level 0   (B,   64, 256, 256)  ──────────skip──────────→ (B,   64, 256, 256) → head (B, out_channels, 256, 256)
        level 1   (B,  128, 128, 128)  ──────────skip──────────→ (B,  128, 128, 128)
        level 2   (B,  256,  64,  64)  ──────────skip──────────→ (B,  256,  64,  64)
        level 3   (B,  512,  32,  32)  ──────────skip──────────→ (B,  512,  32,  32)
        level 4   (B, 1024,  16,  16)

    With ``deep_supervision=2`` training returns ``[(B, C, 256, 256), (B, C, 128, 128), (B, C, 64, 64)]`` and
    evaluation the first of these alone.
    """

    def __init__(self, config: NetworkConfig, *, gradient_checkpointing: bool = False) -> None:
        super().__init__()
        self.config = config
        self.gradient_checkpointing = gradient_checkpointing
        widths = config.widths
        self.encoder = nn.ModuleList(
            DoubleConv(
                config,
                widths[level - 1] if level else config.in_channels,
                width,
                dropout=config.dropout if level >= config.depth - 1 else 0.0,
            )
            for level, width in enumerate(widths)
        )
        # Index = level, as in the encoder; the decoder runs through them backwards.
        levels = range(config.depth)
        self.upsampling = nn.ModuleList(Upsampling(config, widths[level + 1], widths[level]) for level in levels)
        self.gates = nn.ModuleList(
            AttentionGate(widths[level], widths[level + 1]) for level in levels if config.attention
        )
        self.decoder = nn.ModuleList(DoubleConv(config, 2 * widths[level], widths[level]) for level in levels)
        self.head = nn.Conv2d(widths[0], config.out_channels, 1)
        self.extra_heads = nn.ModuleList(
            nn.Conv2d(widths[level], config.out_channels, 1) for level in range(1, config.deep_supervision + 1)
        )
        self.apply(_initialize)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Return logits.

        Parameters
        ----------
        x
            (B, in_channels, H, W), any floating type.

        Returns
        -------
        Tensor or list of Tensor
            (B, out_channels, H, W). In training with deep supervision a list: that, then
            (B, out_channels, ⌈H / 2**k⌉, ⌈W / 2**k⌉) for k = 1, 2 …; the pixels of level k belong to every ``2**k``-th
            row and column.
        """
        if x.ndim != 4 or x.shape[1] != self.config.in_channels:
            raise ValueError(f"the network takes (B, {self.config.in_channels}, H, W), not {tuple(x.shape)}")
        height, width = x.shape[-2:]
        x = self._padded(x)
        skips: list[Tensor] = []
        for level, stage in enumerate(self.encoder):
            if level:
                x = functional.max_pool2d(x, 2)
            x = self._run(stage, x)
            skips.append(x)

        inner: list[Tensor] = []
        for level in reversed(range(self.config.depth)):
            skip = skips[level]
            if self.config.attention:
                skip = self.gates[level](skip, x)
            x = self._run(self.decoder[level], torch.cat((skip, self.upsampling[level](x)), dim=1))
            if self.training and 1 <= level <= self.config.deep_supervision:
                inner.insert(0, self.extra_heads[level - 1](x))
        logits: Tensor = self.head(x)[..., :height, :width]
        if not inner:
            return logits
        return [
            logits,
            *(
                extra[..., : _size_at(height, level), : _size_at(width, level)]
                for level, extra in enumerate(inner, start=1)
            ),
        ]

    def begin_at(self, logits: Tensor) -> None:
        """Let the outputs begin around these logits, (out_channels,), whatever the input is."""
        with torch.no_grad():
            for head in (self.head, *self.extra_heads):
                head.bias.copy_(logits)

    def _padded(self, x: Tensor) -> Tensor:
        step = 2**self.config.depth
        # One pixel at the deepest level would leave nothing to normalize over.
        missing = [max(2 * step, -(-size // step) * step) - size for size in x.shape[-2:]]
        return functional.pad(x, (0, missing[1], 0, missing[0]), mode="replicate") if any(missing) else x

    def _run(self, stage: nn.Module, x: Tensor) -> Tensor:
        if not (self.gradient_checkpointing and self.training and torch.is_grad_enabled()):
            result: Tensor = stage(x)
        elif torch.compiler.is_compiling():
            # The compiler makes the update of running means part of the forward pass by itself.
            result = checkpoint(stage, x, use_reentrant=False)
        else:
            result = checkpoint(
                stage, x, use_reentrant=False, context_fn=lambda: (nullcontext(), _without_running_means(stage))
            )
        return result


class UNetMultiOrgan(UNet):
    """The classical 2D U-Net, 64-128-256-512-1024: 31,036,936 parameters with one input and eight output channels.

    Examples
    --------
    >>> network = UNetMultiOrgan(in_channels=1, out_channels=8).eval()
    >>> count_parameters(network)
    31036936
    >>> tuple(network(torch.zeros(2, 1, 64, 64)).shape)
    (2, 8, 64, 64)
    """

    def __init__(self, in_channels: int = 1, out_channels: int = 8) -> None:
        super().__init__(NetworkConfig.model_validate({"in_channels": in_channels, "out_channels": out_channels}))


def build_network(config: NetworkConfig, *, gradient_checkpointing: bool = False) -> UNet:
    """Return a network with random weights; the numbers come from torch's global generator."""
    return UNet(config, gradient_checkpointing=gradient_checkpointing)


def count_parameters(network: nn.Module) -> int:
    """Return the number of values that training changes."""
    count: int = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    return count


def _initialize(module: nn.Module) -> None:
    # He et al. 2015 for what a ReLU follows (the original paper asks for it); torch's own for the linear parts.
    if isinstance(module, DoubleConv):
        for convolution in (module.conv1, module.conv2):
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
            if convolution.bias is not None:
                nn.init.zeros_(convolution.bias)


def _size_at(size: int, level: int) -> int:
    return -(-size // (1 << level))


@contextmanager
def _frozen_statistics(norms: list[nn.BatchNorm2d]) -> Iterator[None]:
    kept = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        # Switching the statistics off altogether would save other tensors than the first computation did.
        norm.momentum = 0.0
        norm.num_batches_tracked = None
    try:
        yield
    finally:
        for norm, momentum, batches in kept:
            norm.momentum = momentum
            norm.num_batches_tracked = batches


def _without_running_means(stage: nn.Module) -> AbstractContextManager[None]:
    # The second computation must not move the running means of batch norm a second time.
    return _frozen_statistics([module for module in stage.modules() if isinstance(module, nn.BatchNorm2d)])
