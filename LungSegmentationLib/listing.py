"""What people see of a scanned folder in a terminal: one table a case, and what is left out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from LungSegmentationLib.cohort.preview import CasePreview
    from LungSegmentationLib.cohort.selection import Plan
    from LungSegmentationLib.dicom.scan import ScanResult
    from LungSegmentationLib.labels import LabelSet

__all__ = ["print_preview"]


def print_preview(
    found: ScanResult,
    plan: Plan,
    previews: tuple[CasePreview, ...],
    label_set: LabelSet,
    console: Console | None = None,
) -> None:
    """Print each case with the fate of its ROIs, then what becomes no case, then a sum."""
    out = console or Console(highlight=False)
    for preview in previews:
        out.print(_case_table(preview, label_set))
        if preview.error:
            out.print(Text(f"  cannot be converted: {preview.error}", style="red"))
        for warning in preview.warnings:
            out.print(Text(f"  warning: {warning}", style="yellow"))
        out.print()
    for skipped in plan.skipped:
        patient = skipped.patient_id or "no id"
        out.print(Text(f"left out: patient {patient}, {skipped.description}: {skipped.reason}", style="dim"))
    for path, reason in found.unreadable[:10]:
        out.print(Text(f"not read: {path}: {reason}", style="dim"))
    if len(found.unreadable) > 10:
        out.print(Text(f"… and {len(found.unreadable) - 10} more files that could not be read", style="dim"))
    out.print(
        f"{found.files} files, {len(found.patients)} patient(s), {len(plan.cases)} case(s) to convert, "
        f"{len(plan.skipped)} left out, {len(found.unreadable)} unreadable"
    )


def _case_table(preview: CasePreview, label_set: LabelSet) -> Table:
    series, link = preview.planned.series, preview.planned.link
    title = Text.assemble(
        (preview.planned.name, "bold"),
        f"  CT of {series.slice_count} slices",
        f", RTSTRUCT “{link.rtstruct.label or link.rtstruct.path.name}” matched by {link.by}",
    )
    table = Table(title=title, title_justify="left", title_style="")
    table.add_column("ROI")
    table.add_column("contours", justify="right")
    table.add_column("structure")
    table.add_column("reason")
    for decision in preview.assignment.decisions if preview.assignment else ():
        used = decision.structure is not None
        structure = Text("–")
        if decision.structure is not None:
            chosen = label_set[decision.structure]
            structure = Text.assemble(("■ ", "rgb({},{},{})".format(*chosen.color)), chosen.name)
        table.add_row(
            Text(decision.name),
            str(preview.contours.get(decision.number, 0)),
            structure,
            Text(decision.reason),
            style="" if used else "dim",
        )
    return table
