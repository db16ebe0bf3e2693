"""Every frame of a 4D CT segmented: results are browsed with the CTs, all of them or none."""

from __future__ import annotations

import threading
import time
import unittest
from unittest import mock

import numpy as np
import slicer
from LearningTestCase import RUN, LearningTestCase

CANCEL_BAR_S = 5.0
PHASES = ("0", "30", "70")


class SequencesTest(LearningTestCase):
    def sequence(self, browsed: bool = True):
        """Return a sequence of three CTs that differ, and the volume node that shows one of them (or None)."""
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", "4D CT é")
        node.SetIndexName("phase")
        node.SetIndexUnit("%")
        self.volumes = []
        for number, phase in enumerate(PHASES):
            ct, labels = self.loadCase(number % 2)
            slicer.mrmlScene.RemoveNode(labels)
            array = np.roll(slicer.util.arrayFromVolume(ct), 3 * number, axis=1)
            slicer.util.updateVolumeFromArray(ct, array)
            node.SetDataNodeAtValue(ct, phase)
            self.volumes.append(ct)
        if not browsed:
            return node, None
        browser = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "4D CT")
        browser.SetAndObserveMasterSequenceNodeID(node.GetID())
        slicer.modules.sequences.logic().UpdateProxyNodesFromSequences(browser)
        return node, browser.GetProxyNode(node)

    def opened(self, sequence):
        parameters = self.logic.parameters()
        parameters.modelPath = str(self.model())
        parameters.inferenceDevice = "cpu"
        panel = self.panel("Inference")
        self.find("inferenceBatchGroupBox").collapsed = False
        self.addCleanup(setattr, self.find("inferenceBatchGroupBox"), "collapsed", True)
        self.find("inferenceSequenceComboBox").setCurrentNode(sequence)
        self.waitUntil(lambda: not panel.runReader.isReading and not panel.modelReader.isReading)
        return panel

    @staticmethod
    def masks(segmentation, ct) -> dict[str, np.ndarray]:
        identifiers = segmentation.GetSegmentation().GetSegmentIDs()
        return {key: slicer.util.arrayFromSegmentBinaryLabelmap(segmentation, key, ct) > 0 for key in identifiers}

    def test_every_frame_is_segmented_and_browsed_with_its_ct(self) -> None:
        from LungSegmentationScene import Hierarchy, Inference

        sequence, proxy = self.sequence()
        tree = Hierarchy.hierarchy()
        study = tree.CreateStudyItem(tree.CreateSubjectItem(tree.GetSceneItemID(), "P"), "S")
        tree.SetItemParent(Hierarchy.itemOf(proxy), study)
        panel = self.opened(sequence)
        told = []
        with self.blocking() as gaps:
            self.click("inferenceSequenceButton")
            job = panel.bar.job
            job.listen(onProgress=lambda job: told.append((job.progress, panel.bar.statusLabel.text)))
            self.waitUntil(lambda: not panel.bar.isRunning)
        self.assertEqual(job.state, "finished", job.failure)
        self.assertWindowAlive(gaps)
        counted = [one.done for one, _text in told if one is not None and (one.stage, one.total) == ("prediction", 3)]
        self.assertEqual(counted, sorted(counted))
        self.assertEqual((counted[0], counted[-1]), (0, 3))
        self.assertTrue([text for _progress, text in told if "0 of 3" in text and "phase 0 %" in text], told)
        self.photograph("inference-sequence-filled")

        result = job.sequenceNode
        self.assertIn("4D CT é", result.GetName())
        self.assertIn(RUN, result.GetName())
        self.assertEqual([result.GetNthIndexValue(n) for n in range(3)], list(PHASES))
        self.assertEqual((result.GetIndexName(), result.GetIndexUnit()), ("phase", "%"))
        shown = self.logic.parameters().inferenceSegmentation
        self.assertIs(shown, job.segmentationNode)
        self.assertEqual(tree.GetItemParent(Hierarchy.itemOf(shown)), study)
        self.assertEqual(Inference.volumeOf(shown), proxy)
        (browser,) = slicer.util.getNodesByClass("vtkMRMLSequenceBrowserNode")
        frames = []
        for number in (2, 0, 1):
            browser.SetSelectedItemNumber(number)
            ct = self.volumes[number]
            self.assertTrue((slicer.util.arrayFromVolume(proxy) == slicer.util.arrayFromVolume(ct)).all())
            frames.append((ct, self.masks(shown, proxy)))
        # The same frame by itself gives the same voxels.
        for ct, masks in frames:
            alone = self.logic.segment(ct, self.model(), device="cpu")
            expected = self.masks(alone, ct)
            self.assertEqual(list(masks), list(expected))
            for key, mask in expected.items():
                self.assertTrue((masks[key] == mask).all(), key)
            self.assertTrue(any(mask.any() for mask in expected.values()))
        text = self.find("inferenceResultLabel").text
        self.assertIn("right lung", text)
        self.assertIn("3 frames", text)

    def test_frames_that_were_moved_or_exchanged_meanwhile_get_no_result_in_the_wrong_place(self) -> None:
        from LungSegmentationScene.Jobs import JobError

        sequence, proxy = self.sequence()

        def running():
            job = self.logic.segment(sequence, self.model(), wait=False, device="cpu")
            self.waitUntil(lambda: job.state == "running")
            return job

        job = running()
        transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
        proxy.SetAndObserveTransformNodeID(transform.GetID())
        job.wait(90.0)
        self.assertIs(job.segmentationNode.GetParentTransformNode(), transform)
        proxy.SetAndObserveTransformNodeID(None)

        frame = sequence.GetNthDataNode(1)
        job = running()
        frame.SetOrigin(*(value + 5.0 for value in frame.GetOrigin()))
        with self.assertRaisesRegex(JobError, "phase 30 %.*was moved"):
            job.wait(90.0)
        self.assertIsNone(job.sequenceNode)

        job = running()
        sequence.RemoveDataNodeAtValue("70")
        sequence.SetDataNodeAtValue(self.volumes[0], "70")
        with self.assertRaisesRegex(JobError, "phase 70 %.*was exchanged"):
            job.wait(90.0)
        self.assertIsNone(job.sequenceNode)
        self.assertEqual(len(slicer.util.getNodesByClass("vtkMRMLSequenceNode")), 2)

    def test_what_is_drawn_into_a_frame_is_kept_and_a_saved_scene_brings_all_back(self) -> None:
        sequence, _proxy = self.sequence(browsed=False)
        result = self.logic.segment(sequence, self.model(), device="cpu")
        self.assertEqual(result.GetNumberOfDataNodes(), 3)
        (browser,) = slicer.util.getNodesByClass("vtkMRMLSequenceBrowserNode")
        shown, ct = browser.GetProxyNode(result), browser.GetProxyNode(sequence)
        browser.SetSelectedItemNumber(1)
        drawn = np.zeros(slicer.util.arrayFromVolume(ct).shape, np.uint8)
        drawn[2:4, 10:20, 12:18] = 1
        slicer.util.updateSegmentBinaryLabelmapFromArray(drawn, shown, "heart", ct)
        browser.SetSelectedItemNumber(2)
        self.assertFalse((self.masks(shown, ct)["heart"] == drawn).all())
        browser.SetSelectedItemNumber(1)
        self.assertTrue((self.masks(shown, ct)["heart"] == drawn).all())
        for node in self.volumes:
            slicer.mrmlScene.RemoveNode(node)
        name, file = result.GetName(), self.folder / "scene.mrb"
        self.assertTrue(slicer.util.saveScene(str(file)))
        slicer.mrmlScene.Clear(False)
        slicer.util.loadScene(str(file))
        again = slicer.util.getFirstNodeByClassByName("vtkMRMLSequenceNode", name)
        (browser,) = slicer.util.getNodesByClass("vtkMRMLSequenceBrowserNode")
        browser.SetSelectedItemNumber(1)
        shown, ct = browser.GetProxyNode(again), browser.GetProxyNode(browser.GetMasterSequenceNode())
        self.assertTrue((self.masks(shown, ct)["heart"] == drawn).all())

    def test_cancel_leaves_nothing_also_while_results_are_taken_over(self) -> None:
        from LungSegmentationScene import Segmentations

        sequence, _proxy = self.sequence()
        panel = self.opened(sequence)
        before = [node.GetID() for node in slicer.util.getNodesByClass("vtkMRMLStorableNode")]
        read = Segmentations.readRawSegments
        for moment in ("at once", "in the middle", "at the end"):
            with self.subTest(moment):
                taken = []

                def readAndCancel(path, moment=moment, taken=taken):
                    taken.append(path)
                    # The second of three results is being read in a thread when the button is pressed.
                    if moment == "at the end" and len(taken) == 2:
                        self.assertTrue(self.pressed.wait(60.0))
                    return read(path)

                self.pressed = threading.Event()
                with mock.patch.object(Segmentations, "readRawSegments", readAndCancel):
                    self.click("inferenceSequenceButton")
                    job = panel.bar.job
                    folder = job.folder
                    if moment == "in the middle":
                        self.cancelAtFirstResult(job)
                    elif moment == "at the end":
                        self.waitUntil(lambda taken=taken: len(taken) == 2)
                    began = time.monotonic()
                    if moment != "in the middle":
                        self.click("inferenceApplyButton")
                    self.pressed.set()
                    self.waitUntil(lambda: not panel.bar.isRunning, message="it was not ended")
                self.assertEqual(job.state, "cancelled")
                if moment != "in the middle":
                    self.assertLess(time.monotonic() - began, CANCEL_BAR_S)
                self.assertIsNone(job.sequenceNode)
                after = [node.GetID() for node in slicer.util.getNodesByClass("vtkMRMLStorableNode")]
                self.assertEqual(after, before)
                self.waitUntil(lambda folder=folder: not folder.exists(), message="temporary files were left")
                self.assertTrue(self.find("inferenceSequenceButton").enabled)

    @staticmethod
    def cancelAtFirstResult(job) -> None:
        def cancel(event) -> None:
            if event.event == "result":
                job.cancel()

        job.listen(onEvent=cancel)

    def test_a_frame_that_cannot_be_segmented_is_named_and_there_is_no_result(self) -> None:
        sequence, _proxy = self.sequence()
        slicer.util.updateVolumeFromArray(sequence.GetNthDataNode(1), np.zeros((4, 64, 64)))
        panel = self.opened(sequence)
        self.click("inferenceSequenceButton")
        self.waitUntil(lambda: not panel.bar.isRunning)
        self.assertEqual(panel.bar.job.state, "failed")
        text = self.find("inferenceJobStatusLabel").text
        self.assertIn("phase 30 %", text)
        self.assertNotIn("nrrd", text)
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSequenceNode"), 1)
        self.photograph("inference-sequence-error")

    def test_a_sequence_of_something_else_is_refused_in_words(self) -> None:
        from LungSegmentationScene.Errors import SceneError

        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", "points")
        self.opened(node)
        button = self.find("inferenceSequenceButton")
        self.assertFalse(button.enabled)
        self.assertIn("no frames", button.toolTip)
        node.SetDataNodeAtValue(slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode"), "0")
        with self.assertRaisesRegex(SceneError, "no sequence of CTs"):
            self.logic.segment(node, self.model())

    def test_a_sequence_shown_under_a_transform_is_refused(self) -> None:
        sequence, proxy = self.sequence()
        transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
        proxy.SetAndObserveTransformNodeID(transform.GetID())
        self.opened(sequence)
        self.assertIn("transform", self.find("inferenceSequenceButton").toolTip)

    def test_a_ct_that_is_changed_while_it_is_read_is_not_segmented(self) -> None:
        from LungSegmentationScene import VolumeFiles
        from LungSegmentationScene.Errors import SceneError

        _sequence, _proxy = self.sequence()
        ct = self.volumes[0]
        reading = VolumeFiles.readVolumeInTurns(ct)
        next(reading)
        slicer.util.arrayFromVolume(ct)[0, 0, 0] += 1
        slicer.util.arrayFromVolumeModified(ct)
        with self.assertRaisesRegex(SceneError, "was changed"):
            list(reading)


if __name__ == "__main__":
    unittest.main()
