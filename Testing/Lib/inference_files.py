"""Networks whose answer is known, model cards and files for tests of the inference."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from LungSegmentationLib.cohort.resampling import InPlaneMapping
from LungSegmentationLib.geometry import Grid
from LungSegmentationLib.inference.forward import Model
from LungSegmentationLib.inference.options import PredictionOptions
from LungSegmentationLib.inference.predictor import Predictor
from LungSegmentationLib.labels import load_label_set
from LungSegmentationLib.networks.card import ModelCard, Preprocessing, TrainingSummary
from LungSegmentationLib.networks.config import NetworkConfig
from LungSegmentationLib.networks.model_file import save_model
from LungSegmentationLib.networks.unet import build_network
from LungSegmentationLib.structures import label_table

LABELS = load_label_set()
LUNGS = ("lung_right", "lung_left")


def make_card(
    structures: Sequence[str] = LABELS.keys,
    *,
    overlap: str = "exclusive",
    size: int = 32,
    neighbors: int = 0,
    spacing: Any = None,
    network: dict[str, Any] | None = None,
    **preprocessing: Any,
) -> ModelCard:
    """A card of a small network."""
    channels = len(structures) + (overlap == "exclusive")
    config = {"name": "small", "widths": (4, 8), "in_channels": 2 * neighbors + 1, "out_channels": channels}
    return ModelCard(
        created=datetime(2026, 1, 1, tzinfo=UTC),
        label_set=LABELS,
        structures=tuple(structures),
        overlap=overlap,
        preprocessing=Preprocessing(
            **{
                "size": (size, size),
                "window": (-1000, 400),
                "normalization": "zscore",
                "field_of_view": "full",
                "neighbors": neighbors,
            }
            | preprocessing
        ),
        network=NetworkConfig(**config | (network or {})),
        training=TrainingSummary(
            epochs=1, best_epoch=1, patients={"train": 1}, slices={"train": 1}, spacing_mm=spacing
        ),
        software={"lungsegmentation": "0.1"},
        data_fingerprint="0" * 64,
    )


def randomized(network: nn.Module, seed: int = 0) -> nn.Module:
    """Give batch norms statistics and factors as a training leaves them, so that folding them matters."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.running_mean, -0.5, 0.5),
                (module.running_var, 0.5, 2.0),
                (module.weight.data, 0.5, 2.0),
                (module.bias.data, -0.5, 0.5),
            ):
                tensor.copy_(low + (high - low) * torch.rand(tensor.shape, generator=generator))
    return network


def model_file(path: Path, card: ModelCard, seed: int = 0) -> Path:
    """Write a model with random weights."""
    torch.manual_seed(seed)
    save_model(path, randomized(build_network(card.network), seed), card)
    return path


class ByIntensity:
    """A network that names a class by the gray level of a pixel alone, and counts how it is called."""

    def __init__(self, classes: int, thresholds: tuple[float, ...] = (0.0,)) -> None:
        self.classes, self.thresholds, self.batches = classes, thresholds, []

    def __call__(self, images: Tensor, /) -> Tensor:
        self.batches.append(len(images))
        middle = images[:, images.shape[1] // 2]
        index = sum((middle > threshold).long() for threshold in self.thresholds)
        one_hot = torch.nn.functional.one_hot(index, self.classes).movedim(-1, 1)
        return one_hot.float() * 20 - 10


class Told:
    """A perfect network: it says what it was told, slice after slice.

    Parameters
    ----------
    truth
        bool, (slices, classes, S, S).
    exclusive
        Whether the logits are meant for a softmax.
    """

    def __init__(self, truth: np.ndarray, exclusive: bool) -> None:
        self.truth, self.exclusive, self.done = torch.from_numpy(truth.astype(bool)), exclusive, 0

    def __call__(self, images: Tensor, /) -> Tensor:
        part = self.truth[self.done : self.done + len(images)].float()
        assert len(part) == len(images)
        self.done += len(images)
        return part.log() if self.exclusive else part.logit()


def perfect(grid: Grid, bits: np.ndarray, card: ModelCard) -> Model:
    """A network that knows the structures of one case as the training would have shown them."""
    mapping = InPlaneMapping.of(grid, card.preprocessing.size[0])
    cached = mapping.bits_to_cache(bits)
    labels = np.array(card.channel_labels)
    if card.overlap == "exclusive":
        shown = label_table(card.label_set, card.structures)[cached]
        truth = shown[:, None] == labels[:, None, None]
    else:
        truth = (cached[:, None] >> (labels[:, None, None] - 1)) & 1
    return Model(Told(truth, card.overlap == "exclusive"), card, "perfect")


def predictor(*models: Model, **options: Any) -> Predictor:
    """A predictor on the CPU in float32, without postprocessing unless it is asked for."""
    chosen = {"device": "cpu", "precision": "float32", "postprocess": False} | options
    return Predictor(networks=models, options=PredictionOptions(**chosen))


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return 2 * int((one & other).sum()) / max(1, int(one.sum()) + int(other.sum()))
