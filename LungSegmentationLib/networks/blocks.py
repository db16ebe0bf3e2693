"""The parts that a U-Net is made of: double convolution, upsampling, attention gate."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from LungSegmentationLib.networks.config import NetworkConfig

__all__ = ["AttentionGate", "DoubleConv", "Upsampling", "make_norm"]


def make_norm(config: NetworkConfig, channels: int) -> nn.Module:
    """Return the normalization layer that a network of this configuration uses."""
    match config.norm:
        case "batch":
            return nn.BatchNorm2d(channels)
        case "instance":
            return nn.InstanceNorm2d(channels, affine=True)
        case "group":
            return nn.GroupNorm(config.groups, channels)
        case "none":
            return nn.Identity()


class DoubleConv(nn.Module):
    """Twice: 3×3 convolution, normalization, ReLU; with ``residual`` a shortcut joins before the last ReLU.

    The convolutions have a bias only without normalization, which would take it away again.

    Shapes: (B, in_channels, H, W) → (B, out_channels, H, W).
    """

    def __init__(self, config: NetworkConfig, in_channels: int, out_channels: int, dropout: float = 0.0) -> None:
        super().__init__()
        bias = config.norm == "none"
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=bias)
        self.norm1 = make_norm(config, out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=bias)
        self.norm2 = make_norm(config, out_channels)
        self.shortcut: nn.Module | None = None
        if config.residual:
            self.shortcut = (
                nn.Identity()
                if in_channels == out_channels
                else nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, bias=bias), make_norm(config, out_channels))
            )
        self.dropout: nn.Module | None = nn.Dropout2d(dropout) if dropout else None

    def forward(self, x: Tensor) -> Tensor:
        """Return the features, (B, out_channels, H, W)."""
        features = functional.relu(self.norm1(self.conv1(x)), inplace=True)
        features = self.norm2(self.conv2(features))
        if self.shortcut is not None:
            features = features + self.shortcut(x)
        features = functional.relu(features, inplace=True)
        return features if self.dropout is None else self.dropout(features)


class Upsampling(nn.Module):
    """Twice the resolution, other channels: (B, in_channels, H, W) → (B, out_channels, 2H, 2W)."""

    def __init__(self, config: NetworkConfig, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.bilinear = config.upsampling == "bilinear"
        self.conv: nn.Module = (
            nn.Conv2d(in_channels, out_channels, 1)
            if self.bilinear
            else nn.ConvTranspose2d(in_channels, out_channels, 2, stride=2)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the features at twice the resolution."""
        x = self.conv(x)
        # A 1×1 convolution and a linear interpolation commute, so the cheap resolution goes first.
        return functional.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False) if self.bilinear else x


class AttentionGate(nn.Module):
    """Weights a skip connection by what the coarser level has seen (Oktay et al. 2018, arXiv:1804.03999).

    ``α = σ(ψ(ReLU(θ(skip) + φ(gating))))`` is found on the coarser grid and brought to the finer one linearly.

    Shapes: skip (B, C, 2H, 2W), gating (B, G, H, W) → (B, C, 2H, 2W).
    """

    def __init__(self, skip_channels: int, gating_channels: int) -> None:
        super().__init__()
        inner = max(1, skip_channels // 2)
        self.theta = nn.Conv2d(skip_channels, inner, 2, stride=2, bias=False)
        self.phi = nn.Conv2d(gating_channels, inner, 1)
        self.psi = nn.Conv2d(inner, 1, 1)

    def forward(self, skip: Tensor, gating: Tensor) -> Tensor:
        """Return the skip connection times α."""
        weight = torch.sigmoid(self.psi(functional.relu(self.theta(skip) + self.phi(gating))))
        weight = functional.interpolate(weight, scale_factor=2.0, mode="bilinear", align_corners=False)
        return skip * weight
