"""Small prepared cohorts of known voxels, written as the preparation would, and trainings on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from LungSegmentationLib.cohort.cache import AxisRecord, CacheRecord, open_split
from LungSegmentationLib.cohort.paths import CohortPaths, RunPaths
from LungSegmentationLib.cohort.records import CohortRecord, Geometry, write_record
from LungSegmentationLib.cohort.splits import Split, write_splits
from LungSegmentationLib.cohort.weights import class_weights, write_class_weights
from LungSegmentationLib.jobs.events import EmittingReporter, Epoch, Event
from LungSegmentationLib.labels import label_set_to_dict, load_label_set
from LungSegmentationLib.training.config import TrainingConfig
from LungSegmentationLib.training.precision import choose_precision
from LungSegmentationLib.training.segmentation import SegmentationTask
from LungSegmentationLib.training.trainer import Trainer

WINDOW = (-1000.0, 400.0)
LABELS = load_label_set()

# Small enough for one core: three levels of 4 to 8 channels, norms that do not mix samples.
TINY = (
    "network.name=small",
    "network.widths=[4,8]",
    "network.norm=instance",
    "batch_size=4",
    "epochs=2",
    "learning_rate=0.01",
    "device=cpu",
    "precision=float32",
    "augmentation=none",
    "patience=none",
)


class Recorder(EmittingReporter):
    """Keeps the events, and asks to stop when it is told to."""

    def __init__(self, stop: Callable[[Recorder], bool] | None = None) -> None:
        super().__init__(lambda: stop is not None and stop(self))
        self.events: list[Event] = []

    def emit(self, event: Event) -> None:
        self.events.append(event)

    def of(self, kind: str) -> list[Any]:
        return [event for event in self.events if event.event == kind]

    @property
    def epochs(self) -> list[Epoch]:
        return self.of("epoch")

    @property
    def losses(self) -> list[tuple[float | None, float | None]]:
        return [(event.train_loss, event.val_loss) for event in self.epochs]

    @property
    def steps(self) -> int:
        return max((event.done for event in self.of("progress") if event.stage == "training"), default=0)


def patient(seed: int, slices: int = 5, size: int = 16) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """A body of water with two lungs of air and a heart between them; CT in HU, masks by key."""
    generator = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size] / size
    grow = 1 + 0.1 * generator.random()

    def disk(y: float, x: float, radius: float) -> np.ndarray:
        return (rows - y) ** 2 + (columns - x) ** 2 < (radius * grow) ** 2

    body, right, left, heart = disk(0.5, 0.5, 0.45), disk(0.5, 0.3, 0.15), disk(0.5, 0.7, 0.15), disk(0.62, 0.5, 0.12)
    ct = np.where(right | left, -800, np.where(body, 20, -1000)) + np.where(heart, 60, 0)
    volume = np.repeat(ct[None], slices, 0) + generator.integers(-30, 30, (slices, size, size))
    masks = {
        "lung_right": np.repeat(right[None], slices, 0),
        "lung_left": np.repeat(left[None], slices, 0),
        "heart": np.repeat((heart & ~right & ~left)[None], slices, 0),
    }
    volume[0] = -1000  # an empty slice: above the patient
    for mask in masks.values():
        mask[0] = False
    return volume.astype(np.int16), masks


def write_case(
    paths: CohortPaths,
    name: str,
    ct: np.ndarray,
    masks: Mapping[str, np.ndarray],
    annotated: Sequence[str] | None = None,
) -> None:
    """Write the cache of one case; ``annotated`` defaults to the masks' keys."""
    slices, size, _ = ct.shape
    bits = np.zeros(ct.shape, np.uint8)
    for key, mask in masks.items():
        bits |= np.where(mask, 1 << (LABELS[key].label - 1), 0).astype(np.uint8)
    clipped = ct.clip(*WINDOW).astype(np.float64)
    counts = [[int((plane >> k & 1).sum()) for k in range(len(LABELS))] for plane in bits]
    values, amounts = np.unique(bits, return_counts=True)
    grid = Geometry(
        size=(size, size, slices), spacing=(1, 1, 3), origin=(0, 0, 0), direction=(1, 0, 0, 0, 1, 0, 0, 0, 1)
    )
    axis = AxisRecord(native=size, cached=size, scale=1, offset=0)
    record = CacheRecord(
        case=name,
        patient_id=f"patient of {name}",
        annotated=tuple(masks if annotated is None else annotated),
        structures=LABELS.keys,
        mean=float(clipped.mean()),
        std=float(clipped.std()),
        window=WINDOW,
        slice_size=size,
        slices=slices,
        field_of_view="full",
        label_resampling="coverage",
        native=grid,
        axes=(0, 1, 2),
        flips=(False, False, False),
        y=axis,
        x=axis,
        grid=grid,
        structure_counts=tuple(map(tuple, counts)),
        label_counts=tuple((0,) * (len(LABELS) + 1) for _ in range(slices)),
        bit_counts={int(value): int(amount) for value, amount in zip(values, amounts, strict=True)},
        case_fingerprint=f"case {name}",
        fingerprint=f"{name} {int(ct.sum())}",
    )
    files = paths.cached(name)
    files.ct.parent.mkdir(parents=True, exist_ok=True)
    np.save(files.ct, ct)
    np.save(files.structures, bits)
    write_record(record, files.record)


def write_cohort(
    root: Path, train: Sequence[str] = ("a", "b"), val: Sequence[str] = ("c",), *, slices: int = 5, size: int = 16
) -> CohortPaths:
    """Write a prepared cohort of such patients."""
    paths = CohortPaths(root)
    root.mkdir(parents=True, exist_ok=True)
    write_record(
        CohortRecord(
            label_set=label_set_to_dict(LABELS),
            slice_size=size,
            window=WINDOW,
            field_of_view="full",
            label_resampling="coverage",
        ),
        paths.cohort,
    )
    for number, name in enumerate((*train, *val)):
        write_case(paths, name, *patient(number, slices, size))
    write_splits(paths, Split(tuple(train), tuple(val), ()))
    records = [case.record for case in open_split(paths, "train")]
    write_class_weights(paths, class_weights(records, LABELS))
    return paths


def tiny_config(*settings: str) -> TrainingConfig:
    return TrainingConfig.load(settings=(*TINY, *settings))


def make_task(paths: CohortPaths, *settings: str, kind: type[SegmentationTask] = SegmentationTask) -> SegmentationTask:
    return kind(tiny_config(*settings), LABELS, open_split(paths, "train"), open_split(paths, "val"))


def make_trainer(
    paths: CohortPaths,
    run: str = "run",
    *settings: str,
    reporter: EmittingReporter | None = None,
    kind: type[SegmentationTask] = SegmentationTask,
) -> Trainer:
    task = make_task(paths, *settings, kind=kind)
    folder = paths.run(run)
    folder.folder.mkdir(parents=True, exist_ok=True)
    return Trainer(
        task,
        task.config,
        RunPaths(folder.folder),
        device=torch.device("cpu"),
        precision=choose_precision(torch.device("cpu"), "float32"),
        reporter=reporter or Recorder(),
    )
