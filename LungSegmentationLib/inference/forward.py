"""Trained networks over the slices of a CT: batches as in training, probabilities out, less at once if memory is short.

What a network sees is made by the functions that training uses, from HU on the cached grid; several networks and
several views of a slice (mirrored, turned) are joined by the mean of their probabilities. The air around the body is
background without asking.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from LungSegmentationLib.cohort.slicing import mean_and_std
from LungSegmentationLib.errors import BadInputError, MemoryLimitError, UsageError
from LungSegmentationLib.inference.region import Box, region_logits, supports_region
from LungSegmentationLib.inference.winograd import WinogradConvolution, is_faster
from LungSegmentationLib.networks.blocks import DoubleConv
from LungSegmentationLib.networks.model_file import load_model, model_file
from LungSegmentationLib.networks.unet import UNet
from LungSegmentationLib.training.devices import is_out_of_memory
from LungSegmentationLib.training.transforms_intensity import scale_window, standardize

if TYPE_CHECKING:
    from LungSegmentationLib.inference.options import TestTimeAugmentation
    from LungSegmentationLib.networks.card import ModelCard, Preprocessing

__all__ = ["Ensemble", "Model", "SliceNetwork", "Slices", "body_box", "load", "network_input"]

ANGLE: Final = 5.0
"""Degrees that ``full`` test-time augmentation turns a slice."""

BATCH_ON_CPU: Final = 4
BATCH_ON_GPU: Final = 16

AROUND_THE_BODY: Final = -850
"""HU below which nothing but air is expected: lungs at the edge of a narrow field of view lie above it."""

SPARE: Final = 5.0
"""mm around the body that are looked at: more than the threshold can be wrong by. The logits do not depend on it."""

COARSE: Final = 2
THIN: Final = 2  # coarse pixels: tubes and sheets of twice this width are no body


class SliceNetwork(Protocol):
    """What segments slices; a U-Net is one."""

    def __call__(self, images: Tensor, /) -> Tensor | list[Tensor]:
        """Return logits (B, classes, S, S) of normalized slices (B, channels, S, S)."""
        ...


@dataclass(frozen=True)
class Model:
    """A network with what is known of it.

    Attributes
    ----------
    network
        Returns logits.
    card
        Of its model file.
    name
        What people call it, for example the file's name.
    """

    network: SliceNetwork
    card: ModelCard
    name: str


@dataclass(frozen=True)
class Slices:
    """Cached slices of a CT and how they are scaled for each window that a model may have.

    Attributes
    ----------
    hounsfield
        int16, (slices, S, S), HU.
    pixel
        Their width and height in mm.
    scales
        Mean and standard deviation, HU, by window: those that the preparation of a cohort would write down.
    """

    hounsfield: NDArray[np.int16]
    pixel: float
    scales: dict[tuple[float, float], tuple[float, float]]

    @classmethod
    def of(cls, hounsfield: NDArray[np.int16], pixel: float, models: Sequence[Model]) -> Slices:
        """Measure slices for some models."""
        windows = {
            model.card.preprocessing.window for model in models if model.card.preprocessing.normalization == "zscore"
        }
        return cls(hounsfield, pixel, {window: mean_and_std(hounsfield, window) for window in sorted(windows)})


def load(path: str | Path, device: torch.device, dtype: torch.dtype) -> Model:
    """Return a model that is ready to predict.

    Batch norms are folded into the convolutions before them, and on the CPU convolutions of many channels take the
    shorter way of :mod:`.winograd`; weights and activations have ``dtype``, logits float32.

    Raises
    ------
    BadInputError
        If the file is missing, damaged or no model.
    """
    path = model_file(path)
    network, card = load_model(path)
    _fold_batch_norms(network)
    _shorten(network, device, dtype)
    network.requires_grad_(requires_grad=False)
    # Pixels before channels: the order in which convolutions are fast.
    network.to(device=device, dtype=dtype)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # its stub forgets this form
    return Model(_Cast(network, dtype, partial=supports_region(network, card.preprocessing.size[0])), card, path.name)


class _Cast:
    """A network in its own number type; what comes is float32."""

    def __init__(self, network: UNet, dtype: torch.dtype, *, partial: bool) -> None:
        self.network = network
        self.dtype = dtype
        self.partial = partial

    def __call__(self, images: Tensor, /, box: Box | None = None) -> Tensor | list[Tensor]:
        images = images.to(self.dtype, memory_format=torch.channels_last)
        result: Tensor | list[Tensor] = (
            self.network(images) if box is None else region_logits(self.network, images, box)
        )
        return result


def _fold_batch_norms(network: nn.Module) -> None:
    for module in network.modules():
        if not isinstance(module, DoubleConv):
            continue
        for number in (1, 2):
            norm = getattr(module, f"norm{number}")
            if isinstance(norm, nn.BatchNorm2d):
                setattr(module, f"conv{number}", fuse_conv_bn_eval(getattr(module, f"conv{number}"), norm))
                setattr(module, f"norm{number}", nn.Identity())
        shortcut = module.shortcut
        if isinstance(shortcut, nn.Sequential) and isinstance(shortcut[1], nn.BatchNorm2d):
            module.shortcut = fuse_conv_bn_eval(cast("nn.Conv2d", shortcut[0]), shortcut[1])


def _shorten(network: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Replace the convolutions that can be computed with fewer products."""
    for module in network.modules():
        if not isinstance(module, DoubleConv):
            continue
        for name in ("conv1", "conv2"):
            convolution = getattr(module, name)
            if is_faster(convolution, device, dtype):
                setattr(module, name, WinogradConvolution(convolution))


