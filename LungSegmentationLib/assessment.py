"""A whole evaluation: scores from ``evaluation``, pictures from ``figures``, and the report of both."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from LungSegmentationLib.cohort.paths import CohortPaths
from LungSegmentationLib.cohort.splits import PARTS, Part, read_split
from LungSegmentationLib.errors import BadInputError, UsageError
from LungSegmentationLib.evaluation.case_scores import CaseScores, Outcome
from LungSegmentationLib.evaluation.evaluate import Evaluation, evaluate_pairs
from LungSegmentationLib.evaluation.metrics import METRICS
from LungSegmentationLib.evaluation.pairs import Loadable, LoadedCase, find_pairs
from LungSegmentationLib.evaluation.report import REPORT, ReportPictures, worst_first, write_report
from LungSegmentationLib.figures.evaluation import (
    CasePicture,
    Panel,
    Ranked,
    bland_altman,
    case_slices,
    metrics_distribution,
    structure_ranking,
)
from LungSegmentationLib.figures.meshes import structure_mesh, write_meshes
from LungSegmentationLib.jobs.events import Reporter, SilentReporter
from LungSegmentationLib.labels import LabelSet, load_label_set
from LungSegmentationLib.storage import safe_name
from LungSegmentationLib.structures import StructureMap

if TYPE_CHECKING:
    from LungSegmentationLib.inference.options import PredictionOptions
    from LungSegmentationLib.networks.card import ModelCard

__all__ = ["assess", "assess_files", "assess_model", "assess_predictions"]

MESHED = ("worst", "all", "none")
SHOWN_CASES = 12
"""Cases with a chapter of their own in the report; their pictures make its size."""

_DRAWN = {"dice", "surface_dice", "hd95_mm", "mean_distance_mm"}


def assess_files(
    prediction: Path,
    reference: Path,
    out: Path,
    reporter: Reporter | None = None,
    *,
    label_set: LabelSet | None = None,
    keys: Iterable[str] | None = None,
    annotated: Iterable[str] | None = None,
    ct: Path | None = None,
    meshes: str = "worst",
) -> Evaluation:
    """Evaluate files against files; parameters as :func:`assess` and ``evaluation.pairs.find_pairs``."""
    label_set = label_set or load_label_set()
    keys = None if keys is None else label_set.chosen(keys, "--structures")
    annotated = None if annotated is None else label_set.chosen(annotated, "--annotated")
    reporter = reporter or SilentReporter()

    def scanned(done: int, total: int) -> None:
        reporter.progress("scan", done, total)
        reporter.check_cancelled()

    pairing = find_pairs(prediction, reference, label_set, annotated=annotated, ct=ct, progress=scanned)
    for warning in pairing.warnings:
        reporter.warning(warning)
    alone = [(name, "there is no reference for this prediction") for name in pairing.without_reference]
    alone += [(name, "there is no prediction for this reference") for name in pairing.without_prediction]
    title = f"{prediction.name} against {reference.name}"
    return assess(pairing.pairs, out, reporter, label_set=label_set, keys=keys, alone=alone, meshes=meshes, title=title)


def assess_model(
    models: Sequence[Path],
    cohort: Path,
    out: Path,
    reporter: Reporter | None = None,
    *,
    split: Part = "test",
    options: PredictionOptions | None = None,
    meshes: str = "worst",
) -> Evaluation:
    """Segment the cases of one part of a cohort's split and evaluate that.

    The predictions stay in ``<out>/predictions``; those of the same models, options and CTs are not made again.

    Parameters
    ----------
    models
        A model, or several that are averaged: files, or folders of runs.
    cohort, split
        The cohort, and which part of its split.
    out
        The folder.
    reporter
        Hears progress, warnings and results.
    options
        How the cases are segmented.
    meshes
        As in :func:`assess`.

    Raises
    ------
    BadInputError
        If model or cohort cannot be used, or nothing could be scored.
    """
    from LungSegmentationLib.inference.command import predict_command
    from LungSegmentationLib.networks.model_file import model_file, read_card

    reporter = reporter or SilentReporter()
    if split not in PARTS:
        raise UsageError(f"“{split}” is no part of a split.", f"Choose one of: {', '.join(PARTS)}.")
    models = [model_file(model) for model in models]
    paths = CohortPaths(cohort)
    paths.require()
    names = read_split(paths, split)
    if not names:
        raise BadInputError(f"The part {split} of the split of {cohort} is empty.", "Choose another part.")
    predictions = out / "predictions"
    try:
        predict_command(models, cohort, predictions, options, only=names, existing="keep", reporter=reporter)
    except BadInputError as error:
        # What could be segmented is evaluated all the same; the report names the others.
        if not any((predictions / name).is_dir() for name in names):
            raise
        reporter.warning(str(error))
    title = f"{' + '.join(model.name for model in models)} on {split} of {cohort.resolve().name}"
    return assess_predictions(
        predictions, cohort, names, read_card(models[0]), out, reporter, meshes=meshes, title=title
    )


def assess_predictions(
    predictions: Path,
    cohort: Path,
    names: Sequence[str],
    card: ModelCard,
    out: Path,
    reporter: Reporter,
    *,
    meshes: str = "worst",
    title: str = "",
) -> Evaluation:
    """Evaluate what a model predicted for some cases of a cohort: the structures that it learned, no others.

    Parameters
    ----------
    predictions
        Folder with a folder a case.
    cohort, names
        The references: a cohort, and which of its cases.
    card
        Of the model.
    out, reporter, meshes, title
        As in :func:`assess`.
    """
    pairs = [pair for pair in find_pairs(predictions, cohort, card.label_set).pairs if pair.case in names]
    found = {pair.case for pair in pairs}
    return assess(
        pairs,
        out,
        reporter,
        label_set=card.label_set,
        keys=card.structures,
        alone=[(name, "it could not be segmented") for name in names if name not in found],
        meshes=meshes,
        title=title,
    )


def assess(
    pairs: Iterable[Loadable],
    out: Path,
    reporter: Reporter | None = None,
    *,
    label_set: LabelSet | None = None,
    keys: Iterable[str] | None = None,
    alone: Iterable[tuple[str, str]] = (),
    meshes: str = "worst",
    title: str = "",
    now: datetime | None = None,
) -> Evaluation:
    """Score cases, draw them, and write tables, pictures, surfaces and ``report.html`` into a folder.

    Parameters
    ----------
    pairs
        The cases; each is loaded once, and a second time for its surfaces.
    out
        The folder.
    reporter
        Hears progress, warnings and results.
    label_set
        Default: thorax.
    keys
        Structures that the predictions know. Default: what their records say, otherwise all.
    alone
        Cases that have one side only and which is missing.
    meshes
        Which cases get ``3d_<case>.html`` (6 MB and more each): the worst, the median and the best by mean Dice
        (``worst``), all, or none.
    title
        What is evaluated, for the headline of the report.
    now
        The moment in the files' names. Default: now.

    Raises
    ------
    BadInputError
        If no case could be scored, or two have one name.
    UsageError
        If ``meshes`` is something else.
    """
    reporter = reporter or SilentReporter()
    label_set = label_set or load_label_set()
    pairs = tuple(pairs)
    if meshes not in MESHED:
        raise UsageError(f"“{meshes}” is no choice of surfaces.", f"Choose one of: {', '.join(MESHED)}.")
    names = _file_names([pair.case for pair in pairs])
    slices: dict[str, Path] = {}

    def draw(loaded: LoadedCase, scores: CaseScores) -> None:
        path = out / f"segmentation_visualization_{names[loaded.case]}.png"
        slices[loaded.case] = case_slices(_picture(loaded, scores), label_set, path)

    done = evaluate_pairs(pairs, out, reporter, label_set=label_set, keys=keys, alone=alone, visit=draw, now=now)
    surfaces: dict[str, Path] = {}
    chosen = _meshed(done.cases, meshes)
    missing = [name for name in ("plotly", "skimage") if find_spec(name) is None]
    if chosen and missing:
        reporter.warning(
            f"No surfaces in 3D: {' and '.join(missing)} not installed. Install them with: "
            "pip install 'lungsegmentation[report]'"
        )
        chosen = []
    for count, scores in enumerate(chosen):
        reporter.progress("surfaces", count, len(chosen), scores.case)
        reporter.check_cancelled()
        pair = next(pair for pair in pairs if pair.case == scores.case)
        path = out / f"3d_{names[scores.case]}.html"
        surfaces[scores.case] = _write_surfaces(pair.load(label_set), scores, label_set, path)
    if chosen:
        reporter.progress("surfaces", len(chosen), len(chosen))
    pictures = ReportPictures(**_overviews(done, label_set), cases=_shown(done.cases, slices), meshes=surfaces)
    report = write_report(done, pictures, out / REPORT, title)
    files = {
        **done.files,
        "metrics_distribution": pictures.distribution,
        "structure_ranking": pictures.ranking,
        "volumes": pictures.volumes,
        **{f"slices {case}": path for case, path in slices.items()},
        **{f"3d {case}": path for case, path in surfaces.items()},
        "report": report,
    }
    done = replace(done, files={name: path for name, path in files.items() if path is not None})
    reporter.result({name: done.files[name] for name in ("report", "results", "summary")}, _headline(done))
    return done


def _file_names(cases: list[str]) -> dict[str, str]:
    """Return a name for the files of each case, never one for two."""
    names: dict[str, str] = {}
    taken: set[str] = set()
    for case in cases:
        if case in names:
            raise BadInputError(f"Two cases are called {case}.", "Give each its own name.")
        name, number = safe_name(case), 1
        while name.casefold() in taken:
            number += 1
            name = f"{safe_name(case)}_{number}"
        names[case] = name
        taken.add(name.casefold())
    return names


def _picture(loaded: LoadedCase, scores: CaseScores) -> CasePicture:
    keys = tuple(score.key for score in scores.scores)
    sides = [loaded.reference, loaded.prediction]
    if scores.exclusive:
        # What is shown is what was compared.
        sides = [side.label_map(keys) if isinstance(side, StructureMap) else side for side in sides]
    return CasePicture(loaded.case, sides[0], sides[1], loaded.grid, loaded.ct, keys)


def _meshed(cases: tuple[CaseScores, ...], wanted: str) -> list[CaseScores]:
    ordered = worst_first(cases)
    if wanted == "none":
        return []
    if wanted == "all":
        return ordered
    places = sorted({0, len(ordered) // 2, len(ordered) - 1})
    return [ordered[place] for place in places]


def _shown(cases: tuple[CaseScores, ...], slices: dict[str, Path]) -> dict[str, Path]:
    ordered = worst_first(cases)
    # The best one stays in, so that a reader sees what it looks like when it works.
    chosen = ordered if len(ordered) <= SHOWN_CASES else [*ordered[: SHOWN_CASES - 1], ordered[-1]]
    return {case.case: slices[case.case] for case in chosen}


def _write_surfaces(loaded: LoadedCase, scores: CaseScores, label_set: LabelSet, path: Path) -> Path:
    picture = _picture(loaded, scores)
    sides = []
    for side in (picture.reference, picture.prediction):
        found = {}
        for key in picture.keys:
            mask = side.mask(key) if isinstance(side, StructureMap) else side == label_set[key].label
            mesh = structure_mesh(mask, loaded.grid)
            if mesh is not None:
                found[key] = mesh
        sides.append(found)
    return write_meshes(loaded.case, sides[0], sides[1], label_set, path)


@dataclass(frozen=True)
class _Values:
    """Values of one metric by structure."""

    by_key: dict[str, list[float]]

    @classmethod
    def of(cls, cases: tuple[CaseScores, ...], name: str) -> _Values:
        found: dict[str, list[float]] = {}
        for case in cases:
            for score in case.scores:
                value = getattr(score, name)
                if value is not None:
                    found.setdefault(score.key, []).append(float(value))
        return cls(found)


def _overviews(done: Evaluation, label_set: LabelSet) -> dict[str, Path | None]:
    if done.summary.mean_dice is None:
        return {}
    out, stamp = done.out, done.stamp
    panels = [
        Panel(
            metric.title + (f", {metric.unit}" if metric.unit else ""),
            _Values.of(done.cases, metric.name).by_key,
            None if metric.unit else (0.0, 1.0),
            done.expected.dice if metric.name == "dice" else {},
        )
        for metric in METRICS
        if metric.name in _DRAWN
    ]
    ranked = [
        Ranked(one.key, spread.mean, spread.std, spread.count)
        for one in done.summary.structures
        for spread in [one.spreads.get("dice")]
        if spread is not None
    ]
    volumes: dict[str, list[tuple[float, float]]] = {}
    for case in done.cases:
        for score in case.scores:
            if score.outcome != Outcome.BOTH_EMPTY:
                volumes.setdefault(score.key, []).append((score.reference_cc, score.prediction_cc))
    return {
        "distribution": metrics_distribution(panels, label_set, out / f"metrics_distribution_{stamp}.png"),
        "ranking": structure_ranking(ranked, done.expected.dice, label_set, out / f"structure_ranking_{stamp}.png"),
        "volumes": bland_altman(volumes, label_set, out / f"volume_agreement_{stamp}.png"),
    }


def _headline(done: Evaluation) -> dict[str, object]:
    summary = done.summary
    return {
        "cases": summary.cases,
        "failed": len(done.failures),
        "left_out": len(done.alone),
        "mean_dice": None if summary.mean_dice is None else round(summary.mean_dice, 4),
        **{str(outcome): summary.count(outcome) for outcome in Outcome},
        "not_annotated": summary.not_annotated,
        "dice": {one.key: round(one.mean_dice, 4) for one in summary.structures if one.mean_dice is not None},
    }
