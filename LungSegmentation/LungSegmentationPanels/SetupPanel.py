"""The strip on top: is everything installed, on which device will jobs run, and in which Python."""

from __future__ import annotations

from LungSegmentationScene import Environment, Setup
from LungSegmentationScene.Installer import Installation, explainFailure, restartReason, stepsFor
from slicer.i18n import tr as _

from LungSegmentationPanels.Panel import Panel, errorColor


class SetupPanel(Panel):
    """Says what there is; installs only when asked, and proves afterwards that it works.

    Attributes
    ----------
    report
        What the last check found; None before the first.
    checksWhenEntered
        Whether the first opening of the module begins a check.
    onReport
        Called when another report, or none, holds; the accordion puts its own function here.
    startProbe, stepsFor, isOnline
        How a Python is asked, what an installation does, whether the network is there: tests put their own in place.
    """

    name = "Setup"

    def setup(self) -> None:
        """Nothing is looked at before the module is opened."""
        self.report: Setup.PythonReport | None = None
        self.checksWhenEntered = not Environment.isTesting()
        self.startProbe = Setup.startProbe
        self.stepsFor = stepsFor
        self.isOnline = None
        self.onReport = None
        self._probe = None
        self._installation: Installation | None = None
        self._restartReason = ""
        self._log: list[str] = []
        self.ui.setupPythonPathLineEdit.currentPath = str(Environment.chosenPython() or "")
        self.ui.setupPythonPathLineEdit.connect("currentPathChanged(QString)", self._onPathChanged)
        # A path that is cleared is no valid one any more, and of that only this one tells.
        self.ui.setupPythonPathLineEdit.connect("validInputChanged(bool)", self._onPathValid)
        self.ui.setupDetailsButton.connect("toggled(bool)", self._showDetails)
        self.ui.setupCheckButton.connect("clicked()", self.check)
        self.ui.setupInstallButton.connect("clicked()", self.install)
        self._showDetails(False)
        self.updateState()

    def enter(self) -> None:
        """Check when the module is opened for the first time; tests of the application check by themselves."""
        super().enter()
        if self.checksWhenEntered and self.report is None and self._probe is None:
            self.check()

    @property
    def isChecking(self) -> bool:
        """Whether a Python is being asked."""
        return self._probe is not None

    @property
    def isInstalling(self) -> bool:
        """Whether an installation is under way."""
        return self._installation is not None

    def check(self) -> None:
        """Ask the Python of the jobs what it has; returns at once."""
        if self._probe is not None and hasattr(self._probe, "cancel"):
            self._probe.cancel()
        self._probe = object()
        self.updateState()
        probe = self.startProbe(Environment.chosenPython(), self._onReport)
        if self._probe is not None and probe is not None:
            self._probe = probe

    def install(self) -> None:
        """Install what the last check missed; the button said what and how large."""
        if self.report is None or not self.report.toInstall or self.isInstalling:
            return
        if Environment.isTesting() and self.stepsFor is stepsFor:
            self._hint(_("Nothing is installed while Slicer runs its tests."))
            return
        self._restartReason = restartReason(self.report.toInstall)
        self._log = []
        self.ui.setupLogText.setPlainText("")
        steps = self.stepsFor(self.report)
        self._installation = Installation(steps, self._onInstallProgress, self._onInstallLine, self._onInstalled)
        self.updateState()
        self._installation.start()

    def cleanup(self) -> None:
        """Let go; an installation that was begun goes on."""
        if self._probe is not None and hasattr(self._probe, "cancel"):
            self._probe.cancel()
            self._probe = None

    def setParameterNode(self, parameters) -> None:
        """The set-up belongs to the computer and not to the scene."""

    def updateState(self) -> None:
        """Bring texts and buttons in line with what is known."""
        report = self.report
        bad = report is not None and not report.isReady
        if self.isInstalling:
            text = _("Installing…")
        elif self.isChecking:
            text = _("Checking what is installed…")
        else:
            text = Setup.headline(report) if report is not None else _("Not checked yet.")
        self.ui.setupStatusLabel.text = text
        warn = bad and not (self.isChecking or self.isInstalling)
        self.ui.setupStatusLabel.styleSheet = f"color: {errorColor(self.widget)}" if warn else ""
        missing = report.toInstall if report is not None else ()
        self._showInfo(report)
        self.ui.setupInstallButton.visible = bool(missing)
        if missing:
            word = _("Repair") if report.broken else _("Install")
            count = _("1 package") if len(missing) == 1 else _("{n} packages").format(n=len(missing))
            self.ui.setupInstallButton.text = f"{word} {count} ({Setup.sizeText(missing)})"
            names = ", ".join(str(requirement) for requirement in missing)
            where = report.executable or _("Slicer's Python")
            self.ui.setupInstallButton.toolTip = _("Install in {where}: {names}").format(where=where, names=names)
        self.ui.setupInstallButton.enabled = not (self.isInstalling or self.isChecking)
        self.ui.setupCheckButton.enabled = not (self.isInstalling or self.isChecking)
        self.ui.setupPythonPathLineEdit.enabled = not self.isInstalling
        self.ui.setupProgressBar.visible = self.isInstalling
        self.ui.setupLogText.visible = bool(self._log)

    # What happens on the way

    def _onReport(self, report: Setup.PythonReport) -> None:
        self._probe = None
        self.report = report
        details = _("It says: {text}.").format(text=report.details.rstrip(".")) if report.details else ""
        hint = " ".join(part for part in (report.hint, report.deviceWarning, details, self._restartReason) if part)
        self._hint(hint)
        if not report.isReady:
            self.ui.setupDetailsButton.checked = True
        self.updateState()
        self._tellReport()

    def _onPathChanged(self, path: str) -> None:
        Environment.setChosenPython(path)
        self.report = None
        self._tellReport()
        self.check()

    def _onPathValid(self, valid: bool) -> None:
        if not valid:
            self._onPathChanged("")

    def _tellReport(self) -> None:
        if self.onReport is not None:
            self.onReport(self.report)

    def _onInstallProgress(self, done: int, total: int, title: str) -> None:
        self.ui.setupProgressBar.setRange(0, total if total > 1 else 0)
        self.ui.setupProgressBar.setValue(done)
        self._hint(title + "…")

    def _onInstallLine(self, line: str) -> None:
        self._log.append(line)
        self.ui.setupLogText.visible = True
        self.ui.setupLogText.appendPlainText(line)

    def _onInstalled(self, error: str | None) -> None:
        if error is None:
            self._installation = None
            self._hint(self._restartReason)
            self.check()
            return
        explainFailure(error, self._onExplained, self.isOnline)

    def _onExplained(self, sentence: str, hint: str) -> None:
        self._installation = None
        self._hint(f"{sentence} {hint}")
        self.updateState()

    def _hint(self, text: str) -> None:
        self.ui.setupHintLabel.text = text
        self.ui.setupHintLabel.visible = bool(text)

    def _showDetails(self, shown: bool) -> None:
        self.ui.setupDetails.visible = shown

    def _showInfo(self, report: Setup.PythonReport | None) -> None:
        known = report or Setup.PythonReport(None)
        memory = _(", {gb:.1f} GB").format(gb=known.memoryMb / 1024) if known.memoryMb else ""
        python = f"{known.version} ({breakable(known.executable)})" if known.version else ""
        missing = ", ".join(requirement.name for requirement in known.toInstall)
        for name, text in (
            ("Device", f"{known.device} ({known.deviceName}{memory})" if known.device else ""),
            ("Torch", known.torchBuild),
            ("Python", python),
            ("Missing", missing),
        ):
            label = getattr(self.ui, f"setup{name}InfoLabel")
            label.text = text
            label.visible = bool(text)
            getattr(self.ui, f"setup{name}InfoTitleLabel").visible = bool(text)


def breakable(path: str) -> str:
    """Return a path that may be broken into lines after its separators."""
    return path.replace("/", "/\u200b").replace("\\", "\\\u200b")
