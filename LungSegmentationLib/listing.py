"""What people see in a terminal: a scanned folder (one table a case, and what is left out), devices, a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from LungSegmentationLib.cohort.preview import CasePreview
    from LungSegmentationLib.cohort.selection import Plan
    from LungSegmentationLib.dicom.scan import ScanResult
    from LungSegmentationLib.labels import LabelSet, Structure
    from LungSegmentationLib.networks.description import ModelDescription
    from LungSegmentationLib.training.devices import DeviceReport

__all__ = ["print_devices", "print_model", "print_preview"]


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
            structure = _colored(chosen)
        table.add_row(
            Text(decision.name),
            str(preview.contours.get(decision.number, 0)),
            structure,
            Text(decision.reason),
            style="" if used else "dim",
        )
    return table


def _colored(structure: Structure) -> Text:
    return Text.assemble(("■ ", "rgb({},{},{})".format(*structure.color)), structure.name)


def print_devices(report: DeviceReport, console: Console | None = None) -> None:
    """Print the devices, the one that ``auto`` takes marked, and what is wrong."""
    out = console or Console(highlight=False)
    if report.torch_build is not None:
        table = Table(title=f"PyTorch {report.torch_build}", title_justify="left", title_style="")
        for column in ("device", "name", "memory", "free", "precision", "because"):
            table.add_column(column, justify="right" if column in {"memory", "free"} else "left")
        for device in report.devices:
            table.add_row(
                Text(f"{device.device} ←" if device.chosen else device.device),
                Text(device.name),
                _gigabytes(device.memory_total_mb),
                _gigabytes(device.memory_free_mb),
                device.precision,
                Text(device.problem or device.reason, style="red" if device.problem else ""),
                style="bold" if device.chosen else "",
            )
        out.print(table)
        out.print("← is what --device auto takes.", style="dim")
    if report.problem:
        out.print(Text(report.problem, style="yellow"))


def _gigabytes(mebibytes: int | None) -> str:
    return "" if mebibytes is None else f"{mebibytes / 1024:.1f} GB"


def print_model(description: ModelDescription, console: Console | None = None) -> None:
    """Print what a model is: structures with their scores, how it sees a CT, how it was trained, and warnings."""
    out = console or Console(highlight=False)
    card = description.card
    out.print(Text(description.path.name, style="bold"))
    facts = Table(show_header=False, box=None, pad_edge=False)
    for name, value in _facts(description):
        facts.add_row(Text(name, style="dim"), Text(value))
    out.print(facts)
    table = Table()
    for column in ("label", "structure", "scored on", "Dice", "HD95 mm", "surface Dice"):
        table.add_column(column, justify="left" if column in {"structure", "scored on"} else "right")
    for key in card.structures:
        structure, score = card.label_set[key], card.scores.get(key)
        cells = ["not measured", "", "", ""]
        if score is not None:
            spread = "" if score.dice_std is None else f" ± {score.dice_std:.3f}"
            cells = [
                f"{score.patients} {score.part} patient(s)",
                f"{score.dice:.3f}{spread}",
                "" if score.hd95_mm is None else f"{score.hd95_mm:.1f}",
                "" if score.surface_dice is None else f"{score.surface_dice:.3f}",
            ]
        table.add_row(str(structure.label), _colored(structure), *cells)
    out.print(table)
    left_out = [structure.name for structure in card.label_set.structures if structure.key not in card.structures]
    if left_out:
        out.print(Text(f"Not learned: {', '.join(left_out)}.", style="dim"))
    for warning in description.warnings:
        out.print(Text(f"warning: {warning}", style="yellow"))


def _facts(description: ModelDescription) -> list[tuple[str, str]]:
    card = description.card
    network, seen, trained = card.network, card.preprocessing, card.training
    widths = "-".join(str(width) for width in network.widths)
    extras = [
        *([f"dropout {network.dropout:g}"] if network.dropout else []),
        *(["attention gates"] if network.attention else []),
        *(["residual blocks"] if network.residual else []),
        *([f"deep supervision at {network.deep_supervision} levels"] if network.deep_supervision else []),
    ]
    loss = "" if trained.best_loss is None else f" (validation loss {trained.best_loss:.4g})"
    overlap = "softmax, one structure a voxel" if card.overlap == "exclusive" else "a sigmoid each, overlaps kept"
    size, window = seen.size, seen.window
    slices = "one slice" if network.in_channels == 1 else f"{network.in_channels} neighboring slices"
    facts = [
        ("label set", f"{card.label_set.name}: {card.label_set.title}; {overlap}"),
        ("network", f"{network.name}: 2D U-Net {widths}, {network.norm} norm, {network.upsampling} upsampling"),
        ("", ", ".join((f"{description.parameters:,} parameters", f"{description.file_mb:.3g} MB", *extras))),
        ("input", f"{slices}, {size[0]} × {size[1]}, {seen.field_of_view} field of view"),
        ("intensity", f"{window[0]:g} to {window[1]:g} HU, {seen.normalization}"),
        ("trained", f"{card.created:%Y-%m-%d}, {trained.epochs} epoch(s), best {trained.best_epoch}{loss}"),
        ("patients", _counts(trained.patients)),
        ("slices", _counts(trained.slices)),
    ]
    if trained.seconds is not None:
        facts.append(
            ("time", f"{trained.seconds / 3600:.1f} h" if trained.seconds >= 5400 else _minutes(trained.seconds))
        )
    facts.append(("software", ", ".join(f"{name} {version}" for name, version in card.software.items())))
    facts.append(("data", f"fingerprint {card.data_fingerprint[:16]}…"))
    return facts


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f} min"


def _counts(parts: Mapping[Any, int]) -> str:
    return ", ".join(f"{count} {part}" for part, count in parts.items()) or "not said"
