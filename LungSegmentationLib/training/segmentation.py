"""Segmentation of slices as a task: batches from the cache, targets from structure bits, loss, Dice, the model file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from LungSegmentationLib.cohort.weights import frequencies
from LungSegmentationLib.errors import BadInputError, UsageError
from LungSegmentationLib.networks.card import ModelCard, Preprocessing, Score, TrainingSummary, software_versions
from LungSegmentationLib.networks.model_file import save_model
from LungSegmentationLib.networks.unet import build_network
from LungSegmentationLib.structures import label_table
from LungSegmentationLib.training.augmentation import Augmentation
from LungSegmentationLib.training.batches import CaseFacts, Prefetcher, SliceBatch, SliceStore
from LungSegmentationLib.training.losses import LossParts, build_loss, chance_logits, chance_weights
from LungSegmentationLib.training.transforms_intensity import IntensityParameters, scale_window, standardize
from LungSegmentationLib.training.transforms_spatial import SpatialParameters
from LungSegmentationLib.training.upload import upload
from LungSegmentationLib.training.validation import CaseResult, count_overlap, join_results, logits_in_parts, spans

if TYPE_CHECKING:
    from LungSegmentationLib.cohort.cache import CachedCase, CacheRecord
    from LungSegmentationLib.jobs.reporter import Reporter
    from LungSegmentationLib.labels import LabelSet
    from LungSegmentationLib.training.config import TrainingConfig
    from LungSegmentationLib.training.distributed import Processes
    from LungSegmentationLib.training.task import Forward, Learned, Validation

__all__ = ["SegmentationBatch", "SegmentationTask", "check_structures"]

Drawn = TypeVar("Drawn", SpatialParameters, IntensityParameters)


@dataclass(frozen=True)
class SegmentationBatch:
    """Slices, and how each of them is going to be changed."""

    slices: SliceBatch
    spatial: SpatialParameters
    intensity: IntensityParameters

    @property
    def names(self) -> Sequence[str]:
        """Case and slice of each sample."""
        return self.slices.names

    def __len__(self) -> int:
        return len(self.slices)

    def to(self, device: torch.device) -> SegmentationBatch:
        """Return the batch on a device; what was drawn stays on the CPU."""
        return replace(self, slices=self.slices.to(device))


class SegmentationTask:
    """Learns the structures of a prepared cohort.

    Parameters
    ----------
    config
        Settings.
    label_set
        Of the cohort.
    train, val
        Cases of the two parts; ``val`` may be empty.
    class_weights
        Returns the weights of the cross-entropy for these structures, by key and ``background``; not asked with
        ``overlap=keep``, where they follow from how frequent each structure is. Default: all 1.
    pinned
        Whether batches lie in pinned memory, for a GPU.
    processes
        Who trains together; default: this process alone.

    Raises
    ------
    UsageError
        If a structure is not in the label set.
    BadInputError
        If there is nothing to learn from, or the cases were prepared in different ways.
    """

    def __init__(
        self,
        config: TrainingConfig,
        label_set: LabelSet,
        train: Sequence[CachedCase],
        val: Sequence[CachedCase],
        *,
        class_weights: Callable[[Sequence[str]], Mapping[str, float]] | None = None,
        pinned: bool = False,
        processes: Processes | None = None,
    ) -> None:
        check_structures(config, label_set)
        self.config = config
        self.label_set = label_set
        self._notes: list[str] = []
        # The order of the samples follows from that of the cases: it is the names', not that of a file.
        train, val = (sorted(cases, key=lambda case: case.name) for cases in (train, val))
        self.train = SliceStore(train, label_set.keys, neighbors=config.neighbors, pinned=pinned)
        if not len(self.train):
            raise BadInputError(
                "There is no case to train on.", "Convert more patients, then prepare the cohort again."
            )
        self.structures = self._learned()
        if val and not self._judging(val):
            # Their loss is 0 from the beginning: the first network would be the best one.
            self._notes.append("What is learned was drawn in no case to validate on: they are left out.")
            val = []
        self.val = SliceStore(val, label_set.keys, neighbors=config.neighbors, pinned=pinned)
        if not len(self.val):
            self._notes.append(
                "There is no case to validate on: the network of the last epoch is kept, and nothing stops early."
            )
        self._notes.extend(_torn(self.train.cases, self.val.cases))
        self.preprocessing = _preprocessing([case.record for case in (*train, *val)], config)
        channels = len(self.structures) + (config.overlap == "exclusive")
        self.network_config = config.network.model_copy(update={"out_channels": channels})
        self._labels = torch.tensor([label_set[key].label for key in self.structures])
        naive = config.loss.partial == "naive"
        self._frequencies = frequencies([case.record for case in train], self.structures, everywhere=naive)
        self._table = torch.from_numpy(_compact_table(label_set, self.structures))
        self._augmentation = Augmentation(config.augmentation, label_set)
        self._loss = build_loss(
            config.loss,
            self.structures,
            None if class_weights is None else self._weights(class_weights),
            processes=processes,
        )

    @property
    def notes(self) -> Sequence[str]:
        """What a person should know before it is trained."""
        return tuple(self._notes)

    @property
    def outputs(self) -> Sequence[str]:
        """Keys of the structures, in the order of their labels."""
        return self.structures

    @property
    def samples(self) -> int:
        """Number of training slices; empty ones are among them."""
        return len(self.train)

    @property
    def extra(self) -> NDArray[np.float64] | None:
        """How many times more an epoch holds each slice."""
        sampling = self.config.sampling
        if not sampling.oversample_rare:
            return None
        present = np.concatenate([case.present for case in self.train.cases])
        share = present.mean(0)
        columns = [
            self.label_set[key].label - 1 for key in (self.structures if sampling.rare is None else sampling.rare)
        ]
        if sampling.rare is None:
            columns = [column for column in columns if share[column] < sampling.rare_below]
        extra: NDArray[np.float64] = np.where(present[:, columns].any(1), sampling.oversample_rare, 0.0)
        return extra if extra.any() else None

    @property
    def identity(self) -> Mapping[str, str]:
        """What a checkpoint must have been trained with to go on here."""
        return {
            "label set": self.label_set.name,
            "structures": ", ".join(self.structures),
            "preprocessing": self.preprocessing.model_dump_json(),
            "network": self.network_config.model_dump_json(),
            "cohort": self.fingerprint,
        }

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the fingerprints of all cases that are learned from or validated on."""
        digest = hashlib.sha256()
        for store, part in ((self.train, b"train"), (self.val, b"val")):
            digest.update(part)
            for fingerprint in sorted(case.fingerprint for case in store.cases):
                digest.update(fingerprint.encode("utf-8"))
        return digest.hexdigest()

    def build(self) -> nn.Module:
        """Return the network with random weights; sigmoids begin at how frequent each structure is."""
        network = build_network(self.network_config, gradient_checkpointing=self.config.gradient_checkpointing)
        if self.config.overlap == "keep":
            # From one half on, the first epochs would go into learning that most pixels are nothing.
            network.begin_at(torch.tensor(chance_logits(self._frequencies)))
        return network

    def batch(self, samples: NDArray[np.int64], mine: slice, seed: int) -> SegmentationBatch:
        """Read ``samples[mine]`` and draw how they change."""
        generator = torch.Generator().manual_seed(seed)
        # Drawn for the batch of all processes, so that it does not matter how many share it.
        spatial, intensity = self._augmentation.draw(len(samples), generator)
        return SegmentationBatch(self.train.gather(samples[mine]), _rows(spatial, mine), _rows(intensity, mine))

    def loss(self, forward: Forward, batch: SegmentationBatch) -> LossParts:
        """Return the loss of a training batch."""
        slices = batch.slices
        images = scale_window(slices.hounsfield, self.preprocessing.window)
        images, bits, annotated = self._augmentation.apply(
            images, slices.bits, slices.annotated, batch.spatial, batch.intensity
        )
        images, target, annotated = self._ready(images, bits, annotated, slices)
        self._loss.to(images.device).train()
        result: LossParts = self._loss(forward(images), target, annotated)
        return result

    def validate(self, forward: Forward, device: torch.device, processes: Processes, reporter: Reporter) -> Validation:
        """Return loss and Dice per structure and patient volume; each process takes every n-th case."""
        cases = range(processes.rank, len(self.val.cases), processes.world)
        shares = processes.together(lambda: self._results(cases, forward, device, processes, reporter))
        return join_results([result for share in shares for result in share], self.structures)

    def _results(
        self, cases: range, forward: Forward, device: torch.device, processes: Processes, reporter: Reporter
    ) -> list[CaseResult]:
        """Return what the network finds in some cases."""
        work = [(case, span) for case in cases for span in spans(self.val.span(case))]
        self._loss.to(device).eval()
        counts = {case: torch.zeros(len(self.structures), 3, dtype=torch.int64, device=device) for case in cases}
        losses: dict[int, list[Tensor]] = {case: [] for case in cases}
        with torch.no_grad(), Prefetcher(lambda item: self.val.gather(item[1]), work, self.config.prefetch) as batches:
            for done, ((case, span), gathered) in enumerate(zip(work, batches, strict=True), start=1):
                slices = gathered.to(device)
                images = scale_window(slices.hounsfield, self.preprocessing.window)
                images, target, annotated = self._ready(images, slices.bits, slices.annotated, slices)
                logits = logits_in_parts(forward, images, self.config.batch_size)
                losses[case].append(self._loss(logits, target, annotated).total.double() * len(span))
                counts[case] += count_overlap(logits, target, self.config.overlap)
                if processes.first:
                    reporter.progress("validation", done, len(work))
                reporter.check_cancelled()
        return [
            CaseResult(
                case,
                float(torch.stack(losses[case]).sum()),
                len(self.val.span(case)),
                counts[case].cpu().numpy(),
                self.val.annotated[case][self._labels - 1].numpy(),
            )
            for case in cases
        ]

    def save(self, path: Path, network: nn.Module, learned: Learned) -> None:
        """Write the model file."""
        save_model(path, network, self._card(learned))

    def _card(self, learned: Learned) -> ModelCard:
        details = learned.validation.details
        stores = {"train": self.train, "val": self.val}
        return ModelCard(
            created=datetime.now(UTC),
            label_set=self.label_set,
            structures=self.structures,
            overlap=self.config.overlap,
            preprocessing=self.preprocessing,
            network=self.network_config,
            training=TrainingSummary.model_validate(
                {
                    "epochs": learned.epochs,
                    "best_epoch": learned.best_epoch,
                    "best_loss": learned.best_loss,
                    "patients": {
                        part: len({case.patient_id for case in store.cases}) for part, store in stores.items()
                    },
                    "slices": {part: len(store) for part, store in stores.items()},
                    "seconds": learned.seconds,
                    "settings": self.config.model_dump(mode="json"),
                    "spacing_mm": _ranges([case.spacing for case in self.train.cases]),
                }
            ),
            scores={
                key: Score(
                    part="val", patients=len(values), dice=float(np.mean(values)), dice_std=float(np.std(values))
                )
                for key, values in details.items()
                if values
            },
            software=software_versions(),
            data_fingerprint=self.fingerprint,
        )

    def _ready(
        self, images: Tensor, bits: Tensor, annotated: Tensor, slices: SliceBatch
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the network's input, the loss's target, and which of the learned structures were annotated."""
        if self.config.normalization == "zscore":
            images = standardize(images, slices.mean, slices.std, self.preprocessing.window)
        device = bits.device
        labels = upload(self._labels, device)
        if self.config.overlap == "exclusive":
            target = upload(self._table, device)[bits.int()]
        else:
            target = (bits[:, None] >> (labels - 1).to(torch.uint8)[None, :, None, None]) & 1
        return images, target, annotated[:, labels - 1]

    def _weights(self, class_weights: Callable[[Sequence[str]], Mapping[str, float]]) -> list[float]:
        if self.config.overlap == "exclusive":
            by_key = class_weights(self.structures)
            return [by_key["background"], *(by_key[key] for key in self.structures)]
        # Weights of the pixels within a structure alone would move the decision of its sigmoid: one whose positive
        # pixels weigh w times more says yes from a probability of 1 / (1 + w) on.
        return chance_weights(self._frequencies)

    def _judging(self, val: Sequence[CachedCase]) -> bool:
        """Return whether a loss over these cases says anything about what is learned."""
        drawn = frozenset[str]().union(*(case.record.annotated for case in val))
        return self.config.loss.partial == "naive" or not drawn.isdisjoint(self.structures)

    def _learned(self) -> tuple[str, ...]:
        """Return the structures that are learned: those asked for, or all that somebody drew."""
        asked = _chosen(self.config.structures, self.label_set, "structures")
        drawn = frozenset[str]().union(*(case.annotated for case in self.train.cases))
        missing = [key for key in asked if key not in drawn]
        kept = tuple(key for key in asked if key in drawn)
        if not missing:
            return kept
        fact = f"Nobody drew {', '.join(self.label_set[key].name for key in missing)} in the cases to train on"
        if self.config.structures is None and kept:
            self._notes.append(f"{fact}: left out, and given to what lies under it.")
            return kept
        raise BadInputError(
            f"{fact}, so it cannot be learned.",
            f"Leave it out: --set structures={','.join(kept)}" if kept else "Convert cases with contours.",
        )


def check_structures(config: TrainingConfig, label_set: LabelSet) -> None:
    """Refuse settings that name a structure which the label set has not.

    Raises
    ------
    UsageError
        With those that it has.
    """
    _chosen(config.structures, label_set, "structures")
    _chosen(config.sampling.rare, label_set, "sampling.rare")


def _torn(train: Sequence[CaseFacts], val: Sequence[CaseFacts]) -> list[str]:
    """Return a note if a patient is in both parts; empty ids say nothing."""
    known = {case.patient_id for case in train} - {""}
    both = [case.name for case in val if case.patient_id in known]
    if not both:
        return []
    note = (
        f"{len(both)} case(s) to validate on are of patients who are also trained on, the first: {both[0]}. "
        "The validation looks better than it is: make new splits (lungseg prepare COHORT --new-splits)."
    )
    return [note]


def _chosen(keys: Sequence[str] | None, label_set: LabelSet, setting: str) -> tuple[str, ...]:
    """Return these keys in the order of their labels."""
    unknown = [key for key in keys or () if key not in label_set]
    if unknown:
        raise UsageError(
            f"{setting}: “{unknown[0]}” is not in the label set {label_set.name}.",
            f"It has: {', '.join(label_set.keys)}.",
        )
    return tuple(key for key in label_set.keys if keys is None or key in keys)


def _compact_table(label_set: LabelSet, structures: Sequence[str]) -> NDArray[np.uint8]:
    """Return what each bit field is among the learned classes: 0 background, i the i-th structure."""
    compact = np.zeros(len(label_set) + 1, np.uint8)
    for index, key in enumerate(structures, start=1):
        compact[label_set[key].label] = index
    return compact[label_table(label_set, structures)]


def _preprocessing(records: Sequence[CacheRecord], config: TrainingConfig) -> Preprocessing:
    ways = {(record.slice_size, tuple(record.window), record.field_of_view) for record in records}
    if len(ways) != 1:
        raise BadInputError(
            f"The cases were prepared in {len(ways)} different ways (slice size, window, field of view).",
            "Prepare the whole cohort again: lungseg prepare COHORT",
        )
    size, window, field_of_view = ways.pop()
    return Preprocessing.model_validate(
        {
            "size": (size, size),
            "window": window,
            "normalization": config.normalization,
            "field_of_view": field_of_view,
            "neighbors": config.neighbors,
        }
    )


def _ranges(spacings: Sequence[tuple[float, ...]]) -> list[tuple[float, float]]:
    """Return the smallest and the largest along each axis."""
    return [(min(axis), max(axis)) for axis in zip(*spacings, strict=True)]


def _rows(drawn: Drawn, rows: slice) -> Drawn:
    values: dict[str, Any] = {name: None if value is None else value[rows] for name, value in vars(drawn).items()}
    return replace(drawn, **values)
