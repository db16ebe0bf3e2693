"""Installs what is missing, one step after the other, by the ways that Slicer offers or by another Python's own pip.

Nothing here asks the user: the caller has said what and how large, and was told to go on.
"""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import qt
import slicer
from slicer.i18n import tr as _

from LungSegmentationScene import ChildProcess, Environment
from LungSegmentationScene.Background import BackgroundCall
from LungSegmentationScene.Setup import PythonReport, Requirement

PACKAGE_INDEX = "https://pypi.org/simple/pip/"


@dataclass(frozen=True)
class InstallStep:
    """One thing to do: a title for the progress, and who does it.

    Attributes
    ----------
    title
        For people.
    run
        Called with ``done(error)`` and ``say(line)``; calls ``done`` once, with None or a sentence.
    """

    title: str
    run: Callable[[Callable[[str | None], None], Callable[[str], None]], None]


class Installation:
    """Steps that are done in turn, with the event loop running between them.

    Parameters
    ----------
    steps
        What to do.
    onProgress
        Called with the number of steps done, of all steps, and the title of the next one.
    onLine
        Called with each line that an installer prints.
    onFinished
        Called once with None or the sentence of the first fault.
    """

    def __init__(
        self,
        steps: list[InstallStep],
        onProgress: Callable[[int, int, str], None],
        onLine: Callable[[str], None],
        onFinished: Callable[[str | None], None],
    ) -> None:
        self._steps = steps
        self._onProgress = onProgress
        self._onLine = onLine
        self._onFinished = onFinished
        self._done = 0

    def start(self) -> None:
        """Begin; returns at once."""
        self._next()

    def _next(self) -> None:
        if self._done == len(self._steps):
            self._onFinished(None)
            return
        step = self._steps[self._done]
        self._onProgress(self._done, len(self._steps), step.title)
        # Slicer's installers take the event loop: let the window show what comes first.
        qt.QTimer.singleShot(50, lambda: step.run(self._onStepDone, self._onLine))

    def _onStepDone(self, error: str | None) -> None:
        if error is not None:
            self._onFinished(error)
            return
        self._done += 1
        self._next()


def stepsFor(report: PythonReport) -> list[InstallStep]:
    """Return what must be done so that jobs can run in the Python of a report."""
    own = report.python is None
    steps = []
    torch = [requirement for requirement in (*report.broken, *report.missing) if requirement.name == "torch"]
    others = [item for item in (*report.broken, *report.missing) if item.name != "torch"]
    if own:
        others = list({item.name: item for item in (*others, *report.windowMissing)}.values())
    elif report.windowMissing:
        steps.append(_ownStep(list(report.windowMissing)))
    for requirement in report.broken:
        remove = _ownRemoval if own else _otherRemoval(report.python)
        title = _("Removing the broken {name}").format(name=requirement.name)
        steps.append(
            InstallStep(title, lambda done, say, name=requirement.name, remove=remove: remove(name, done, say))
        )
    if others:
        steps.append(_ownStep(others) if own else _otherStep(report.python, others))
    if torch:
        steps.append(_ownTorchStep(torch[0]) if own else _otherStep(report.python, torch))
    return steps


def restartReason(requirements: tuple[Requirement, ...]) -> str:
    """Return why Slicer must be restarted after these were installed; empty where it need not be.

    Call it before the installation: only what this process has loaded by then stays as it was.
    """
    loaded = [requirement.name for requirement in requirements if requirement.name.replace("-", "_") in sys.modules]
    if not loaded:
        return ""
    return _(
        "Restart Slicer: it had already loaded the former {names}, and goes on using it until then. "
        "Jobs of this module use the new one at once."
    ).format(names=", ".join(loaded))


def explainFailure(
    error: str, onExplained: Callable[[str, str], None], isOnline: Callable[[], bool] | None = None
) -> None:
    """Find out whether the network is to blame; ``onExplained`` gets sentence and hint.

    Parameters
    ----------
    error
        What the installer said.
    onExplained
        Called once, later.
    isOnline
        Whether the package index can be reached; may take some seconds, as it is called beside the event loop.
    """

    def explain(online: object, fault: Exception | None) -> None:
        if online or fault is not None:
            hint = _("The log tells more. If it says that a file is in use, restart Slicer and press Install again.")
            onExplained(error, hint)
        else:
            onExplained(
                _("The packages could not be loaded: pypi.org cannot be reached from this computer."),
                _(
                    "Check the connection and the proxy; or copy the packages from another computer "
                    "(see “When something does not work” in the user guide), or choose a Python that has them."
                ),
            )

    BackgroundCall(isOnline or indexIsReachable, explain)


