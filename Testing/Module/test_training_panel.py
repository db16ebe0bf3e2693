"""The training panel with real trainings: prepare, train, stop, resume, kill the window and find it again."""

from __future__ import annotations

import time
import unittest
from pathlib import Path

import slicer
from LearningTestCase import RUN, SETTINGS, LearningTestCase

CANCEL_BAR_S = 5.0


def isAlive(pid: int) -> bool:
    import psutil

    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class TrainingPanelTest(LearningTestCase):
    def opened(self, cohort: Path | None):
        panel = self.panel("Training")
        self.logic.parameters().cohortFolder = str(cohort or "")
        if cohort is not None:
            self.waitUntil(lambda: panel.cohort is not None, message="the cohort was not read")
        return panel

    def choose(self, epochs: int, run: str = "", more: str = "") -> None:
        """Set what a user would set for the smallest training."""
        parameters = self.logic.parameters()
        parameters.trainingPreset = "tiny"
        parameters.trainingDevice = "cpu"
        parameters.trainingBatchSize = 4
        parameters.trainingEpochs = epochs
        parameters.trainingAugmentation = "none"
        parameters.trainingRun = run
        parameters.trainingSettings = f"threads=1\n{more}"

    def rows(self, name: str) -> list[list[str]]:
        table = self.find(name)
        return [
            [table.item(row, column).text() for column in range(table.columnCount)] for row in range(table.rowCount)
        ]

    @staticmethod
    def epochs(panel, run: str) -> list[int]:
        """Return the numbers of the epochs that the panel knows of a run."""
        return list(panel.curves[run].epochs) if run in panel.curves else []

    # Before a training

    def test_without_a_cohort_start_is_disabled_and_says_why(self) -> None:
        self.opened(None)
        button = self.find("trainingStartButton")
        self.assertFalse(button.enabled)
        self.assertIn("cohort", button.toolTip)
        self.photograph("training-empty")

    def test_a_folder_that_is_no_cohort_is_met_by_a_red_line_with_the_cure(self) -> None:
        panel = self.opened(self.folder)
        self.assertFalse(self.find("trainingStartButton").enabled)
        self.assertFalse(panel.messageLabel.isHidden())
        self.assertIn("no cohort", panel.messageLabel.text)
        self.assertIn("Convert cohort", panel.messageLabel.text)
        self.assertIn("color", panel.messageLabel.styleSheet)
        self.photograph("training-error")

    def test_a_python_without_the_packages_is_told_with_where_to_install_them(self) -> None:
        from unittest import mock

        from LungSegmentationScene import Runs

        with mock.patch.object(Runs, "readCohort", side_effect=ModuleNotFoundError("no", name="psutil")):
            panel = self.opened(self.cohort())
            self.waitUntil(lambda: not panel.messageLabel.isHidden())
        self.assertIn("psutil", panel.messageLabel.text)
        self.assertIn("Install", panel.messageLabel.text)

    def test_a_wrong_setting_is_told_before_anything_is_started(self) -> None:
        panel = self.opened(self.cohort())
        self.assertTrue(self.find("trainingStartButton").enabled)
        self.find("trainingSettingsPlainTextEdit").setPlainText("patience 20")
        self.assertFalse(self.find("trainingStartButton").enabled)
        self.assertIn("patience=20", panel.messageLabel.text)
        self.find("trainingSettingsPlainTextEdit").setPlainText("patience=20")
        self.assertTrue(self.find("trainingStartButton").enabled)
        self.assertTrue(panel.messageLabel.isHidden())
        self.find("trainingLearningRateLineEdit").text = "fast"
        self.assertFalse(self.find("trainingStartButton").enabled)
        self.find("trainingLearningRateLineEdit").text = "0.001"
        self.find("trainingRunLineEdit").text = RUN
        self.assertIn("exists", self.find("trainingStartButton").toolTip)

    def test_an_unprepared_cohort_is_prepared_by_a_button_and_the_split_is_shown(self) -> None:
        self.opened(self.cohort(runs=False, prepared=False))
        label = self.find("trainingCohortStateLabel")
        self.assertIn("3 cases, not prepared", label.text)
        self.assertFalse(self.find("trainingStartButton").enabled)
        self.logic.parameters().trainingSliceSize = "128"
        prepare, start = self.find("trainingPrepareButton"), self.find("trainingStartButton")
        with self.blocking() as gaps:
            self.click(prepare)
            self.waitUntil(lambda: start.enabled, message="it was not prepared")
        self.assertIn("1 training, 1 validation, 1 test", label.text)
        self.assertWindowAlive(gaps)

    def test_runs_of_the_cohort_are_listed_and_the_model_is_handed_to_inference(self) -> None:
        cohort = self.cohort()
        self.opened(cohort)
        rows = self.rows("trainingRunsTable")
        self.assertEqual([row[:3] for row in rows], [[RUN, "finished", "3 / 3"]])
        self.assertEqual(len(self.rows("trainingDiceTable")), 6)
        self.logic.parameters().trainingEpochs = 3
        self.assertFalse(self.find("trainingResumeButton").enabled)
        self.assertIn("all its 3 epochs", self.find("trainingResumeButton").toolTip)
        self.logic.parameters().trainingEpochs = 4
        self.assertTrue(self.find("trainingResumeButton").enabled)
        self.click("trainingUseButton")
        parameters = self.logic.parameters()
        self.assertEqual(parameters.openPanel, "Inference")
        self.assertEqual(parameters.modelPath, str(cohort / "runs" / RUN / "best_unet_multi_organ.safetensors"))

    # A training

    def test_train_stop_and_resume(self) -> None:
        cohort = self.cohort(runs=False)
        panel = self.opened(cohort)
        self.choose(epochs=400, run="stopped", more="patience=none")
        with self.blocking() as gaps:
            self.click("trainingStartButton")
            self.assertEqual(self.find("trainingStartButton").text, "Stop")
            self.waitUntil(lambda: len(self.epochs(panel, "stopped")) >= 2)
            self.waitUntil(lambda: self.rows("trainingDiceTable"))
            self.click("trainingStartButton")
            self.assertEqual(self.find("trainingStartButton").text, "End at once")
            self.waitUntil(lambda: not panel.bar.isRunning, message="it did not stop")
        self.assertWindowAlive(gaps)
        self.assertEqual(panel.bar.job.state, "cancelled")
        self.assertEqual(self.find("trainingStartButton").text, "Start training")
        self.waitUntil(lambda: self.rows("trainingRunsTable") and self.rows("trainingRunsTable")[0][1] == "stopped")
        done = len(self.epochs(panel, "stopped"))
        self.assertTrue((cohort / "runs" / "stopped" / "last.pt").is_file())
        loss = panel.charts.lossChart().GetNthPlotSeriesNode(0).GetTableNode().GetTable()
        self.assertEqual(loss.GetNumberOfRows(), done)

        self.logic.parameters().trainingRun = ""
        self.click("trainingResumeButton")
        self.waitUntil(lambda: len(self.epochs(panel, "stopped")) > done, message="it did not go on")
        self.click("trainingStartButton")
        self.waitUntil(lambda: not panel.bar.isRunning)
        epochs = self.epochs(panel, "stopped")
        self.assertEqual(epochs, list(range(1, len(epochs) + 1)))

    def test_a_training_to_its_end_fills_tables_and_curves(self) -> None:
        panel = self.opened(self.cohort(runs=False))
        self.choose(epochs=2)
        self.click("trainingStartButton")
        self.waitUntil(lambda: not panel.bar.isRunning, message="the training did not end")
        self.assertEqual(panel.bar.job.state, "finished", panel.bar.job.failure)
        self.waitUntil(lambda: self.rows("trainingRunsTable")[0][1:3] == ["finished", "2 / 2"])
        self.assertEqual(panel.charts.diceChart().GetNumberOfPlotSeriesNodes(), 7)
        self.photograph("training-filled")
        self.click(self.find("trainingJobLogButton"))
        self.assertIn("epoch 2 of 2", self.find("trainingJobLogText").plainText)

    def test_a_window_that_is_closed_and_opened_again_finds_the_training_and_can_end_it(self) -> None:
        from LungSegmentationScene import Jobs

        cohort = self.cohort(runs=False)
        panel = self.opened(cohort)
        self.choose(epochs=400, run="lasting", more="patience=none")
        self.click("trainingStartButton")
        self.waitUntil(lambda: len(self.epochs(panel, "lasting")) >= 2)
        job = panel.bar.job
        pid = job.pid
        self.forget(panel, job)
        self.assertTrue(isAlive(pid), "the training must not end with the window")

        again = self.opened(cohort)
        self.waitUntil(lambda: again.bar.isRunning, message="the training was not found")
        self.assertIsNot(again.bar.job, job)
        self.assertEqual(again.bar.job.pid, pid)
        known = len(self.epochs(again, "lasting"))
        self.waitUntil(lambda: len(self.epochs(again, "lasting")) > max(known, 2), message="it is not followed")
        self.assertEqual(self.epochs(again, "lasting")[:2], [1, 2])
        self.photograph("training-running")
        self.assertEqual(self.find("trainingStartButton").text, "Stop")
        began = time.monotonic()
        self.click("trainingStartButton")
        if again.bar.isRunning:
            self.click("trainingStartButton")
        self.waitUntil(lambda: not again.bar.isRunning, message="it was not ended")
        self.assertLess(time.monotonic() - began, CANCEL_BAR_S)
        self.assertFalse(isAlive(pid))
        self.assertEqual(Jobs.runningJobs(), [])

    def forget(self, panel, job) -> None:
        """Do to the window what its end does: all of Python's memory of the job is gone, the process stays."""
        from LungSegmentationScene import Jobs

        accordion = self.widget.accordion
        job._timer.stop()
        Jobs._jobs.remove(job)
        panel.cleanup()
        del accordion.panels["Training"]
        accordion.sections["Training"].layout().removeWidget(panel.widget)
        panel.widget.setParent(None)
        self.gone = panel
        accordion.sections["Training"].collapsed = True
        slicer.mrmlScene.Clear(False)
        self.processEvents()

    def test_what_the_job_refuses_is_shown_with_its_cure(self) -> None:
        panel = self.opened(self.cohort(runs=False))
        self.choose(epochs=1, more="loss.region=best")
        self.click("trainingStartButton")
        self.waitUntil(lambda: not panel.bar.isRunning)
        self.assertEqual(panel.bar.job.state, "failed")
        text = self.find("trainingJobStatusLabel").text
        self.assertIn("loss.region", text)
        self.assertNotIn("Traceback", text)
        self.photograph("training-refused")

    def test_the_logic_starts_a_training_and_returns_at_once(self) -> None:
        settings = dict(text.split("=") for text in SETTINGS)
        job = self.logic.startTraining(self.cohort(runs=False), run="scripted", **settings, epochs=1)
        self.assertEqual(job.runFolder.name, "scripted")
        self.assertTrue(job.isRunning)
        job.cancel()
        self.waitUntil(lambda: not job.isRunning, message="it was not ended")
        self.assertEqual(job.state, "cancelled")


if __name__ == "__main__":
    unittest.main()
