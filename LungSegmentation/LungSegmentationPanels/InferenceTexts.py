"""What the inference panel says: choices, what a model is, and what was found, as short rich texts."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from LungSegmentationScene import Inference
from LungSegmentationScene.Inference import Segmented
from LungSegmentationScene.Models import ModelInfo
from LungSegmentationScene.Runs import RunInfo
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
        lines = []
        if case.marked:
            told = _("Check this result: the CT is outside of what the model was made for.")
            lines.append(f'<b style="color:{red}">{escape(told)}</b>')
        lines += [f'<span style="color:{red}">{escape(warning)}</span>' for warning in case.warnings]
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


def withEnding(path: Path, ending: str) -> Path:
    """Return a file name with an ending in the place of that of another format."""
    name = path.name
    for known in sorted({*Inference.FORMATS, ".nrrd", ".nii", ".dcm"}, key=len, reverse=True):
        if name.lower().endswith(known) and len(name) > len(known):
            name = name[: -len(known)]
            break
    return path.with_name(f"{name}{ending}")