def indexIsReachable() -> bool:
    """Whether the package index answers, through the proxy that is set, if any."""
    try:
        with urllib.request.urlopen(PACKAGE_INDEX, timeout=5):
            return True
    except urllib.error.HTTPError:  # it answered
        return True
    except (OSError, ValueError):
        return False


def _ownStep(requirements: list[Requirement]) -> InstallStep:
    names = ", ".join(requirement.name for requirement in requirements)
    return InstallStep(
        _("Installing {names}").format(names=names),
        lambda done, _say: _guarded(lambda: installInSlicer(requirements), done),
    )


def _ownTorchStep(requirement: Requirement) -> InstallStep:
    return InstallStep(
        _("Installing PyTorch; this takes some minutes"),
        lambda done, _say: _guarded(lambda: installTorchInSlicer(requirement), done),
    )


def installInSlicer(requirements: list[Requirement]) -> None:
    """Install packages in Slicer's Python by ``slicer.packaging`` where it exists, else by ``slicer.util``."""
    texts = [str(requirement) for requirement in requirements]
    ensure = _pipEnsure()
    if ensure is None:
        slicer.util.pip_install(texts)
    else:
        from packaging.requirements import Requirement as PackagingRequirement

        # The button said what and how large, and restarting is explained in the strip.
        ensure(
            [PackagingRequirement(text) for text in texts],
            prompt_install=False,
            prompt_restart=False,
            requester="LungSegmentation",
        )
    importlib.invalidate_caches()


def installTorchInSlicer(requirement: Requirement) -> None:
    """Install PyTorch by the PyTorch extension, which knows the build for the GPU's driver, else like any package."""
    if importlib.util.find_spec("PyTorchUtils") is None:
        installInSlicer([requirement])
        return
    import PyTorchUtils

    logic = PyTorchUtils.PyTorchUtilsLogic()
    logic.installTorch(askConfirmation=False, torchVersionRequirement=f">={requirement.minimum}")
    importlib.invalidate_caches()


def _pipEnsure() -> Callable | None:
    if importlib.util.find_spec("slicer.packaging") is None:
        return None
    return getattr(importlib.import_module("slicer.packaging"), "pip_ensure", None)


def _guarded(install: Callable[[], None], done: Callable[[str | None], None]) -> None:
    try:
        install()
    except subprocess.CalledProcessError as error:
        done(_("The installer ended with exit code {code}.").format(code=error.returncode))
        return
    except Exception as error:  # noqa: BLE001 - installers of other extensions raise what they like; it is shown
        done(_("The installation failed: {error}").format(error=error))
        return
    done(None)


def _ownRemoval(name: str, done: Callable[[str | None], None], say: Callable[[str], None]) -> None:
    del say
    _guarded(lambda: slicer.util.pip_uninstall(name), done)


def _otherRemoval(python: Path) -> Callable:
    def remove(name: str, done: Callable[[str | None], None], say: Callable[[str], None]) -> None:
        _runPip(python, ["uninstall", "--yes", name], done, say)

    return remove


def _otherStep(python: Path, requirements: list[Requirement]) -> InstallStep:
    names = ", ".join(requirement.name for requirement in requirements)
    texts = [str(requirement) for requirement in requirements]
    return InstallStep(
        _("Installing {names}").format(names=names),
        lambda done, say: _runPip(python, ["install", *texts], done, say),
    )


def _runPip(python: Path, arguments: list[str], done: Callable[[str | None], None], say: Callable[[str], None]) -> None:
    def finished(code: int, output: str) -> None:
        last = next((line for line in reversed(output.splitlines()) if line.lstrip().lower().startswith("error")), "")
        done(None if code == 0 else last or _("The installer ended with exit code {code}.").format(code=code))

    command = [Environment.programOf(python), "-m", "pip", *arguments, "--disable-pip-version-check", "--no-input"]
    if arguments[0] == "uninstall":
        command.remove("--no-input")
    ChildProcess.ChildProcess(command, Environment.foreignEnvironment(python), finished, say)