def network_input(slices: Slices, span: range, preprocessing: Preprocessing, device: torch.device) -> Tensor:
    """Return normalized slices as in training, float32 (B, channels, S, S).

    Parameters
    ----------
    slices
        Of the CT.
    span
        Which of them; their neighbors come with them as further channels, the first and last repeated.
    preprocessing
        Of the model.
    device
        Where the result is made.
    """
    reach = preprocessing.neighbors
    places = (np.asarray(span)[:, None] + np.arange(-reach, reach + 1)).clip(0, len(slices.hounsfield) - 1)
    hounsfield = torch.from_numpy(slices.hounsfield[places]).to(device)
    images = scale_window(hounsfield, preprocessing.window)
    if preprocessing.normalization == "window":
        return images
    mean, std = (torch.full((len(span),), value, dtype=torch.float32) for value in slices.scales[preprocessing.window])
    return standardize(images, mean, std, preprocessing.window)


def body_box(hounsfield: NDArray[np.int16], pixel: float) -> Box | None:
    """Return rows and columns outside of which some slices show nothing but air and thin things.

    Parameters
    ----------
    hounsfield
        int16, (slices, S, S), HU.
    pixel
        Their width and height in mm.

    Returns
    -------
    two ranges, or None
        With 5 mm to spare on each side; ``None`` if nothing was found.
    """
    from scipy import ndimage

    dense = hounsfield[:, ::COARSE, ::COARSE] > AROUND_THE_BODY
    disk = ndimage.generate_binary_structure(2, 1)[None]
    thick: NDArray[np.bool_] = ndimage.binary_opening(dense, disk, iterations=THIN)
    margin = math.ceil(SPARE / pixel)
    box = []
    for held in (thick.any((0, 2)), thick.any((0, 1))):
        found = np.flatnonzero(held)
        if not found.size:
            return None
        start, stop = COARSE * int(found[0]) - margin, COARSE * int(found[-1] + 1) + margin
        box.append(range(max(0, start), min(hounsfield.shape[1], stop)))
    return box[0], box[1]


