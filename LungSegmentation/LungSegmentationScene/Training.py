"""Preparing a cohort and training on it, as jobs; a training outlives the window and is found again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path

from slicer.i18n import tr as _

from LungSegmentationScene.Errors import SceneError
from LungSegmentationScene.Jobs import SceneJob, attach

PREPARE_KEY = "Training.prepare"
TRAIN_KEY = "Training.train"

PRESETS = ("standard", "lite", "attention", "tiny")


def prepareCohort(cohort: Path | str, **options: object) -> SceneJob:
    """Make a cohort ready for training: cached slices, split, class weights.

    Parameters
    ----------
    cohort
        The cohort folder.
    options
        Of ``lungseg prepare``: ``slice_size=256``, ``seed=42``, ``jobs=2`` …

    Returns
    -------
    SceneJob
        The job, started.
    """
    arguments: list[str] = ["prepare", str(cohort)]
    for name, value in options.items():
        option = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            arguments.append(option if value else option.replace("--", "--no-", 1))
        elif isinstance(value, list | tuple):
            arguments += [option, *map(str, value)]
        else:
            arguments += [option, str(value)]
    return SceneJob(arguments, key=PREPARE_KEY, title=_("Preparing the cohort")).start()


def startTraining(
    cohort: Path | str,
    run: str | None = None,
    *,
    resume: bool = False,
    settings: Iterable[str] | Mapping[str, object] = (),
    **options: object,
) -> SceneJob:
    """Start a training; see the method of the module's logic.

    Parameters
    ----------
    cohort, run, resume
        As there.
    settings
        As of ``lungseg train --set``: texts ``key=value``, or a mapping; keys may have dots.
    options
        Settings without dots: ``epochs=50, network="lite", device="cuda"``.

    Returns
    -------
    SceneJob
        The job; ``job.runFolder`` is the run folder.

    Raises
    ------
    SceneError
        If a setting is no ``key=value``, or the run to resume is not named.
    """
    cohort = Path(cohort)
    if resume and not run:
        raise SceneError(_("It is not said which run goes on."), _("Give the name of the run."))
    run = run or freeRunName(cohort)
    arguments = ["train", str(cohort), "--run", run]
    if resume:
        arguments.append("--resume")
    for text in [*settingTexts(settings), *settingTexts(options)]:
        arguments += ["--set", text]
    return SceneJob(
        arguments,
        key=TRAIN_KEY,
        title=_("Training {run}").format(run=run),
        runFolder=cohort / "runs" / run,
    ).start()


def runningTraining(runFolder: Path) -> SceneJob | None:
    """Return the job of a run that runs, also one that an earlier window started; None where nothing runs."""
    return attach(runFolder, key=TRAIN_KEY, title=_("Training {run}").format(run=runFolder.name))


def freeRunName(cohort: Path, now: datetime | None = None) -> str:
    """Return a name for a new run: date and time, with a number where that is taken."""
    name = (now or datetime.now().astimezone()).strftime("%Y-%m-%d_%H-%M")
    number, free = 1, name
    while (cohort / "runs" / free).exists():
        number += 1
        free = f"{name}_{number}"
    return free


def settingTexts(settings: Iterable[str] | Mapping[str, object]) -> list[str]:
    """Return settings as ``key=value``.

    Raises
    ------
    SceneError
        If a text has no key or no ``=``.
    """
    if isinstance(settings, Mapping):
        return [f"{key}={_text(value)}" for key, value in settings.items()]
    texts = [text.strip() for text in settings]
    for text in texts:
        key, equals, _value = text.partition("=")
        if text and (not equals or not key.strip() or " " in key.strip()):
            raise SceneError(
                _("“{text}” is no setting.").format(text=text), _("Write key=value, for example patience=20.")
            )
    return [text for text in texts if text]


def _text(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return ",".join(map(_text, value))
    return str(value)
