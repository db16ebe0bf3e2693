"""The scores as files for spreadsheets and programs: one row a case and structure, summary, confusion."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from LungSegmentationLib.evaluation.case_scores import CaseScores, Confusion, StructureScore
from LungSegmentationLib.evaluation.metrics import METRICS
from LungSegmentationLib.evaluation.summary import Spread, Summary
from LungSegmentationLib.labels import LabelSet
from LungSegmentationLib.storage import write_text

__all__ = ["NOT_ANNOTATED", "write_confusion", "write_results", "write_summary"]

NOT_ANNOTATED = "not_annotated"
"""Outcome of a structure that is left out because nobody drew it."""

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
_SPREAD = ("count", "mean", "std", "median", "lower_quartile", "upper_quartile", "lowest", "highest", "worst")


def write_results(cases: Iterable[CaseScores], label_set: LabelSet, path: Path) -> None:
    """Write one row a case and structure; an empty cell where a score is not defined."""
    volumes = ["reference_cc", "prediction_cc", "unjudged_cc"]
    header = ["case", "structure", "label", "compared_as", "outcome", *(metric.name for metric in METRICS), *volumes]
    header.append("confidence")
    rows: list[Sequence[object]] = []
    for case in cases:
        how = "label map" if case.exclusive else "as drawn"
        scores = {score.key: score for score in case.scores}
        for key in label_set.keys:
            start = [case.case, key, label_set[key].label, how]
            if key in scores:
                score = scores[key]
                names = [*(metric.name for metric in METRICS), *volumes]
                sure = _number(case.confidence.get(key))
                rows.append([*start, str(score.outcome), *(_field(score, name) for name in names), sure])
            elif key in case.not_annotated:
                rows.append([*start, NOT_ANNOTATED, *[""] * (len(header) - 5)])
    _write(path, header, rows)


def write_summary(summary: Summary, path: Path) -> None:
    """Write one row a structure and metric."""
    header = ["structure", "metric", *_SPREAD, "worst_case"]
    rows: list[Sequence[object]] = []
    for structure in summary.structures:
        for metric in METRICS:
            spread: Spread | None = structure.spreads.get(metric.name)
            if spread is not None:
                values = [_number(getattr(spread, name)) for name in _SPREAD]
                rows.append([structure.key, metric.name, *values, spread.worst_case])
        for threshold, rate in structure.successes.items():
            count = structure.spreads["dice"].count if rate is not None else 0
            filler = [""] * (len(_SPREAD) - 1)
            rows.append([structure.key, f"success_rate_dice_{threshold:g}", count, _number(rate), *filler])
    _write(path, header, rows)


def write_confusion(confusion: Confusion, path: Path) -> None:
    """Write shared volumes in cm³: rows are the reference's structures, columns the prediction's."""
    header = ["reference \\ prediction, cc", *(key or "none" for key in confusion.columns)]
    rows = [
        [key or "none", *(f"{value:.3f}" for value in values)]
        for key, values in zip(confusion.rows, confusion.volumes.tolist(), strict=True)
    ]
    _write(path, header, rows)


def _field(score: StructureScore, name: str) -> object:
    return _number(getattr(score, name))


def _number(value: float | None) -> object:
    if value is None:
        return ""
    return value if isinstance(value, int) else f"{value:.6g}"


def _write(path: Path, header: Sequence[object], rows: Iterable[Sequence[object]]) -> None:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(header)
    for row in rows:
        # A case called "=1+1" must not become a formula in a spreadsheet; "-1.5" is a number and may stay.
        writer.writerow([_safe(cell) if i == 0 or i == len(header) - 1 else cell for i, cell in enumerate(row)])
    # The mark lets Excel see that this is UTF-8.
    write_text(path, "\ufeff" + stream.getvalue())


def _safe(cell: object) -> object:
    if isinstance(cell, str) and cell.startswith(_FORMULA_STARTS) and not _is_number(cell):
        return f"'{cell}"
    return cell


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
