"""The evaluation panel: scores checked by hand on boxes, report, CSV, difference, and all that cannot be compared."""

from __future__ import annotations

import csv
import unittest

import numpy as np
import slicer
from LearningTestCase import LearningTestCase
from ModuleTestCase import inSlicer

SHAPE = (12, 40, 40)
SPACING = 2.0


class EvaluationPanelTest(LearningTestCase):
    def setUp(self) -> None:
        super().setUp()
        from LungSegmentationLib.labels import load_label_set

        self.labelSet = load_label_set()
        self.labels = {structure.key: structure.label for structure in self.labelSet.structures}

    def volume(self, name: str = "CT", shift: float = 0.0, shape=SHAPE):
        node = slicer.util.addVolumeFromArray(np.zeros(shape, np.int16), name=name)
        node.SetSpacing(SPACING, SPACING, SPACING)
        node.SetOrigin(shift, -30.0, 7.0)
        return node

    def segmentation(self, name: str, boxes: dict[str, tuple], ct):
        """Make a segmentation with a box (z, y, x slices) a structure."""
        from LungSegmentationScene import Segmentations

        array = np.zeros(SHAPE, np.uint8)
        for key, box in boxes.items():
            array[box] = self.labels[key]
        return Segmentations.fromArray(array, ct, self.labelSet, name)

    def pair(self) -> tuple:
        """Return two segmentations: the heart of the first is the second's moved by 2 of its 10 columns."""
        ct = self.volume()
        lung = np.s_[2:10, 25:35, 5:15]
        first = self.segmentation("ours", {"heart": np.s_[2:10, 5:15, 12:22], "lung_left": lung}, ct)
        second = self.segmentation("theirs", {"heart": np.s_[2:10, 5:15, 10:20], "lung_left": lung}, ct)
        return first, second, ct

    def opened(self, first=None, second=None):
        panel = self.panel("Evaluation")
        parameters = self.logic.parameters()
        parameters.evaluationSegmentation = first
        parameters.evaluationReference = second
        return panel

    def compared(self, panel):
        self.click("evaluationApplyButton")
        self.waitUntil(lambda: not panel.bar.isRunning)
        self.assertEqual(panel.bar.job.state, "finished", panel.bar.job.failure)
        return self.logic.parameters().evaluationTable

    def column(self, table, title: str) -> list:
        from LungSegmentationScene import Tables

        return Tables.columnValues(table, title)

    def test_what_is_missing_is_told_by_the_button(self) -> None:
        first, _second, _ct = self.pair()
        self.opened()
        button = self.find("evaluationApplyButton")
        self.assertIn("segmentation", button.toolTip)
        self.photograph("evaluation-empty")
        self.logic.parameters().evaluationSegmentation = first
        self.assertIn("reference", button.toolTip)
        self.logic.parameters().evaluationReference = first
        self.assertIn("different", button.toolTip)
        self.assertFalse(button.enabled)

    def test_scores_of_a_moved_box_are_those_counted_by_hand(self) -> None:
        first, second, ct = self.pair()
        panel = self.opened(first, second)
        self.logic.parameters().evaluationVolume = ct
        table = self.compared(panel)
        row = self.column(table, "Structure").index("heart")
        self.assertAlmostEqual(self.column(table, "Dice")[row], 0.8, 5)  # 8 of 10 columns
        self.assertAlmostEqual(self.column(table, "IoU")[row], 8 / 12, 5)
        cc = 8 * 10 * 10 * SPACING**3 / 1000
        self.assertAlmostEqual(self.column(table, "Volume (cc)")[row], cc, 4)
        self.assertAlmostEqual(self.column(table, "Reference (cc)")[row], cc, 4)
        self.assertAlmostEqual(self.column(table, "HD95 (mm)")[row], 2 * SPACING, 3)
        lung = self.column(table, "Structure").index(self.labelSet["lung_left"].name)
        self.assertEqual(self.column(table, "Dice")[lung], 1.0)
        shown = self.find("evaluationScoresTable")
        self.assertEqual(shown.rowCount, 2)
        self.assertEqual(shown.item(row, 1).text(), "0.800")
        self.assertIn("Mean Dice 0.900", self.find("evaluationNoteLabel").text)
        self.photograph("evaluation-filled")

        self.click("evaluationChartButton")
        charts = slicer.util.getNodesByClass("vtkMRMLPlotChartNode")
        self.assertEqual(charts[-1].GetNumberOfPlotSeriesNodes(), 2)
        self.saveAndLoad(table)

    def saveAndLoad(self, table) -> None:
        """The scores are part of the scene."""
        before = self.column(table, "Dice")
        file = self.folder / "scene.mrb"
        self.assertTrue(slicer.util.saveScene(str(file)))
        slicer.mrmlScene.Clear(False)
        slicer.util.loadScene(str(file))
        self.assertEqual(self.column(self.logic.parameters().evaluationTable, "Dice"), before)
        self.assertEqual(self.find("evaluationScoresTable").rowCount, 2)

    def test_scores_never_stand_under_the_study_of_the_next_scene(self) -> None:
        from LungSegmentationScene import Hierarchy

        first, second, _ct = self.pair()
        job = self.logic.evaluate(first, second, wait=False)
        identifier, kind = second.GetID(), second.GetClassName()
        slicer.mrmlScene.Clear(False)
        while (other := slicer.mrmlScene.AddNewNodeByClass(kind, "other")).GetID() != identifier:
            pass
        tree = Hierarchy.hierarchy()
        study = tree.CreateStudyItem(tree.CreateSubjectItem(tree.GetSceneItemID(), "other"), "study")
        tree.SetItemParent(Hierarchy.itemOf(other), study)
        job.wait(60.0)
        self.assertNotEqual(tree.GetItemParent(Hierarchy.itemOf(job.tableNode)), study)

    def test_report_and_tables_are_kept_where_the_user_says(self) -> None:
        first, second, _ct = self.pair()
        panel = self.opened(first, second)
        out = self.folder / "report é"
        self.logic.parameters().evaluationFolder = str(out)
        self.compared(panel)
        self.assertTrue((out / "report.html").is_file())
        self.assertTrue(self.find("evaluationReportButton").enabled)
        self.assertTrue(self.find("evaluationSaveButton").enabled)
        if not inSlicer():
            import Runtime

            Runtime.start().dialogs.expect(str(self.folder / "scores.csv"))
            self.click("evaluationSaveButton")
            with (self.folder / "scores.csv").open(encoding="utf-8-sig", newline="") as stream:
                rows = {row["structure"]: row for row in csv.DictReader(stream)}
            self.assertEqual(rows["heart"]["dice"], "0.8")

    def test_cancel_leaves_no_report(self) -> None:
        from LungSegmentationScene import Background

        first, second, _ct = self.pair()
        panel = self.opened(first, second)
        self.click("evaluationApplyButton")
        job = panel.bar.job
        self.assertTrue(job.out.is_dir())
        self.waitUntil(lambda: job.pid is not None)
        self.click("evaluationApplyButton")
        self.waitUntil(lambda: not panel.bar.isRunning)
        self.assertEqual(job.state, "cancelled")
        Background.finishPending()
        self.assertFalse(job.out.exists())
        self.assertIsNone(self.logic.parameters().evaluationTable)
        self.assertEqual(self.find("evaluationApplyButton").text, "Compare")

    def test_reports_that_nobody_kept_go_with_the_application(self) -> None:
        from LungSegmentationScene import Evaluation

        first, second, _ct = self.pair()
        job = Evaluation.EvaluationJob(first, second)
        (job.out / "report.html").write_text("scores")
        Evaluation.removeTemporary()
        self.assertFalse(job.out.exists())

    def test_a_structure_that_only_one_side_has_is_named_and_left_out(self) -> None:
        ct = self.volume()
        box = np.s_[2:10, 5:15, 10:20]
        first = self.segmentation("ours", {"heart": box, "gtv": np.s_[2:4, 30:35, 30:35]}, ct)
        second = self.segmentation("theirs", {"heart": box}, ct)
        second.GetSegmentation().AddEmptySegment("own", "Tumor bed")
        panel = self.opened(first, second)
        table = self.compared(panel)
        self.assertEqual(self.column(table, "Structure"), ["heart"])
        note = self.find("evaluationNoteLabel").text
        self.assertIn("GTV", note)
        self.assertIn("Tumor bed", note)

    def test_an_empty_segment_counts_as_missed(self) -> None:
        ct = self.volume()
        first = self.segmentation("ours", {"lung_left": np.s_[2:4, 5:15, 5:15]}, ct)
        from LungSegmentationScene import Terminology

        first.GetSegmentation().AddEmptySegment("heart", "heart")
        Terminology.setStructure(first.GetSegmentation().GetSegment("heart"), self.labelSet["heart"])
        second = self.segmentation(
            "theirs", {"heart": np.s_[2:10, 5:15, 25:35], "lung_left": np.s_[2:4, 5:15, 5:15]}, ct
        )
        table = self.logic.evaluate(first, second)
        row = self.column(table, "Structure").index("heart")
        self.assertEqual(self.column(table, "Outcome")[row], "missed")
        self.assertEqual(self.column(table, "Dice")[row], 0.0)
        self.assertIsNone(self.column(table, "HD95 (mm)")[row])

    def test_structures_that_overlap_are_compared_as_drawn(self) -> None:
        ct = self.volume()
        sides = []
        for name in ("ours", "theirs"):
            node = self.segmentation(name, {"lung_left": np.s_[2:10, 5:25, 5:25]}, ct)
            other = self.segmentation(f"{name} 2", {"gtv": np.s_[4:6, 10:15, 10:15]}, ct)
            tumor = other.GetSegmentation().GetNthSegmentID(0)
            node.GetSegmentation().CopySegmentFromSegmentation(other.GetSegmentation(), tumor)
            sides.append(node)
        table = self.logic.evaluate(*sides)
        lung = self.column(table, "Structure").index(self.labelSet["lung_left"].name)
        cc = 8 * 20 * 20 * SPACING**3 / 1000
        self.assertAlmostEqual(self.column(table, "Volume (cc)")[lung], cc, 4)  # the tumor is not cut out

    def test_label_maps_can_be_compared_too(self) -> None:
        array = np.zeros(SHAPE, np.uint8)
        array[2:10, 5:15, 10:20] = self.labels["heart"]
        nodes = []
        for name in ("one", "two"):
            node = slicer.util.addVolumeFromArray(array, name=name, nodeClassName="vtkMRMLLabelMapVolumeNode")
            nodes.append(node)
        table = self.logic.evaluate(*nodes)
        self.assertEqual(self.column(table, "Structure"), ["heart"])
        self.assertEqual(self.column(table, "Dice"), [1.0])

    def test_different_grids_are_refused_with_the_cure(self) -> None:
        box = {"heart": np.s_[2:10, 5:15, 10:20]}
        first = self.segmentation("ours", box, self.volume("A"))
        second = self.segmentation("theirs", box, self.volume("B", shift=0.7))
        panel = self.opened(first, second)
        self.click("evaluationApplyButton")
        self.assertIn("different grids", panel.messageLabel.text)
        self.assertIn("color", panel.messageLabel.styleSheet)
        self.photograph("evaluation-error")
        self.assertFalse(panel.bar.isRunning)

    def test_nothing_in_common_is_refused(self) -> None:
        ct = self.volume()
        first = self.segmentation("ours", {"heart": np.s_[2:10, 5:15, 10:20]}, ct)
        second = self.segmentation("theirs", {"gtv": np.s_[2:10, 5:15, 10:20]}, ct)
        from LungSegmentationScene.Errors import SceneError

        with self.assertRaisesRegex(SceneError, "no structure in common"):
            self.logic.evaluate(first, second)

    def test_the_difference_is_shown_in_three_colors(self) -> None:
        first, second, ct = self.pair()
        self.opened(first, second)
        box = self.find("evaluationStructureComboBox")
        box.setCurrentIndex(box.findData("heart"))
        self.click("evaluationDifferenceButton")
        node = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")[-1]
        segmentation = node.GetSegmentation()
        counts = {}
        for index in range(segmentation.GetNumberOfSegments()):
            mask = slicer.util.arrayFromSegmentBinaryLabelmap(node, segmentation.GetNthSegmentID(index), ct)
            counts[segmentation.GetNthSegment(index).GetName()] = int((mask > 0).sum())
        self.assertEqual(counts, {"Both": 8 * 10 * 8, "Only ours": 8 * 10 * 2, "Only theirs": 8 * 10 * 2})
        name = slicer.vtkSegmentationConverter.GetReferenceImageGeometryParameterName()
        self.assertEqual(
            segmentation.GetConversionParameter(name), second.GetSegmentation().GetConversionParameter(name)
        )

    def test_the_difference_lies_where_the_structures_are_on_oblique_grids_that_begin_elsewhere(self) -> None:
        import vtk

        ct = self.volume()
        matrix = vtk.vtkMatrix4x4()
        for row, values in enumerate(((0.0, -1.5, 0.0, 31.0), (0.8, 0.0, 0.6, -7.0), (-1.2, 0.0, 0.4, 12.5))):
            for column, value in enumerate(values):
                matrix.SetElement(row, column, value)
        ct.SetIJKToRASMatrix(matrix)
        ours = np.s_[3:9, 7:12, 11:14]
        theirs = np.s_[3:9, 6:12, 11:14]
        nodes = [self.segmentation(name, {"heart": box}, ct) for name, box in (("ours", ours), ("theirs", theirs))]
        from LungSegmentationScene import Evaluation

        node = Evaluation.showDifference(*nodes)
        segmentation = node.GetSegmentation()
        expected = {"Both": np.zeros(SHAPE, bool), "Only theirs": np.zeros(SHAPE, bool)}
        expected["Both"][ours] = True
        expected["Only theirs"][3:9, 6:7, 11:14] = True
        self.assertEqual(segmentation.GetNumberOfSegments(), len(expected))
        for index in range(segmentation.GetNumberOfSegments()):
            mask = slicer.util.arrayFromSegmentBinaryLabelmap(node, segmentation.GetNthSegmentID(index), ct)
            np.testing.assert_array_equal(mask > 0, expected[segmentation.GetNthSegment(index).GetName()])


if __name__ == "__main__":
    unittest.main()
