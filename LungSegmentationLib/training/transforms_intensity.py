"""Brightness, contrast, gamma, noise and blur of a batch, and the scales of intensity before and after.

The station of these functions is the windowed CT scaled to [0, 1]. A batch goes through :func:`scale_window`, then the
augmentation, then, for ``normalization=zscore``, :func:`standardize`; for ``normalization=window`` it is ready.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from LungSegmentationLib.training.upload import upload

__all__ = [
    "IntensityParameters",
    "add_noise",
    "adjust_gamma",
    "adjust_linear",
    "blur",
    "change_intensity",
    "scale_window",
    "standardize",
]

EPSILON = 1e-8


@dataclass(frozen=True)
class IntensityParameters:
    """What happens to each sample of a batch of B, as tensors of shape (B,) on the CPU.

    Attributes
    ----------
    brightness
        Added, in units of the window; 0 leaves the sample as it is.
    contrast
        Factor about the sample's mean; 1 leaves it.
    gamma
        Exponent; 1 leaves it.
    noise
        Standard deviation of Gaussian noise, in units of the window; 0 leaves it.
    noise_seed
        int64: seed of each sample's noise, so that it does not depend on the batch the sample is in.
    blur
        Standard deviation of the Gaussian, in pixels; 0 leaves it.
    """

    brightness: Tensor
    contrast: Tensor
    gamma: Tensor
    noise: Tensor
    noise_seed: Tensor
    blur: Tensor

    @classmethod
    def identity(cls, size: int) -> IntensityParameters:
        """Return the parameters that leave ``size`` samples as they are."""
        zeros = torch.zeros(size, dtype=torch.float64)
        ones = torch.ones_like(zeros)
        return cls(zeros, ones, ones, zeros, torch.zeros(size, dtype=torch.int64), zeros)


def scale_window(hounsfield: Tensor, window: tuple[float, float]) -> Tensor:
    """Clip HU to a window (low, high) and scale it to [0, 1], float32; the shape stays."""
    low, high = window
    return hounsfield.float().clamp(low, high).sub_(low).mul_(1 / (high - low))


def standardize(images: Tensor, mean: Tensor, std: Tensor, window: tuple[float, float]) -> Tensor:
    """Turn the windowed [0, 1] scale into the z-score ``(HU − μ) / (σ + 1e-8)``.

    Parameters
    ----------
    images
        (B, C, H, W) in [0, 1], after the augmentation. μ and σ stay those of the stored, unchanged CT: taken anew,
        they would undo brightness and contrast. The result is float32.
    mean, std
        (B,), HU, of each sample's patient after windowing.
    window
        Low and high, HU.
    """
    low, high = window
    images = images.float()
    mean, spread = _per_sample(mean, images), _per_sample(std + EPSILON, images)
    return images * ((high - low) / spread) + (low - mean) / spread


def change_intensity(images: Tensor, parameters: IntensityParameters) -> Tensor:
    """Blur, add noise, change contrast and brightness, then gamma; the result is again within [0, 1].

    Parameters
    ----------
    images
        float32, (B, C, H, W) in [0, 1]; the channels of a sample (neighboring slices) share its parameters, the noise
        is independent.
    """
    noisy, linear, curved = parameters.noise > 0, _is_linear(parameters), parameters.gamma != 1
    if bool((parameters.blur > 0).any()):
        images = blur(images, parameters.blur)
    if bool(noisy.any()):
        images = add_noise(images, parameters.noise, parameters.noise_seed)
    if bool(linear.any()):
        images = adjust_linear(images, parameters.brightness, parameters.contrast)
    if bool((noisy | linear).any()):
        # A scanner's values are clipped by the window too, so the network never sees others than these.
        images = images.clamp(0, 1)
    if bool(curved.any()):
        images = adjust_gamma(images, parameters.gamma)
    return images


def adjust_linear(images: Tensor, brightness: Tensor, contrast: Tensor) -> Tensor:
    """Return ``(image − mean) × contrast + mean + brightness`` with the mean of each sample; not clipped."""
    factor, offset = _per_sample(contrast, images), _per_sample(brightness, images)
    mean = images.mean((1, 2, 3), keepdim=True)
    return torch.addcmul(mean * (1 - factor) + offset, images, factor)


def adjust_gamma(images: Tensor, gamma: Tensor) -> Tensor:
    """Return ``image ** gamma``; the images lie within [0, 1], so black and white stay."""
    rows = (gamma != 1).nonzero().squeeze(1)
    index = upload(rows, images.device)
    exponent = _per_sample(gamma[rows], images)
    return images.index_copy(0, index, images.index_select(0, index).clamp_(0, 1).pow_(exponent))


def add_noise(images: Tensor, std: Tensor, seeds: Tensor) -> Tensor:
    """Add Gaussian noise of each sample's standard deviation, drawn from the sample's own seed; not clipped."""
    generator = torch.Generator(images.device)
    result = images.clone()
    for row in (std > 0).nonzero().squeeze(1).tolist():
        generator.manual_seed(int(seeds[row]))
        noise = torch.randn(images.shape[1:], generator=generator, device=images.device, dtype=images.dtype)
        result[row].add_(noise, alpha=float(std[row]))
    return result


def blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Convolve each sample with its own Gaussian of ``sigma`` pixels, cut at 3 sigma of the widest; edges repeated."""
    rows = (sigma > 0).nonzero().squeeze(1)
    chosen = sigma[rows].double().unsqueeze(1)
    radius = max(1, math.ceil(3 * float(chosen.max())))
    kernels = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / chosen) ** 2)
    kernels = kernels / kernels.sum(1, keepdim=True)

    # Shifted sums instead of a grouped convolution: 40 times faster on the CPU, and never rounded to TF32 on a GPU.
    index = upload(rows, images.device)
    padded = functional.pad(images.index_select(0, index), (radius, radius, radius, radius), mode="replicate")
    taps = _per_sample(kernels, images).unbind(1)
    smooth = _weighted_windows(_weighted_windows(padded, taps, dim=3), taps, dim=2)
    return images.index_copy(0, index, smooth)


def _weighted_windows(padded: Tensor, taps: Sequence[Tensor], dim: int) -> Tensor:
    size = padded.shape[dim] - len(taps) + 1
    result = padded.narrow(dim, 0, size) * taps[0]
    for start, weight in enumerate(taps[1:], start=1):
        result.addcmul_(padded.narrow(dim, start, size), weight)
    return result


def _per_sample(values: Tensor, images: Tensor) -> Tensor:
    """Bring values (B, …) to the pictures' device and type, with three axes to broadcast over: (B, …, 1, 1, 1)."""
    return upload(values.to(images.dtype), images.device)[..., None, None, None]


def _is_linear(parameters: IntensityParameters) -> Tensor:
    return (parameters.brightness != 0) | (parameters.contrast != 1)
