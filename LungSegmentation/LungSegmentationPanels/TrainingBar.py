"""The job row of a training: its button reads Stop, which asks, and pressed again ends the processes at once."""

from __future__ import annotations

from collections.abc import Callable

from LungSegmentationScene.Jobs import CANCELLED, CANCELLING, SceneJob
from slicer.i18n import tr as _

from LungSegmentationPanels.JobBar import JobBar

STAGE = "training"


class TrainingBar(JobBar):
    """Shows the whole training, not the validation of each epoch, in the bar."""

    def __init__(self, name: str, place, startButton) -> None:
        self._latest = None
        super().__init__(name, place, startButton)

    def watch(self, job: SceneJob | None, onFinished: Callable[[SceneJob], None] | None = None) -> None:
        """Show a training from now on."""
        self._latest = None
        super().watch(job, onFinished)

    def cancel(self) -> None:
        """Ask the training to stop with a checkpoint; asked again, end it with all its processes."""
        if self.job is None:
            return
        if self.job.state == CANCELLING:
            self.job.cancel()
        else:
            self.job.stop()

    def shownProgress(self, job: SceneJob):
        """Return how far all epochs are, and what is done now."""
        progress = job.progress
        if progress is None:
            self._latest = None
            return None
        if progress.stage == STAGE:
            self._latest = progress
            return progress
        if self._latest is None:
            return progress
        return self._latest.model_copy(update={"message": progress.stage})

    def _update(self, job: SceneJob) -> None:
        super()._update(job)
        # “Cancelled” would say that it was in vain.
        if job.state == CANCELLING:
            self.statusLabel.text = _("Stopping: the step is finished, a checkpoint written…")
        elif job.state == CANCELLED:
            self.statusLabel.text = _("Stopped. “Resume” goes on from the last checkpoint.")

    def _showStartButton(self) -> None:
        super()._showStartButton()
        button = self._startButton
        if not self.isRunning:
            return
        button.enabled = True
        if self.job.state == CANCELLING:
            button.text = _("End at once")
            button.toolTip = _("It is stopping: the step is finished and a checkpoint written. This ends it without.")
        else:
            button.text = _("Stop")
            button.toolTip = _("Finish the step, write a checkpoint and end; Resume goes on from there")
