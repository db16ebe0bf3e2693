"""Who learns, who chooses the best network, who tests it: by patient, the same for the same cohort, never reshuffled.

Patients are ordered by a digest of seed and patient id, so the order is the same on every computer and does not depend
on who else is in the cohort.
"""

from __future__ import annotations

import hashlib
import math
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, get_args

from LungSegmentationLib.errors import BadInputError, UsageError
from LungSegmentationLib.storage import atomic_folder

if TYPE_CHECKING:
    from LungSegmentationLib.cohort.paths import CohortPaths

__all__ = [
    "PARTS",
    "RATIOS",
    "Part",
    "Split",
    "SplitCase",
    "make_split",
    "part_sizes",
    "read_split",
    "read_splits",
    "split_warnings",
    "write_splits",
]

Part = Literal["train", "val", "test"]
PARTS: Final[tuple[Part, ...]] = get_args(Part)
RATIOS: Final = (0.70, 0.15, 0.15)
SEED: Final = 42

_ROUNDING = 1e-9  # 0.7 × 10 is a little less than 7 in binary


@dataclass(frozen=True)
class SplitCase:
    """What a split needs to know of a case: its patient, and the structures that were drawn."""

    name: str
    patient_id: str
    structures: tuple[str, ...] = ()


@dataclass(frozen=True)
class Split:
    """Names of the cases of each part."""

    train: tuple[str, ...] = ()
    val: tuple[str, ...] = ()
    test: tuple[str, ...] = ()

    def part(self, part: Part) -> tuple[str, ...]:
        """Return the cases of one part."""
        names: tuple[str, ...] = getattr(self, part)
        return names

    def items(self) -> Iterator[tuple[Part, tuple[str, ...]]]:
        """Iterate over the parts and their cases."""
        return ((part, self.part(part)) for part in PARTS)

    @property
    def by_case(self) -> dict[str, Part]:
        """Part of each case."""
        return {name: part for part, names in self.items() for name in names}


def part_sizes(patients: int, ratios: Sequence[float] = RATIOS) -> tuple[int, int, int]:
    """Return how many patients train, validate and test.

    Shares are rounded down and the rest tests (158 → 110, 23, 25); without a share for testing, the rest trains. Where
    there are too few patients for that, each part with a share still gets one while there are any, first training, then
    validation (which chooses the best network), then test: 1 → 1, 0, 0; 2 → 1, 1, 0; 3 → 1, 1, 1; 5 → 3, 1, 1.

    Raises
    ------
    UsageError
        If the ratios are no shares of a whole.
    """
    if (
        len(ratios) != 3
        or not all(math.isfinite(ratio) and ratio >= 0 for ratio in ratios)
        or abs(sum(ratios) - 1.0) > 1e-6
        or ratios[0] == 0
    ):
        given = " ".join(f"{ratio:g}" for ratio in ratios)
        raise UsageError(f"“{given}” cannot be the shares of train, val and test.", "Give three that add up to 1.")
    train, val = (math.floor(ratio * patients + _ROUNDING) for ratio in ratios[:2])
    sizes = [train, val, patients - train - val]
    if ratios[2] == 0:
        sizes = [train + sizes[2], val, 0]
    for part, ratio in enumerate(ratios):
        if ratio > 0 and sizes[part] == 0:
            # Testing gives first, then the larger of the others; nobody gives the last to a part that comes later.
            givers = [other for other in (2, 0, 1) if sizes[other] > (0 if other > part else 1)]
            if givers:
                sizes[givers[0]] -= 1
                sizes[part] += 1
    return sizes[0], sizes[1], sizes[2]


