"""Which pieces of the lungs a prediction should keep: the largest, those from 5 cc, from 50 cc, all, in one run.

Each setting stands alone, on the plain prediction, and in the rules of the label set in place of its own. Lungs that
something divides (a tumor, an effusion, a collapsed lobe) are tried too: prediction and reference both lose a slab
of 10 mm through the middle of each lung, and a rule that keeps one piece then loses the other.

    python Testing/Benchmarks/bench_rules.py --try MODEL COHORT CASE,… [--try …] [--device cpu] [--csv FILE]

CASE is a name, or a part of the cohort's split. A model must not have learned from a case that it is tried on: nothing
checks that. ``bench_phantom_training.py`` and ``bench_real_patients.py`` make models and cohorts (``--folder``).
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from bench_options import PLAIN, Row, Tried, changed, load, scored

from LungSegmentationLib.cohort.paths import CohortPaths
from LungSegmentationLib.cohort.splits import PARTS, read_split
from LungSegmentationLib.geometry import Grid
from LungSegmentationLib.inference.postprocessing import Rules, postprocess, rules_of
from LungSegmentationLib.inference.predictor import Predictor
from LungSegmentationLib.labels import LabelSet, Postprocessing
from LungSegmentationLib.structures import StructureMap

SETTINGS = {
    "all": Postprocessing(),
    "from 5 cc": Postprocessing(min_cc=5.0),
    "from 50 cc": Postprocessing(min_cc=50.0),
    "largest": Postprocessing("largest"),
}
SLAB_MM = 10.0
PLAIN_ROW = "no rule at all"


def paired(label_set: LabelSet) -> tuple[str, ...]:
    """Return the structures that lie in one half of the patient: the lungs."""
    return tuple(one.key for one in label_set.structures if one.mirror)


def tried_rules(label_set: LabelSet) -> dict[str, Rules]:
    """Return every setting alone, and in place of the label set's own."""
    own, lungs = rules_of(label_set), paired(label_set)
    found: dict[str, Rules] = {
        f"lungs {name}, no other rule": dict.fromkeys(lungs, setting)
        for name, setting in SETTINGS.items()
        if name != "all"
    }
    for name, setting in SETTINGS.items():
        found[f"label set's rules, lungs {name}"] = {
            **own,
            **{key: replace(own[key], components=setting.components, min_cc=setting.min_cc) for key in lungs},
        }
    return found


def severed(structures: StructureMap, keys: tuple[str, ...], grid: Grid, slabs: dict[str, slice]) -> StructureMap:
    """Return structures without a slab of slices through the middle of each lung."""
    bits = structures.bits.copy()
    for key in keys:
        bits[slabs[key]] &= ~np.uint8(1 << (structures.label_set[key].label - 1))
    return StructureMap(structures.label_set, bits)


def slabs_of(reference: StructureMap, keys: tuple[str, ...], grid: Grid) -> dict[str, slice]:
    """Return where each lung is cut: axial slices are needed."""
    found = {}
    count = max(round(SLAB_MM / grid.spacing[2]), 1)
    for key in keys:
        slices = np.flatnonzero(reference.mask(key).any(axis=(1, 2)))
        start = int(slices[len(slices) // 2]) if len(slices) else 0
        found[key] = slice(start, start + count)
    return found


def rows_of(tried: Tried, before: StructureMap, known: tuple[str, ...], exclusive: bool) -> Iterator[Row]:
    """Yield every setting on one prediction."""
    yield Row(PLAIN_ROW, tried.name, scored(tried, before, known, known, exclusive), 0.0)
    for name, rules in tried_rules(before.label_set).items():
        mended = postprocess(before, tried.grid, known, rules, exclusive=exclusive)
        touched = changed(before, mended.structures, known)
        yield Row(name, tried.name, scored(tried, mended.structures, touched, known, exclusive), 0.0, mended.changes)


def run(tried: Tried, predictor: Predictor) -> Iterator[tuple[str, Row]]:
    """Yield every setting on a case, as it is and with divided lungs."""
    prediction = predictor.predict((tried.hounsfield, tried.grid))
    known, exclusive = prediction.keys, prediction.exclusive
    for row in rows_of(tried, prediction.structures, known, exclusive):
        yield "as they are", row
    lungs = tuple(key for key in paired(tried.reference.label_set) if key in known and key in tried.annotated)
    slabs = slabs_of(tried.reference, lungs, tried.grid)
    cut = replace(tried, reference=severed(tried.reference, lungs, tried.grid, slabs))
    for row in rows_of(cut, severed(prediction.structures, lungs, tried.grid, slabs), known, exclusive):
        yield "divided lungs", row


def show(title: str, rows: list[Row], keys: tuple[str, ...]) -> None:
    """Print Dice and HD95 of each structure, means over the cases; what a setting left as it was counts as plain."""
    plain = {row.case: row for row in rows if row.option == PLAIN_ROW}
    print(f"\n{title}: {len(plain)} case{'s' if len(plain) > 1 else ''}, Dice and HD95 in mm")
    width = max(len(row.option) for row in rows)
    print(" " * width, *(key.rjust(14) for key in keys))
    for option in dict.fromkeys(row.option for row in rows):
        cells = []
        for key in keys:
            found = [row.scores.get(key, plain[row.case].scores.get(key)) for row in rows if row.option == option]
            dice = [one.dice for one in found if one is not None and one.dice is not None]
            far = [one.hd95_mm for one in found if one is not None and one.hd95_mm is not None]
            text = f"{np.mean(dice):.4f}" if dice else "–"
            cells.append((text + (f" {np.mean(far):5.1f}" if far else "     –")).rjust(14))
        print(option.ljust(width), *cells)


def main() -> None:
    """Predict once a case, mend in every way, score, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--try", dest="tries", nargs=3, action="append", required=True, metavar=("MODEL", "COHORT", "CASE,…")
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--csv", type=Path, help="write every score here")
    arguments = parser.parse_args()
    every: list[tuple[str, Row]] = []
    for model, cohort, cases in arguments.tries:
        paths = CohortPaths(Path(cohort))
        names = set(read_split(paths, cases) if cases in PARTS else cases.split(","))
        predictor = Predictor(Path(model), replace(PLAIN, device=arguments.device))
        found: list[tuple[str, Row]] = []
        for case in paths.finished_cases():
            if case.name in names:
                tried = load(case, predictor.cards[0].label_set)
                found += run(tried, predictor)
                for how, row in found:
                    if row.case == case.name and row.option == "label set's rules, lungs from 50 cc":
                        print(f"{case.name}, {how}: {' '.join(row.changes) or 'nothing mended'}", flush=True)
        for how in dict.fromkeys(how for how, _ in found):
            show(f"{cases} of {paths.root}, {how}", [row for kind, row in found if kind == how], predictor.keys)
        every += found
    if arguments.csv:
        with arguments.csv.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(["lungs", "rule", "case", "structure", "dice", "hd95_mm", "changes"])
            for how, row in every:
                for key, score in row.scores.items():
                    writer.writerow([how, row.option, row.case, key, score.dice, score.hd95_mm, " ".join(row.changes)])


if __name__ == "__main__":
    main()
