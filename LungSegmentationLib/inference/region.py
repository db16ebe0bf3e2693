"""A part of a U-Net's output for part of the work: the decoder computes what this part depends on, and no more.

The contracting path sees the whole slice, and the expanding path the surroundings that its convolutions reach, so the
logits are those of the whole slice. Cropping the input would be cheaper still, and change them: networks know where
the edge of a slice is.
"""

from __future__ import annotations

from typing import Final

from torch import Tensor, nn
from torch.nn import functional

from LungSegmentationLib.inference.winograd import WinogradConvolution
from LungSegmentationLib.networks.blocks import DoubleConv
from LungSegmentationLib.networks.unet import UNet

__all__ = ["Box", "region_logits", "supports_region"]

Box = tuple[range, range]
"""Rows and columns of a slice."""

REACH: Final = 2
"""Pixels to each side that two 3×3 convolutions look at."""


def supports_region(network: nn.Module, size: int) -> bool:
    """Whether :func:`region_logits` can be used: nothing but convolutions in the decoder, and slices without padding.

    Norms over the whole plane, attention gates and bilinear upsampling look further; batch norms have to be folded
    into the convolutions before.
    """
    if not isinstance(network, UNet):
        return False
    config = network.config
    return (
        not config.attention
        and config.upsampling == "transposed"
        and size % 2**config.depth == 0
        and size >= 2 * 2**config.depth
        and all(
            isinstance(norm, nn.Identity)
            for stage in network.decoder
            if isinstance(stage, DoubleConv)
            for norm in (stage.norm1, stage.norm2)
        )
    )


def region_logits(network: UNet, images: Tensor, box: Box) -> Tensor:
    """Return the logits of a box.

    Parameters
    ----------
    network
        In evaluation mode; see :func:`supports_region`.
    images
        Square slices, (B, channels, S, S).
    box
        Rows and columns, not empty.

    Returns
    -------
    Tensor (B, classes, rows, columns)
        ``network(images)`` there, but for rounding.
    """
    skips: list[Tensor] = []
    x = images
    for level, stage in enumerate(network.encoder):
        x = stage(functional.max_pool2d(x, 2) if level else x)
        skips.append(x)
    sizes = [skip.shape[-1] for skip in skips]
    # What each level of the decoder has to give, from the finest to the coarsest.
    wanted = [box]
    for size in sizes[1:]:
        wanted.append(_halved(_grown(wanted[-1], REACH, 2 * size)))
    held: Box = (range(sizes[-1]), range(sizes[-1]))
    skips.pop()
    for level in reversed(range(len(skips))):
        x, held = _cut(x, held, wanted[level + 1]), wanted[level + 1]
        seen = _grown(wanted[level], REACH, sizes[level])
        fine = _cut(network.upsampling[level](x), _doubled(held), seen)
        skip = _cut(skips.pop(), (range(sizes[level]), range(sizes[level])), seen)
        stage = network.decoder[level]
        if not isinstance(stage, DoubleConv):
            raise TypeError(f"{type(stage).__name__} is no double convolution")
        x = _double_convolution(stage, (skip, fine), wanted[level], sizes[level])
        held = wanted[level]
    logits: Tensor = network.head(x)
    return logits


def _double_convolution(stage: DoubleConv, parts: tuple[Tensor, Tensor], wanted: Box, size: int) -> Tensor:
    """Return what is wanted from the channels of both parts, which reach two pixels beyond it where the slice does."""
    between = _grown(wanted, 1, size)
    x = _framed(parts, between, size)
    features = functional.relu(_valid(stage.conv1, x), inplace=True)
    features = functional.pad(features, _zeros(wanted, size))
    features = _valid(stage.conv2, features)
    if stage.shortcut is not None:
        framed: Box = (
            range(between[0].start - 1, between[0].stop + 1),
            range(between[1].start - 1, between[1].stop + 1),
        )
        features = features + stage.shortcut(_cut(x, framed, wanted))
    return functional.relu(features, inplace=True)


def _framed(parts: tuple[Tensor, Tensor], between: Box, size: int) -> Tensor:
    """Return the channels of both parts in one tensor, with zeros around where the slice ends."""
    left, right, top, bottom = _zeros(between, size)
    count, _, rows, columns = parts[0].shape
    channels = sum(part.shape[1] for part in parts)
    # Channels last: joining and padding would be two copies, and this is the largest tensor of a level.
    framed = parts[0].new_empty(count, top + rows + bottom, left + columns + right, channels)
    framed[:, :top] = 0
    framed[:, top + rows :] = 0
    framed[:, :, :left] = 0
    framed[:, :, left + columns :] = 0
    inner, first = framed[:, top : top + rows, left : left + columns], 0
    for part in parts:
        inner[..., first : first + part.shape[1]].copy_(part.permute(0, 2, 3, 1))
        first += part.shape[1]
    return framed.permute(0, 3, 1, 2)


def _zeros(wanted: Box, size: int) -> tuple[int, int, int, int]:
    """Return how many zeros a convolution needs left, right, above and below: only where the slice ends."""
    rows, columns = wanted
    return int(columns.start == 0), int(columns.stop == size), int(rows.start == 0), int(rows.stop == size)


def _valid(convolution: nn.Module, x: Tensor) -> Tensor:
    if isinstance(convolution, WinogradConvolution):
        return convolution.valid(x)
    if not isinstance(convolution, nn.Conv2d):
        raise TypeError(f"{type(convolution).__name__} is no convolution")
    return functional.conv2d(x, convolution.weight, convolution.bias)


def _cut(x: Tensor, held: Box, wanted: Box) -> Tensor:
    (rows, columns), (row, column) = wanted, (held[0].start, held[1].start)
    return x[..., rows.start - row : rows.stop - row, columns.start - column : columns.stop - column]


def _grown(box: Box, by: int, size: int) -> Box:
    rows, columns = (range(max(0, span.start - by), min(size, span.stop + by)) for span in box)
    return rows, columns


def _halved(box: Box) -> Box:
    rows, columns = (range(span.start // 2, -(-span.stop // 2)) for span in box)
    return rows, columns


def _doubled(box: Box) -> Box:
    rows, columns = (range(2 * span.start, 2 * span.stop) for span in box)
    return rows, columns
