"""All settings of a training as one typed configuration; a wrong or unknown one is refused with what would be right."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from LungSegmentationLib.errors import UsageError
from LungSegmentationLib.networks.config import PRESETS, NetworkConfig, network_preset
from LungSegmentationLib.training.augmentation import AugmentationConfig
from LungSegmentationLib.training.losses import LossConfig

__all__ = ["SamplingConfig", "TrainingConfig"]


def _none(value: Any) -> Any:
    return None if isinstance(value, str) and value.casefold() in {"none", "null", "all", ""} else value


def _network(value: Any) -> Any:
    if isinstance(value, str):
        return network_preset(value)
    if not isinstance(value, Mapping):
        return value
    settings = dict(value)
    if settings.get("out_channels", 8) != 8:
        raise ValueError("out_channels follows from structures and overlap; leave it out")
    name = settings.pop("name", "custom" if "widths" in settings else "standard")
    if name in PRESETS:
        return network_preset(name, **settings)
    return NetworkConfig.model_validate({"name": name} | settings)


_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Count = Annotated[int, Field(ge=1)]
_MaybeCount = Annotated[_Count | None, BeforeValidator(_none)]


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SamplingConfig(_Settings):
    """Which slices an epoch holds.

    Attributes
    ----------
    oversample_rare
        How many times more an epoch holds each slice with a rare structure; 0 is every slice once, 1.5 is one extra
        time for all of them and another one for half.
    rare
        Keys of the structures that are rare. Default: those learned that lie in fewer slices than ``rare_below``.
    rare_below
        Share of the training slices.
    """

    oversample_rare: Annotated[float, Field(ge=0, le=20, allow_inf_nan=False)] = 0.0
    rare: tuple[str, ...] | None = None
    rare_below: Annotated[float, Field(gt=0, le=1)] = 0.1

    @field_validator("rare", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return _words(value)


class TrainingConfig(_Settings):
    """How a network is trained. The defaults are those of the published pipeline.

    Attributes
    ----------
    epochs, batch_size, learning_rate, patience, seed
        ``patience`` is the number of epochs without a better ``monitor`` after which training stops, whether each of
        them is validated or not; ``none``: never.
    network
        Name of a preset, or settings of :class:`.NetworkConfig` on top of the preset that ``name`` says. Its inputs
        follow from ``neighbors``, its outputs from ``structures`` and ``overlap``.
    device
        ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
    structures
        Keys of what is learned; what is left out gives its voxels back to what lies under it. Default: all.
    overlap
        ``exclusive``: softmax over background and structures; ``keep``: a sigmoid each, as drawn.
    normalization
        ``zscore``: per patient; ``window``: the window scaled to [0, 1].
    neighbors
        Slices on each side that are further input channels (0, 1, 2).
    loss, augmentation, sampling
        See there. ``augmentation`` also takes a preset's name.
    class_weights
        ``file``: those of ``class_weights.json``, for the structures that are learned; ``none``: all 1. With
        ``overlap=keep`` anything but ``none`` divides each structure's cross-entropy by the entropy of its frequency.
    optimizer, weight_decay, momentum
        ``momentum`` is that of ``sgd``.
    schedule
        ``none``; ``plateau``: times ``plateau_factor`` after ``plateau_patience`` epochs without a better ``monitor``;
        ``cosine``: down to ``minimum_learning_rate`` at the last epoch. ``warmup_epochs`` comes before each of them.
    gradient_clip
        Largest norm of the gradient.
    accumulation
        Parts in which a batch is computed to save memory, at the cost of one more forward pass. The step is that of
        the whole batch of ``batch_size``, but for what mixes samples within the network (batch norm) and dropout.
        Halving a batch that does not fit into memory raises it by itself.
    ema
        Decay of the moving average of the weights, which is then validated and saved.
    monitor, minimum_improvement
        What chooses the best model and stops early: ``val_loss``, or ``val_dice`` (mean over structures).
    precision
        ``auto`` (by the device), ``float32``, ``bfloat16``, ``float16``.
    compile, gradient_checkpointing, channels_last
        Speed and memory; the result is the same but for rounding.
    steps_per_epoch
        Cut an epoch after so many steps; the next epoch goes on with another order.
    validate_every
        Epochs.
    checkpoint_every, keep_checkpoints
        Epochs between checkpoints that are kept beside the last one, and how many of them stay.
    prefetch
        Batches that are gathered ahead.
    threads
        Of the CPU; default: what PyTorch chooses.
    tensorboard
        Write TensorBoard logs as well.
    """

    epochs: _Count = 50
    batch_size: _Count = 8
    learning_rate: _Positive = 1e-4
    network: Annotated[NetworkConfig, BeforeValidator(_network)] = Field(default_factory=NetworkConfig)
    device: Annotated[str, Field(min_length=1)] = "auto"
    patience: _MaybeCount = 10
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 42

    structures: tuple[str, ...] | None = None
    overlap: Literal["exclusive", "keep"] = "exclusive"
    normalization: Literal["zscore", "window"] = "zscore"
    neighbors: Literal[0, 1, 2] = 0
    loss: LossConfig = Field(default_factory=LossConfig)
    class_weights: Literal["file", "none"] = "file"
    augmentation: AugmentationConfig = Field(default_factory=AugmentationConfig)
    sampling: SamplingConfig = Field(default_factory=SamplingConfig)

    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    weight_decay: _NotNegative = 0.0
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    schedule: Literal["none", "plateau", "cosine"] = "none"
    plateau_factor: Annotated[float, Field(gt=0, lt=1)] = 0.5
    plateau_patience: Annotated[int, Field(ge=0)] = 5
    minimum_learning_rate: _NotNegative = 0.0
    warmup_epochs: _NotNegative = 0.0
    gradient_clip: Annotated[_Positive | None, BeforeValidator(_none)] = None
    accumulation: _Count = 1
    ema: Annotated[Annotated[float, Field(gt=0, lt=1)] | None, BeforeValidator(_none)] = None
    monitor: Literal["val_loss", "val_dice"] = "val_loss"
    minimum_improvement: _NotNegative = 0.0

    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    compile: bool = False
    gradient_checkpointing: bool = False
    channels_last: bool = True
    steps_per_epoch: _MaybeCount = None
    validate_every: _Count = 1
    checkpoint_every: _Count = 10
    keep_checkpoints: Annotated[int, Field(ge=0)] = 2
    prefetch: Annotated[int, Field(ge=1, le=64)] = 3
    threads: _MaybeCount = None
    tensorboard: bool = False

    @model_validator(mode="before")
    @classmethod
    def _one_overlap(cls, values: Any) -> Any:
        """Let ``overlap`` and ``loss.overlap`` be one setting, and the network's inputs follow the neighbors."""
        if not isinstance(values, Mapping):
            return values
        values = dict(values)
        loss = values.get("loss", {})
        if isinstance(loss, Mapping):
            if "overlap" not in loss and "overlap" in values:
                values["loss"] = {**loss, "overlap": values["overlap"]}
            elif "overlap" not in values and "overlap" in loss:
                values["overlap"] = loss["overlap"]
        elif isinstance(loss, LossConfig):
            values.setdefault("overlap", loss.overlap)
        return values

    @field_validator("structures", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return _words(value)

    @field_validator("structures")
    @classmethod
    def _some(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value is not None and (not value or len(set(value)) != len(value)):
            raise ValueError("name each structure once, and one at least")
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.loss.overlap != self.overlap:
            raise ValueError(f"overlap is {self.overlap}, but loss.overlap {self.loss.overlap}: give one of them")
        if self.accumulation > self.batch_size:
            raise ValueError(f"accumulation={self.accumulation} is more than batch_size={self.batch_size}")
        inputs = 2 * self.neighbors + 1
        if self.network.in_channels not in {1, inputs}:
            raise ValueError(f"network.in_channels={self.network.in_channels} is set by neighbors={self.neighbors}")
        if self.network.in_channels != inputs:
            # The one place where a validated field is completed by another.
            object.__setattr__(self, "network", self.network.model_copy(update={"in_channels": inputs}))
        return self

    @classmethod
    def load(
        cls,
        file: Path | None = None,
        settings: Sequence[str] = (),
        base: Mapping[str, Any] | None = None,
    ) -> TrainingConfig:
        """Read settings: defaults, then ``base``, then a JSON file, then ``key=value`` texts.

        Parameters
        ----------
        file
            JSON object with any of the fields.
        settings
            ``key=value``; a key may have dots (``loss.region=tversky``), a value is JSON or plain text, a list may be
            written with commas.
        base
            Fields that hold unless set otherwise, for example those of a run that is resumed.

        Raises
        ------
        UsageError
            If the file cannot be read, or a setting is unknown or wrong: with what would be right.
        """
        values: dict[str, Any] = dict(base or {})
        if "overlap" in values and isinstance(values.get("loss"), Mapping):
            # So that a change of either name changes the one setting.
            values["loss"] = {name: value for name, value in values["loss"].items() if name != "overlap"}
        if file is not None:
            _merge(values, _read(file))
        for text in settings:
            key, equals, value = text.partition("=")
            if not equals or not key.strip():
                raise UsageError(f"“{text}” is no setting.", "Write key=value, for example epochs=2.")
            _put(values, key.strip().split("."), _parse(value.strip()))
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise UsageError(_sentence(error), "Settings are described in Docs/training.md.") from error

    def fixed_differences(self, other: TrainingConfig) -> list[str]:
        """Return which settings differ that a resumed run cannot change, as sentences' ends: ``seed (42, now 7)``."""
        differences = []
        for name in type(self).model_fields:
            mine, theirs = getattr(self, name), getattr(other, name)
            if name not in CHANGEABLE and mine != theirs:
                differences.extend(_differences(name, mine, theirs))
        return differences


CHANGEABLE = frozenset(
    {
        "epochs",
        "patience",
        "device",
        "precision",
        "channels_last",
        "gradient_checkpointing",
        "compile",
        "checkpoint_every",
        "keep_checkpoints",
        "prefetch",
        "threads",
        "tensorboard",
    }
)
"""What a resumed run may do in another way than before."""


def _words(value: Any) -> Any:
    value = _none(value)
    return [word.strip() for word in value.split(",")] if isinstance(value, str) else value


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise UsageError(f"There is no settings file {file}.", "Give the path of a JSON file to --config.") from error
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{file} is no JSON file: {error}.", 'Write for example {"epochs": 2}.') from error
    if not isinstance(content, dict):
        raise UsageError(f"{file} holds no settings.", 'Write a JSON object, for example {"epochs": 2}.')
    return content


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _merge(values: dict[str, Any], changes: Mapping[str, Any]) -> None:
    for name, value in changes.items():
        if isinstance(value, Mapping):
            _merge(_section(values, name), value)
        else:
            values[name] = value


def _put(values: dict[str, Any], path: list[str], value: Any) -> None:
    for name in path[:-1]:
        values = _section(values, name)
    values[path[-1]] = value


def _section(values: dict[str, Any], name: str) -> dict[str, Any]:
    """Return a group of settings to change; a preset's name becomes what it stands for."""
    value = values.get(name)
    if isinstance(value, str):
        if name == "augmentation":
            try:
                value = AugmentationConfig.model_validate(value).model_dump()
            except ValidationError as error:
                raise UsageError(_sentence(error)) from error
        else:
            value = {"name": value}
    values[name] = dict(value) if isinstance(value, Mapping) else {}
    section: dict[str, Any] = values[name]
    return section


def _sentence(error: ValidationError) -> str:
    details = error.errors(include_url=False)
    sentences = [_detail(item["type"], item["loc"], item["msg"], item.get("input")) for item in details]
    return " ".join(sentences[:4]) + (f" ({len(sentences) - 4} more)" if len(sentences) > 4 else "")


def _detail(kind: str, place: Iterable[int | str], message: str, value: object) -> str:
    parts = [str(part) for part in place]
    key = ".".join(parts)
    if kind == "extra_forbidden":
        names = list(_fields(parts[:-1]))
        close = difflib.get_close_matches(parts[-1], names, n=1)
        section = f" of {'.'.join(parts[:-1])}" if len(parts) > 1 else ""
        meant = f"did you mean {close[0]}? " if close else ""
        return f"“{key}” is no setting{section}: {meant}There are {', '.join(names)}."
    message = message.removeprefix("Value error, ").removeprefix("Assertion failed, ")
    if not key:
        return f"These settings do not fit together: {message}."
    if kind == "value_error":
        return f"{key}: {message}."
    return f"{key}={value} cannot be: {message[:1].lower()}{message[1:]}."


def _fields(path: list[str]) -> Iterable[str]:
    sections: dict[str, type[BaseModel]] = {
        "loss": LossConfig,
        "augmentation": AugmentationConfig,
        "sampling": SamplingConfig,
        "network": NetworkConfig,
    }
    return (sections.get(path[0], TrainingConfig) if path else TrainingConfig).model_fields


def _differences(name: str, mine: Any, theirs: Any) -> list[str]:
    if isinstance(mine, BaseModel) and type(mine) is type(theirs):
        return [
            f"{name}.{part} ({getattr(mine, part)}, now {getattr(theirs, part)})"
            for part in type(mine).model_fields
            if getattr(mine, part) != getattr(theirs, part)
        ]
    return [f"{name} ({mine}, now {theirs})"]
