"""One row for a running job, the same in all panels: how far, how long still, Cancel, and the log behind a click."""

from __future__ import annotations

from collections.abc import Callable

import qt
from LungSegmentationScene.Jobs import SceneJob
from LungSegmentationScene.JobStates import CANCELLED, CANCELLING, FAILED, STARTING
from slicer.i18n import tr as _

from LungSegmentationPanels.LogView import LogView
from LungSegmentationPanels.Panel import errorColor


class JobBar:
    """Shows one job at a time; hidden while there is none.

    Object names begin with the given one: ``importJobProgressBar``, ``…StatusLabel``, ``…CancelButton``,
    ``…LogButton``, ``…LogText``.

    Parameters
    ----------
    name
        Beginning of the object names, for example ``importJob``.
    place
        The widget in whose layout the row stands, hidden with it; None to place :attr:`widget` oneself.
    startButton
        The button that starts the job: reads “Cancel” while it runs, and the row has no Cancel of its own. Its
        handler asks :attr:`isRunning` and calls :meth:`cancel`.
    """

    def __init__(self, name: str, place=None, startButton=None) -> None:
        self.job: SceneJob | None = None
        self._listeners: list = []
        self._startButton = startButton
        self._startText = startButton.text if startButton is not None else ""
        self._startToolTip = startButton.toolTip if startButton is not None else ""
        self.widget = qt.QWidget()
        self.widget.objectName = f"{name}Bar"
        rows = qt.QVBoxLayout(self.widget)
        rows.setContentsMargins(0, 0, 0, 0)
        row = qt.QHBoxLayout()
        rows.addLayout(row)

        self.progressBar = qt.QProgressBar()
        self.progressBar.objectName = f"{name}ProgressBar"
        self.progressBar.toolTip = _("How far the job is")
        self.progressBar.textVisible = True
        row.addWidget(self.progressBar, 1)

        self.cancelButton = qt.QPushButton(_("Cancel"))
        self.cancelButton.objectName = f"{name}CancelButton"
        self.cancelButton.toolTip = _("End the job; nothing half-written is left")
        self.cancelButton.connect("clicked()", self.cancel)
        row.addWidget(self.cancelButton)

        statusRow = qt.QHBoxLayout()
        rows.addLayout(statusRow)
        self.statusLabel = qt.QLabel()
        self.statusLabel.objectName = f"{name}StatusLabel"
        self.statusLabel.toolTip = _("How the job stands")
        self.statusLabel.wordWrap = True
        self.statusLabel.setTextInteractionFlags(qt.Qt.TextSelectableByMouse)
        statusRow.addWidget(self.statusLabel, 1)

        log = LogView(name, _("What the job says in detail"), self._showLog)
        self.logButton, self.logText = log.button, log.text
        statusRow.addWidget(self.logButton)
        rows.addWidget(self.logText)

        self._logTimer = qt.QTimer()
        self._logTimer.setInterval(1000)
        self._logTimer.connect("timeout()", self._fillLog)
        self._place = place
        if place is not None:
            place.layout().addWidget(self.widget)
        self._show(False)

    @property
    def isRunning(self) -> bool:
        """Whether a job is shown that has not ended."""
        return self.job is not None and self.job.isRunning

    def watch(self, job: SceneJob | None, onFinished: Callable[[SceneJob], None] | None = None) -> None:
        """Show a job from now on; None hides the row.

        Parameters
        ----------
        job
            The job.
        onFinished
            Told its end after it is shown here, unless another job is watched by then.
        """
        self._forget()
        self.job = job
        self._show(job is not None)
        self.logButton.checked = False
        if job is None:
            self._showStartButton()
            return
        self._listeners.append(job.listen(onProgress=self._update, onFinished=self._update))
        if onFinished is not None:
            self._listeners.append(job.listen(onFinished=onFinished))
        self._update(job)

    def cancel(self) -> None:
        """Cancel the job that is shown."""
        if self.job is not None:
            self.job.cancel()

    def shownProgress(self, job: SceneJob):
        """Return the progress event that bar and text show; None for “not known”."""
        return job.progress

    def cleanup(self) -> None:
        """Let go of the job, which goes on."""
        self._logTimer.stop()
        self._forget()

    def _show(self, shown: bool) -> None:
        self.widget.visible = shown
        if self._place is not None:  # an empty one would still be a gap
            self._place.visible = shown

    def _forget(self) -> None:
        for listener in self._listeners:
            self.job.forget(listener)
        self._listeners = []

    def _showStartButton(self) -> None:
        if self._startButton is None:
            return
        self.cancelButton.visible = False
        if self.isRunning:
            self._startButton.text = _("Cancelling…") if self.job.state == CANCELLING else _("Cancel")
            self._startButton.toolTip = self.cancelButton.toolTip
            self._startButton.enabled = self.job.state != CANCELLING
        else:
            self._startButton.text = self._startText
            self._startButton.toolTip = self._startToolTip
            self._startButton.enabled = True

    def _update(self, job: SceneJob) -> None:
        progress = self.shownProgress(job)
        known = progress is not None and progress.total
        self.progressBar.visible = job.isRunning
        # A range from 0 to 0 is the bar of unknown length.
        self.progressBar.setRange(0, progress.total if known else 0)
        if known:
            self.progressBar.setValue(min(progress.done, progress.total))
        self.cancelButton.visible = job.isRunning and self._startButton is None
        self.cancelButton.enabled = job.isRunning and job.state != CANCELLING
        self.statusLabel.text = statusText(job, progress)
        self.statusLabel.styleSheet = f"color: {errorColor(self.widget)}" if job.state == FAILED else ""
        self._showStartButton()
        if not job.isRunning:
            self._logTimer.stop()
            if self.logButton.checked:
                self._fillLog()

    def _showLog(self, shown: bool) -> None:
        self.logText.visible = shown
        if shown:
            self._fillLog()
            if self.isRunning:
                self._logTimer.start()
        else:
            self._logTimer.stop()

    def _fillLog(self) -> None:
        text = self.job.logText() if self.job is not None else ""
        if text != self.logText.plainText:
            self.logText.setPlainText(text)
            bar = self.logText.verticalScrollBar()
            bar.setValue(bar.maximum)


