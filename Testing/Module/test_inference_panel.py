"""The inference panel with a real model: segment, cancel, batch, export, save the scene and load it again."""

from __future__ import annotations

import time
import unittest
from pathlib import Path

import slicer
from LearningTestCase import RUN, LearningTestCase, lungseg

CANCEL_BAR_S = 5.0


class InferencePanelTest(LearningTestCase):
    def opened(self, model: Path | None = None, cohort: Path | None = None):
        parameters = self.logic.parameters()
        parameters.cohortFolder = str(cohort or "")
        parameters.modelPath = str(model or "")
        parameters.inferenceDevice = "cpu"
        panel = self.panel("Inference")
        self.waitUntil(lambda: not panel.runReader.isReading and not panel.modelReader.isReading)
        return panel

    def segmented(self, panel, ct):
        """Choose a CT, press Apply, and return the segmentation node."""
        self.logic.parameters().inferenceVolume = ct
        self.click("inferenceApplyButton")
        self.waitUntil(lambda: not panel.bar.isRunning, message="it did not end")
        self.assertEqual(panel.bar.job.state, "finished", panel.bar.job.failure)
        return self.logic.parameters().inferenceSegmentation

    # Before

    def test_apply_says_what_is_missing(self) -> None:
        self.opened()
        button = self.find("inferenceApplyButton")
        self.assertIn("CT", button.toolTip)
        ct, _labels = self.loadCase()
        self.logic.parameters().inferenceVolume = ct
        self.assertFalse(button.enabled)
        self.assertIn("model", button.toolTip)
        self.photograph("inference-empty")

    def test_a_model_of_a_run_is_one_choice_and_says_what_it_is(self) -> None:
        panel = self.opened(cohort=self.source() / "cohort")
        box = self.find("inferenceModelComboBox")
        self.waitUntil(lambda: box.findData(str(self.model())) > 0, message="the run is not listed")
        row = box.findData(str(self.model()))
        self.assertIn(RUN, box.itemText(row))
        box.setCurrentIndex(row)
        self.assertEqual(self.logic.parameters().modelPath, str(self.model()))
        self.waitUntil(lambda: panel.model is not None)
        label = self.find("inferenceModelInfoLabel")
        self.assertIn("right lung", label.text)
        self.assertIn("1 patient, 10 slices", label.text)
        self.assertIn("tiny", label.toolTip)

    def test_a_file_that_is_no_model_is_met_by_a_red_line(self) -> None:
        wrong = self.folder / "weights é.safetensors"
        wrong.write_bytes(b"PK not a model")
        panel = self.opened(model=wrong)
        ct, _labels = self.loadCase()
        self.logic.parameters().inferenceVolume = ct
        self.assertFalse(self.find("inferenceApplyButton").enabled)
        self.assertFalse(panel.messageLabel.isHidden())
        self.assertIn("weights", panel.messageLabel.text)
        self.photograph("inference-error")
        self.logic.parameters().modelPath = str(self.model())
        self.waitUntil(lambda: self.find("inferenceApplyButton").enabled)
        self.assertTrue(panel.messageLabel.isHidden())

    # Segmenting

    def test_a_result_never_lies_on_a_ct_that_has_the_place_of_its_own_in_the_next_scene(self) -> None:
        from LungSegmentationScene.Jobs import JobError

        ct, _labels = self.loadCase(0)
        job = self.logic.segment(ct, self.model(), wait=False, device="cpu")
        formerId = ct.GetID()
        slicer.mrmlScene.Clear(False)
        other, _labels = self.loadCase(1)
        # A scene begins to count anew when it is closed, and nodes of a loaded one have the IDs of their file.
        self.assertEqual(other.GetID(), formerId)
        with self.assertRaisesRegex(JobError, "not in the scene any more"):
            job.wait(60.0)
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode"), 0)

    def test_a_result_stays_with_a_ct_that_is_moved_meanwhile_or_is_refused(self) -> None:
        from LungSegmentationScene.Jobs import JobError

        ct, _labels = self.loadCase(0)
        job = self.logic.segment(ct, self.model(), wait=False, device="cpu")
        self.waitUntil(lambda: job.state == "running")
        transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
        ct.SetAndObserveTransformNodeID(transform.GetID())
        job.wait(60.0)
        self.assertIs(job.nodes[0].GetParentTransformNode(), transform)
        ct.SetAndObserveTransformNodeID(None)
        job = self.logic.segment(ct, self.model(), wait=False, device="cpu")
        self.waitUntil(lambda: job.state == "running")
        ct.SetOrigin(*(value + 5.0 for value in ct.GetOrigin()))
        with self.assertRaisesRegex(JobError, "was moved"):
            job.wait(60.0)
        self.assertEqual(job.nodes, [])

    def test_apply_makes_a_segmentation_beside_the_ct_that_survives_saving_the_scene(self) -> None:
        from LungSegmentationScene import Hierarchy, Inference

        from LungSegmentationLib.labels import load_label_set

        panel = self.opened(model=self.model())
        ct, _labels = self.loadCase()
        tree = Hierarchy.hierarchy()
        study = tree.CreateStudyItem(tree.CreateSubjectItem(tree.GetSceneItemID(), "P"), "S")
        tree.SetItemParent(Hierarchy.itemOf(ct), study)
        with self.blocking() as gaps:
            self.logic.parameters().inferenceVolume = ct
            self.click("inferenceApplyButton")
            self.assertEqual(self.find("inferenceApplyButton").text, "Cancel")
            self.waitUntil(lambda: not panel.bar.isRunning)
        self.assertEqual(panel.bar.job.state, "finished", panel.bar.job.failure)
        self.assertWindowAlive(gaps)
        node = self.logic.parameters().inferenceSegmentation
        self.assertIn(ct.GetName(), node.GetName())
        self.assertIn(RUN, node.GetName())
        self.assertEqual(tree.GetItemParent(Hierarchy.itemOf(node)), study)
        self.assertEqual(Inference.volumeOf(node), ct)
        labelSet = load_label_set()
        names = [node.GetSegmentation().GetNthSegment(i).GetName() for i in range(6)]
        self.assertEqual(names, [s.name for s in labelSet.structures if s.key != "ptv"])
        segment = node.GetSegmentation().GetSegment("lung_right")
        expected = [value / 255 for value in labelSet["lung_right"].color]
        for one, other in zip(segment.GetColor(), expected, strict=True):
            self.assertAlmostEqual(one, other, 3)
        self.assertIn(str(self.model()), node.GetDescription())
        self.compareWithCommand(node, ct)
        self.assertFalse(self.find("inferenceResultLabel").isHidden())
        self.photograph("inference-filled")

        slicer.mrmlScene.RemoveNode(_labels)
        file = self.folder / "scene.mrb"
        self.assertTrue(slicer.util.saveScene(str(file)))
        name = node.GetName()
        slicer.mrmlScene.Clear(False)
        slicer.util.loadScene(str(file))
        parameters = self.logic.parameters()
        self.assertEqual(parameters.modelPath, str(self.model()))
        self.assertEqual(parameters.inferenceSegmentation.GetName(), name)
        self.assertEqual(parameters.inferenceSegmentation.GetSegmentation().GetNumberOfSegments(), 6)
        self.assertEqual(self.find("inferenceVolumeComboBox").currentNode().GetName(), ct.GetName())

    def test_what_the_model_was_not_made_for_is_marked_in_panel_and_node(self) -> None:
        import numpy as np

        panel = self.opened(model=self.model())
        phantom = np.full((4, 64, 64), -1000, np.int16)
        phantom[:, 16:48, 8:56] = 0
        water = slicer.util.addVolumeFromArray(phantom, name="Water")
        water.SetSpacing(6.0, 6.0, 6.0)
        node = self.segmented(panel, water)
        self.assertIn("CHECK", node.GetName())
        self.assertEqual(node.GetAttribute("LungSegmentation.Marked"), "1")
        self.assertGreater(len(node.GetDescription().splitlines()), 1)
        text = self.find("inferenceResultLabel").text
        self.assertIn("Check this result", text)
        self.assertIn("color", text)
        self.photograph("inference-marked")

    def test_cancel_ends_all_and_leaves_nothing(self) -> None:
        panel = self.opened(model=self.model())
        ct, _labels = self.loadCase()
        self.logic.parameters().inferenceVolume = ct
        before = slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode")
        self.click("inferenceApplyButton")
        job = panel.bar.job
        self.waitUntil(lambda: job.pid is not None)
        folder, began = job.folder, time.monotonic()
        self.click("inferenceApplyButton")
        self.waitUntil(lambda: not panel.bar.isRunning, message="it was not ended")
        self.assertLess(time.monotonic() - began, CANCEL_BAR_S)
        self.assertEqual(job.state, "cancelled")
        self.assertEqual(self.find("inferenceApplyButton").text, "Apply")
        self.assertTrue(self.find("inferenceApplyButton").enabled)
        self.waitUntil(lambda: not folder.exists(), message="temporary files were left")
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode"), before)

    def test_several_cts_become_a_segmentation_each_under_their_own_names(self) -> None:
        panel = self.opened(model=self.model())
        nodes = [self.loadCase(index)[0] for index in (0, 1)]
        for node in nodes:
            node.SetName("CT/1: *")  # the same, and no name of a file
        box = self.find("inferenceBatchComboBox")
        self.assertFalse(self.find("inferenceBatchButton").enabled)
        self.find("inferenceBatchGroupBox").collapsed = False
        import qt

        for node in nodes:
            box.setCheckState(node, qt.Qt.Checked)
        self.click("inferenceBatchButton")
        self.waitUntil(lambda: not panel.bar.isRunning)
        self.assertEqual(panel.bar.job.state, "finished", panel.bar.job.failure)
        from LungSegmentationScene import Inference

        self.assertEqual([Inference.volumeOf(node) for node in panel.bar.job.nodes], nodes)
        self.find("inferenceBatchGroupBox").collapsed = True

    def test_a_folder_is_segmented_into_a_folder(self) -> None:
        panel = self.opened(model=self.model())
        parameters = self.logic.parameters()
        parameters.inferenceBatchInput = str(self.source() / "dicom")
        parameters.inferenceBatchOutput = str(self.folder / "results")
        self.find("inferenceBatchGroupBox").collapsed = False
        self.photograph("inference-batch")
        self.click("inferenceBatchFolderButton")
        self.waitUntil(lambda: not panel.bar.isRunning)
        self.assertEqual(panel.bar.job.state, "finished", panel.bar.job.failure)
        self.assertEqual(len(list((self.folder / "results").rglob("*.seg.nrrd"))), 3)
        self.assertIn("3 CTs segmented", panel.messageLabel.text)
        self.find("inferenceBatchGroupBox").collapsed = True

    def test_a_segmentation_is_exported_in_all_formats(self) -> None:
        from LungSegmentationScene import Volumes

        panel = self.opened(model=self.model())
        ct, labels = self.loadCase()
        node = self.segmentationOf(labels, ct)
        parameters = self.logic.parameters()
        parameters.inferenceSegmentation = node
        self.find("inferenceExportGroupBox").collapsed = False
        button, box = self.find("inferenceExportButton"), self.find("inferenceExportFormatComboBox")
        self.assertIn("file", button.toolTip)
        parameters.inferenceExportFile = str(self.folder / "result.nii.gz")
        self.assertTrue(button.enabled)
        box.setCurrentIndex(box.findData(".rtstruct.dcm"))
        self.assertTrue(parameters.inferenceExportFile.endswith("result.rtstruct.dcm"))
        self.assertFalse(button.enabled)
        self.assertIn("DICOM", button.toolTip)
        patient = next(folder for folder in sorted((self.source() / "dicom").iterdir()) if folder.is_dir())
        Volumes.rememberSource(ct, str(patient), "", [])
        panel.updateState()
        for ending in (".rtstruct.dcm", ".seg.dcm", ".nii.gz", ".seg.nrrd"):
            box.setCurrentIndex(box.findData(ending))
            self.click(button)
            self.waitUntil(lambda: not panel.exportBar.isRunning)
            self.assertEqual(panel.exportBar.job.state, "finished", panel.exportBar.job.failure)
            self.assertTrue((self.folder / f"result{ending}").is_file())
        self.photograph("inference-export")
        written = slicer.util.arrayFromVolume(slicer.util.loadLabelVolume(str(self.folder / "result.nii.gz")))
        self.assertTrue((written == slicer.util.arrayFromVolume(labels)).all())
        self.find("inferenceExportGroupBox").collapsed = True

    def test_segments_that_overlap_are_exported_as_they_are(self) -> None:
        ct, labels = self.loadCase()
        node = self.segmentationOf(labels, ct)
        segmentation = node.GetSegmentation()
        tumor = slicer.util.arrayFromVolume(ct) * 0
        tumor[4:7, 20:40, 10:30] = 1
        segmentation.AddEmptySegment("gtv over é", "GTV")
        slicer.util.updateSegmentBinaryLabelmapFromArray(tumor, node, "gtv over é", ct)
        for identifier in list(segmentation.GetSegmentIDs()):
            if segmentation.GetSegment(identifier).GetName() == "GTV" and identifier != "gtv over é":
                segmentation.RemoveSegment(identifier)
        names = {segmentation.GetSegment(i).GetName(): i for i in segmentation.GetSegmentIDs()}
        file = self.folder / "overlapping.seg.nrrd"
        with self.blocking() as gaps:
            job = self.logic.exportSegmentation(node, file, wait=False)
            self.waitUntil(lambda: not job.isRunning)
        self.assertEqual(job.state, "finished", job.failure)
        self.assertWindowAlive(gaps)
        again = slicer.util.loadSegmentation(str(file))
        found = again.GetSegmentation()
        self.assertEqual(found.GetNumberOfSegments(), len(names))
        for identifier in found.GetSegmentIDs():
            name = found.GetSegment(identifier).GetName()
            written = slicer.util.arrayFromSegmentBinaryLabelmap(again, identifier, ct) > 0
            drawn = slicer.util.arrayFromSegmentBinaryLabelmap(node, names[name], ct) > 0
            self.assertTrue((written == drawn).all(), name)
            self.assertTrue(drawn.any(), name)

    def test_a_file_that_is_there_is_not_overwritten(self) -> None:
        self.opened()
        ct, labels = self.loadCase()
        parameters = self.logic.parameters()
        parameters.inferenceSegmentation = self.segmentationOf(labels, ct)
        there = self.folder / "plan.nii.gz"
        there.write_bytes(b"a plan")
        parameters.inferenceExportFile = str(there)
        box = self.find("inferenceExportFormatComboBox")
        box.setCurrentIndex(box.findData(".nii.gz"))
        self.assertFalse(self.find("inferenceExportButton").enabled)
        self.assertIn("exists", self.find("inferenceExportButton").toolTip)

    def test_a_volume_without_hu_is_refused_by_its_name_and_not_by_that_of_a_temporary_file(self) -> None:
        import numpy as np

        panel = self.opened(model=self.model())
        self.logic.parameters().inferenceVolume = slicer.util.addVolumeFromArray(np.zeros((4, 64, 64)), name="Empty")
        self.click("inferenceApplyButton")
        self.waitUntil(lambda: not panel.bar.isRunning)
        text = self.find("inferenceJobStatusLabel").text
        self.assertIn("“Empty” holds no HU", text)
        self.assertNotIn("nrrd", text)
        self.assertTrue(self.find("inferenceApplyButton").enabled)
        self.photograph("inference-refused")

    def test_what_is_no_volume_is_refused_in_words_and_starts_nothing(self) -> None:
        from LungSegmentationScene import Jobs
        from LungSegmentationScene.Errors import SceneError

        ct, labels = self.loadCase()
        with self.assertRaisesRegex(SceneError, "is no volume"):
            self.logic.segment(self.segmentationOf(labels, ct), self.model(), wait=False)
        self.assertEqual(Jobs.runningJobs(), [])

    def test_a_ct_under_a_transform_is_refused_in_words(self) -> None:
        panel = self.opened(model=self.model())
        ct, _labels = self.loadCase()
        transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
        ct.SetAndObserveTransformNodeID(transform.GetID())
        self.logic.parameters().inferenceVolume = ct
        self.click("inferenceApplyButton")
        self.assertIn("transform", panel.messageLabel.text)
        self.assertFalse(panel.bar.isRunning)

    def compareWithCommand(self, node, ct) -> None:
        """The segments are the voxels that the command writes without Slicer."""
        from LungSegmentationLib.labels import load_label_set

        case = min((self.source() / "cohort" / "cases").iterdir())
        target = self.folder / "direct.nii.gz"
        lungseg("predict", self.model(), case / "ct.nii.gz", target, "--device", "cpu")
        direct = slicer.util.loadLabelVolume(str(target))
        expected = slicer.util.arrayFromVolume(direct)
        found = expected * 0
        for structure in load_label_set().structures:
            if node.GetSegmentation().GetSegment(structure.key) is not None:
                found[slicer.util.arrayFromSegmentBinaryLabelmap(node, structure.key, ct) > 0] = structure.label
        self.assertTrue((found == expected).all())
        self.assertGreater(int((expected > 0).sum()), 0)
        slicer.mrmlScene.RemoveNode(direct)

    @staticmethod
    def segmentationOf(labels, ct):
        """Return a segmentation node with the voxels of a label map."""
        from LungSegmentationScene import Segmentations

        from LungSegmentationLib.labels import load_label_set

        return Segmentations.fromArray(slicer.util.arrayFromVolume(labels), ct, load_label_set(), "drawn")


if __name__ == "__main__":
    unittest.main()
