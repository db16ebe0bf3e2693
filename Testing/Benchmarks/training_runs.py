"""What the training benchmarks share: train with given settings, predict a case on its native grid, score it.

The prediction is the plain one (no test-time augmentation, no postprocessing unless asked), so that the figures say
what the training is worth.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from numpy.typing import NDArray
from scipy import ndimage

from LungSegmentationLib.cohort.cache import CachedCase, open_case
from LungSegmentationLib.cohort.paths import CohortPaths
from LungSegmentationLib.jobs.events import SilentReporter
from LungSegmentationLib.networks.card import ModelCard
from LungSegmentationLib.networks.model_file import load_model
from LungSegmentationLib.structures import StructureMap
from LungSegmentationLib.training.command import plan_training, train
from LungSegmentationLib.training.transforms_intensity import scale_window, standardize


@dataclass(frozen=True)
class Run:
    """A finished training: its model and how long it took, s."""

    model: Path
    seconds: float
    epochs: int


class Chatty(SilentReporter):
    """Prints a line an epoch."""

    def epoch(self, epoch: int, epochs: int, **values: object) -> None:  # type: ignore[override]
        dice = values.get("dice") or {}
        assert isinstance(dice, Mapping)
        shown = " ".join(f"{key} {value:.2f}" for key, value in dice.items() if value is not None)
        losses = " ".join(f"{name} {values[name]:.3f}" for name in ("train_loss", "val_loss") if values.get(name))
        print(f"  epoch {epoch}/{epochs} {losses} {shown}", flush=True)


def run_training(cohort: Path, name: str, settings: Mapping[str, object]) -> Run:
    """Train and return the best model by validation loss."""
    plan = plan_training(cohort, name, settings=[f"{key}={value}" for key, value in settings.items()])
    start = time.monotonic()
    trained = train(plan, Chatty())
    return Run(plan.run.model, time.monotonic() - start, trained.epochs)


def _probabilities(network: torch.nn.Module, card: ModelCard, case: CachedCase, batch: int = 8) -> NDArray[np.float32]:
    chunks = []
    window = card.preprocessing.window
    for start in range(0, len(case), batch):
        hounsfield = torch.from_numpy(np.asarray(case.ct[start : start + batch]).copy())[:, None]
        images = scale_window(hounsfield, window)
        if card.preprocessing.normalization == "zscore":
            mean, std = (torch.full((len(images),), value) for value in (case.record.mean, case.record.std))
            images = standardize(images, mean, std, window)
        with torch.inference_mode():
            logits = network(images)
        chunks.append((logits.softmax(1) if card.overlap == "exclusive" else logits.sigmoid()).numpy())
    return np.concatenate(chunks)


def predict(model: Path, cohort: Path, name: str) -> StructureMap:
    """Segment a prepared case on its native grid; probabilities are interpolated before the decision."""
    network, card = load_model(model)
    paths = CohortPaths(cohort)
    case = open_case(paths, name)
    mapping = case.record.mapping
    bits = np.zeros(mapping.axial.shape, np.uint8)
    labels = [card.label_set[key].label for key in card.structures]
    for z, cached in enumerate(_probabilities(network, card, case)):
        native = mapping.from_cache(cached)
        if card.overlap == "exclusive":
            winner = native.argmax(0)
            for index, label in enumerate(labels, start=1):
                bits[z] |= (winner == index).astype(np.uint8) << (label - 1)
        else:
            for probability, label in zip(native, labels, strict=True):
                bits[z] |= (probability >= 0.5).astype(np.uint8) << (label - 1)
    return StructureMap(card.label_set, mapping.full_volume(bits))


def reference(model: Path, cohort: Path, name: str) -> StructureMap:
    """Return what the prediction is held against: exclusive with exclusive, as drawn with as drawn."""
    card = load_model(model)[1]
    files = CohortPaths(cohort).case(name)
    drawn = StructureMap(card.label_set, sitk.GetArrayFromImage(sitk.ReadImage(str(files.structures))))
    if card.overlap == "keep":
        return drawn
    return StructureMap.from_label_map(card.label_set, drawn.label_map(card.structures))


def dice(predicted: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """Return 2|A∩B| / (|A|+|B|)."""
    total = int(predicted.sum()) + int(truth.sum())
    return 2 * int((predicted & truth).sum()) / total if total else float("nan")


def largest_part(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the largest connected part of a mask."""
    parts, count = ndimage.label(mask)
    if count < 2:
        return mask
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    return parts == sizes.argmax()


def scores(model: Path, cohort: Path, name: str, keys: Sequence[str], largest: Sequence[str] = ()) -> dict[str, float]:
    """Return the Dice of each structure that was learned and drawn; of some after keeping their largest part."""
    predicted, truth = predict(model, cohort, name), reference(model, cohort, name)
    learned = load_model(model)[1].structures
    result = {}
    for key in keys:
        if key in learned and truth.mask(key).any():
            mask = predicted.mask(key)
            result[key] = dice(largest_part(mask) if key in largest else mask, truth.mask(key))
    return result


def table(rows: Mapping[str, Mapping[str, float]], keys: Sequence[str]) -> str:
    """Lay out scores as a Markdown table."""
    lines = ["| | " + " | ".join(keys) + " |", "|---" * (len(keys) + 1) + "|"]
    for name, row in rows.items():
        cells = (f"{row[key]:.3f}" if key in row else "–" for key in keys)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
