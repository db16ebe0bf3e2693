"""Scores of many cases in a few numbers: means, spread, worst cases, successes, and what could not be scored."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from LungSegmentationLib.evaluation.case_scores import CaseScores, Confusion, Outcome, StructureScore
from LungSegmentationLib.evaluation.metrics import METRICS, SUCCESS_THRESHOLDS, Metric
from LungSegmentationLib.labels import LabelSet

__all__ = ["Spread", "StructureSummary", "Summary", "joined_confusion", "summarize"]


@dataclass(frozen=True)
class Spread:
    """One metric of one structure over the cases where it is defined.

    Attributes
    ----------
    count
        Cases.
    mean, std
        Mean and standard deviation of the sample (n − 1; None for one case).
    median, lower_quartile, upper_quartile, lowest, highest
        Order statistics, interpolated linearly.
    worst, worst_case
        The worst value and its case.
    """

    count: int
    mean: float
    std: float | None
    median: float
    lower_quartile: float
    upper_quartile: float
    lowest: float
    highest: float
    worst: float
    worst_case: str

    @classmethod
    def of(cls, values: Sequence[tuple[str, float]], metric: Metric) -> Spread:
        """Summarize values by case, at least one."""
        numbers = np.array([value for _, value in values])
        low, median, high = np.percentile(numbers, [25, 50, 75]).tolist()
        worst_case, worst = max(values, key=lambda item: metric.badness(item[1]))
        return cls(
            count=len(numbers),
            mean=float(numbers.mean()),
            std=float(numbers.std(ddof=1)) if len(numbers) > 1 else None,
            median=median,
            lower_quartile=low,
            upper_quartile=high,
            lowest=float(numbers.min()),
            highest=float(numbers.max()),
            worst=worst,
            worst_case=worst_case,
        )


@dataclass(frozen=True)
class StructureSummary:
    """One structure over all cases.

    Attributes
    ----------
    key
        The structure.
    outcomes
        In how many cases it was compared, missed, a false alarm, or absent on both sides.
    not_annotated
        In how many cases it was left out because nobody drew it.
    spreads
        By the name of the metric; a metric that no case defines is not in it.
    successes
        Threshold → part of the cases with at least this Dice, of those where Dice is defined; None if there is none.
    """

    key: str
    outcomes: dict[Outcome, int]
    not_annotated: int
    spreads: dict[str, Spread]
    successes: dict[float, float | None]

    @property
    def mean_dice(self) -> float | None:
        """Mean Dice, None where no case defines it."""
        spread = self.spreads.get("dice")
        return spread.mean if spread else None


@dataclass(frozen=True)
class Summary:
    """All structures over all cases; structures in the order of their labels, those that no case tells of left out."""

    cases: int
    structures: tuple[StructureSummary, ...]

    @property
    def mean_dice(self) -> float | None:
        """Mean of the structures' mean Dice: each structure counts the same, however often it was drawn."""
        values = [one.mean_dice for one in self.structures if one.mean_dice is not None]
        return float(np.mean(values)) if values else None

    def count(self, outcome: Outcome) -> int:
        """Return in how many structures of cases this was the outcome."""
        return sum(one.outcomes[outcome] for one in self.structures)

    @property
    def not_annotated(self) -> int:
        """How many structures of cases were left out."""
        return sum(one.not_annotated for one in self.structures)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "cases": self.cases,
            "mean_dice": self.mean_dice,
            "structures": {
                one.key: {
                    **{str(outcome): count for outcome, count in one.outcomes.items()},
                    "not_annotated": one.not_annotated,
                    "success_rate": {f"{threshold:g}": rate for threshold, rate in one.successes.items()},
                    "metrics": {name: dict(vars(spread)) for name, spread in one.spreads.items()},
                }
                for one in self.structures
            },
        }


def summarize(cases: Iterable[CaseScores], label_set: LabelSet) -> Summary:
    """Summarize the scores of cases."""
    cases = tuple(cases)
    summaries = []
    for key in label_set.keys:
        found = [(case.case, score) for case in cases for score in case.scores if score.key == key]
        left_out = sum(key in case.not_annotated for case in cases)
        if found or left_out:
            summaries.append(_structure(key, found, left_out))
    return Summary(len(cases), tuple(summaries))


def _structure(key: str, found: list[tuple[str, StructureScore]], left_out: int) -> StructureSummary:
    spreads = {}
    for metric in METRICS:
        values = [(case, getattr(score, metric.name)) for case, score in found]
        defined = [(case, float(value)) for case, value in values if value is not None]
        if defined:
            spreads[metric.name] = Spread.of(defined, metric)
    dice = [score.dice for _, score in found if score.dice is not None]
    successes = {t: sum(value >= t for value in dice) / len(dice) if dice else None for t in SUCCESS_THRESHOLDS}
    outcomes = {outcome: sum(score.outcome == outcome for _, score in found) for outcome in Outcome}
    return StructureSummary(key, outcomes, left_out, spreads, successes)


def joined_confusion(cases: Iterable[CaseScores], label_set: LabelSet) -> Confusion:
    """Add up the confusion tables of cases; a row counts the cases where its structure was annotated."""
    tables = [case.confusion for case in cases]
    rows = [key for key in label_set.keys if any(key in table.rows for table in tables)] + [""]
    columns = [key for key in label_set.keys if any(key in table.columns for table in tables)] + [""]
    volumes, totals = np.zeros((len(rows), len(columns))), np.zeros(len(rows))
    for table in tables:
        row_places = [rows.index(key) for key in table.rows]
        column_places = [columns.index(key) for key in table.columns]
        volumes[np.ix_(row_places, column_places)] += table.volumes
        totals[row_places] += table.totals
    return Confusion(tuple(rows), tuple(columns), volumes, totals)
