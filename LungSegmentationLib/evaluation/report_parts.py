"""The tables and small drawings of the report, as HTML."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape

from LungSegmentationLib.evaluation.case_scores import CaseScores, Confusion, Outcome
from LungSegmentationLib.evaluation.expected import ExpectedScores
from LungSegmentationLib.evaluation.metrics import METRICS, SUCCESS_THRESHOLDS
from LungSegmentationLib.evaluation.summary import Spread, StructureSummary, Summary
from LungSegmentationLib.labels import LabelSet

__all__ = [
    "case_anchor",
    "case_matrix",
    "case_table",
    "confusion_table",
    "strip_key",
    "structure_table",
    "success_table",
    "table",
]

_VERDICTS = {"below": "▼ below", "within": "● within", "above": "▲ above"}
_OUTCOMES = {
    Outcome.COMPARED: "",
    Outcome.MISSED: "missed",
    Outcome.FALSE_ALARM: "false alarm",
    Outcome.BOTH_EMPTY: "absent on both sides",
}
_BY_NAME = {metric.name: metric for metric in METRICS}
_WIDTH, _HEIGHT = 200, 24


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; cells are HTML, with their ``<td>`` where they start with one."""
    head = "".join(f"<th>{cell}</th>" for cell in header)
    body = "".join(
        f"<tr>{''.join(cell if cell.startswith('<td') else f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def case_anchor(case: str) -> str:
    """Return the name of a case's place in the report."""
    return "case-" + re.sub(r"[^A-Za-z0-9]+", lambda found: "-" + found[0].encode().hex() + "-", case)


def named(label_set: LabelSet, key: str) -> str:
    """Return a structure's name with its color."""
    structure = label_set[key]
    color = "#{:02x}{:02x}{:02x}".format(*structure.color)
    return f'<span class="swatch" style="background:{color}"></span>{escape(structure.name)}'


def structure_table(
    summary: Summary, cases: Sequence[CaseScores], expected: ExpectedScores, label_set: LabelSet, linked: set[str]
) -> str:
    """Return one row a structure: Dice against what is expected, distances, volumes, worst case."""
    header = ["Structure", "Cases", "Dice", "Mean ± SD", "Median", "Expected", "HD95, mm", "Mean dist., mm"]
    header += ["Surface Dice", "Volume diff., cc", "Worst case"]
    rows = []
    for one in summary.structures:
        dice = one.spreads.get("dice")
        if dice is None:
            continue
        values = [s.dice for case in cases for s in case.scores if s.key == one.key and s.dice is not None]
        verdict = expected.verdict(one.key, dice.mean)
        limits = expected.dice.get(one.key)
        rows.append(
            [
                named(label_set, one.key),
                f"{dice.count}{_aside(one)}",
                _strip(dice, values, limits),
                f"{dice.mean:.3f}" + (f" ± {dice.std:.3f}" if dice.std is not None else ""),
                f"{dice.median:.3f}",
                _expectation(limits, verdict),
                _median(one, "hd95_mm"),
                _median(one, "mean_distance_mm"),
                _median(one, "surface_dice"),
                _mean(one, "volume_difference_cc"),
                f'<td class="left name">{_linked(dice.worst_case, linked)} ({dice.worst:.3f})</td>',
            ]
        )
    return table(header, rows)


def _expectation(limits: tuple[float, float] | None, verdict: str) -> str:
    if limits is None:
        return '<td class="left">–</td>'
    word = f'<span class="{verdict}">{_VERDICTS.get(verdict, "")}</span>'
    return f'<td class="left">{limits[0]:.2f}–{limits[1]:.2f} {word}</td>'


def _aside(one: StructureSummary) -> str:
    found = [(one.outcomes[Outcome.MISSED], "missed"), (one.outcomes[Outcome.FALSE_ALARM], "false alarm")]
    said = ", ".join(f"{count} {word}" for count, word in found if count)
    return f' <span class="below">({said})</span>' if said else ""


def _median(one: StructureSummary, name: str) -> str:
    spread = one.spreads.get(name)
    return _BY_NAME[name].text(spread.median if spread else None)


def _mean(one: StructureSummary, name: str) -> str:
    spread = one.spreads.get(name)
    return "–" if spread is None else _signed(spread.mean)


def _signed(value: float) -> str:
    text = f"{value:+.1f}"
    return "0.0" if float(text) == 0 else text.replace("-", "\N{MINUS SIGN}")


def _linked(case: str, linked: set[str]) -> str:
    return f'<a href="#{case_anchor(case)}">{escape(case)}</a>' if case in linked else escape(case)


def _strip(dice: Spread, values: Sequence[float], limits: tuple[float, float] | None) -> str:
    """Return a drawing of Dice from 0 to 1: what is expected, quartiles, mean, single cases."""
    parts = [f'<line class="axis" x1="0" x2="{_WIDTH}" y1="12" y2="12"/>']
    if limits:
        parts.append(_bar("band", limits[0], limits[1], 1, 22))
    if dice.count > 2:
        parts.append(_bar("box", dice.lower_quartile, dice.upper_quartile, 8, 8))
    parts += [f'<circle class="case" cx="{value * _WIDTH:.1f}" cy="12" r="2.4"/>' for value in values]
    parts.append(f'<line class="mean" x1="{dice.mean * _WIDTH:.1f}" x2="{dice.mean * _WIDTH:.1f}" y1="4" y2="20"/>')
    said = f"mean {dice.mean:.3f}" + (f", expected {limits[0]:.2f} to {limits[1]:.2f}" if limits else "")
    return (
        f'<svg class="strip" viewBox="-3 0 {_WIDTH + 6} {_HEIGHT}" role="img" aria-label="Dice: {said}">'
        f"<title>{said}</title>{''.join(parts)}</svg>"
    )


def _bar(kind: str, low: float, high: float, top: int, height: int) -> str:
    width = max((high - low) * _WIDTH, 1.0)
    return f'<rect class="{kind}" x="{low * _WIDTH:.1f}" y="{top}" width="{width:.1f}" height="{height}"/>'


def strip_key() -> str:
    """Return what the drawings of Dice mean."""
    parts = [
        ('<rect class="band" x="0" y="0" width="24" height="14"/>', "expected range of the mean"),
        ('<line class="mean" x1="12" x2="12" y1="0" y2="14"/>', "mean"),
        ('<rect class="box" x="0" y="3" width="24" height="8"/>', "quartiles (from three cases on)"),
        ('<circle class="case" cx="12" cy="7" r="3"/>', "one case"),
    ]
    drawn = "".join(f'<svg class="strip" viewBox="0 0 24 14">{shape}</svg>{word}' for shape, word in parts)
    return f'<p class="key">Dice from 0 (left) to 1 (right).{drawn}</p>'


def success_table(summary: Summary, label_set: LabelSet) -> str:
    """Return the part of the cases that reach a Dice."""
    rows = []
    for one in summary.structures:
        if one.mean_dice is not None:
            cells = [_heat(rate, f"{rate:.0%}") for rate in one.successes.values() if rate is not None]
            rows.append([named(label_set, one.key), str(one.spreads["dice"].count), *cells])
    return table(["Structure", "Cases", *(f"Dice ≥ {threshold:g}" for threshold in SUCCESS_THRESHOLDS)], rows)


def _heat(part: float, text: str, color: str = "heat") -> str:
    return f'<td style="background:rgba(var(--{color}), {0.55 * part:.2f})">{text}</td>'


def case_matrix(cases: Sequence[CaseScores], label_set: LabelSet, linked: set[str]) -> str:
    """Return Dice by case and structure, in the order given; darker is worse."""
    keys = [key for key in label_set.keys if any(s.key == key for case in cases for s in case.scores)]
    rows = []
    for case in cases:
        scores = {score.key: score for score in case.scores}
        cells = []
        for key in keys:
            score = scores.get(key)
            if score is None:
                cells.append(
                    '<td class="soft">not drawn</td>' if key in case.not_annotated else '<td class="soft">–</td>'
                )
            elif score.dice is None:
                cells.append('<td class="soft">absent</td>')
            else:
                word = _OUTCOMES[score.outcome] or f"{score.dice:.3f}"
                cells.append(_heat(1 - score.dice, word, "warn"))
        mean = case.mean_dice
        start = f'<td class="name">{_linked(case.case, linked)}</td>'
        rows.append([start, "–" if mean is None else f"<b>{mean:.3f}</b>", *cells])
    return table(["Case", "Mean", *(named(label_set, key) for key in keys)], rows)


def case_table(case: CaseScores, label_set: LabelSet) -> str:
    """Return all scores of a case, the worst structure first."""
    header = ["Structure"] + [metric.title + (f", {metric.unit}" if metric.unit else "") for metric in METRICS]
    header += ["Reference, cc", "Prediction, cc", *(["Confidence"] if case.confidence else []), ""]
    rows = []
    for score in sorted(case.scores, key=lambda s: 2.0 if s.dice is None else s.dice):
        cells = [
            _signed(value) if metric.better == 0 and value is not None else metric.text(value)
            for metric in METRICS
            for value in [getattr(score, metric.name)]
        ]
        remark = _OUTCOMES[score.outcome]
        if score.unjudged_cc > 0.01 * score.reference_cc:
            remark = f"{remark} {score.unjudged_cc:.1f} cc lie in predicted structures that nobody drew here".strip()
        volumes = [f"{score.reference_cc:.1f}", f"{score.prediction_cc:.1f}"]
        if case.confidence:
            sure = case.confidence.get(score.key)
            volumes.append("–" if sure is None else f"{sure:.0%}")
        rows.append([named(label_set, score.key), *cells, *volumes, f'<td class="left name below">{remark}</td>'])
    return table(header, rows)


def confusion_table(confusion: Confusion, label_set: LabelSet) -> str:
    """Return, for each structure of the reference, which part of it lies in which predicted structure."""
    columns = [named(label_set, key) if key else "nothing" for key in confusion.columns]
    rows = []
    for key, volumes, whole in zip(confusion.rows, confusion.volumes.tolist(), confusion.totals.tolist(), strict=True):
        if not key:
            continue
        # As structures may overlap, a row is set against the structure's own volume, not against its sum.
        cells = []
        for column, volume in zip(confusion.columns, volumes, strict=True):
            part = volume / whole if whole else 0.0
            text = "·" if part < 0.0005 else f"{part:.1%}"
            cells.append(_heat(min(part, 1.0), text, "heat" if column == key else "warn"))
        rows.append([named(label_set, key), f"{whole:.1f}", *cells])
    last = ["nothing, cc", ""] + [f"{volume:.1f}" for volume in confusion.volumes[-1, :-1].tolist()] + [""]
    return table(["Reference", "cc", *columns], [*rows, last])
