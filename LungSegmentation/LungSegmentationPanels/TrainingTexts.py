"""What the training panel says: choices with their names, states in words, and why a button cannot be pressed."""

from __future__ import annotations

import math
from pathlib import Path

from LungSegmentationScene import Training
from LungSegmentationScene.Errors import SceneError
from LungSegmentationScene.Runs import CohortInfo, RunInfo
from slicer.i18n import tr as _


def fillChoices(ui) -> None:
    """Fill the combo boxes; the data of an item is the setting, its text is for people."""
    choices = (
        (
            ui.trainingPresetComboBox,
            (
                (_("Standard U-Net (31 M parameters)"), "standard"),
                (_("Lite (8 M, faster, less memory)"), "lite"),
                (_("Attention U-Net (32 M, slower)"), "attention"),
                (_("Tiny (2 M, to try things out)"), "tiny"),
            ),
        ),
        (ui.trainingDeviceComboBox, deviceChoices()),
        (
            ui.trainingOverlapComboBox,
            (
                (_("One structure a voxel"), "exclusive"),
                (_("Keep overlaps as drawn"), "keep"),
            ),
        ),
        (ui.trainingAugmentationComboBox, ((_("Default"), "default"), (_("Light"), "light"), (_("None"), "none"))),
        (
            ui.trainingSliceSizeComboBox,
            (
                (_("As before (at first 256)"), ""),
                ("128", "128"),
                ("256", "256"),
                ("512", "512"),
            ),
        ),
    )
    for box, items in choices:
        for text, data in items:
            box.addItem(text, data)


def deviceChoices() -> tuple[tuple[str, str], ...]:
    """Return where a network can run: text and setting."""
    return (
        (_("Automatic: GPU if there is one"), "auto"),
        (_("GPU (NVIDIA, CUDA)"), "cuda"),
        (_("GPU (Apple)"), "mps"),
        (_("CPU"), "cpu"),
    )


def statusText(status: str) -> str:
    """Return the state of a run in words."""
    texts = {
        "running": _("running"),
        "finished": _("finished"),
        "cancelled": _("stopped"),
        "failed": _("failed"),
        "interrupted": _("interrupted"),
    }
    return texts.get(status, _("unknown"))


def diceText(value: float | None) -> str:
    """Return a Dice score with three decimals, a dash for none."""
    return "–" if value is None or math.isnan(value) else f"{value:.3f}"


def cohortText(folder: str, cohort: CohortInfo | None) -> str:
    """Return what a cohort holds, in one or two lines."""
    if not folder:
        return _("No cohort is chosen.")
    if cohort is None:
        return _("Reading…")
    if cohort.problem:
        return _("It cannot be read.")
    if not cohort.exists:
        return _("This folder is no cohort.")
    cases = _("{count} cases").format(count=cohort.cases)
    if not cohort.prepared:
        return _("{cases}, not prepared yet.").format(cases=cases)
    parts = _("{train} training, {val} validation, {test} test").format(
        **{part: cohort.split.get(part, 0) for part in ("train", "val", "test")}
    )
    if cohort.unprepared:
        return _("{cases}: {parts}; {new} not prepared yet.").format(cases=cases, parts=parts, new=cohort.unprepared)
    return _("{cases}: {parts}.").format(cases=cases, parts=parts)


def startReason(folder: str, cohort: CohortInfo | None, parameters) -> tuple[str | None, str]:
    """Return why a training cannot be started, and the cure if something is wrong; None and nothing if it can."""
    if not folder:
        return _("Choose the folder of a cohort first."), ""
    if cohort is None:
        return _("The folder is being read."), ""
    if cohort.problem:
        return cohort.problem, cohort.hint or _("Choose another folder.")
    if not cohort.exists:
        return (
            _("{folder} is no cohort.").format(folder=folder),
            _("Choose the folder that “Convert cohort” of the Import panel made."),
        )
    if cohort.cases == 0:
        return _("The cohort has no cases."), _("Convert patients into it in the Import panel.")
    if not cohort.prepared:
        return _("Press “Prepare” first."), ""
    return _settingsReason(cohort.folder, parameters)


def _settingsReason(folder: Path, parameters) -> tuple[str | None, str]:
    name = parameters.trainingRun.strip()
    if any(letter in name for letter in '/\\:*?"<>|') or name.startswith("."):
        return _("“{name}” cannot be the name of a run.").format(name=name), _("Use letters, digits, “_” and “-”.")
    if name and (folder / "runs" / name / "last.pt").exists():
        return (
            _("The run {name} exists already.").format(name=name),
            _("Choose it in the list and press “Resume”, or take another name."),
        )
    try:
        rate = float(parameters.trainingLearningRate)
    except ValueError:
        rate = math.nan
    if not (rate > 0 and math.isfinite(rate)):
        return (
            _("The learning rate “{text}” is no number above 0.").format(text=parameters.trainingLearningRate),
            _("0.0001 is usual."),
        )
    try:
        Training.settingTexts(parameters.trainingSettings.splitlines())
    except SceneError as error:
        return error.sentence, error.hint
    return None, ""


def resumeReason(run: RunInfo | None, parameters) -> str | None:
    """Return why a run cannot go on; None if it can."""
    if run is None or parameters is None:
        return None
    if run.status == "unknown":
        return _("It is not known whether this run is over: it may run on another computer.")
    if not run.resumable:
        return _("This run has no checkpoint to go on from.")
    if run.epochs and run.epoch == run.epochs and parameters.trainingEpochs <= run.epochs:
        return _("This run has done all its {count} epochs. Raise “Epochs” above to go on.").format(count=run.epochs)
    return None
