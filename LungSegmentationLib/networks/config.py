"""What a network looks like, in numbers: one frozen description for settings, model files and :mod:`.unet`."""

from __future__ import annotations

from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from LungSegmentationLib.errors import UsageError

__all__ = ["PRESETS", "NetworkConfig", "network_preset"]

STANDARD_WIDTHS = (64, 128, 256, 512, 1024)

PRESETS: MappingProxyType[str, dict[str, Any]] = MappingProxyType(
    {
        "standard": {"widths": STANDARD_WIDTHS},
        "lite": {"widths": (32, 64, 128, 256, 512)},
        "tiny": {"widths": (16, 32, 64, 128, 256)},
        "attention": {"widths": STANDARD_WIDTHS, "attention": True},
        "residual": {"widths": STANDARD_WIDTHS, "residual": True},
        "deep_supervision": {"widths": STANDARD_WIDTHS, "deep_supervision": 2},
    }
)
MAX_DEPTH = 7
MAX_WIDTH = 4096


class NetworkConfig(BaseModel):
    """Architecture of a 2D U-Net. It decides the names and shapes of all weights, and nothing about training.

    Attributes
    ----------
    name
        What people call it; a preset's name or one of their own.
    in_channels
        1, or 3 or 5 neighboring slices (2.5D), the segmented one in the middle.
    out_channels
        Background and structures (softmax), or structures (sigmoid).
    widths
        Channels of each level, from full resolution down. Five levels are the classical four poolings.
    norm
        ``batch``, ``instance``, ``group`` (these two do not mix samples, so the batch size does not matter), ``none``.
    groups
        Groups of ``norm="group"``; must divide every width.
    dropout
        Chance of a channel to be zeroed after the two deepest levels of the contracting path, in training.
    upsampling
        ``transposed`` (learned, 2×2, stride 2) or ``bilinear`` followed by a 1×1 convolution.
    attention
        Additive attention gates on the skip connections (Oktay et al. 2018, arXiv:1804.03999).
    residual
        A shortcut around each double convolution (He et al. 2016, arXiv:1512.03385).
    deep_supervision
        Number of extra outputs in training, at 1/2, 1/4 … of the resolution.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")] = "standard"
    in_channels: Literal[1, 3, 5] = 1
    out_channels: Annotated[int, Field(ge=1, le=1024)] = 8
    widths: Annotated[
        tuple[Annotated[int, Field(ge=1, le=MAX_WIDTH)], ...], Field(min_length=2, max_length=MAX_DEPTH + 1)
    ] = STANDARD_WIDTHS
    norm: Literal["batch", "instance", "group", "none"] = "batch"
    groups: Annotated[int, Field(ge=1)] = 8
    dropout: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] = 0.0
    upsampling: Literal["transposed", "bilinear"] = "transposed"
    attention: bool = False
    residual: bool = False
    deep_supervision: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _fits_together(self) -> NetworkConfig:
        if self.norm == "group" and any(width % self.groups for width in self.widths):
            raise ValueError(f"groups={self.groups} does not divide all of the widths {list(self.widths)}")
        if self.deep_supervision >= self.depth:
            raise ValueError(
                f"deep_supervision={self.deep_supervision} is too many: this depth has {self.depth - 1} inner outputs"
            )
        return self

    @property
    def depth(self) -> int:
        """Number of poolings; the deepest level sees 1 / 2**depth of the resolution."""
        return len(self.widths) - 1

    @property
    def neighbors(self) -> int:
        """Slices on each side that come with the segmented one."""
        return self.in_channels // 2


def network_preset(name: str, *, depth: int | None = None, **changes: Any) -> NetworkConfig:
    """Return a network by its name, with changes.

    Parameters
    ----------
    name
        ``standard``, ``lite``, ``tiny``, ``attention``, ``residual`` or ``deep_supervision``.
    depth
        Other number of poolings: levels are left out at the bottom, or added with twice the channels each.
    changes
        Any field of :class:`NetworkConfig`.

    Raises
    ------
    UsageError
        If there is no such preset or field, or a value is out of its bounds.

    Examples
    --------
    >>> network_preset("tiny", depth=3, in_channels=3).widths
    (16, 32, 64, 128)
    """
    if name not in PRESETS:
        raise UsageError(f"There is no network “{name}”.", f"Choose one of: {', '.join(PRESETS)}.")
    settings = {"name": name} | PRESETS[name] | changes
    if depth is not None:
        if "widths" in changes:
            raise UsageError(
                "A network takes widths or depth, not both.", "The number of widths is the depth plus one."
            )
        if not 1 <= depth <= MAX_DEPTH:
            raise UsageError(f"A network of depth {depth} cannot be built.", f"Choose 1 to {MAX_DEPTH}.")
        first = settings["widths"][0]
        settings["widths"] = tuple(first << level for level in range(depth + 1))
    try:
        return NetworkConfig(**settings)
    except ValidationError as error:
        raise UsageError(f"This network cannot be built: {_first(error)}.") from error


def _first(error: ValidationError) -> str:
    detail = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        return f"{place} is no setting of a network; it has {', '.join(NetworkConfig.model_fields)}"
    return f"{place}: {detail['msg']}" if place else detail["msg"].removeprefix("Value error, ")
