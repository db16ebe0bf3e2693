"""What each option of a prediction gains and costs, alone: Dice, HD95 and time against the plain prediction.

Every option is set against the same plain prediction (no postprocessing, no augmentation, no smoothing, the first
model only), case by case, on the native grid; the table holds means over the cases. Rules of postprocessing stand
alone, one line a rule, and together as the label set has them. With several models the last lines are the ensemble.

    python Testing/Benchmarks/bench_options.py MODEL [MODEL …] [--cohort DIR] [--cases NAME,…] [--phantoms N --seed S]
                                               [--real] [--only TEXT,…] [--device cpu] [--csv FILE] [--folder DIR]

Cases are those of the test split of a cohort, phantoms made on the fly (of a seed that no model has seen), and with
``--real`` LUNG1-001 and LUNG1-002. A model must not have learned from a case that it is tried on: nothing checks that.
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from LungSegmentationLib.cohort.convert import convert
from LungSegmentationLib.cohort.options import ConversionOptions
from LungSegmentationLib.cohort.paths import CasePaths, CohortPaths
from LungSegmentationLib.cohort.records import CaseRecord, read_record
from LungSegmentationLib.cohort.splits import read_split
from LungSegmentationLib.evaluation.case_scores import Segmentation, StructureScore, score_case
from LungSegmentationLib.geometry import Grid
from LungSegmentationLib.inference.options import PredictionOptions
from LungSegmentationLib.inference.postprocessing import postprocess, rules_of
from LungSegmentationLib.inference.predictor import Predictor
from LungSegmentationLib.labels import LabelSet, Postprocessing
from LungSegmentationLib.phantom import PhantomOptions, make_phantoms
from LungSegmentationLib.structures import StructureMap
from LungSegmentationLib.volumes import read_array

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("LUNGSEG_TEST_DATA", ROOT.parent / "shared" / "data"))
REAL = ("rt_lung1-001/image", "rt_lung1-001_xio_rtstruct", "rt_lung1-002")
PLAIN = PredictionOptions(postprocess=False, confidence=False, contours=False)
SMOOTHINGS = (1.0, 2.0, 3.0)

Scores = dict[str, StructureScore]


@dataclass(frozen=True)
class Tried:
    """A case with its reference in memory."""

    name: str
    hounsfield: np.ndarray
    grid: Grid
    reference: StructureMap
    annotated: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """One option on one case: scores of what it changed, seconds in all."""

    option: str
    case: str
    scores: Scores
    seconds: float
    changes: tuple[str, ...] = ()


def single_rules(label_set: LabelSet) -> dict[str, dict[str, Postprocessing]]:
    """Return each rule that could be worth a place in the label set, alone."""
    found: dict[str, dict[str, Postprocessing]] = {}
    organs = [one.key for one in label_set.structures if one.interpreted_type == "ORGAN"]
    targets = [one.key for one in label_set.structures if one.interpreted_type != "ORGAN"]
    sided = {one.key: one.modifier.meaning.lower() for one in label_set.structures if one.mirror and one.modifier}
    if sided:
        found["sides"] = {
            key: Postprocessing(side="right" if side == "right" else "left") for key, side in sided.items()
        }
    for key in organs:
        found[f"largest {key}"] = {key: Postprocessing("largest")}
        for size in (0.5, 5.0):
            found[f"pieces from {size:g} cc {key}"] = {key: Postprocessing(min_cc=size)}
    found["largest, all organs"] = {key: Postprocessing("largest") for key in organs}
    for key in targets:
        found[f"largest {key}"] = {key: Postprocessing("largest")}
        for size in (0.1, 0.5, 1.0):
            found[f"pieces from {size:g} cc {key}"] = {key: Postprocessing(min_cc=size)}
    found["holes in 3D, all"] = {key: Postprocessing(fill_holes="volume") for key in label_set.keys}
    found["holes in slices, all"] = {key: Postprocessing(fill_holes="slices") for key in label_set.keys}
    found["label set's rules"] = rules_of(label_set)
    return found


def cases_of(arguments: argparse.Namespace, folder: Path, label_set: LabelSet) -> Iterator[Tried]:
    """Yield all cases, one in memory at a time."""
    for cohort, names in cohorts_of(arguments, folder):
        for paths in CohortPaths(cohort).finished_cases():
            if names is None or paths.name in names:
                yield load(paths, label_set)


def cohorts_of(arguments: argparse.Namespace, folder: Path) -> Iterator[tuple[Path, set[str] | None]]:
    named = set(arguments.cases.split(",")) if arguments.cases else None
    if arguments.cohort:
        yield arguments.cohort, named or set(read_split(CohortPaths(arguments.cohort), "test"))
    if arguments.phantoms:
        options = PhantomOptions(in_plane=arguments.in_plane, complete=True)
        make_phantoms(folder / "phantoms", arguments.phantoms, arguments.seed, options=options)
        convert(folder / "phantoms" / "dicom", folder / "phantom cohort")
        yield folder / "phantom cohort", None
    if arguments.real:
        if not DATA.is_dir():
            raise SystemExit(f"no test data at {DATA}: set LUNGSEG_TEST_DATA")
        for name in REAL:
            shutil.copytree(DATA / name, folder / "real" / name.replace("/", "-"))
        convert(folder / "real", folder / "real cohort", ConversionOptions())
        yield folder / "real cohort", named


def load(paths: CasePaths, label_set: LabelSet) -> Tried:
    """Read a case."""
    grid, hounsfield = read_array(paths.ct)
    _, bits = read_array(paths.structures)
    annotated = read_record(CaseRecord, paths.record).annotated
    return Tried(paths.name, hounsfield, grid, StructureMap(label_set, bits), annotated)


def compared(structures: StructureMap, exclusive: bool) -> Segmentation:
    """Return what an evaluation would compare."""
    return structures.label_map() if exclusive else structures


def scored(
    tried: Tried, structures: StructureMap, keys: tuple[str, ...], known: tuple[str, ...], exclusive: bool
) -> Scores:
    """Score some structures of a prediction that knows others too."""
    if not keys:
        return {}
    reference = tried.reference
    if exclusive:
        # Painted with all that both know, as an evaluation does, whichever of them are scored here.
        painted = reference.label_map([key for key in known if key in tried.annotated])
        reference = StructureMap.from_label_map(reference.label_set, painted)
    found = score_case(
        compared(structures, exclusive),
        compared(reference, exclusive),
        tried.grid,
        reference.label_set,
        keys=keys,
        annotated=tried.annotated,
        exclusive=exclusive,
    )
    return {score.key: score for score in found}


def changed(before: StructureMap, after: StructureMap, keys: tuple[str, ...]) -> tuple[str, ...]:
    """Return the structures that differ somewhere."""
    differing = np.bitwise_or.reduce(
        [np.bitwise_or.reduce(a ^ b, axis=None) for a, b in zip(before.bits, after.bits, strict=True)]
    )
    label_set = before.label_set
    return tuple(key for key in keys if int(differing) >> (label_set[key].label - 1) & 1)


def options_of(models: list[Path], only: list[str]) -> dict[str, tuple[list[Path], PredictionOptions]]:
    """Return the options that need a prediction of their own."""
    first = models[:1]
    every: dict[str, tuple[list[Path], PredictionOptions]] = {
        "flip": (first, replace(PLAIN, augmentation="flip")),
        "full (flip, rotations)": (first, replace(PLAIN, augmentation="full")),
    }
    every |= {f"smoothing {mm:g} mm": (first, replace(PLAIN, smoothing=mm)) for mm in SMOOTHINGS}
    if len(models) > 1:
        every[f"ensemble of {len(models)}"] = (models, PLAIN)
        every[f"ensemble of {len(models)}, flip"] = (models, replace(PLAIN, augmentation="flip"))
    return {name: value for name, value in every.items() if wanted(name, only)}


def wanted(name: str, only: list[str]) -> bool:
    return not only or any(text in name for text in only)


def run(tried: Tried, predictors: Mapping[str, Predictor], only: list[str]) -> list[Row]:
    """Try every option on a case."""
    plain = predictors["plain"]
    ct = tried.hounsfield, tried.grid
    prediction, seconds = timed(partial(plain.predict, ct))
    known, exclusive = prediction.keys, prediction.exclusive
    before = prediction.structures
    rows = [Row("plain", tried.name, scored(tried, before, known, known, exclusive), seconds)]
    print(f"{tried.name}: plain {seconds:.1f} s, " + brief(rows[0].scores), flush=True)
    for name, rules in single_rules(before.label_set).items():
        if not wanted(name, only) or not set(rules) & set(known):
            continue
        mended, took = timed(partial(postprocess, before, tried.grid, known, rules, exclusive=exclusive))
        touched = changed(before, mended.structures, known)
        rows.append(
            Row(name, tried.name, scored(tried, mended.structures, touched, known, exclusive), took, mended.changes)
        )
        for change in mended.changes:
            print(f"  {name}: {change}", flush=True)
    for name, predictor in predictors.items():
        if name == "plain":
            continue
        other, took = timed(partial(predictor.predict, ct))
        touched = changed(before, other.structures, known)
        rows.append(Row(name, tried.name, scored(tried, other.structures, touched, known, exclusive), took - seconds))
    return rows


Result = TypeVar("Result")


def timed(work: Callable[[], Result]) -> tuple[Result, float]:
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


def brief(scores: Scores) -> str:
    return " ".join(f"{key} {score.dice:.3f}" for key, score in scores.items() if score.dice is not None)


def gain(rows: list[Row], plain: Mapping[str, Row], key: str, metric: str) -> str:
    """Return the mean change over the cases with the structure on both sides, and how many are won or lost."""
    differences, won, lost = [], 0, 0
    for row in rows:
        before = plain[row.case].scores.get(key)
        if before is None:
            continue
        after = row.scores.get(key, before)
        one, other = getattr(before, metric), getattr(after, metric)
        if one is None or other is None:
            won += one is None and other is not None
            lost += one is not None and other is None
            continue
        differences.append(other - one)
    if not differences and not won and not lost:
        return ""
    mean = float(np.mean(differences)) if differences else 0.0
    digits = 4 if metric == "dice" else 2
    text = "=" if abs(mean) < 0.5 * 10**-digits else f"{mean:+.{digits}f}"
    return text + (f" +{won}" if won else "") + (f" −{lost}" if lost else "")


def table(rows: list[Row], keys: tuple[str, ...]) -> list[list[str]]:
    """Return a line an option: change of Dice and of HD95 (mm) of each structure, and seconds a case."""
    plain = {row.case: row for row in rows if row.option == "plain"}
    lines = [["option", *(f"{key} {what}" for key in keys for what in ("Dice", "HD95")), "s"]]
    absolute = ["plain (absolute)"]
    for key in keys:
        for metric, digits in (("dice", 3), ("hd95_mm", 1)):
            values = [getattr(row.scores[key], metric) for row in plain.values() if key in row.scores]
            values = [value for value in values if value is not None]
            absolute.append(f"{np.mean(values):.{digits}f}" if values else "")
    lines.append([*absolute, f"{np.mean([row.seconds for row in plain.values()]):.1f}"])
    for option in dict.fromkeys(row.option for row in rows if row.option != "plain"):
        mine = [row for row in rows if row.option == option]
        cells = [gain(mine, plain, key, metric) for key in keys for metric in ("dice", "hd95_mm")]
        lines.append([option, *cells, f"{np.mean([row.seconds for row in mine]):+.2f}"])
    return lines


def main() -> None:
    """Predict, score, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+", metavar="MODEL")
    parser.add_argument("--cohort", type=Path)
    parser.add_argument("--cases", help="names, in place of the test split or of both real patients")
    parser.add_argument("--phantoms", type=int, default=0)
    parser.add_argument("--seed", type=int, default=777)
    parser.add_argument("--in-plane", type=int, default=256)
    parser.add_argument("--real", action="store_true")
    parser.add_argument("--only", default="", help="options whose name holds one of these")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--csv", type=Path, help="write every score here")
    parser.add_argument("--folder", type=Path, help="keep phantoms and conversions here")
    arguments = parser.parse_args()
    if not (arguments.cohort or arguments.phantoms or arguments.real):
        parser.error("give --cohort, --phantoms or --real")
    only = [text for text in arguments.only.split(",") if text]
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="lungseg-"))
    base = replace(PLAIN, device=arguments.device)
    predictors = {"plain": Predictor(arguments.models[0], base)}
    for name, (models, options) in options_of(arguments.models, only).items():
        predictors[name] = Predictor(models, replace(options, device=arguments.device))
    label_set, keys = predictors["plain"].cards[0].label_set, predictors["plain"].keys
    rows: list[Row] = []
    for tried in cases_of(arguments, folder, label_set):
        rows += run(tried, predictors, only)
    if not rows:
        raise SystemExit("no case to try")
    lines = table(rows, keys)
    widths = [max(len(line[place]) for line in lines) for place in range(len(lines[0]))]
    print()
    for line in lines:
        print(
            "  ".join(
                cell.ljust(width) if place == 0 else cell.rjust(width)
                for place, (cell, width) in enumerate(zip(line, widths, strict=True))
            )
        )
    print(
        "Change against plain, mean over cases; = none; +n, −n: structures found or lost where the score was undefined."
    )
    if arguments.csv:
        with arguments.csv.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(["option", "case", "structure", "dice", "hd95_mm", "seconds", "changes"])
            for row in rows:
                for key, score in row.scores.items():
                    writer.writerow(
                        [row.option, row.case, key, score.dice, score.hd95_mm, row.seconds, " ".join(row.changes)]
                    )
    if arguments.folder is None:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
