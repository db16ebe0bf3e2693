"""The one place that knows where the files of a cohort lie."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from LungSegmentationLib.errors import BadInputError

__all__ = ["CasePaths", "CohortPaths", "RunPaths"]


@dataclass(frozen=True)
class CasePaths:
    """Files of one case (``cases/<case>``)."""

    folder: Path

    @property
    def name(self) -> str:
        """Name of the case: that of its folder."""
        return self.folder.name

    @property
    def ct(self) -> Path:
        """CT in HU, int16, native grid."""
        return self.folder / "ct.nii.gz"

    @property
    def structures(self) -> Path:
        """Structure bits, uint8, bit ``label - 1``."""
        return self.folder / "structures.nii.gz"

    @property
    def labels(self) -> Path:
        """Label map, uint8, painted in the label set's order."""
        return self.folder / "labels.nii.gz"

    @property
    def record(self) -> Path:
        """What is known of the case."""
        return self.folder / "case.json"


@dataclass(frozen=True)
class RunPaths:
    """Files of one training (``runs/<run>``)."""

    folder: Path

    @property
    def name(self) -> str:
        """Name of the run: that of its folder."""
        return self.folder.name

    @property
    def config(self) -> Path:
        """Settings of the training."""
        return self.folder / "config.json"

    @property
    def checkpoint(self) -> Path:
        """What resumes the training."""
        return self.folder / "last.pt"

    @property
    def model(self) -> Path:
        """The best network so far, as a model file."""
        return self.folder / "best_unet_multi_organ.safetensors"

    @property
    def tensorboard(self) -> Path:
        """Folder of TensorBoard's logs."""
        return self.folder / "tensorboard"

    def epoch_checkpoint(self, epoch: int) -> Path:
        """Return the checkpoint that is kept after an epoch (counted from 1)."""
        return self.folder / f"epoch_{epoch:04d}.pt"

    def epoch_checkpoints(self) -> tuple[Path, ...]:
        """Return the kept checkpoints, oldest first."""
        return tuple(sorted(self.folder.glob("epoch_*.pt"))) if self.folder.is_dir() else ()


@dataclass(frozen=True)
class CachePaths:
    """Cached files of one case (``cache/<case>.*``)."""

    folder: Path
    name: str

    @property
    def ct(self) -> Path:
        """HU, int16 [z, y, x]."""
        return self.folder / f"{self.name}.ct.npy"

    @property
    def structures(self) -> Path:
        """Structure bits, uint8 [z, y, x]."""
        return self.folder / f"{self.name}.structures.npy"

    @property
    def record(self) -> Path:
        """What is known of the cached case; written last, so the others are whole where it stands."""
        return self.folder / f"{self.name}.json"

    @property
    def all(self) -> tuple[Path, Path, Path]:
        """The record first: where it is gone, the rest counts for nothing."""
        return self.record, self.ct, self.structures


@dataclass(frozen=True)
class CohortPaths:
    """Files of a cohort."""

    root: Path

    @property
    def cohort(self) -> Path:
        """Schema version, label set, software version."""
        return self.root / "cohort.json"

    @property
    def cases_table(self) -> Path:
        """One row a case."""
        return self.root / "cases.csv"

    @property
    def corrections(self) -> Path:
        """Which structure a user chose for an ROI, by RTSTRUCT."""
        return self.root / "roi_corrections.json"

    @property
    def cases(self) -> Path:
        """Folder of the case folders."""
        return self.root / "cases"

    @property
    def figures(self) -> Path:
        """Folder of the pictures."""
        return self.root / "figures"

    @property
    def runs(self) -> Path:
        """Folder of the run folders."""
        return self.root / "runs"

    def run(self, name: str) -> RunPaths:
        """Return the files of one training."""
        return RunPaths(self.runs / name)

    @property
    def cache(self) -> Path:
        """Folder of the slices that a training reads."""
        return self.root / "cache"

    @property
    def splits(self) -> Path:
        """Folder of ``train.txt``, ``val.txt`` and ``test.txt``."""
        return self.root / "splits"

    @property
    def class_weights(self) -> Path:
        """Weights of the labels in the loss."""
        return self.root / "class_weights.json"

    def split(self, part: str) -> Path:
        """Return the file of one part: ``train``, ``val`` or ``test``."""
        return self.splits / f"{part}.txt"

    def cached(self, name: str) -> CachePaths:
        """Return the cached files of one case."""
        return CachePaths(self.cache, name)

    def case(self, name: str) -> CasePaths:
        """Return the files of one case."""
        return CasePaths(self.cases / name)

    def finished_cases(self) -> tuple[CasePaths, ...]:
        """Return the cases that are whole, by name; what a killed conversion left behind is not among them."""
        if not self.cases.is_dir():
            return ()
        folders = (entry for entry in self.cases.iterdir() if not entry.name.startswith("."))
        cases = (CasePaths(folder) for folder in folders)
        return tuple(sorted((case for case in cases if case.record.is_file()), key=lambda case: case.name))

    def cached_names(self) -> tuple[str, ...]:
        """Return the names of the cases that are in the cache, sorted."""
        if not self.cache.is_dir():
            return ()
        records = (entry.name for entry in self.cache.iterdir() if entry.name.endswith(".json"))
        return tuple(sorted(name.removesuffix(".json") for name in records if not name.startswith(".")))

    def require(self) -> None:
        """Refuse a folder that is no cohort."""
        if not self.cohort.is_file():
            raise BadInputError(
                f"{self.root} is no cohort: it has no cohort.json.", "Make one with: lungseg convert DICOM_DIR COHORT"
            )
