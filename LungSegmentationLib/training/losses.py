"""How wrong a network is: pixel loss and region loss, with structures that nobody drew merged into background.

All is computed in float32 whatever the logits are, on the device where they are, and without waiting for it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from LungSegmentationLib.training.distributed import Processes

__all__ = [
    "ExclusiveLoss",
    "KeepLoss",
    "LossConfig",
    "LossParts",
    "SegmentationLoss",
    "build_loss",
    "chance_logits",
    "chance_weights",
]

RAREST = 1e-4
"""Share of pixels below which a structure does not count more for being rarer."""

_Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class LossConfig(BaseModel):
    """Which loss.

    Attributes
    ----------
    overlap
        ``exclusive``: softmax over background and structures; ``keep``: a sigmoid for each structure.
    partial
        What is done where a structure was not annotated: ``marginal``, its probability is merged into background
        (exclusive; Fang & Yan 2020, doi:10.1109/TMI.2020.3001036; Shi et al. 2021, doi:10.1016/j.media.2021.101979)
        or its output left out (keep); ``naive``, it is taken for absent. The latter is there to be compared with.
    pixel
        ``cross_entropy`` or ``focal`` (Lin et al. 2017, arXiv:1708.02002).
    region
        ``dice`` (Milletari et al. 2016, arXiv:1606.04797) or ``tversky`` (Salehi et al. 2017, arXiv:1706.05721).
    weight_ce, weight_dice
        Weights of the pixel loss and of the region loss, whichever they are.
    focal_gamma
        0 is cross-entropy.
    tversky_alpha, tversky_beta
        Weights of false positives and of false negatives; 0.5 and 0.5 are Dice.
    smooth
        Added to both sides of the Dice fraction, in pixels.
    absent
        A structure that was annotated and has no pixel in the batch: ``skip``, it has no region term (the pixel loss
        still charges for what is wrongly found); ``penalize``, its Dice is ``smooth / (predicted + smooth)``. The
        latter's slope on few wrong pixels is that of a whole structure, and in small trials cost rare ones Dice,
        so it is meant for trainings without a pixel loss.
    dice_background
        Whether (merged) background has a region term; ``exclusive`` only.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    overlap: Literal["exclusive", "keep"] = "exclusive"
    partial: Literal["marginal", "naive"] = "marginal"
    pixel: Literal["cross_entropy", "focal"] = "cross_entropy"
    region: Literal["dice", "tversky"] = "dice"
    weight_ce: _Weight = 0.5
    weight_dice: _Weight = 0.5
    focal_gamma: Annotated[float, Field(ge=0, le=10)] = 2.0
    tversky_alpha: Annotated[float, Field(gt=0, le=10)] = 0.3
    tversky_beta: Annotated[float, Field(gt=0, le=10)] = 0.7
    smooth: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    absent: Literal["skip", "penalize"] = "skip"
    dice_background: bool = True

    @model_validator(mode="after")
    def _teaches_something(self) -> LossConfig:
        if self.weight_ce + self.weight_dice == 0:
            raise ValueError("weight_ce and weight_dice are both 0: nothing would be learned")
        return self


@dataclass(frozen=True)
class LossParts:
    """A loss with what it is made of.

    Attributes
    ----------
    total
        Scalar with a gradient.
    parts
        Scalars without: the pixel and the region loss by their names, before weighting, of the main output.
    """

    total: Tensor
    parts: dict[str, Tensor]


