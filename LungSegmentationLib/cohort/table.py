"""``cases.csv``: one row a case, for spreadsheets and for a quick look."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

from LungSegmentationLib.storage import write_text

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from LungSegmentationLib.cohort.records import CaseRecord
    from LungSegmentationLib.labels import LabelSet

__all__ = ["TableRow", "write_table"]

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True)
class TableRow:
    """One row; a case that is done has a record, one that is not has a reason."""

    case: str
    patient_id: str
    status: str
    record: CaseRecord | None = None
    reason: str = ""

    @classmethod
    def of_record(cls, record: CaseRecord) -> TableRow:
        """Return the row of a finished case."""
        return cls(record.case, record.source.patient_id, "done", record, " | ".join(record.all_warnings))

    @classmethod
    def failed(cls, case: str, patient_id: str, reason: str) -> TableRow:
        """Return the row of a case that could not be converted."""
        return cls(case, patient_id, "failed", None, reason)

    @classmethod
    def skipped(cls, patient_id: str, description: str, reason: str) -> TableRow:
        """Return the row of a CT or RTSTRUCT that becomes no case."""
        return cls("", patient_id, "skipped", None, f"{description}: {reason}")


def write_table(rows: Iterable[TableRow], label_set: LabelSet, path: Path) -> None:
    """Write the table; volumes in cm³, spacing in mm, an empty cell where a structure was not annotated."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(
        ["case", "patient_id", "status", "slices", "rows", "columns", "spacing_x_mm", "spacing_y_mm", "spacing_z_mm"]
        + ["linked_by", "annotated", "synthetic"]
        + [f"{key}_cc" for key in label_set.keys]
        + ["warning_count", "warnings_or_reason"]
    )
    order = {"done": 0, "failed": 1, "skipped": 2}
    for row in sorted(rows, key=lambda row: (order[row.status], row.case, row.patient_id, row.reason)):
        writer.writerow([_cell(value) for value in _cells(row, label_set)])
    # The mark lets Excel see that this is UTF-8.
    write_text(path, "\ufeff" + stream.getvalue())


def _cells(row: TableRow, label_set: LabelSet) -> list[object]:
    record = row.record
    if record is None:
        return [row.case, row.patient_id, row.status, *[""] * (9 + len(label_set)), "", row.reason]
    x, y, z = record.geometry.size
    return [
        row.case,
        row.patient_id,
        row.status,
        *(z, y, x),
        *(f"{step:g}" for step in record.geometry.spacing),
        record.source.linked_by,
        " ".join(record.annotated),
        " ".join(record.synthetic),
        *(f"{record.structures[key].volume_cc:.2f}" if key in record.structures else "" for key in label_set.keys),
        len(record.all_warnings),
        row.reason,
    ]


def _cell(value: object) -> object:
    # A patient id such as "=1+1" must not become a formula in a spreadsheet.
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA_STARTS) else value
