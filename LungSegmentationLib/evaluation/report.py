"""The report of an evaluation: one HTML file that a clinician can read, mail and print, without a network."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from LungSegmentationLib import __version__
from LungSegmentationLib.evaluation.case_scores import CaseScores, Outcome
from LungSegmentationLib.evaluation.evaluate import Evaluation
from LungSegmentationLib.evaluation.metrics import SURFACE_TOLERANCE
from LungSegmentationLib.evaluation.report_parts import (
    case_anchor,
    case_matrix,
    case_table,
    confusion_table,
    strip_key,
    structure_table,
    success_table,
)
from LungSegmentationLib.resources import resource_path
from LungSegmentationLib.storage import write_text

__all__ = ["ReportPictures", "worst_first", "write_report"]

REPORT = "report.html"

_DEFINITIONS = (
    (
        "Dice, IoU",
        "Twice the shared volume over the sum of both volumes; shared volume over the volume of both together.",
    ),
    ("Sensitivity, precision", "Part of the reference that was found; part of the prediction that is right."),
    (
        "HD95",
        "95 % of the surface of either side lies within this distance of the other one; the larger of both directions.",
    ),
    ("Mean surface distance", "Mean distance between the surfaces, over the area of both."),
    (
        f"Surface Dice at {SURFACE_TOLERANCE:g} mm",
        f"Part of both surfaces that lies within {SURFACE_TOLERANCE:g} mm of the other one.",
    ),
    (
        "Missed, false alarm",
        (
            "The reference holds the structure and the prediction does not, or the other way round: Dice and surface "
            "Dice are 0; distances are not defined and left out of their means."
        ),
    ),
    (
        "Confidence",
        (
            "Mean probability that the network gave to the voxels of a structure, before anything was mended. It says "
            "how sure the network is, not how right."
        ),
    ),
    (
        "Not annotated",
        "Nobody drew the structure in this case. That does not mean that it is absent: it is left out, and counted.",
    ),
)


@dataclass(frozen=True)
class ReportPictures:
    """Files that the report shows or links; any may be missing.

    Attributes
    ----------
    distribution, ranking, volumes
        Over all cases, PNG.
    cases
        Case → its slices, PNG.
    meshes
        Case → its surfaces, HTML in the folder of the report.
    """

    distribution: Path | None = None
    ranking: Path | None = None
    volumes: Path | None = None
    cases: dict[str, Path] = field(default_factory=dict)
    meshes: dict[str, Path] = field(default_factory=dict)


def worst_first(cases: tuple[CaseScores, ...]) -> list[CaseScores]:
    """Return the cases by mean Dice, the lowest first; those without any Dice last."""
    return sorted(cases, key=lambda case: (2.0 if case.mean_dice is None else case.mean_dice, case.case))


def write_report(evaluation: Evaluation, pictures: ReportPictures, path: Path, title: str = "") -> Path:
    """Write the report.

    Pictures are part of the file; surfaces in 3D are links to files beside it.

    Parameters
    ----------
    evaluation
        Scores and summary.
    pictures
        What to show. Cases with a picture get a chapter, the worst first.
    path
        HTML file.
    title
        What was evaluated, for the headline.
    """
    ordered = worst_first(evaluation.cases)
    shown = [case for case in ordered if case.case in pictures.cases or case.case in pictures.meshes]
    linked = {case.case for case in shown}
    label_set, summary = evaluation.label_set, evaluation.summary
    parts = [
        _head(evaluation, title),
        _tiles(evaluation),
        _alarms(evaluation),
        _section("Structures", structure_table(summary, ordered, evaluation.expected, label_set, linked), strip_key()),
        _section("Cases, worst first", case_matrix(ordered, label_set, linked)),
        _section("How often a Dice is reached", success_table(summary, label_set)),
    ]
    if shown:
        count = f"The {len(shown)} of {len(ordered)} cases with pictures" if len(shown) < len(ordered) else "All cases"
        lead = f'<p class="soft">{count}, by mean Dice, the lowest first. Solid: reference; dashed: prediction.</p>'
        chapters = "".join(_case(case, evaluation, pictures, path) for case in shown)
        parts.append(_section("Worst cases first, in pictures", lead, chapters))
    if pictures.distribution or pictures.ranking:
        found = (
            _figure(pictures.ranking, "Ranking of the structures"),
            _figure(pictures.distribution, "Distributions"),
        )
        parts.append(_section("Spread of the scores", *found))
    lead = (
        "<p>How much of each structure of the reference (row) lies in which predicted structure (column), all cases "
        "together.</p>"
    )
    parts.append(
        _section("Which structure was taken for which", lead, confusion_table(evaluation.confusion, label_set))
    )
    if pictures.volumes:
        lead = (
            "<p>Difference of the volumes over their mean (Bland and Altman 1986). Solid line: mean difference; "
            "dashed: 1.96 standard deviations to either side.</p>"
        )
        parts.append(_section("Volumes", lead, _figure(pictures.volumes, "Differences of volumes")))
    terms = "".join(f"<dt>{escape(term)}</dt><dd>{escape(said)}</dd>" for term, said in _DEFINITIONS)
    parts.append(_section("How it was measured", f"<dl>{terms}</dl>"))
    css = resource_path("Report", "report.css").read_text(encoding="utf-8")
    write_text(path, _page(title or "Segmentation evaluation", css, "".join(part for part in parts if part)))
    return path


def _page(title: str, css: str, body: str) -> str:
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>\n{css}</style></head>\n<body>{body}"
        f"<footer>LungSegmentation {__version__}. For research only: not a medical device, not for treating patients. "
        "This file holds case names and images of patients: handle it like the DICOM that it comes from.</footer>"
        "</body></html>\n"
    )


def _section(title: str, *content: str) -> str:
    return f"\n<section><h2>{escape(title)}</h2>{''.join(content)}</section>"


def _head(evaluation: Evaluation, title: str) -> str:
    exclusive = {case.exclusive for case in evaluation.cases}
    if exclusive == {True}:
        how = "Compared as label maps: each voxel belongs to one structure, on both sides."
    elif exclusive == {False}:
        how = (
            "Compared as drawn: structures may overlap, and each is compared with the whole structure of the reference."
        )
    else:
        how = "Some cases were compared as label maps, some as drawn: the table of results says which."
    stamp = evaluation.stamp
    when = f"{stamp[:4]}-{stamp[4:6]}-{stamp[6:8]} {stamp[9:11]}:{stamp[11:13]}"
    subject = f"{escape(title)} · " if title else ""
    return (
        f"<header><h1>Segmentation evaluation</h1>"
        f'<p class="soft">{subject}{escape(evaluation.label_set.title)} · {when}</p></header><p>{how}</p>'
    )


def _tiles(evaluation: Evaluation) -> str:
    summary = evaluation.summary
    dice = summary.mean_dice
    compared = sum(summary.count(outcome) for outcome in Outcome)
    tiles = [
        (str(summary.cases), "case" if summary.cases == 1 else "cases"),
        (str(compared), "structures scored"),
        ("–" if dice is None else f"{dice:.3f}", "mean Dice of the structures"),
        (str(summary.count(Outcome.MISSED)), "missed"),
        (str(summary.count(Outcome.FALSE_ALARM)), "false alarms"),
        (str(summary.not_annotated), "not annotated, left out"),
    ]
    body = "".join(f'<div class="tile"><b>{value}</b><span>{escape(word)}</span></div>' for value, word in tiles)
    source = evaluation.expected.source
    said = f'<p class="soft">Gray ranges: {escape(source)}.</p>' if source else ""
    return f'<div class="tiles">{body}</div>{said}'


def _alarms(evaluation: Evaluation) -> str:
    """Return what did not go as it should, in sentences."""
    said = [f"<b>{escape(case)}</b> could not be evaluated: {escape(reason)}" for case, reason in evaluation.failures]
    said += [f"<b>{escape(case)}</b> was left out: {escape(reason)}." for case, reason in evaluation.alone]
    said += [
        f"<b>{escape(case.case)}</b>: {escape(' '.join(case.remarks))}" for case in evaluation.cases if case.remarks
    ]
    return "".join(f'<p class="notice">{sentence}</p>' for sentence in said)


def _case(case: CaseScores, evaluation: Evaluation, pictures: ReportPictures, path: Path) -> str:
    mean = case.mean_dice
    said = "" if mean is None else f" · mean Dice {mean:.3f}"
    content = case_table(case, evaluation.label_set)
    if case.not_annotated:
        names = ", ".join(evaluation.label_set[key].name for key in case.not_annotated)
        content += f'<p class="soft">Not annotated, left out: {escape(names)}.</p>'
    if case.case in pictures.meshes:
        link = _relative(pictures.meshes[case.case], path.parent)
        content += f'<p><a href="{link}">Surfaces in 3D</a> <span class="soft">(a file beside this report)</span></p>'
    content += _figure(pictures.cases.get(case.case), f"Slices of {case.case}")
    return f'<article id="{case_anchor(case.case)}"><h3>{escape(case.case)}{said}</h3>{content}</article>'


def _relative(file: Path, folder: Path) -> str:
    from urllib.parse import quote

    return quote(str(file.relative_to(folder).as_posix())) if file.is_relative_to(folder) else file.resolve().as_uri()


def _figure(picture: Path | None, said: str) -> str:
    if picture is None:
        return ""
    content = base64.b64encode(picture.read_bytes()).decode("ascii")
    return f'<figure><img alt="{escape(said)}" src="data:image/png;base64,{content}"></figure>'