class SegmentationLoss(nn.Module):
    """What both ways of handling overlap share: the two terms, deep supervision, and sums over processes.

    Parameters
    ----------
    config
        Which loss.
    structures
        Number of structures that are learned, background not counted.
    class_weights
        ``exclusive``: weight of each class in the cross-entropy, background first (structures + 1 values);
        ``keep``: weight of the cross-entropy of each structure (structures values). Default: all 1.
    processes
        In training, take all sums over the batches of all these processes, so that several processes learn exactly
        what one with their joined batch would. It asks that gradients are *averaged* over processes
        (:class:`.GradientExchange` does) and that all take the same number of steps. In evaluation mode each process
        is by itself. Default: this process is alone.

    Notes
    -----
    The network's outputs may be a list (deep supervision, Lee et al. 2015, arXiv:1409.5185): level k counts
    ``0.5**k``, the weights summing to 1, and is compared with every ``2**k``-th row and column of the target, so labels
    stay labels.
    """

    pixel_weights: Tensor

    def __init__(
        self,
        config: LossConfig,
        structures: int,
        class_weights: Sequence[float] | Tensor | None = None,
        *,
        processes: Processes | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.structures = structures
        self.channels = structures + (config.overlap == "exclusive")
        self._processes = processes
        weights = torch.ones(self.channels) if class_weights is None else torch.as_tensor(class_weights).float()
        if weights.shape != (self.channels,):
            raise ValueError(f"class_weights: {self.channels} values are needed, not {tuple(weights.shape)}")
        if not bool((torch.isfinite(weights) & (weights >= 0)).all()):
            raise ValueError("class_weights: finite numbers of 0 or more are needed")
        self.register_buffer("pixel_weights", weights, persistent=False)

    def forward(self, logits: Tensor | Sequence[Tensor], target: Tensor, annotated: Tensor | None = None) -> LossParts:
        """Return the loss of a batch.

        Parameters
        ----------
        logits
            (B, channels, H, W), or a list of levels from full resolution down, in any floating type.
        target
            ``exclusive``: classes, integer (B, H, W), 0 background, i the i-th learned structure.
            ``keep``: masks, bool or 0/1 (B, structures, H, W).
        annotated
            Bool (B, structures): which structures were drawn in the case of each slice. Default: all.
        """
        levels = [logits] if isinstance(logits, Tensor) else list(logits)
        batch = levels[0].shape[0]
        if annotated is None:
            annotated = torch.ones(batch, self.structures, dtype=torch.bool, device=target.device)
        if annotated.shape != (batch, self.structures):
            raise ValueError(f"annotated is ({batch}, {self.structures}), not {tuple(annotated.shape)}")
        annotated = annotated.bool()
        if self.config.partial == "naive":
            annotated = torch.ones_like(annotated)

        share = [0.5**level for level in range(len(levels))]
        total: Tensor | None = None
        parts: dict[str, Tensor] = {}
        for level, outputs in enumerate(levels):
            seen = target[..., :: 1 << level, :: 1 << level]
            if outputs.shape[1] != self.channels or outputs.shape[-2:] != seen.shape[-2:]:
                raise ValueError(f"logits of level {level} are {tuple(outputs.shape)}, the target {tuple(seen.shape)}")
            # float64 stays, for numerical checks of the gradient.
            precise = outputs if outputs.dtype == torch.float64 else outputs.float()
            pixel, region = self._terms(precise, seen, annotated)
            loss = (self.config.weight_ce * pixel + self.config.weight_dice * region) * (share[level] / sum(share))
            total = loss if total is None else total + loss
            if not level:
                parts = {self.config.pixel: pixel.detach(), self.config.region: region.detach()}
        if total is None:
            raise ValueError("there are no logits")
        return LossParts(total, parts)

    def _terms(self, logits: Tensor, target: Tensor, annotated: Tensor) -> tuple[Tensor, Tensor]:
        # Exclusive and overlapping structures each have their own; this base is never used alone.
        raise NotImplementedError

    def _focused(self, cross_entropy: Tensor) -> Tensor:
        """Apply ``(1 − p)**γ`` to cross-entropies ``−log p``."""
        if self.config.pixel == "cross_entropy":
            return cross_entropy
        # The lower bound keeps the slope of the power finite where p is 1.
        wrong = (-torch.expm1(-cross_entropy)).clamp(min=1e-6)
        return wrong.pow(self.config.focal_gamma) * cross_entropy

    def _region(self, probabilities: Tensor, target: Tensor, counted: Tensor) -> Tensor:
        """Return 1 − mean Dice (or Tversky index) over the channels that count.

        Parameters
        ----------
        probabilities, target
            (B, C, H, W), the latter bool.
        counted
            Bool (B, C): which channels of which slices have a region term. Sums run over all pixels of the slices
            that count; a channel that no slice of the batch counts is left out of the mean.
        """
        weight = counted.to(probabilities.dtype)
        mask = target.to(probabilities.dtype)
        hits = ((probabilities * mask).sum((2, 3)) * weight).sum(0)
        predicted = (probabilities.sum((2, 3)) * weight).sum(0)
        true = (mask.sum((2, 3)) * weight).sum(0)
        hits, predicted, true, slices = self._over_processes(torch.stack((hits, predicted, true, weight.sum(0))))

        dice = self.config.region == "dice"
        false_positive = (predicted - hits) * (0.5 if dice else self.config.tversky_alpha)
        false_negative = (true - hits) * (0.5 if dice else self.config.tversky_beta)
        # Half of it here is all of it in (2 hits + smooth) / (predicted + true + smooth).
        smooth = self.config.smooth / 2
        index = (hits + smooth) / (hits + false_positive + false_negative + smooth)
        present = slices > 0
        if self.config.absent == "skip":
            present = present & (true > 0)
        mean: Tensor = torch.where(present, 1 - index, 0.0).sum() / present.sum().clamp(min=1)
        return mean

    def _over_processes(self, sums: Tensor) -> Tensor:
        together = self._processes
        if together is None or together.world == 1 or not self.training:
            return sums
        # The value is everyone's, the slope one's own times the number of processes, which averaging divides by.
        return together.add_up(sums.detach()) + together.world * (sums - sums.detach())


class ExclusiveLoss(SegmentationLoss):
    r"""Softmax over background and structures, with marginal handling of structures that nobody drew.

    For a slice whose case lacks annotations of some structures, M is the set of background and these. Its probability
    is :math:`p_M = \sum_{c \in M} p_c`, taken from the logits by log-sum-exp. A pixel without a label belongs to M:
    its cross-entropy is :math:`-\log p_M` with the weight of *background*, as its label says; the background's Dice
    compares :math:`p_M` with it, and the structures of M have no Dice term there. The slope of :math:`-\log p_M` is
    :math:`p_c - p_c / p_M` for c in M and :math:`p_c` for the rest: how M shares its probability is left to the cases
    that say it. Pixels labeled with a structure that is said not to be annotated count as background.

    The cross-entropy is the weighted mean, divided by the sum of the pixels' weights.
    """

    def _terms(self, logits: Tensor, target: Tensor, annotated: Tensor) -> tuple[Tensor, Tensor]:
        merged = functional.pad(~annotated, (1, 0), value=True)
        labels = target.long()
        labels = labels.masked_fill(merged.gather(1, labels.flatten(1)).view_as(labels), 0)

        background = (logits + _closed(~merged, logits)).logsumexp(1, keepdim=True)
        hidden = functional.pad(~annotated, (1, 0), value=False)
        structures = (logits + _closed(hidden, logits))[:, 1:]
        log_probabilities = functional.log_softmax(torch.cat((background, structures), dim=1), dim=1)

        own = -log_probabilities.gather(1, labels[:, None])[:, 0]
        weight = self.pixel_weights.to(own)[labels]
        loss, whole = self._over_processes(torch.stack(((self._focused(own) * weight).sum(), weight.sum())))
        pixel = loss / whole.clamp(min=torch.finfo(whole.dtype).tiny)

        counted = functional.pad(annotated, (1, 0), value=self.config.dice_background)
        classes = torch.arange(self.channels, device=labels.device)[None, :, None, None]
        return pixel, self._region(log_probabilities.exp(), labels[:, None] == classes, counted)


def _closed(channels: Tensor, like: Tensor) -> Tensor:
    """Return −∞ for these channels of these slices, bool (B, C), and 0 for the others: (B, C, 1, 1), to be added."""
    return torch.zeros_like(channels, dtype=like.dtype).masked_fill(channels, -torch.inf)[:, :, None, None]


class KeepLoss(SegmentationLoss):
    """A sigmoid for each structure, as drawn, overlaps kept; what was not annotated in a case has no term there.

    The binary cross-entropy is the mean over the pixels of all pairs of slice and structure that were annotated, times
    the weight of the structure; 0 if the batch has no such pair. A weight holds for the pixels within a structure and
    for those outside alike, so it does not move the probability from which on a sigmoid says yes.
    """

    def _terms(self, logits: Tensor, target: Tensor, annotated: Tensor) -> tuple[Tensor, Tensor]:
        if target.ndim != 4 or target.shape[1] != self.structures:
            raise ValueError(f"masks are (B, {self.structures}, H, W), not {tuple(target.shape)}")
        masks = target.bool()
        # −log of the probability of what is right: log(1 + exp(−z)) or log(1 + exp(z)).
        own = functional.softplus(torch.where(masks, -logits, logits))
        counted = annotated.to(own.dtype)
        loss = (self._focused(own).mean((2, 3)) * counted * self.pixel_weights.to(own)).sum()
        loss, whole = self._over_processes(torch.stack((loss, counted.sum())))
        return loss / whole.clamp(min=1), self._region(torch.sigmoid(logits), masks, annotated)


def chance_weights(frequencies: Sequence[float]) -> list[float]:
    """Return weights with which the cross-entropy of each structure is 1 for who knows nothing but its frequency.

    They are ``1 / H(f)`` with the entropy ``H(f) = −f log f − (1 − f) log(1 − f)``, for the shares of pixels ``f``.
    Without them a structure counts about as much as it is large: few pixels can be wrong in a small one.
    """
    return [-1 / (f * math.log(f) + (1 - f) * math.log1p(-f)) for f in map(_likely, frequencies)]


def chance_logits(frequencies: Sequence[float]) -> list[float]:
    """Return the logits whose sigmoids are these frequencies."""
    return [math.log(f) - math.log1p(-f) for f in map(_likely, frequencies)]


def _likely(frequency: float) -> float:
    # So that a structure of a handful of pixels, or of none, can neither blow up the loss nor start out of reach.
    return min(max(frequency, RAREST), 1 - RAREST)


def build_loss(
    config: LossConfig,
    structures: int | Sequence[str],
    class_weights: Sequence[float] | Tensor | None = None,
    *,
    processes: Processes | None = None,
) -> SegmentationLoss:
    """Return the loss for these structures (their number, or their keys in the order of the output channels).

    See :class:`SegmentationLoss` for the parameters.

    Examples
    --------
    >>> loss = build_loss(LossConfig(), ["lung_right", "lung_left"])
    >>> result = loss(torch.zeros(1, 3, 2, 2), torch.zeros(1, 2, 2, dtype=torch.long))
    >>> round(float(result.parts["cross_entropy"]), 4)
    1.0986
    """
    count = structures if isinstance(structures, int) else len(structures)
    kind = ExclusiveLoss if config.overlap == "exclusive" else KeepLoss
    return kind(config, count, class_weights, processes=processes)
