"""Random changes of a training batch, on the training device: what may change, how far, and the drawing of it.

The parameters are drawn here, one row a sample; the plain functions in ``transforms_spatial`` and
``transforms_intensity`` apply them.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from LungSegmentationLib.errors import UsageError
from LungSegmentationLib.labels import LabelSet
from LungSegmentationLib.training.transforms_intensity import IntensityParameters, change_intensity
from LungSegmentationLib.training.transforms_spatial import (
    SpatialParameters,
    sample_images,
    sample_labels,
    sampling_grid,
)
from LungSegmentationLib.training.upload import upload

__all__ = ["Augmentation", "AugmentationConfig", "mirror_table"]

Probability = Annotated[float, Field(ge=0, le=1)]

# What is off in a preset; "default" is what the fields say.
_PRESETS: dict[str, dict[str, float]] = {
    "none": {
        "flip_probability": 0,
        "affine_probability": 0,
        "elastic_probability": 0,
        "brightness_probability": 0,
        "contrast_probability": 0,
        "gamma_probability": 0,
        "noise_probability": 0,
        "blur_probability": 0,
    },
    "light": {
        "flip_probability": 0,
        "rotation_degrees": 7,
        "scale_limit": 0.08,
        "shift_limit": 0.03,
        "elastic_probability": 0,
        "brightness_limit": 0.05,
        "contrast_limit": 0.1,
        "gamma_limit": 0.15,
        "noise_limit": 0.015,
        "blur_probability": 0,
    },
    "default": {},
}


class AugmentationConfig(BaseModel):
    """How often and how far a sample is changed; each probability is drawn for each sample on its own.

    A preset's name (``none``, ``light``, ``default``) stands for the settings it holds, also where this is a field of
    another model. Values are drawn uniformly from −limit to limit, factors from their logarithm.

    Attributes
    ----------
    flip_probability
        Left and right exchanged, mirror partners (right lung ↔ left lung) with them.
    affine_probability
        Rotation by up to ``rotation_degrees``, scaling by a factor from 1 / (1 + ``scale_limit``) to
        1 + ``scale_limit``, and a shift by up to ``shift_limit`` of the width and the height, together.
    elastic_probability
        Cubic B-spline with ``elastic_spans`` spans across the picture and control points moved by up to
        ``elastic_limit`` spans along each axis; the bound keeps it from folding.
    brightness_probability
        Up to ± ``brightness_limit`` of the window added.
    contrast_probability
        Factor from 1 / (1 + ``contrast_limit``) to 1 + ``contrast_limit`` about the sample's mean.
    gamma_probability
        Exponent from 1 / (1 + ``gamma_limit``) to 1 + ``gamma_limit``.
    noise_probability
        Gaussian noise with a standard deviation of up to ``noise_limit`` of the window (0.03 of 1400 HU: 42 HU).
    blur_probability
        Gaussian with a standard deviation of up to ``blur_limit`` pixels.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    flip_probability: Probability = 0.5
    affine_probability: Probability = 0.8
    rotation_degrees: float = Field(default=15, ge=0, le=180)
    scale_limit: float = Field(default=0.15, ge=0, le=1)
    shift_limit: float = Field(default=0.06, ge=0, le=0.5)
    elastic_probability: Probability = 0.3
    elastic_limit: float = Field(default=0.25, ge=0, le=0.4)
    elastic_spans: int = Field(default=8, ge=1, le=32)
    brightness_probability: Probability = 0.3
    brightness_limit: float = Field(default=0.1, ge=0, le=1)
    contrast_probability: Probability = 0.3
    contrast_limit: float = Field(default=0.25, ge=0, le=3)
    gamma_probability: Probability = 0.3
    gamma_limit: float = Field(default=0.4, ge=0, le=3)
    noise_probability: Probability = 0.2
    noise_limit: float = Field(default=0.03, ge=0, le=1)
    blur_probability: Probability = 0.15
    blur_limit: float = Field(default=1.2, ge=0, le=10)

    @model_validator(mode="before")
    @classmethod
    def _from_preset_name(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if value not in _PRESETS:
            raise ValueError(f"“{value}” is no preset of the augmentation: choose one of {', '.join(_PRESETS)}")
        return dict(_PRESETS[value])

    @classmethod
    def preset(cls, name: Literal["none", "light", "default"]) -> AugmentationConfig:
        """Return the settings of a preset; another name is a pydantic ``ValidationError`` that lists them."""
        return cls.model_validate(name)


class Augmentation:
    """Changes a batch at random: pictures, structures and the annotated flags, all of them alike.

    Parameters
    ----------
    config
        What may change and how far.
    label_set
        Says which structures are mirror partners.
    content
        What the labels hold: ``bits`` (bit k − 1 is label k, at most 8 structures) or ``labels`` (a label map).

    Notes
    -----
    All randomness comes from the generator of the call, so its state (``get_state``, ``set_state``) is all that a
    checkpoint keeps. It lies best on the CPU: then every device gets the same parameters, and a GPU is never waited
    for. Each sample takes one row of draws, and its noise comes from a seed in that row: a batch cut into smaller ones
    (after running out of memory) is changed as the whole one would have been.

    Expected sizes
    --------------
    Pixels are square. The pictures are windowed CT scaled to [0, 1] (:func:`.transforms_intensity.scale_window`), so
    that brightness and gamma mean the same for every patient and what comes in from outside is air (0).
    Normalization comes after.
    """

    def __init__(
        self, config: AugmentationConfig, label_set: LabelSet, content: Literal["bits", "labels"] = "bits"
    ) -> None:
        self.config = config
        self.label_set = label_set
        self._table = mirror_table(label_set, content)
        self._partner = torch.tensor([label_set.mirrored(key).label - 1 for key in label_set.keys])

    def __call__(
        self, images: Tensor, labels: Tensor, annotated: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the changed batch; the tensors given are not written to.

        Parameters
        ----------
        images
            Floating point, (B, C, H, W), in [0, 1]; C neighboring slices move together. The result has their type.
        labels
            uint8, (B, H, W), bits or labels; the result holds no value that they did not, but for background (0) from
            outside and the mirror partners.
        annotated
            bool, (B, number of structures): which structures were drawn in each sample's case.
        generator
            Advanced by as many draws as the batch has samples, whatever comes out of them.

        Raises
        ------
        ValueError
            If the shapes or types are others than these.
        """
        self._check(images, labels, annotated)
        spatial, intensity = self.draw(len(images), generator)
        return self.apply(images, labels, annotated, spatial, intensity)

    def draw(self, size: int, generator: torch.Generator) -> tuple[SpatialParameters, IntensityParameters]:
        """Draw the parameters of ``size`` samples, on the CPU."""
        config = self.config
        points = config.elastic_spans + 3 if config.elastic_probability else 0
        columns = 19 + 2 * points**2
        uniform = torch.rand(size, columns, generator=generator, device=generator.device, dtype=torch.float64).cpu()
        chance, value = uniform[:, :8], 2 * uniform[:, 8:17] - 1
        flip, affine, elastic, brightness, contrast, gamma, noise, blur = (
            chance[:, column] < probability
            for column, probability in enumerate(
                (
                    config.flip_probability,
                    config.affine_probability,
                    config.elastic_probability,
                    config.brightness_probability,
                    config.contrast_probability,
                    config.gamma_probability,
                    config.noise_probability,
                    config.blur_probability,
                )
            )
        )
        nodes = None
        if points:
            nodes = (2 * uniform[:, 19:] - 1).view(size, 2, points, points) * config.elastic_limit
            nodes = nodes * elastic.view(-1, 1, 1, 1)
        spatial = SpatialParameters(
            flip=flip,
            angle=value[:, 0] * config.rotation_degrees * affine,
            scale=_factor(value[:, 1], config.scale_limit, affine),
            shift=value[:, 2:4] * config.shift_limit * affine.unsqueeze(1),
            nodes=nodes,
        )
        intensity = IntensityParameters(
            brightness=value[:, 4] * config.brightness_limit * brightness,
            contrast=_factor(value[:, 5], config.contrast_limit, contrast),
            gamma=_factor(value[:, 6], config.gamma_limit, gamma),
            noise=value[:, 7].abs() * config.noise_limit * noise,
            noise_seed=(uniform[:, 17] * 2**53).long(),
            blur=value[:, 8].abs() * config.blur_limit * blur,
        )
        return spatial, intensity

    @torch.no_grad()
    def apply(
        self,
        images: Tensor,
        labels: Tensor,
        annotated: Tensor,
        spatial: SpatialParameters,
        intensity: IntensityParameters,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Change a batch by given parameters; shapes as in a call."""
        kind = images.dtype
        # Half precision has too few digits for places and noise, also where autocast would choose it.
        with torch.autocast(images.device.type, enabled=False):
            changed = images.float()
            rows = spatial.active.nonzero().squeeze(1)
            if len(rows):
                changed, labels = self._move(changed, labels, spatial.rows(rows), upload(rows, images.device))
            if bool(spatial.flip.any()):
                flipped = upload(spatial.flip, annotated.device).unsqueeze(1)
                annotated = torch.where(flipped, annotated[:, upload(self._partner, annotated.device)], annotated)
            changed = change_intensity(changed, intensity)
        return changed.to(kind), labels, annotated

    def _move(self, images: Tensor, labels: Tensor, spatial: SpatialParameters, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Sample the rows that move; the others stay bit by bit."""
        grid = sampling_grid(spatial, images.shape[2], images.shape[3], images.device)
        everything = len(rows) == len(images)
        pictures = sample_images(images if everything else images.index_select(0, rows), grid)
        structures = sample_labels(labels if everything else labels.index_select(0, rows), grid)
        flipped = upload(spatial.flip.nonzero().squeeze(1), labels.device)
        if len(flipped):
            partners = upload(self._table, labels.device)
            chosen = structures.index_select(0, flipped)
            swapped = partners.index_select(0, chosen.flatten().int()).view_as(chosen)
            structures.index_copy_(0, flipped, swapped)
        if everything:
            return pictures, structures
        return images.index_copy(0, rows, pictures), labels.index_copy(0, rows, structures)

    def _check(self, images: Tensor, labels: Tensor, annotated: Tensor) -> None:
        if images.ndim != 4 or not images.is_floating_point():
            raise ValueError(f"images are floating point (B, C, H, W), not {images.dtype} {tuple(images.shape)}")
        expected = (images.shape[0], *images.shape[2:])
        if labels.dtype != torch.uint8 or labels.shape != expected:
            raise ValueError(f"labels are uint8 {expected}, not {labels.dtype} {tuple(labels.shape)}")
        flags = (images.shape[0], len(self.label_set))
        if annotated.dtype != torch.bool or annotated.shape != flags:
            raise ValueError(f"annotated is bool {flags}, not {annotated.dtype} {tuple(annotated.shape)}")


def mirror_table(label_set: LabelSet, content: Literal["bits", "labels"] = "bits") -> Tensor:
    """Return what each value of a bit field or a label map becomes when left and right are exchanged.

    Returns
    -------
    uint8, (256,)
        Mirror partners change places, all else stays; values that the label set does not know stay too.

    Raises
    ------
    UsageError
        If the label set has more structures than a byte has bits, or labels.
    """
    most = 8 if content == "bits" else 255
    if len(label_set) > most:
        raise UsageError(
            f"The label set {label_set.name} has {len(label_set)} structures, a byte of {content} holds {most}.",
            "Use label maps instead of bits." if content == "bits" else "",
        )
    values = torch.arange(256)
    table = values.clone()
    for structure in label_set.structures:
        partner = label_set.mirrored(structure.key)
        if content == "labels":
            table[structure.label] = partner.label
        elif partner is not structure:
            source, target = structure.label - 1, partner.label - 1
            table = (table & ~(1 << target)) | (((values >> source) & 1) << target)
    return table.to(torch.uint8)


def _factor(value: Tensor, limit: float, chosen: Tensor) -> Tensor:
    """Return factors from 1 / (1 + limit) to 1 + limit, as often below 1 as above, and 1 where not chosen."""
    return torch.exp(value * math.log1p(limit) * chosen)
