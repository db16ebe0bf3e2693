"""Scores of an evaluation as a table node: a row a structure, and no number where a score has no meaning."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import slicer
from slicer.i18n import tr as _

from LungSegmentationScene.Charts import fillTable
from LungSegmentationScene.Errors import SceneError

STRUCTURE, OUTCOME = "Structure", "Outcome"
COLUMNS = {
    "dice": "Dice",
    "iou": "IoU",
    "hd95_mm": "HD95 (mm)",
    "surface_dice": "Surface Dice (2 mm)",
    "prediction_cc": "Volume (cc)",
    "reference_cc": "Reference (cc)",
    "volume_difference_cc": "Difference (cc)",
    "sensitivity": "Sensitivity",
    "precision": "Precision",
    "mean_distance_mm": "Mean distance (mm)",
}
"""Titles of the columns by their names in ``evaluation_results_*.csv``. They stay as they are in every language, as
scripts and saved scenes know them."""

NOT_ANNOTATED = "not_annotated"


def scoreTable(results: Path, labelSet, name: str):
    """Make a table node of the results of one case.

    Parameters
    ----------
    results
        ``evaluation_results_*.csv``.
    labelSet
        Names of the structures.
    name
        Of the node.

    Raises
    ------
    SceneError
        If the file cannot be read.
    """
    try:
        with results.open(encoding="utf-8-sig", newline="") as stream:
            rows = [row for row in csv.DictReader(stream) if row["outcome"] != NOT_ANNOTATED]
    except (OSError, KeyError, csv.Error) as error:
        raise SceneError(_("The scores {file} cannot be read.").format(file=results)) from error
    table = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode", name)
    keys = [row["structure"] for row in rows]
    columns: dict[str, list] = {
        STRUCTURE: [labelSet[key].name if key in labelSet else key for key in keys],
        OUTCOME: [outcomeText(row["outcome"]) for row in rows],
    }
    for field, title in COLUMNS.items():
        columns[title] = [_number(row.get(field)) for row in rows]
    fillTable(table, columns)
    return table


def outcomeText(outcome: str) -> str:
    """Return what there was to compare, for people."""
    texts = {
        "compared": _("compared"),
        "missed": _("missed"),
        "false_alarm": _("false alarm"),
        "both_empty": _("both empty"),
    }
    return texts.get(outcome, outcome)


def columnValues(table, title: str) -> list:
    """Return a column of a table node: texts, or numbers with None where there is none."""
    column = table.GetTable().GetColumnByName(title)
    if column is None:
        return []
    values = [column.GetValue(row) for row in range(column.GetNumberOfValues())]
    return [None if isinstance(value, float) and math.isnan(value) else value for value in values]


def _number(text: str | None) -> float | None:
    return float(text) if text else None