class Ensemble:
    """Models that segment slices together.

    Parameters
    ----------
    models
        At least one; see :func:`check_agreement`.
    device
        Where the networks are.
    batch_size
        Slices at once, ``None`` for what suits the device; the largest that memory held is kept for the next CT.
    augmentation
        See :class:`.options.PredictionOptions`.

    Raises
    ------
    UsageError
        If the models do not agree, or the augmentation asks for a mirror partner that was not learned.
    """

    def __init__(
        self,
        models: Sequence[Model],
        device: torch.device,
        batch_size: int | None = None,
        augmentation: TestTimeAugmentation = "none",
    ) -> None:
        _check_agreement(models)
        self.models = tuple(models)
        self.device = device
        self.batch_size = batch_size or (BATCH_ON_CPU if device.type == "cpu" else BATCH_ON_GPU)
        self._views = _views(augmentation)
        self._partners = _partners(models[0].card) if augmentation != "none" else ()

    def run(self, slices: Slices) -> Iterator[NDArray[np.float32]]:
        """Yield the probabilities of all slices, batch by batch, (B, classes, S, S).

        Raises
        ------
        MemoryLimitError
            If there is not enough memory for one slice.
        BadInputError
            If a network gives values that are no numbers.
        """
        done, count = 0, len(slices.hounsfield)
        while done < count:
            span = range(done, min(done + self.batch_size, count))
            probabilities = self._within_memory(slices, span)
            if probabilities is not None:
                yield probabilities
                done = span.stop

    def _within_memory(self, slices: Slices, span: range) -> NDArray[np.float32] | None:
        """Return probabilities, or ``None`` after halving the batch because there was no room for it."""
        try:
            with torch.inference_mode():
                return self._probabilities(slices, span)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if len(span) == 1:
                raise MemoryLimitError(
                    f"There is not enough memory on {self.device} to segment one slice at a time.",
                    "End other programs that use it, or choose another device or a smaller network.",
                ) from error
        # Not in the handler: the error holds the tensors that were in the way.
        self.batch_size = max(1, len(span) // 2)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return None

    def _probabilities(self, slices: Slices, span: range) -> NDArray[np.float32]:
        total: Tensor | None = None
        box = body_box(slices.hounsfield[span.start : span.stop], slices.pixel)
        for model in self.models:
            images = network_input(slices, span, model.card.preprocessing, self.device)
            for view in self._views:
                found = _as_probabilities(model, view.there(images), view.box(box, images.shape[-1]))
                found = view.back(found, self._partners)
                total = found if total is None else total.add_(found)
        if total is None:
            raise ValueError("an ensemble without models")
        total = total.div_(len(self.models) * len(self._views))
        if not math.isfinite(float(total.sum())):
            raise BadInputError(
                f"The network gave values that are no numbers on the slices {span.start} to {span.stop - 1}.",
                "Choose the precision float32; if that does not help, use another model.",
            )
        result: NDArray[np.float32] = total.cpu().numpy()
        return result


@dataclass(frozen=True)
class _View:
    """A slice as it is, mirrored, turned; and the way back for the probabilities."""

    mirrored: bool = False
    angle: float = 0.0

    def there(self, images: Tensor) -> Tensor:
        return _turned(images.flip(-1) if self.mirrored else images, self.angle)

    def box(self, box: Box | None, size: int) -> Box | None:
        """Return where a box lies in this view; ``None`` for everywhere."""
        if box is None or self.angle:
            return None
        rows, columns = box
        return rows, range(size - columns.stop, size - columns.start) if self.mirrored else columns

    def back(self, probabilities: Tensor, partners: Sequence[int]) -> Tensor:
        upright = _turned(probabilities, -self.angle)
        return upright.flip(-1)[:, list(partners)] if self.mirrored else upright


def _views(augmentation: TestTimeAugmentation) -> tuple[_View, ...]:
    angles = (0.0, ANGLE, -ANGLE) if augmentation == "full" else (0.0,)
    sides = (False,) if augmentation == "none" else (False, True)
    return tuple(_View(mirrored, angle) for angle in angles for mirrored in sides)


def _turned(images: Tensor, angle: float) -> Tensor:
    """Turn pictures about their middle, bilinear, the edges repeated."""
    if not angle:
        return images
    sine, cosine = math.sin(math.radians(angle)), math.cos(math.radians(angle))
    matrix = torch.tensor([[cosine, -sine, 0.0], [sine, cosine, 0.0]], dtype=images.dtype, device=images.device)
    grid = functional.affine_grid(
        matrix.expand(len(images), 2, 3), [len(images), 1, *images.shape[-2:]], align_corners=False
    )
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _as_probabilities(model: Model, images: Tensor, box: Box | None) -> Tensor:
    """Return probabilities (B, classes, S, S); outside the box, if the network can be asked for one, background."""
    exclusive = model.card.overlap == "exclusive"
    network = model.network
    partial = box is not None and isinstance(network, _Cast) and network.partial
    outputs = network(images, box) if partial and isinstance(network, _Cast) else network(images)
    logits = (outputs if isinstance(outputs, Tensor) else outputs[0]).float()
    probabilities = logits.softmax(1) if exclusive else logits.sigmoid()
    if not partial or box is None:
        return probabilities
    whole = torch.zeros((*probabilities.shape[:2], *images.shape[-2:]), device=images.device)
    if exclusive:
        whole[:, 0] = 1.0
    rows, columns = box
    whole[..., rows.start : rows.stop, columns.start : columns.stop] = probabilities
    return whole


def _partners(card: ModelCard) -> tuple[int, ...]:
    """Return for each channel the one that shows the same structure on the mirrored slice."""
    channel = {label: index for index, label in enumerate(card.channel_labels)}
    partners = []
    for label in card.channel_labels:
        if label == 0:
            partners.append(channel[0])
            continue
        structure = card.label_set.by_label(label)
        partner = card.label_set.mirrored(structure.key)
        if partner.label not in channel:
            raise UsageError(
                f"Mirrored slices cannot be used: the model learned the {structure.name}, but not the {partner.name}.",
                "Choose the augmentation none.",
            )
        partners.append(channel[partner.label])
    return tuple(partners)


def _check_agreement(models: Sequence[Model]) -> None:
    """Refuse an ensemble whose probabilities cannot be joined."""
    if not models:
        raise UsageError("No model was given.", "Name at least one.")
    first = models[0]
    for other in models[1:]:
        one, two = first.card, other.card
        for what, ours, theirs in (
            ("the label set", one.label_set.name, two.label_set.name),
            ("the labels", one.label_set.keys, two.label_set.keys),
            ("the structures", one.structures, two.structures),
            ("the handling of overlaps", one.overlap, two.overlap),
            ("the slice size", one.preprocessing.size, two.preprocessing.size),
            ("the field of view", one.preprocessing.field_of_view, two.preprocessing.field_of_view),
        ):
            if ours != theirs:
                raise UsageError(
                    f"{first.name} and {other.name} cannot predict together: {what} differs "
                    f"({_spelled(ours)}; {_spelled(theirs)}).",
                    "Use models that were trained on the same structures and slices.",
                )


def _spelled(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
