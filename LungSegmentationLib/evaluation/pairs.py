"""Which prediction belongs to which reference, and both of them read: files, case folders, cohorts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from LungSegmentationLib.cohort.paths import CasePaths, CohortPaths
from LungSegmentationLib.cohort.records import CaseRecord, read_record
from LungSegmentationLib.errors import BadInputError, GeometryError, UsageError
from LungSegmentationLib.evaluation.case_scores import Segmentation
from LungSegmentationLib.geometry import Grid
from LungSegmentationLib.inference.record import PredictionRecord, read_record_of
from LungSegmentationLib.inference.sources import RECORD_ENDING
from LungSegmentationLib.labels import LabelSet
from LungSegmentationLib.structures import Labels, StructureMap
from LungSegmentationLib.volumes import VOLUME_ENDINGS, read_volume, volume_stem

__all__ = ["FilePair", "Loadable", "LoadedCase", "Pairing", "find_pairs", "read_segmentation"]

GRID_TOLERANCE = 0.01
"""mm by which corners may differ: NIfTI keeps 32-bit numbers, and a hundredth of a millimeter changes no score."""

STRUCTURES, LABELS = "structures", "labels"
_NO_SEGMENTATION = {"ct", "confidence"}


@dataclass(frozen=True)
class LoadedCase:
    """Both sides of one case in memory, on one grid.

    Attributes
    ----------
    case
        Its name.
    prediction, reference
        Structures as drawn, or label maps.
    grid
        Of both.
    annotated
        Structures that were drawn in the reference; None if nobody said, then those that it holds.
    ct
        HU (z, y, x) for pictures, None if there is none.
    confidence
        How sure the network is of each structure that it found, 0–1, where the prediction's record says so.
    remarks
        What the record of the prediction warns of.
    """

    case: str
    prediction: Segmentation
    reference: Segmentation
    grid: Grid
    annotated: tuple[str, ...] | None = None
    ct: NDArray[np.int16] | None = None
    confidence: Mapping[str, float] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()


class Loadable(Protocol):
    """A case that can be brought into memory: two files, or a prediction yet to be made."""

    @property
    def case(self) -> str:
        """Name of the case."""
        ...

    def load(self, label_set: LabelSet) -> LoadedCase:
        """Bring both sides into memory."""
        ...


@dataclass(frozen=True)
class FilePair:
    """A case whose prediction and reference are files.

    Attributes
    ----------
    case
        Its name.
    prediction, reference
        Label maps, or bit fields where the file is called ``structures``.
    ct
        CT on the same grid, for pictures; None without.
    annotated
        Structures that were drawn; None if nobody said.
    """

    case: str
    prediction: Path
    reference: Path
    ct: Path | None = None
    annotated: tuple[str, ...] | None = None

    def load(self, label_set: LabelSet) -> LoadedCase:
        """Read the files.

        Raises
        ------
        GeometryError
            If the grids differ: nothing is resampled here, as that would change what is measured.
        BadInputError
            If a file is damaged or holds something else.
        """
        reference, grid = read_segmentation(self.reference, label_set)
        prediction, predicted_grid = read_segmentation(self.prediction, label_set)
        if not grid.matches(predicted_grid, GRID_TOLERANCE):
            raise GeometryError(
                f"{self.prediction} and {self.reference} lie on different grids: {_described(predicted_grid)} "
                f"against {_described(grid)}.",
                "Write the prediction on the grid of the reference's CT.",
            )
        record = _record_beside(self.prediction)
        sure = {} if record is None else {key: found.confidence for key, found in record.structures.items()}
        return LoadedCase(
            self.case,
            prediction,
            reference,
            grid,
            self.annotated,
            self._read_ct(grid),
            {key: value for key, value in sure.items() if value is not None},
            () if record is None else record.warnings,
        )

    def _read_ct(self, grid: Grid) -> NDArray[np.int16] | None:
        if self.ct is None:
            return None
        image = read_volume(self.ct)
        if not grid.matches(Grid.of(image), GRID_TOLERANCE):
            raise GeometryError(
                f"The CT {self.ct} and {self.reference} lie on different grids: {_described(Grid.of(image))} "
                f"against {_described(grid)}.",
                "Give the CT that the structures were drawn on.",
            )
        # Pictures need no more; a CT in floating point would take four times the memory.
        ct: NDArray[np.int16] = np.nan_to_num(np.clip(sitk.GetArrayFromImage(image), -32768, 32767)).astype(np.int16)
        return ct


def read_segmentation(path: Path, label_set: LabelSet) -> tuple[Segmentation, Grid]:
    """Read a label map, or a bit field from a file called ``structures``, and its grid.

    Raises
    ------
    BadInputError
        If values are not whole numbers, or none of the label set's.
    """
    image = read_volume(path)
    values: NDArray[Any] = sitk.GetArrayFromImage(image)
    is_bits = volume_stem(path) == STRUCTURES
    highest = (1 << len(label_set)) - 1 if is_bits else len(label_set)
    kind = "structure bits" if is_bits else "a label map"
    if values.dtype.kind == "f" and not (np.isfinite(values).all() and (values == np.round(values)).all()):
        raise BadInputError(f"{path} is not {kind}: it holds values that are no whole numbers.")
    low, high = values.min(initial=0), values.max(initial=0)
    if low < 0 or high > highest:
        raise BadInputError(
            f"{path} is not {kind} of the label set {label_set.name}: it holds the value {low if low < 0 else high:g}, "
            f"and 0 to {highest} are known.",
            "Choose the label set that it was made with.",
        )
    labels: Labels = values.astype(np.uint8, copy=False)
    return (StructureMap(label_set, labels) if is_bits else labels), Grid.of(image)


def _record_beside(path: Path) -> PredictionRecord | None:
    """Return the record of the prediction that a file is part of; None where there is none."""
    for name in (RECORD_ENDING, f"{volume_stem(path)}.{RECORD_ENDING}"):
        file = path.parent / name
        record = read_record_of(file) if file.is_file() else None
        if record is not None and path.name in record.files.values():
            return record
    return None


def _described(grid: Grid) -> str:
    size = "×".join(map(str, grid.size))
    spacing = "×".join(f"{step:.4g}" for step in grid.spacing)
    origin = ", ".join(f"{value:.4g}" for value in grid.origin)
    x, y, z = (" ".join(f"{part:.3g}" for part in axis) for axis in grid.axes.T)
    return f"{size} voxels of {spacing} mm from ({origin}), axes ({x}), ({y}), ({z})"


@dataclass(frozen=True)
class _Side:
    """What a path offers for one case."""

    files: dict[str, Path]
    ct: Path | None = None
    annotated: tuple[str, ...] | None = None

    def choose(self, overlapping: bool) -> Path:
        first, second = (STRUCTURES, LABELS) if overlapping else (LABELS, STRUCTURES)
        return self.files[first] if first in self.files else self.files[second]


@dataclass(frozen=True)
class Pairing:
    """What belongs together, and what has no counterpart.

    Attributes
    ----------
    pairs
        By case name.
    without_reference, without_prediction
        Names of the cases that stand alone.
    """

    pairs: tuple[FilePair, ...]
    without_reference: tuple[str, ...]
    without_prediction: tuple[str, ...]


def find_pairs(
    prediction: Path,
    reference: Path,
    label_set: LabelSet,
    *,
    annotated: Iterable[str] | None = None,
    ct: Path | None = None,
) -> Pairing:
    """Find the cases that have both sides.

    A side is a file, a case folder (``case.json``), a cohort (its finished cases), or a folder with one file or one
    subfolder a case. Two files, or a file and a case, belong together whatever their names; in folders the name of
    the file without ending, or of the subfolder, is the case. Where a case folder holds structures as drawn and
    label maps, those as drawn are taken (they can be painted as needed), for the prediction only if the reference
    has them too.

    Parameters
    ----------
    prediction, reference
        The two sides.
    label_set
        The structures that ``annotated`` may name.
    annotated
        Structures that were drawn in every reference. Default: what ``case.json`` says, otherwise what is there.
    ct
        The CT of a single case. Default: ``ct.nii.gz`` of the reference's case folder.

    Raises
    ------
    BadInputError
        If a side holds nothing, or nothing belongs together.
    """
    chosen = None if annotated is None else tuple(label_set[key].key for key in annotated)
    theirs, ours = _side(prediction), _side(reference)
    if len(theirs) == 1 and len(ours) == 1 and (prediction.is_file() or reference.is_file()):
        # One and one belong together; the name is the reference's, where it says more than "labels".
        name = _case_name(reference, next(iter(ours)))
        theirs, ours = {name: next(iter(theirs.values()))}, {name: next(iter(ours.values()))}
    shared = sorted(theirs.keys() & ours.keys())
    if not shared:
        raise BadInputError(
            f"No case of {prediction} has the name of a case of {reference}: {_some(theirs)} against {_some(ours)}.",
            "Name each prediction as its reference is named.",
        )
    if ct is not None and len(shared) > 1:
        raise UsageError(f"One CT, {ct}, cannot belong to {len(shared)} cases.", "Leave it out.")
    pairs = []
    for name in shared:
        side = ours[name]
        overlapping = STRUCTURES in side.files
        pairs.append(
            FilePair(
                name,
                theirs[name].choose(overlapping),
                side.choose(overlapping=True),
                ct or side.ct or theirs[name].ct,
                chosen if chosen is not None else side.annotated,
            )
        )
    return Pairing(tuple(pairs), tuple(sorted(theirs.keys() - ours.keys())), tuple(sorted(ours.keys() - theirs.keys())))


def _case_name(path: Path, name: str) -> str:
    return path.resolve().parent.name if path.is_file() and name in {STRUCTURES, LABELS} else name


def _some(sides: dict[str, _Side]) -> str:
    names = sorted(sides)
    return ", ".join(names[:4]) + (" …" if len(names) > 4 else "")


def _side(path: Path) -> dict[str, _Side]:
    if path.is_file():
        stem = volume_stem(path)
        folder = CasePaths(path.parent)
        known = folder.record.is_file() and stem in {STRUCTURES, LABELS}
        return {stem: _case_folder(folder, only=path) if known else _Side({_kind(path): path})}
    if not path.is_dir():
        raise BadInputError(f"There is no file or folder {path}.")
    if CohortPaths(path).cohort.is_file():
        sides = {case.name: _case_folder(case) for case in CohortPaths(path).finished_cases()}
    elif CasePaths(path).record.is_file():
        sides = {path.resolve().name: _case_folder(CasePaths(path))}
    else:
        sides = _plain_folder(path)
    if not sides:
        raise BadInputError(
            f"{path} holds no segmentation.",
            f"Give a file ({', '.join(VOLUME_ENDINGS)}), a folder of them, or a cohort.",
        )
    return sides


def _case_folder(case: CasePaths, only: Path | None = None) -> _Side:
    files = {_kind(only): only} if only else {_kind(f): f for f in (case.structures, case.labels) if f.is_file()}
    annotated = read_record(CaseRecord, case.record).annotated
    return _Side(files, case.ct if case.ct.is_file() else None, annotated)


def _plain_folder(folder: Path) -> dict[str, _Side]:
    sides: dict[str, _Side] = {}
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        if entry.is_file() and entry.name.lower().endswith(VOLUME_ENDINGS):
            name, side = volume_stem(entry), _Side({_kind(entry): entry})
        elif entry.is_dir():
            case = CasePaths(entry)
            name, side = entry.name, _case_folder(case) if case.record.is_file() else _subfolder(entry)
        else:
            continue
        if not side.files:
            continue
        if name in sides:
            raise BadInputError(f"{folder} holds the case {name} twice.", "Keep one of the two.")
        sides[name] = side
    return sides


def _subfolder(folder: Path) -> _Side:
    volumes = sorted(f for f in folder.iterdir() if f.is_file() and f.name.lower().endswith(VOLUME_ENDINGS))
    files = {volume_stem(f): f for f in volumes if not f.name.startswith(".")}
    ct = files.get("ct")
    named = {kind: files[kind] for kind in (STRUCTURES, LABELS) if kind in files}
    if named:
        return _Side(named, ct)
    others = [f for stem, f in files.items() if stem not in _NO_SEGMENTATION]
    if len(others) > 1:
        raise BadInputError(
            f"{folder} holds several volumes and none is called labels: {', '.join(f.name for f in others[:4])}.",
            "Call the label map labels.nii.gz, or keep one file a case.",
        )
    return _Side({LABELS: others[0]} if others else {}, ct)


def _kind(path: Path) -> str:
    return STRUCTURES if volume_stem(path) == STRUCTURES else LABELS
