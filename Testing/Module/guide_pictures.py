"""Takes the pictures of the user guide: the panels over the test runtime, on a cohort with a trained run.

``python Testing/Module/guide_pictures.py COHORT DICOM_DIR OUT``, where ``phantom``, ``convert``, ``prepare``
and ``train`` made the cohort. A training that runs is shown running, and stopped at the end. Paths are seen in the
pictures, so the folders need names that can be shown.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import unittest
from pathlib import Path

from ModuleTestCase import ModuleTestCase

WIDTH = 400
PREFIX = "guide-"
RESULT_SIZE = (700, 350)


class GuidePictures(ModuleTestCase):
    """Goes through the tutorial and takes a picture at each station."""

    cohort = dicom = out = Path()

    def picture(self, name: str) -> None:
        for file in self.photograph(name):
            if file.stem.endswith(f"-{WIDTH}"):
                self.out.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, self.out / f"{PREFIX}{name}.png")

    def showSettings(self, run) -> None:
        """Let the picture show the settings of the run, not those of a next one."""
        import json

        settings = json.loads((run.folder / "config.json").read_text("utf-8"))
        parameters = self.logic.parameters()
        parameters.trainingEpochs, parameters.trainingBatchSize = settings["epochs"], settings["batch_size"]
        parameters.trainingPreset = settings["network"]["name"]

    def curves(self, panel) -> None:
        """Take the picture of the plot view."""
        import Runtime

        manager = Runtime.start().open_views()
        try:
            panel.showChart("dice")
            manager.plotWidget(0).plotView().save(self.out / f"{PREFIX}curves.png")
        finally:
            Runtime.start().close_views()

    def views(self, ct, segmentation) -> None:
        """Take the picture of a slice and of the surfaces, side by side."""
        import Runtime
        import vtk
        from LungSegmentationScene import Surfaces, Views

        manager = Runtime.start().open_views()
        try:
            Views.showVolume(ct)
            Views.paint(segmentation, 0.5, fill=True, outline=True)
            Views.jumpTo(Views.center(segmentation, "heart"))
            made = []
            Surfaces.makeSurfaces(segmentation, lambda _done, _total: None, lambda *ended: made.append(ended))
            self.waitUntil(lambda: made)
            Surfaces.attach(segmentation, made[0][0])
            Views.show3D(segmentation, True)
            self.processEvents()
            manager.resetThreeDViews()
            both = vtk.vtkImageAppend()
            for view in (manager.sliceWidget("Red").sliceView(), manager.threeDWidget(0).threeDView()):
                file = view.save(self.folder / "view.png")
                reader = vtk.vtkPNGReader()
                reader.SetFileName(str(file))
                reader.Update()
                image = vtk.vtkImageData()
                image.DeepCopy(reader.GetOutput())
                both.AddInputData(image)
            smaller = vtk.vtkImageResize()
            smaller.SetInputConnection(both.GetOutputPort())
            smaller.SetOutputDimensions(*RESULT_SIZE, 1)
            writer = vtk.vtkPNGWriter()
            writer.SetInputConnection(smaller.GetOutputPort())
            writer.SetFileName(str(self.out / f"{PREFIX}result.png"))
            writer.Write()
        finally:
            Runtime.start().close_views()

    def test_pictures(self) -> None:
        strip = self.widget.accordion.setupPanel
        strip.check()
        self.waitUntil(lambda: not strip.isChecking, timeoutS=120)
        parameters = self.logic.parameters()
        panel = self.panel("Import")
        parameters.importFolder = str(self.dicom)
        parameters.cohortFolder = str(self.cohort)
        self.click("importScanButton")
        self.waitUntil(lambda: not panel.scanBar.isRunning)
        self.picture("import")
        self.click("importLoadButton")
        self.waitUntil(lambda: not panel.loadBar.isRunning)
        self.sliceNode()
        preview = self.panel("Preview")
        self.waitUntil(lambda: not preview.measuring.isRunning)
        self.find("previewSegmentsTable").selectRow(0)
        self.processEvents()
        self.picture("preview")
        panel = self.panel("Training")
        self.waitUntil(lambda: panel.cohort is not None and panel.runs())
        run = panel.runs()[0]
        self.waitUntil(lambda: self.find("trainingDiceTable").rowCount > 0)
        self.showSettings(run)
        self.picture("training")
        self.curves(panel)
        ct, reference = parameters.previewVolume, parameters.previewSegmentation
        panel = self.panel("Inference")
        parameters.modelPath = str(run.model)
        parameters.inferenceVolume = ct
        self.waitUntil(lambda: panel.model is not None)
        self.click("inferenceApplyButton")
        self.waitUntil(lambda: not panel.bar.isRunning, timeoutS=600)
        self.picture("inference")
        result = parameters.inferenceSegmentation
        reference.GetDisplayNode().SetVisibility(False)
        self.views(ct, result)
        panel = self.panel("Evaluation")
        parameters.evaluationSegmentation, parameters.evaluationReference = result, reference
        self.click("evaluationApplyButton")
        self.waitUntil(lambda: not panel.bar.isRunning, timeoutS=600)
        self.picture("evaluation")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("cohort", "dicom", "out"):
        parser.add_argument(name, type=Path)
    given = parser.parse_args()
    GuidePictures.cohort, GuidePictures.dicom, GuidePictures.out = given.cohort, given.dicom, given.out
    unittest.main(argv=sys.argv[:1])
