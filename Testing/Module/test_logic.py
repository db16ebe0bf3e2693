"""What scripts use: the logic of the module, from DICOM files to a table of scores, and the sample data."""

from __future__ import annotations

import subprocess
import sys
import types
import unittest

from LearningTestCase import SETTINGS, LearningTestCase
from ModuleTestCase import slicer


class Logic(LearningTestCase):
    """With the real command line, tiny phantoms and the smallest network."""

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.requireJobs()

    def settings(self) -> dict[str, str]:
        return dict(text.split("=") for text in SETTINGS)

    def testTheLogicOfTheModuleIsWhatScriptsGet(self) -> None:
        self.assertEqual(type(self.logic).__name__, "LungSegmentationLogic")
        for name in ("importPatient", "convertCohort", "prepareCohort", "startTraining", "segment", "evaluate"):
            self.assertTrue(callable(getattr(self.logic, name)), name)

    def testFromDicomToScores(self) -> None:
        patient = min((self.source() / "dicom").iterdir())
        ct, reference = self.logic.importPatient(patient)
        self.assertTrue(ct.IsA("vtkMRMLScalarVolumeNode"))
        self.assertGreaterEqual(reference.GetSegmentation().GetNumberOfSegments(), 5)

        segmentation = self.logic.segment(ct, self.model(), device="cpu")
        self.assertTrue(segmentation.IsA("vtkMRMLSegmentationNode"))
        self.assertIs(segmentation.GetNodeReference("referenceImageGeometryRef"), ct)

        table = self.logic.evaluate(segmentation, reference)
        self.assertTrue(table.IsA("vtkMRMLTableNode"))
        self.assertGreater(table.GetNumberOfRows(), 0)

        file = self.folder / "result.nii.gz"
        self.logic.exportSegmentation(segmentation, file)
        self.assertTrue(file.is_file())

    def testACohortIsConvertedPreparedAndTrainedOn(self) -> None:
        cohort = self.folder / "cohort"
        self.logic.convertCohort(self.source() / "dicom", cohort)
        self.assertEqual(len(list((cohort / "cases").iterdir())), 3)
        self.logic.prepareCohort(cohort, slice_size=64)
        job = self.logic.startTraining(cohort, run="script", epochs=1, **self.settings())
        self.assertTrue(job.isRunning, "it returns at once")
        result = job.wait(120)
        self.assertEqual(job.state, "finished")
        self.assertTrue(any(path.suffix == ".safetensors" for path in result.paths.values()))

    def testAnEmptyFolderIsAnErrorWithItsCure(self) -> None:
        from LungSegmentationScene.Errors import SceneError

        empty = self.folder / "empty"
        empty.mkdir()
        with self.assertRaises(SceneError) as raised:
            self.logic.importPatient(empty)
        self.assertIn("empty", raised.exception.sentence)
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode"), 0)


class SampleDataOfTheModule(LearningTestCase):
    """The phantom in the Sample Data module."""

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.requireJobs()

    def testThePhantomIsRegisteredWithItsThumbnail(self) -> None:
        from pathlib import Path

        from LungSegmentationScene import SampleData

        registered = []
        kept = sys.modules.get("SampleData")
        played = types.ModuleType("SampleData")
        played.SampleDataLogic = types.SimpleNamespace(
            registerCustomSampleDataSource=lambda **source: registered.append(source)
        )
        sys.modules["SampleData"] = played
        try:
            SampleData.registerSampleData()
        finally:
            if kept is None:
                del sys.modules["SampleData"]
            else:
                sys.modules["SampleData"] = kept
        (source,) = registered
        self.assertEqual(source["sampleName"], "Lung segmentation phantom")
        self.assertTrue(Path(source["thumbnailFileName"]).is_file())
        self.assertIs(source["customDownloader"], SampleData.loadPhantom)
        self.assertFalse([uri for uri in (source["uris"],) if uri], "nothing is downloaded")

    def testThePhantomIsMadeOnceAndLoaded(self) -> None:
        from LungSegmentationScene import SampleData

        kept = SampleData.phantomFolder
        SampleData.phantomFolder = lambda: self.folder / "cache" / "phantom"
        try:
            ct, segmentation = SampleData.loadPhantom()
            made = (self.folder / "cache" / "phantom").stat().st_mtime
            again = SampleData.loadPhantom()
        finally:
            SampleData.phantomFolder = kept
        self.assertTrue(ct.IsA("vtkMRMLScalarVolumeNode"))
        self.assertEqual(segmentation.GetSegmentation().GetNumberOfSegments(), 7)
        self.assertEqual((self.folder / "cache" / "phantom").stat().st_mtime, made, "it was made twice")
        self.assertEqual(len(again), 2)

    def testTheTerminologyKnowsTheTargets(self) -> None:
        from LungSegmentationScene import Startup

        from LungSegmentationLib.terminology import OWN_CONTEXT

        self.assertTrue(Startup.registerTerminology())
        self.assertTrue(slicer.modules.terminologies.logic().IsTerminologyContextLoaded(OWN_CONTEXT))


class ScriptWithoutAWindow(unittest.TestCase):
    """The example of the documentation, in a process of its own."""

    def testAScriptMayWaitForJobs(self) -> None:
        from ModuleTestCase import ROOT, inSlicer

        if inSlicer():
            self.skipTest("the application runs this very test as a script")
        LearningTestCase.requireJobs()
        source = LearningTestCase.source()
        script = f"""
import sys
sys.path.insert(0, {str(ROOT / "Testing")!r})
import Runtime
Runtime.start().load_module()
import slicer
assert slicer.util.mainWindow() is None
logic = slicer.util.getModuleLogic("LungSegmentation")
ct, segmentation = logic.importPatient({str(min((source / "dicom").iterdir()))!r})
print("SEGMENTS", segmentation.GetSegmentation().GetNumberOfSegments())
"""
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=False)
        self.assertIn("SEGMENTS", done.stdout, done.stderr[-2000:])


if __name__ == "__main__":
    unittest.main()
