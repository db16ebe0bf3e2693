"""The window lives on while a real patient of 111 slices is imported, measured, looked at, segmented and compared."""

from __future__ import annotations

import os
import unittest
from pathlib import Path

import slicer
from LearningTestCase import LearningTestCase
from ModuleTestCase import ROOT

REAL_DATA = Path(os.environ.get("LUNGSEG_TEST_DATA", ROOT.parent / "shared" / "data")).resolve()
SOURCE = REAL_DATA / "rt_lung1-002"


class WindowAlive(LearningTestCase):
    """Each step is measured by a timer that says how long the event loop stood still."""

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.requireJobs()

    def setUp(self) -> None:
        if not SOURCE.is_dir():
            self.skipTest(f"no test data at {REAL_DATA}: set LUNGSEG_TEST_DATA")
        super().setUp()
        self.gaps: dict[str, str] = {}

    def step(self, name: str, action, ended) -> None:
        """Do something and let the window live until it has ended; it must not have stood still."""
        with self.blocking() as gaps:
            action()
            self.waitUntil(ended, timeoutS=300.0, message=f"{name} did not end")
        self.gaps[name] = f"{gaps.longestMs:.0f} ms, then {gaps.secondMs:.0f} ms"
        if os.environ.get("LUNGSEG_TELL_GAPS"):
            print(f"{name}: {self.gaps[name]}")
        with self.subTest(name, gaps=self.gaps):
            self.assertWindowAlive(gaps)

    def test_no_step_of_a_real_patient_holds_the_window(self) -> None:
        parameters = self.logic.parameters()
        panel = self.panel("Import")
        parameters.importFolder = str(SOURCE)
        self.step("scan", lambda: self.click("importScanButton"), lambda: not panel.scanBar.isRunning)
        self.step("load", lambda: self.click("importLoadButton"), lambda: not panel.loadBar.isRunning)
        ct, drawn = parameters.previewVolume, parameters.previewSegmentation
        self.assertIsNotNone(drawn)

        preview = None

        def show() -> None:
            nonlocal preview
            preview = self.panel("Preview")

        self.step("measure", show, lambda: preview is not None and not preview.measuring.isRunning)
        self.assertEqual(self.find("previewSegmentsTable").rowCount, 7)
        self.step("3D", lambda: self.click("previewShow3DButton"), lambda: preview._surfaces is None)
        self.assertTrue(drawn.GetSegmentation().ContainsRepresentation("Closed surface"))
        self.click("previewShow3DButton")

        parameters.modelPath, parameters.inferenceVolume = str(self.model()), ct
        parameters.inferenceDevice = "cpu"
        inference = self.panel("Inference")
        self.waitUntil(lambda: inference.model is not None)
        self.step("segment", lambda: self.click("inferenceApplyButton"), lambda: not inference.bar.isRunning)
        self.assertEqual(inference.bar.job.state, "finished", inference.bar.job.failure)

        parameters.evaluationSegmentation = parameters.inferenceSegmentation
        parameters.evaluationReference = drawn
        evaluation = self.panel("Evaluation")
        self.step("compare", lambda: self.click("evaluationApplyButton"), lambda: not evaluation.bar.isRunning)
        self.assertEqual(evaluation.bar.job.state, "finished", evaluation.bar.job.failure)
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLTableNode"), 1)


if __name__ == "__main__":
    unittest.main()
