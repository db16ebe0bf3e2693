"""The preview panel as a user has it: what is painted, listed, measured, gone to and saved."""

from __future__ import annotations

import json
import unittest
from pathlib import Path

import numpy as np
import slicer
from ModuleTestCase import ModuleTestCase, inSlicer

STRUCTURE, VOLUME, MEAN = range(3)


class PreviewPanelTest(ModuleTestCase):
    def setUp(self) -> None:
        super().setUp()
        from LungSegmentationLib.labels import load_label_set

        self.labelSet = load_label_set()
        self.preview = self.panel("Preview")
        self.parameters = self.logic.parameters()

    def scene(self) -> tuple:
        """Return a CT of one HU a structure, a segmentation (GTV in two pieces, lungs, empty heart), and its labels."""
        from LungSegmentationScene import Segmentations

        volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "CT")
        labels = np.zeros((10, 40, 50), np.uint8)
        labels[2:8, 10:30, 30:45] = self.labelSet["lung_right"].label
        labels[2:8, 10:30, 5:20] = self.labelSet["lung_left"].label
        labels[4, 15:20, 35:40] = labels[6, 22:24, 22:24] = self.labelSet["gtv"].label
        slicer.util.updateVolumeFromArray(volume, -900 + 100 * labels.astype(np.int16))
        volume.SetSpacing(2.0, 2.0, 5.0)
        volume.CreateDefaultDisplayNodes()
        segmentation = Segmentations.fromArray(labels, volume, self.labelSet, "structures")
        segmentation.GetSegmentation().AddEmptySegment("heart", self.labelSet["heart"].name)
        return volume, segmentation, labels

    def show(self) -> tuple:
        """Choose both nodes in the panel's boxes and wait until all is measured."""
        volume, segmentation, labels = self.scene()
        self.sliceNode()
        self.find("previewVolumeComboBox").setCurrentNode(volume)
        self.find("previewSegmentationComboBox").setCurrentNode(segmentation)
        self.settle()
        return volume, segmentation, labels

    def settle(self) -> None:
        self.waitUntil(
            lambda: not self.preview.measuring.isRunning and not self.preview._delay.active, message="not measured"
        )

    def row(self, name: str) -> int:
        table = self.find("previewSegmentsTable")
        names = [table.item(row, STRUCTURE).text() for row in range(table.rowCount)]
        return names.index(name)

    def cell(self, name: str, column: int) -> str:
        return self.find("previewSegmentsTable").item(self.row(name), column).text()

    # Choice

    def test_without_nodes_buttons_are_disabled_and_say_why(self) -> None:
        for name in ("Previous", "Jump", "Next", "Picture", "Show3D"):
            button = self.find(f"preview{name}Button")
            self.assertFalse(button.enabled, name)
            self.assertIn("hoose", button.toolTip)
        self.photograph("preview-empty")

    def test_the_only_ct_and_the_only_segmentation_are_chosen_when_the_panel_opens(self) -> None:
        volume, segmentation, _labels = self.scene()
        self.panel("Import")
        self.panel("Preview")
        self.assertIs(self.parameters.previewVolume, volume)
        self.assertIs(self.parameters.previewSegmentation, segmentation)
        self.settle()

    def test_a_label_map_is_shown_by_a_segmentation_that_is_made_once(self) -> None:
        volume, _segmentation, labels = self.scene()
        labelMap = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
        slicer.util.updateVolumeFromArray(labelMap, labels)
        labelMap.CopyOrientation(volume)
        self.find("previewLabelNamesComboBox").setCurrentIndex(1)
        box = self.find("previewSegmentationComboBox")
        before = slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode")
        for _time in range(2):
            box.setCurrentNode(labelMap)
            self.waitUntil(lambda: self.parameters.previewSegmentation.IsA("vtkMRMLSegmentationNode"))
            self.settle()
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode"), before + 1)
        self.assertEqual(self.cell("left lung", VOLUME), f"{(labels == 4).sum() * 0.02:.1f}")

    def test_a_label_map_of_a_cohorts_case_has_its_names_without_asking(self) -> None:
        volume, _segmentation, labels = self.scene()
        labelMap = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
        slicer.util.updateVolumeFromArray(labelMap, labels)
        labelMap.CopyOrientation(volume)
        case = self.folder / "case"
        case.mkdir()
        (case / "case.json").write_text(json.dumps({"label_set": "thorax"}), encoding="utf-8")
        slicer.util.saveNode(labelMap, str(case / "labels.nii.gz"))
        self.find("previewSegmentationComboBox").setCurrentNode(labelMap)
        self.waitUntil(lambda: self.parameters.previewSegmentation.IsA("vtkMRMLSegmentationNode"))
        self.settle()
        self.assertEqual(self.cell("right lung", STRUCTURE), "right lung")

    # Numbers and checks

    def test_the_table_tells_volume_and_mean_hu_of_each_structure(self) -> None:
        _volume, _segmentation, labels = self.show()
        for structure in self.labelSet.structures:
            mask = labels == structure.label
            if mask.any():
                self.assertEqual(self.cell(structure.name, VOLUME), f"{mask.sum() * 0.02:.1f}")
                self.assertEqual(self.cell(structure.name, MEAN), str(-900 + 100 * structure.label))
        self.assertEqual(self.cell("heart", MEAN), "–")
        self.photograph("preview-filled")

    def test_what_looks_unusual_is_told(self) -> None:
        self.show()
        text = self.find("previewChecksText").plainText
        self.assertIn("“heart” is empty", text)
        self.assertIn("“GTV” is in 2 pieces", text)
        self.assertNotIn("exchanged", text)

    def test_a_segmentation_that_is_edited_is_measured_anew(self) -> None:
        _volume, segmentation, _labels = self.show()
        segmentation.GetSegmentation().RemoveSegment("heart")
        self.processEvents()
        self.settle()
        self.assertNotIn("heart", self.find("previewChecksText").plainText)
        self.assertEqual(self.find("previewSegmentsTable").rowCount, 3)

    def test_structures_on_another_grid_have_no_mean_hu(self) -> None:
        self.show()
        other = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "other")
        slicer.util.updateVolumeFromArray(other, np.zeros((4, 5, 6), np.int16))
        other.SetSpacing(1.3, 1.1, 0.7)
        self.find("previewVolumeComboBox").setCurrentNode(other)
        self.settle()
        self.assertIn("another grid", self.find("previewChecksText").plainText)
        self.photograph("preview-other-grid")

    # Painting

    def test_opacity_fill_and_outline_are_painted_and_begin_at_70_percent(self) -> None:
        _volume, segmentation, _labels = self.show()
        display = segmentation.GetDisplayNode()
        self.assertAlmostEqual(display.GetOpacity2DFill(), 0.7)
        self.find("previewOpacitySlider").value = 30
        self.processEvents()
        self.assertAlmostEqual(display.GetOpacity2DFill(), 0.3)
        self.click("previewOutlineCheckBox")
        self.assertFalse(display.GetVisibility2DOutline())
        self.click("previewFillCheckBox")
        self.assertFalse(display.GetVisibility2DFill())
        slider = self.find("previewOpacitySlider")
        self.assertFalse(slider.enabled)
        self.assertIn("not filled", slider.toolTip)

    def test_windows_show_their_hu(self) -> None:
        volume, _segmentation, _labels = self.show()
        box = self.find("previewWindowComboBox")
        for key, expected in (("lung", (-1350, 150)), ("mediastinum", (-160, 240)), ("training", (-1000, 400))):
            box.setCurrentIndex(box.findData(key))
            self.processEvents()
            display = volume.GetDisplayNode()
            self.assertEqual((display.GetWindowLevelMin(), display.GetWindowLevelMax()), expected)

    def test_the_training_window_is_that_of_the_chosen_cohort(self) -> None:
        volume, _segmentation, _labels = self.show()
        (self.folder / "cohort.json").write_text(json.dumps({"window": [-600, 300]}), encoding="utf-8")
        self.parameters.cohortFolder = str(self.folder)
        box = self.find("previewWindowComboBox")
        box.setCurrentIndex(box.findData("training"))
        self.processEvents()
        self.assertEqual(volume.GetDisplayNode().GetWindowLevelMin(), -600)

    def test_a_structure_is_hidden_by_its_check_box_and_follows_other_modules(self) -> None:
        import qt

        _volume, segmentation, _labels = self.show()
        item = self.find("previewSegmentsTable").item(self.row("GTV"), STRUCTURE)
        item.setCheckState(qt.Qt.Unchecked)
        self.processEvents()
        display = segmentation.GetDisplayNode()
        segmentId = self.preview._rows[self.row("GTV")]
        self.assertFalse(display.GetSegmentVisibility(segmentId))
        display.SetSegmentVisibility(segmentId, True)
        self.processEvents()
        self.assertEqual(self.find("previewSegmentsTable").item(self.row("GTV"), STRUCTURE).checkState(), qt.Qt.Checked)

    def test_3d_is_made_on_request(self) -> None:
        _volume, segmentation, _labels = self.show()
        self.assertFalse(segmentation.GetSegmentation().ContainsRepresentation("Closed surface"))
        self.click("previewShow3DButton")
        self.assertIn("Cancel", self.find("previewShow3DButton").text)
        self.waitUntil(lambda: self.preview._surfaces is None)
        self.assertEqual(self.find("previewShow3DButton").text, "Show 3D")
        self.assertTrue(segmentation.GetSegmentation().ContainsRepresentation("Closed surface"))
        self.assertTrue(segmentation.GetDisplayNode().GetVisibility3D())
        self.assertFalse(self.preview.measuring.isRunning, "surfaces are no change of the structures")
        self.click("previewShow3DButton")
        self.assertFalse(segmentation.GetDisplayNode().GetVisibility3D())
        self.click("previewShow3DButton")
        self.assertTrue(segmentation.GetDisplayNode().GetVisibility3D())

    def test_3d_is_left_by_the_same_button_or_when_a_structure_changes(self) -> None:
        _volume, segmentation, _labels = self.show()
        button = self.find("previewShow3DButton")
        for leave in (button.click, lambda: segmentation.GetSegmentation().RemoveSegment("heart")):
            self.click(button)
            leave()
            self.waitUntil(lambda: self.preview._surfaces is None)
            self.assertFalse(segmentation.GetSegmentation().ContainsRepresentation("Closed surface"))
            self.assertFalse(segmentation.GetDisplayNode().GetVisibility3D() and button.checked)
            self.assertEqual((button.text, button.checked), ("Show 3D", False))
            self.settle()

    # Faults

    def test_a_fault_of_the_measuring_is_shown_with_the_place_behind_a_click(self) -> None:
        from unittest import mock

        from LungSegmentationScene import Measurements

        def broken(*_arguments):
            yield None
            raise ValueError("an invented fault")

        with (
            mock.patch.object(Measurements, "measure", broken),
            self.assertLogs("LungSegmentation", level="ERROR"),
        ):
            self.show()
        label, button = self.preview.messageLabel, self.find("previewMessageLogButton")
        self.assertIn("could not be measured", label.text)
        self.assertIn("an invented fault", label.text)
        self.assertIn("color", label.styleSheet)
        self.assertTrue(self.find("previewMessageLogText").isHidden())
        self.click(button)
        self.assertIn("Traceback", self.find("previewMessageLogText").plainText)
        self.photograph("preview-fault")
        self.preview.say("Something else.")
        self.assertTrue(button.isHidden())
        self.assertTrue(self.find("previewMessageLogText").isHidden())

    # Slices

    def test_go_to_structure_brings_the_views_to_its_fullest_slice(self) -> None:
        self.show()
        self.assertFalse(self.find("previewJumpButton").enabled)
        self.find("previewSegmentsTable").selectRow(self.row("GTV"))
        self.processEvents()
        self.click("previewJumpButton")
        self.assertAlmostEqual(self.sliceNode().GetSliceOffset(), 20.0)
        self.find("previewSegmentsTable").selectRow(self.row("heart"))
        self.processEvents()
        self.click("previewJumpButton")
        self.assertIn("empty", self.preview.messageLabel.text)

    def test_next_and_previous_stop_at_the_ends_and_say_so(self) -> None:
        self.show()
        node = self.sliceNode()
        node.SetSliceOffset(30.0)
        self.click("previewNextButton")
        self.assertAlmostEqual(node.GetSliceOffset(), 35.0)
        self.click("previewNextButton")
        self.assertAlmostEqual(node.GetSliceOffset(), 35.0)
        self.assertIn("last slice", self.preview.messageLabel.text)
        self.click("previewPreviousButton")
        self.assertAlmostEqual(node.GetSliceOffset(), 30.0)

    # Picture

    def test_a_picture_is_saved_where_the_user_says(self) -> None:
        if inSlicer():
            self.skipTest("nobody answers the file dialog of the application here")
        import Runtime

        self.show()
        file = self.folder / "image 画像"
        Runtime.start().dialogs.expect(str(file))
        self.click("previewPictureButton")
        content = Path(f"{file}.png").read_bytes()
        self.assertEqual(content[:8], b"\x89PNG\r\n\x1a\n")
        self.assertIn(".png", self.preview.messageLabel.text)
        Runtime.start().dialogs.expect(str(self.folder / "nowhere" / "x.png"))
        self.click("previewPictureButton")
        self.assertIn("cannot be written", self.preview.messageLabel.text)
        self.photograph("preview-error")

    # The scene

    def test_a_saved_scene_shows_the_same_again(self) -> None:
        self.show()
        self.find("previewOpacitySlider").value = 40
        self.processEvents()
        file = self.folder / "scene.mrb"
        self.assertTrue(slicer.util.saveScene(str(file)))
        slicer.mrmlScene.Clear(False)
        self.processEvents()
        self.assertEqual(self.find("previewSegmentsTable").rowCount, 0)
        slicer.util.loadScene(str(file))
        self.processEvents()
        self.settle()
        self.assertEqual(self.cell("GTV", MEAN), "-800")
        self.assertEqual(self.find("previewOpacitySlider").value, 40)

    def test_nodes_that_are_removed_leave_an_empty_panel(self) -> None:
        volume, segmentation, _labels = self.show()
        slicer.mrmlScene.RemoveNode(segmentation)
        slicer.mrmlScene.RemoveNode(volume)
        self.processEvents()
        self.settle()
        self.assertEqual(self.find("previewSegmentsTable").rowCount, 0)
        self.assertFalse(self.find("previewPictureButton").enabled)


if __name__ == "__main__":
    unittest.main()
