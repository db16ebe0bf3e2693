"""Flip, rotation, scale, shift and elastic deformation of a batch, joined into one sampling grid.

The pictures are interpolated once (bilinear), the labels once (nearest), both at the same places.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

from LungSegmentationLib.training.upload import upload

__all__ = ["SpatialParameters", "sample_images", "sample_labels", "sampling_grid", "spline_basis"]


@dataclass(frozen=True)
class SpatialParameters:
    """What happens to each sample of a batch of B, as tensors on the CPU.

    Content is flipped, then rotated and scaled about the center of the picture, then shifted, then deformed.
    Rows of a picture run along y (LPS: to posterior), columns along x (LPS: to the patient's left).

    Attributes
    ----------
    flip
        bool, (B,): exchange left and right (mirror along x, the last axis).
    angle
        (B,), degrees, counterclockwise as displayed with row 0 at the top; pixels are taken as square.
    scale
        (B,), above 1 enlarges.
    shift
        (B, 2), along x and y, in fractions of the width and the height; positive to the right and downwards.
    nodes
        (B, 2, n + 3, n + 3), displacements along x and y of the control points of a uniform cubic B-spline with n
        spans across the picture, in units of the span; ``None`` where nothing is deformed.
        Below 0.48 spans the deformation cannot fold (Choi and Lee, Graphical Models 62:411, 2000).
    """

    flip: Tensor
    angle: Tensor
    scale: Tensor
    shift: Tensor
    nodes: Tensor | None = None

    @classmethod
    def identity(cls, size: int) -> SpatialParameters:
        """Return the parameters that leave ``size`` samples where they are."""
        zeros = torch.zeros(size, dtype=torch.float64)
        return cls(zeros.bool(), zeros, torch.ones_like(zeros), torch.zeros(size, 2, dtype=torch.float64))

    @property
    def active(self) -> Tensor:
        """Which samples move at all, bool (B,)."""
        moved = self.flip | (self.angle != 0) | (self.scale != 1) | (self.shift != 0).any(1)
        return moved if self.nodes is None else moved | (self.nodes != 0).flatten(1).any(1)

    def rows(self, index: Tensor) -> SpatialParameters:
        """Return the parameters of some of the samples."""
        nodes = None if self.nodes is None else self.nodes[index]
        return SpatialParameters(self.flip[index], self.angle[index], self.scale[index], self.shift[index], nodes)


def sampling_grid(parameters: SpatialParameters, height: int, width: int, device: torch.device) -> Tensor:
    """Return where each pixel of the result is read from.

    Returns
    -------
    float32, (B, height, width, 2)
        x and y in the convention of :func:`torch.nn.functional.grid_sample` with ``align_corners=False``: −1 and 1
        are the outer edges of the picture.
    """
    matrix = _inverse_matrices(parameters)
    offset = -(matrix @ _to_pixels(parameters.shift, height, width).unsqueeze(2))
    # Everything in pixels is exact first and scaled to −1 … 1 at the end: products of small matrices on the CPU.
    unit = torch.tensor([2 / width, 2 / height], dtype=torch.float64).view(1, 2, 1)
    coefficients = upload((torch.cat([matrix, offset], 2) * unit).float(), device)[..., None, None]
    x = (torch.arange(width, device=device, dtype=torch.float32) - (width - 1) / 2).view(1, 1, 1, width)
    y = (torch.arange(height, device=device, dtype=torch.float32) - (height - 1) / 2).view(1, 1, height, 1)
    along_x, along_y, constant = coefficients.unbind(2)
    grid = along_x * x + (along_y * y + constant)
    if parameters.nodes is not None:
        rows = (parameters.nodes != 0).flatten(1).any(1).nonzero().squeeze(1)
        if len(rows):
            deformation = _deformation(parameters.nodes[rows], matrix[rows] * unit, height, width, device)
            grid.index_add_(0, upload(rows, device), deformation)
    return grid.permute(0, 2, 3, 1)


def sample_images(images: Tensor, grid: Tensor) -> Tensor:
    """Interpolate pictures linearly; what lies outside is 0, the low end of the window (air).

    Parameters
    ----------
    images
        float32, (B, C, H, W); the channels of a sample share its row of the grid.
    grid
        From :func:`sampling_grid`.
    """
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def sample_labels(labels: Tensor, grid: Tensor) -> Tensor:
    """Take the nearest label or bit field; what lies outside is 0, background.

    Parameters
    ----------
    labels
        uint8, (B, H, W).
    grid
        From :func:`sampling_grid`.
    """
    # float32 holds 0–255 without loss, and nearest picks, it does not mix.
    picked = functional.grid_sample(
        labels.unsqueeze(1).float(), grid, mode="nearest", padding_mode="zeros", align_corners=False
    )
    return picked.squeeze(1).to(torch.uint8)


@lru_cache(maxsize=8)
def spline_basis(size: int, spans: int) -> Tensor:
    """Return the weights of the control points of a uniform cubic B-spline at the pixel centers of one axis.

    Returns
    -------
    float32, (size, spans + 3)
        Each row sums to 1.
    """
    position = (torch.arange(size, dtype=torch.float64) + 0.5) * (spans / size)
    span = position.floor().clamp_(max=spans - 1)
    t = position - span
    weights = torch.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], 1) / 6
    basis = torch.zeros(size, spans + 3, dtype=torch.float64)
    return basis.scatter_(1, span.long().unsqueeze(1) + torch.arange(4), weights).float()


def _inverse_matrices(parameters: SpatialParameters) -> Tensor:
    """Return the matrices (B, 2, 2) from a place in the result to one in the source, both in pixels from the center."""
    radians = torch.deg2rad(parameters.angle.double())
    cosine, sine = radians.cos() / parameters.scale, radians.sin() / parameters.scale
    side = torch.where(parameters.flip, -1.0, 1.0)
    return torch.stack([torch.stack([side * cosine, -side * sine], 1), torch.stack([sine, cosine], 1)], 1)


def _to_pixels(fractions: Tensor, height: int, width: int) -> Tensor:
    return fractions.double() * torch.tensor([width, height], dtype=torch.float64)


def _deformation(nodes: Tensor, matrix: Tensor, height: int, width: int, device: torch.device) -> Tensor:
    """Return the spline's displacements in the source, (B, 2, H, W); the control points are turned, not the pixels."""
    spans = nodes.shape[-1] - 3
    pixels = nodes.double() * torch.tensor([width / spans, height / spans], dtype=torch.float64).view(1, 2, 1, 1)
    turned = upload(torch.einsum("bij,bjkl->bikl", matrix, pixels).float(), device)
    down, across = upload(spline_basis(height, spans), device), upload(spline_basis(width, spans), device)
    # In this order the wide product is one matrix product over the whole batch.
    return (down @ turned) @ across.T
