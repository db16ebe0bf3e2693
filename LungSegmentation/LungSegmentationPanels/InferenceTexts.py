"""What the inference panel says: choices, what a model is, and what was found, as short rich texts."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from LungSegmentationScene import Inference
from LungSegmentationScene.Models import ModelInfo
from LungSegmentationScene.Runs import RunInfo
from LungSegmentationScene.SegmentationJobs import Segmented, SequenceJob
from slicer.i18n import tr as _

from LungSegmentationPanels.TrainingTexts import deviceChoices, diceText


def fillChoices(ui) -> None:
    """Fill the combo boxes; the data of an item is the setting, its text is for people."""
    choices = (
        (ui.inferenceDeviceComboBox, deviceChoices()),
        (
            ui.inferenceAugmentationComboBox,
            (
                (_("None"), "none"),
                (_("With the mirrored slice (2 × slower)"), "flip"),
                (_("Mirrored and turned (6 × slower)"), "full"),
            ),
        ),
        (
            ui.inferenceBatchFormatComboBox,
            (
                ("seg.nrrd", "seg.nrrd"),
                ("NIfTI", "nifti"),
                ("DICOM SEG", "dicom-seg"),
                ("RTSTRUCT", "rtstruct"),
            ),
        ),
        (
            ui.inferenceExportFormatComboBox,
            (
                (_("NIfTI label map (.nii.gz)"), ".nii.gz"),
                (_("Slicer segmentation (.seg.nrrd)"), ".seg.nrrd"),
                (_("DICOM SEG (.seg.dcm)"), ".seg.dcm"),
                (_("RTSTRUCT (.rtstruct.dcm)"), ".rtstruct.dcm"),
            ),
        ),
    )
    for box, items in choices:
        for text, data in items:
            box.addItem(text, data)


def modelItem(run: RunInfo) -> str:
    """Return how a run's model stands in the list."""
    if run.bestDice is None:
        return run.name
    return _("{run} · Dice {dice}").format(run=run.name, dice=diceText(run.bestDice))


def modelText(model: ModelInfo | None) -> str:
    """Return what a model is, in a few lines of rich text."""
    if model is None:
        return escape(_("Reading the model…"))
    if model.problem:
        return ""
    lines = [
        _("Finds {names}.").format(names=", ".join(model.structures)),
        learnedText(model),
    ]
    if model.scores:
        scores = ", ".join(f"{name} {diceText(value)}" for name, value in model.scores.items())
        lines.append(_("Dice in validation: {scores}.").format(scores=scores))
    texts = [escape(line) for line in lines]
    texts += [f"<b>{escape(warning)}</b>" for warning in model.warnings]
    return "<br>".join(texts)


def learnedText(model: ModelInfo) -> str:
    """Return how much a model learned from."""
    if model.patients == 1:
        return _("Learned from 1 patient, {slices} slices.").format(slices=model.slices)
    return _("Learned from {patients} patients, {slices} slices.").format(patients=model.patients, slices=model.slices)


def modelToolTip(model: ModelInfo) -> str:
    """Return the rest of what a model says about itself."""
    if model.problem:
        return ""
    overlap = _("one structure a voxel") if model.overlap == "exclusive" else _("overlaps kept")
    return "\n".join(
        [
            str(model.path),
            _("Network: {network}; {overlap}").format(network=model.network, overlap=overlap),
            _("Slices: {preprocessing}").format(preprocessing=model.preprocessing),
            _("Best epoch: {epoch}").format(epoch=model.epochs),
            _("Trained by version {version}").format(version=model.trainedBy),
        ]
    )


def resultText(cases: Sequence[Segmented], red: str) -> str:
    """Return what was found, with what has to be checked in front, as rich text."""
    parts = []
    for case in cases:
        if case.file is None:
            told = _("{name} was not segmented; the log may tell why.").format(name=case.name)
            parts.append(_red(told, red))
            continue
        lines = _checkLines(case.marked, case.warnings, red)
        found = [
            _("{name} {cc:.0f} cc").format(name=one["name"], cc=one["cc"])
            for one in case.structures.values()
            if one.get("voxels")
        ]
        missing = [one["name"] for one in case.structures.values() if not one.get("voxels")]
        head = f"<b>{escape(case.node.GetName() if case.node is not None else case.name)}</b>"
        body = escape(", ".join(found) or _("Nothing was found."))
        lines.append(f"{head}: {body}")
        if missing and found:
            lines.append(escape(_("Not found: {names}.").format(names=", ".join(missing))))
        parts.append("<br>".join(lines))
    return "<br>".join(parts)


def sequenceText(job: SequenceJob, red: str) -> str:
    """Return what was found in the frames of a sequence, with what has to be checked in front, as rich text."""
    cases = list(job.cases.values())
    warnings = [f"{case.name}: {text}" for case in cases for text in case.warnings]
    lines = _checkLines(any(case.marked for case in cases), warnings, red)
    found, missing = [], []
    for key, first in cases[0].structures.items():
        volumes = [case.structures[key]["cc"] for case in cases if case.structures.get(key, {}).get("voxels")]
        if volumes:
            span = {f"{min(volumes):.0f}", f"{max(volumes):.0f}"}
            found.append(_("{name} {cc} cc").format(name=first["name"], cc="–".join(sorted(span, key=int))))
        if len(volumes) < len(cases):
            count = _("{name} in {count} of {all} frames").format(
                name=first["name"], count=len(cases) - len(volumes), all=len(cases)
            )
            missing.append(count)
    head = f"<b>{escape(job.sequenceNode.GetName())}</b>"
    lines.append(f"{head}: {escape(', '.join(found) or _('Nothing was found.'))}")
    if missing and found:
        lines.append(escape(_("Not found: {names}.").format(names=", ".join(missing))))
    lines.append(escape(_("{count} frames; browse them with the module Sequences.").format(count=len(cases))))
    return "<br>".join(lines)


def _checkLines(marked: bool, warnings: Sequence[str], red: str) -> list[str]:
    lines = []
    if marked:
        lines.append(f"<b>{_red(_('Check this result: the CT is outside of what the model was made for.'), red)}</b>")
    return lines + [_red(warning, red) for warning in warnings]


def _red(text: str, red: str) -> str:
    return f'<span style="color:{red}">{escape(text)}</span>'


def withEnding(path: Path, ending: str) -> Path:
    """Return a file name with an ending in the place of that of another format."""
    name = path.name
    for known in sorted({*Inference.FORMATS, ".nrrd", ".nii", ".dcm"}, key=len, reverse=True):
        if name.lower().endswith(known) and len(name) > len(known):
            name = name[: -len(known)]
            break
    return path.with_name(f"{name}{ending}")