def statusText(job: SceneJob, progress) -> str:
    """Return one line that says how a job stands, by a progress event or None."""
    if job.state == STARTING:
        return _("Starting…")
    if job.state == CANCELLING:
        return _("Cancelling…")
    if job.state == FAILED:
        return sentences(job.failure.sentence, job.failure.hint)
    if job.state == CANCELLED:
        return _("Cancelled.")
    if not job.isRunning:
        return _("Done.")
    if progress is None:
        return job.title
    parts = [stageText(progress.stage)]
    if progress.total:
        parts[0] += _(" {done} of {total}").format(done=progress.done, total=progress.total)
    if progress.message:
        parts.append(progress.message)
    if progress.eta_s and progress.eta_s >= 1:
        parts.append(_("{time} left").format(time=durationText(progress.eta_s)))
    return " · ".join(parts)


def sentences(*texts: str) -> str:
    """Return texts as sentences, one after the other, each with its full stop."""
    return " ".join(text if text.endswith((".", "!", "?", "…", ":")) else f"{text}." for text in texts if text)


def stageText(stage: str) -> str:
    """Return what people call a stage of a job; one that is not known as the library calls it."""
    titles = {
        "scan": _("Looking through files"),
        "extract": _("Reading"),
        "convert": _("Converting"),
        "cases": _("Case"),
        "phantom": _("Making phantoms"),
        "prepare": _("Preparing"),
        "training": _("Training"),
        "validation": _("Validating"),
        "prediction": _("Segmenting"),
        "writing": _("Writing"),
        "export": _("Writing"),
        "evaluate": _("Comparing"),
        "surfaces": _("Measuring surfaces"),
    }
    return titles.get(stage, stage)


def durationText(seconds: float) -> str:
    """Return a length of time as people say it: 40 s, 3 min 20 s, 2 h 05 min."""
    whole = round(seconds)
    if whole < 60:
        return _("{s} s").format(s=whole)
    if whole < 3600:
        return _("{min} min {s:02d} s").format(min=whole // 60, s=whole % 60)
    return _("{h} h {min:02d} min").format(h=whole // 3600, min=whole % 3600 // 60)
