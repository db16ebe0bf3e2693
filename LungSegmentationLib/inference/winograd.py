"""3×3 convolutions of many channels with 16 products where 36 are usual: Winograd's F(2×2, 3×3), on the CPU.

Four neighboring results are made of a tile of 4×4 pixels. Sums and differences of its pixels are multiplied by sums of
the weights, pixel for pixel, and sums of these products are the results: 16 matrix products for all tiles at once.
With few channels the sums cost more than the products that they spare.

Source: Lavin and Gray 2016, *Fast Algorithms for Convolutional Neural Networks*, CVPR, section 4.1
(https://arxiv.org/abs/1509.09308).
"""

from __future__ import annotations

import platform
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from LungSegmentationLib.training.precision import cpu_bfloat16

__all__ = ["WinogradConvolution", "is_faster"]

LEAST_CHANNELS: Final = (128, 256)
"""Channels in and out from which on it is faster by a fifth or more; measured, see the performance page."""

PART: Final = 1 << 22
"""Values that one step holds at most, about: a few of these stay in the cache of the processor."""

_OF_WEIGHTS: Final = ((1.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0.0, 0.0, 1.0))
_OF_PRODUCTS: Final = ((1.0, 1.0, 1.0, 0.0), (0.0, 1.0, -1.0, -1.0))
_IN_ALL: Final = 5


def is_faster(convolution: nn.Conv2d, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether a convolution should be replaced: known from what it is and where it runs, not measured at run time.

    The same computer gives the same result each time. bfloat16 on processors with matrix units (AMX) is left alone:
    there products cost next to nothing. So are processors other than x86-64, for which there are no measurements.
    """
    least_in, least_out = LEAST_CHANNELS
    return (
        device.type == "cpu"
        and platform.machine().lower() in {"x86_64", "amd64"}
        and (dtype == torch.float32 or (dtype == torch.bfloat16 and cpu_bfloat16() == "AVX512-BF16"))
        and WinogradConvolution.can_be(convolution)
        and convolution.in_channels >= least_in
        and convolution.out_channels >= least_out
    )


class WinogradConvolution(nn.Module):
    """What a 3×3 convolution with padding 1 gives, but for rounding: (B, C, H, W) → (B, O, H, W).

    Parameters
    ----------
    convolution
        3×3, stride 1, padding 1, with float32 weights; they are transformed in that precision.

    Raises
    ------
    ValueError
        If the convolution is another one.

    Notes
    -----
    With bfloat16 the error of a layer (root mean square, relative) is 0.0048, where the plain convolution has 0.0023:
    sums of pixels and products are rounded to bfloat16, and weights after they were summed. With float32 it is below
    1e-6.
    """

    products: Tensor
    bias: Tensor
    results: Tensor

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        if not self.can_be(convolution):
            raise ValueError(f"{convolution} is no 3×3 convolution with stride and padding 1")
        weight = convolution.weight.detach().float()
        rows = torch.tensor(_OF_WEIGHTS)
        summed = torch.einsum("ar,oirs,bs->abio", rows, weight, rows)
        bias = torch.zeros(len(weight)) if convolution.bias is None else convolution.bias.detach().float()
        self.register_buffer("products", summed.reshape(16, *summed.shape[2:]).contiguous())
        self.register_buffer("bias", bias.clone())
        signs = torch.tensor(_OF_PRODUCTS)
        self.register_buffer("results", torch.einsum("ia,jb->ijab", signs, signs).reshape(4, 16))

    @staticmethod
    def can_be(convolution: nn.Conv2d) -> bool:
        """Whether a convolution is of the kind that this class computes."""
        return (
            convolution.kernel_size == (3, 3)
            and convolution.stride == (1, 1)
            and convolution.dilation == (1, 1)
            and convolution.padding == (1, 1)
            and convolution.padding_mode == "zeros"
            and convolution.groups == 1
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution with zeros around."""
        return self.valid(functional.pad(x, (1, 1, 1, 1)))

    def valid(self, x: Tensor) -> Tensor:
        """Return the convolution without padding: (B, C, H + 2, W + 2) → (B, O, H, W)."""
        height, width = (size - 2 for size in x.shape[-2:])
        if height % 2 or width % 2:
            x = functional.pad(x, (0, width % 2, 0, height % 2))
        # Channels last, so that sums run over long rows of memory.
        pixels = x.permute(0, 2, 3, 1)
        count, tall, wide = len(pixels), -(-height // 2), -(-width // 2)
        outputs = self.products.shape[2]
        result = pixels.new_empty(count, tall, 2, wide, 2, outputs)
        row = 16 * wide * max(self.products.shape[1:])
        rows = min(tall, max(1, PART // row))
        images = max(1, PART // (row * tall))
        for first in range(0, count, images):
            for top in range(0, tall, rows):
                bottom = min(top + rows, tall)
                part = pixels[first : first + images, 2 * top : 2 * bottom + 2]
                result[first : first + images, top:bottom].copy_(self._tiles(part, bottom - top, wide))
        whole = result.view(count, 2 * tall, 2 * wide, outputs).permute(0, 3, 1, 2)
        return whole[..., :height, :width]

    def _tiles(self, pixels: Tensor, tall: int, wide: int) -> Tensor:
        """Return the results (B, tall, 2, wide, 2, O) of pixels (B, 2·tall + 2, 2·wide + 2, C)."""
        count, _, columns, channels = pixels.shape
        outputs = self.products.shape[2]
        down = pixels.new_empty(4, count, tall, columns, channels)
        _differences([pixels[:, place : place + 2 * tall - 1 : 2] for place in range(4)], list(down))
        across = pixels.new_empty(4, 4, count, tall, wide, channels)
        _differences(
            [down[:, :, :, place : place + 2 * wide - 1 : 2] for place in range(4)], list(across.transpose(0, 1))
        )
        terms = torch.bmm(across.view(16, -1, channels), self.products)
        # The one that is in all results, with a plus.
        terms[_IN_ALL] += self.bias
        results = torch.mm(self.results, terms.view(16, -1))
        return results.view(2, 2, count, tall, wide, outputs).permute(2, 3, 0, 4, 1, 5)


def _differences(pixels: list[Tensor], out: list[Tensor]) -> None:
    """Write the four sums and differences of four neighbors."""
    torch.sub(pixels[0], pixels[2], out=out[0])
    torch.add(pixels[1], pixels[2], out=out[1])
    torch.sub(pixels[2], pixels[1], out=out[2])
    torch.sub(pixels[1], pixels[3], out=out[3])