@dataclass
class _Plan:
    """What each part may still take: patients, and patients with each structure."""

    room: dict[Part, int]
    wanted: dict[str, dict[Part, float]] = field(default_factory=dict)

    def take(self, part: Part, structures: Iterable[str]) -> None:
        self.room[part] -= 1
        for key in structures:
            self.wanted[key][part] -= 1

    def best(self, key: str | None) -> Part:
        open_parts = [part for part in PARTS if self.room[part] > 0]
        wanted = self.wanted[key] if key else dict.fromkeys(PARTS, 0.0)
        return max(open_parts, key=lambda part: (round(wanted[part], 9), self.room[part], -PARTS.index(part)))


def make_split(
    cases: Sequence[SplitCase],
    *,
    seed: int = SEED,
    ratios: Sequence[float] = RATIOS,
    stratify: bool = True,
    before: Split | None = None,
) -> Split:
    """Split cases by patient: all cases of a patient go to one part.

    Parameters
    ----------
    cases
        All cases of the cohort.
    seed
        Another seed gives another order of the patients.
    ratios
        Shares of train, val and test, see :func:`part_sizes`.
    stratify
        Give each part its share of every structure, the rarest first (iterative stratification, Sechidis, Tsoumakas
        and Vlahavas 2011), and at least one patient with it where there are three or more. Otherwise patients are dealt
        in their order.
    before
        The split so far: nobody changes parts. A new case of a known patient joins him; other new patients go where
        the shares of the whole cohort are short of them.

    Returns
    -------
    Split
        Names sorted in each part; after a split so far, new names follow the old ones.
    """
    patients: dict[str, list[SplitCase]] = {}
    for case in sorted(cases, key=lambda case: case.name):
        patients.setdefault(case.patient_id, []).append(case)
    drawn = {patient: {key for case in group for key in case.structures} for patient, group in patients.items()}
    order = sorted(patients, key=lambda patient: (_digest(seed, patient), patient))

    placed = before.by_case if before else {}
    assigned: dict[str, Part] = {}
    for patient in order:
        parts = [placed[case.name] for case in patients[patient] if case.name in placed]
        if parts:
            assigned[patient] = min(parts, key=PARTS.index)

    sizes = part_sizes(len(patients), ratios)
    plan = _Plan(dict(zip(PARTS, sizes, strict=True)))
    for key in sorted(set().union(*drawn.values())) if drawn else ():
        plan.wanted[key] = _shares(sum(key in keys for keys in drawn.values()), sizes)
    for patient, part in assigned.items():
        plan.take(part, drawn[patient])

    rest = [patient for patient in order if patient not in assigned]
    for patient, rarest in _dealing(rest, drawn) if stratify else ((patient, None) for patient in rest):
        part = plan.best(rarest) if stratify else next(part for part in PARTS if plan.room[part] > 0)
        plan.take(part, drawn[patient])
        assigned[patient] = part

    result = {}
    for part in PARTS:
        old = before.part(part) if before else ()
        names = (case.name for patient, group in patients.items() if assigned[patient] == part for case in group)
        result[part] = (*old, *sorted(name for name in names if name not in placed))
    return Split(**result)


def _digest(seed: int, patient: str) -> bytes:
    return hashlib.sha256(f"{seed}\0{patient}".encode("utf-8", "surrogatepass")).digest()


def _shares(count: int, sizes: tuple[int, int, int]) -> dict[Part, float]:
    """Return how many of ``count`` patients with a structure each part should have."""
    total = sum(sizes)
    shares = [count * size / total for size in sizes]
    filled = [part for part in (0, 1, 2) if sizes[part] > 0]
    for part in filled[1:]:
        if count >= len(filled) and shares[part] < 1:
            shares[0] -= 1 - shares[part]
            shares[part] = 1.0
    return dict(zip(PARTS, shares, strict=True))


def _dealing(patients: Sequence[str], drawn: Mapping[str, set[str]]) -> Iterator[tuple[str, str | None]]:
    """Iterate over patients and the structure that they are dealt by: the one that is rarest among those waiting."""
    waiting = list(patients)
    while waiting:
        counts: dict[str, int] = {}
        for patient in waiting:
            for key in drawn[patient]:
                counts[key] = counts.get(key, 0) + 1
        rarest = min(counts, key=lambda key: (counts[key], key), default=None)
        group = [patient for patient in waiting if rarest is None or rarest in drawn[patient]]
        yield from ((patient, rarest) for patient in group)
        taken = set(group)
        waiting = [patient for patient in waiting if patient not in taken]


