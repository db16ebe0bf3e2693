"""Scores many cases one after the other and writes the tables; pictures and report come from who calls."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from LungSegmentationLib import __version__
from LungSegmentationLib.errors import BadInputError
from LungSegmentationLib.evaluation.case_scores import CaseScores, Confusion, scores_of_case
from LungSegmentationLib.evaluation.expected import ExpectedScores, expected_scores
from LungSegmentationLib.evaluation.metrics import SURFACE_TOLERANCE
from LungSegmentationLib.evaluation.pairs import Loadable, LoadedCase, find_pairs
from LungSegmentationLib.evaluation.summary import Summary, joined_confusion, summarize
from LungSegmentationLib.evaluation.tables import write_confusion, write_results, write_summary
from LungSegmentationLib.jobs.events import Reporter, SilentReporter
from LungSegmentationLib.labels import LabelSet, load_label_set
from LungSegmentationLib.storage import write_json
from LungSegmentationLib.structures import StructureMap

__all__ = ["Evaluation", "evaluate_files", "evaluate_pairs", "score_loaded"]

SCHEMA = 1


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Attributes
    ----------
    label_set
        The structures.
    cases
        Scores, in the order of the cases.
    failures
        Case and reason of those that could not be scored.
    alone
        Names of cases with only one side, each with a word on which is missing.
    summary, confusion
        Over all cases.
    expected
        What is expected of the structures.
    out, stamp
        Folder of the files, and the moment in their names (local time, ``YYYYmmdd_HHMMSS``).
    files
        What was written, by a name for each.
    """

    label_set: LabelSet
    cases: tuple[CaseScores, ...]
    failures: tuple[tuple[str, str], ...]
    alone: tuple[tuple[str, str], ...]
    summary: Summary
    confusion: Confusion
    expected: ExpectedScores
    out: Path
    stamp: str
    files: dict[str, Path]


def score_loaded(loaded: LoadedCase, label_set: LabelSet, keys: Iterable[str] | None = None) -> CaseScores:
    """Score a case in memory: as drawn where both sides keep overlaps, otherwise as label maps."""
    overlapping = isinstance(loaded.prediction, StructureMap) and isinstance(loaded.reference, StructureMap)
    scores = scores_of_case(
        loaded.case,
        loaded.prediction,
        loaded.reference,
        loaded.grid,
        label_set,
        keys=loaded.known if keys is None else keys,
        annotated=loaded.annotated,
        exclusive=not overlapping,
    )
    return replace(scores, confidence=loaded.confidence, remarks=loaded.remarks)


def evaluate_pairs(
    pairs: Iterable[Loadable],
    out: Path,
    reporter: Reporter | None = None,
    *,
    label_set: LabelSet | None = None,
    keys: Iterable[str] | None = None,
    alone: Iterable[tuple[str, str]] = (),
    visit: Callable[[LoadedCase, CaseScores], None] | None = None,
    now: datetime | None = None,
) -> Evaluation:
    """Score cases and write ``evaluation_results_<time>.csv``, the summary (CSV and JSON) and the confusion table.

    One case is in memory at a time. A case that fails is reported, and the rest go on.

    Parameters
    ----------
    pairs
        The cases.
    out
        Folder for the files; made where it is missing.
    reporter
        Hears progress and warnings.
    label_set
        Default: thorax.
    keys
        Structures that the predictions know. Default: what their records say, otherwise all.
    alone
        Cases that have one side only and which is missing, for the record.
    visit
        Called with each case while it is in memory, for pictures.
    now
        The moment in the files' names. Default: now.

    Raises
    ------
    BadInputError
        If no case could be scored; the reasons are in it.
    """
    reporter = reporter or SilentReporter()
    label_set = label_set or load_label_set()
    keys = None if keys is None else tuple(keys)
    pairs, alone = tuple(pairs), tuple(alone)
    scored: list[CaseScores] = []
    failures: list[tuple[str, str]] = []
    for name, missing in alone:
        reporter.warning(f"{missing}: left out.", name)
    reporter.progress("evaluate", 0, len(pairs))
    for done, pair in enumerate(pairs, 1):
        reporter.check_cancelled()
        try:
            loaded = pair.load(label_set)
            scores = score_loaded(loaded, label_set, keys)
        except BadInputError as error:
            failures.append((pair.case, str(error)))
            reporter.warning(str(error), pair.case)
        else:
            for warning in loaded.warnings:
                reporter.warning(warning, pair.case)
            scored.append(scores)
            if visit is not None:
                visit(loaded, scores)
            del loaded
        reporter.progress("evaluate", done, len(pairs), pair.case)
    if not scored:
        reasons = " ".join(f"{case}: {reason}" for case, reason in failures[:3])
        raise BadInputError(f"No case could be evaluated. {reasons}".strip())
    stamp = (now or datetime.now().astimezone()).strftime("%Y%m%d_%H%M%S")
    summary, confusion = summarize(scored, label_set), joined_confusion(scored, label_set)
    expected = expected_scores(label_set)
    files = {
        "results": out / f"evaluation_results_{stamp}.csv",
        "summary": out / f"evaluation_summary_{stamp}.csv",
        "summary_json": out / f"evaluation_summary_{stamp}.json",
        "confusion": out / f"confusion_{stamp}.csv",
    }
    write_results(scored, label_set, files["results"])
    write_summary(summary, files["summary"])
    write_confusion(confusion, files["confusion"])
    content = {
        "schema": SCHEMA,
        "software_version": __version__,
        "label_set": label_set.name,
        "surface_tolerance_mm": SURFACE_TOLERANCE,
        "compared_as": {case.case: "label map" if case.exclusive else "as drawn" for case in scored},
        "expected_dice": {key: list(limits) for key, limits in expected.dice.items()},
        **summary.as_dict(),
        "failed": dict(failures),
        "left_out": dict(alone),
    }
    write_json(files["summary_json"], content)
    return Evaluation(label_set, tuple(scored), tuple(failures), alone, summary, confusion, expected, out, stamp, files)


def evaluate_files(
    prediction: Path,
    reference: Path,
    label_set: LabelSet | None = None,
    *,
    keys: Iterable[str] | None = None,
    annotated: Iterable[str] | None = None,
) -> CaseScores:
    """Score one prediction file against one reference file or case folder, and write nothing.

    Parameters
    ----------
    prediction, reference
        Label maps, or bit fields called ``structures``; on the same grid.
    label_set
        Default: thorax.
    keys
        Structures that the prediction knows. Default: what its record says, otherwise all.
    annotated
        Structures that were drawn. Default: what ``case.json`` beside the reference says, otherwise what is there.

    Raises
    ------
    BadInputError
        If a file cannot be used, the grids differ, or there are several cases.
    """
    label_set = label_set or load_label_set()
    pairing = find_pairs(prediction, reference, label_set, annotated=annotated)
    if len(pairing.pairs) > 1:
        raise BadInputError(f"{reference} holds {len(pairing.pairs)} cases.", "Use evaluate_pairs for several.")
    return score_loaded(pairing.pairs[0].load(label_set), label_set, keys)