def split_warnings(split: Split, cases: Sequence[SplitCase]) -> list[str]:
    """Return what a person should know of a split: empty parts, torn patients, structures that a part lacks."""
    by_case = split.by_case
    warnings = []
    what = {"train": "learned from", "val": "choose the best network by", "test": "test on"}
    warnings += [
        f"No case is left to {what[part]}: the cohort is too small ({part}.txt is empty)."
        for part, names in split.items()
        if not names
    ]
    parts: dict[str, set[Part]] = {}
    having: dict[str, set[Part]] = {}
    for case in cases:
        if case.name in by_case:
            parts.setdefault(case.patient_id, set()).add(by_case[case.name])
            for key in case.structures:
                having.setdefault(key, set()).add(by_case[case.name])
    torn = [patient for patient, found in parts.items() if len(found) > 1]
    if torn:
        warnings.append(f"Cases of {len(torn)} patient(s) lie in several parts of the split, the first: {torn[0]}.")
    for part, names in split.items():
        lacking = sorted(key for key, found in having.items() if part not in found)
        if names and lacking:
            warnings.append(f"Drawn in no case of {part}, but elsewhere: {', '.join(lacking)}.")
    known = {case.name for case in cases}
    gone = [name for name in by_case if name not in known]
    if gone:
        warnings.append(f"The split names {len(gone)} case(s) that cannot be used, the first: {gone[0]}.")
    return warnings


def read_splits(paths: CohortPaths) -> Split | None:
    """Read the split of a cohort; ``None`` if there is none.

    Raises
    ------
    BadInputError
        If a file is missing or unreadable, or a case is named twice.
    """
    files = {part: paths.split(part) for part in PARTS}
    missing = [part for part, file in files.items() if not file.is_file()]
    if len(missing) == len(PARTS):
        return None
    if missing:
        raise BadInputError(
            f"{files[missing[0]]} is missing, but other parts of the split are there.",
            "Put it back, or make a new split: lungseg prepare COHORT --new-splits",
        )
    names: dict[Part, tuple[str, ...]] = {}
    for part, file in files.items():
        try:
            lines = file.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise BadInputError(f"{file} cannot be read: {error}.", "Write one case a line, in UTF-8.") from error
        names[part] = tuple(line.strip() for line in lines if line.strip())
    everything = [name for part in PARTS for name in names[part]]
    twice = sorted({name for name in everything if everything.count(name) > 1}) if _repeats(everything) else []
    if twice:
        raise BadInputError(f"The split in {paths.splits} names “{twice[0]}” twice.", "Remove one of the lines.")
    return Split(**names)


def _repeats(names: list[str]) -> bool:
    return len(set(names)) < len(names)


def read_split(paths: CohortPaths, part: Part) -> tuple[str, ...]:
    """Read the cases of one part.

    Raises
    ------
    BadInputError
        If the cohort has no split, or a damaged one.
    """
    split = read_splits(paths)
    if split is None:
        raise BadInputError(f"{paths.root} is not split into train, val and test yet.", "Run: lungseg prepare COHORT")
    return split.part(part)


def write_splits(paths: CohortPaths, split: Split) -> None:
    """Write the three files together, one case a line; what else lies in the folder stays."""
    with atomic_folder(paths.splits) as folder:
        if paths.splits.is_dir():
            for entry in paths.splits.iterdir():
                if entry.is_file():
                    shutil.copy2(entry, folder / entry.name)
        for part, names in split.items():
            text = "".join(f"{name}\n" for name in names)
            (folder / paths.split(part).name).write_text(text, encoding="utf-8", newline="\n")
