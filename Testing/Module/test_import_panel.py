"""The import panel as a user has it: choose, scan, correct, load, convert, cancel, and be told what is wrong."""

from __future__ import annotations

import json
import shutil
import time
import unittest
from pathlib import Path

import slicer
from ModuleTestCase import ModuleTestCase, inSlicer

CANCEL_BAR_S = 5.0


class ImportPanelTest(ModuleTestCase):
    def setUp(self) -> None:
        super().setUp()
        from LungSegmentationScene.Patients import Corrections

        self.importPanel = self.panel("Import")
        self.importPanel._showFindings(None)
        self.importPanel._scanned = None
        self.importPanel.corrections = Corrections()
        self.parameters = self.logic.parameters()

    def tearDown(self) -> None:
        for bar in (self.importPanel.scanBar, self.importPanel.loadBar, self.importPanel.convertBar):
            bar.cancel()
        super().tearDown()

    def scanned(self, folder: Path | None = None):
        """Scan a folder by clicking and return the panel."""
        self.find("importFolderPathLineEdit").currentPath = str(folder or self.phantom())
        self.click("importScanButton")
        self.waitUntil(lambda: not self.importPanel.scanBar.isRunning, message="the scan did not end")
        return self.importPanel

    def rows(self, name: str) -> list[list[str]]:
        table = self.find(name)
        return [
            [table.item(row, column).text() for column in range(table.columnCount)] for row in range(table.rowCount)
        ]

    def choosePatient(self, row: int) -> None:
        self.find("importPatientsTable").selectRow(row)
        self.processEvents()

    def rowOf(self, roi: str) -> int:
        return [row[0] for row in self.rows("importRoisTable")].index(roi)

    def roiWith(self, structure: str):
        """Return the ROI of the chosen patient that is taken for a structure."""
        return next(roi for roi in self.importPanel.patient().rois if roi.structure == structure)

    def chooseStructure(self, roi: str, data: str) -> None:
        """Choose in the box of an ROI as a user does."""
        box = self.find(f"importStructureComboBox{self.rowOf(roi)}")
        index = box.findData(data)
        self.assertGreaterEqual(index, 0, f"{data} cannot be chosen")
        box.setCurrentIndex(index)
        box.activated.emit(index) if not inSlicer() else box.activated(index)
        self.waitUntil(lambda: not self.importPanel.isChecking, message="the correction was not followed")

    # Before a scan

    def test_without_a_folder_nothing_can_be_pressed_and_each_button_says_why(self) -> None:
        for name in ("importScanButton", "importLoadButton", "importConvertButton"):
            button = self.find(name)
            self.assertFalse(button.enabled, name)
            self.assertTrue(button.toolTip)
        self.photograph("import-empty")

    def test_a_folder_that_is_not_there_is_named(self) -> None:
        self.find("importFolderPathLineEdit").currentPath = str(self.folder / "nowhere")
        self.processEvents()
        self.assertIn("nowhere", self.find("importScanButton").toolTip)

    def test_a_folder_without_ct_is_told_in_red_with_a_cure(self) -> None:
        (self.folder / "empty").mkdir()
        panel = self.scanned(self.folder / "empty")
        self.assertIn("no CT", panel.messageLabel.text)
        self.assertIn("color", panel.messageLabel.styleSheet)
        self.assertFalse(self.find("importLoadButton").enabled)
        self.photograph("import-error")

    # Scan

    def test_a_scan_lists_patients_and_the_rois_of_the_chosen_one(self) -> None:
        self.scanned()
        patients = self.rows("importPatientsTable")
        self.assertEqual([row[0] for row in patients], sorted(one.name for one in self.phantom().iterdir()))
        self.assertTrue(all(row[1] == "24" for row in patients))
        self.assertIsNotNone(self.importPanel.patient())
        first = [row[0] for row in self.rows("importRoisTable")]
        self.choosePatient(1)
        self.assertEqual(self.importPanel.patient().name, patients[1][0])
        self.assertNotEqual([roi.name for roi in self.importPanel.patient().rois], [])
        self.assertEqual(len(self.rows("importRoisTable")), len(self.importPanel.patient().rois))
        self.assertTrue(first)
        used = [row for row in self.rows("importRoisTable") if row[2]]
        self.assertTrue(all(float(row[2]) > 0 for row in used))
        self.photograph("import-filled")

    def test_each_roi_shows_the_structure_that_it_is_taken_for(self) -> None:
        self.scanned()
        for row, roi in enumerate(self.importPanel.patient().rois):
            box = self.find(f"importStructureComboBox{row}")
            self.assertEqual(box.itemData(box.currentIndex), roi.structure or "ignore")
            self.assertEqual(self.find("importRoisTable").item(row, 4).text(), roi.reason)

    def test_another_folder_clears_what_was_found_in_the_first(self) -> None:
        self.scanned()
        (self.folder / "other").mkdir()
        self.find("importFolderPathLineEdit").currentPath = str(self.folder / "other")
        self.processEvents()
        self.assertEqual(self.rows("importPatientsTable"), [])
        self.assertEqual(self.rows("importRoisTable"), [])
        self.assertFalse(self.find("importConvertButton").enabled)

    def test_the_window_lives_while_a_folder_is_scanned(self) -> None:
        self.find("importFolderPathLineEdit").currentPath = str(self.phantom())
        with self.blocking() as gaps:
            self.click("importScanButton")
            self.assertEqual(self.find("importScanButton").text, "Cancel")
            self.waitUntil(lambda: not self.importPanel.scanBar.isRunning)
        self.assertEqual(self.find("importScanButton").text, "Scan")
        self.assertWindowAlive(gaps)

    def test_the_window_lives_while_a_patient_is_loaded(self) -> None:
        self.scanned()
        with self.blocking() as gaps:
            self.click("importLoadButton")
            self.waitUntil(lambda: not self.importPanel.loadBar.isRunning)
        self.assertIsNotNone(self.parameters.previewSegmentation)
        self.assertWindowAlive(gaps)

    def test_a_ct_without_contours_can_be_loaded_and_not_converted(self) -> None:
        source = self.folder / "bare"
        shutil.copytree(min(self.phantom().iterdir()), source)
        for file in list(source.rglob("*")):
            if file.is_file() and b"RTSTRUCT" in file.read_bytes()[:3000]:
                file.unlink()
        self.scanned(source)
        self.assertEqual(self.rows("importPatientsTable")[0][3], "CT only")
        self.assertEqual(self.rows("importRoisTable"), [])
        self.assertIn("no CT here has contours", self.find("importConvertButton").toolTip)
        self.click("importLoadButton")
        self.waitUntil(lambda: not self.importPanel.loadBar.isRunning)
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode"), 1)
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode"), 0)

    def test_patients_of_the_dicom_database_can_be_chosen(self) -> None:
        from LungSegmentationScene import Patients

        if inSlicer() or not hasattr(slicer, "dicomDatabase"):
            self.skipTest("needs the DICOM database of the test runtime; the user's own is left alone")
        import ctk
        import qt

        indexer = ctk.ctkDICOMIndexer()
        indexer.addDirectory(slicer.dicomDatabase, str(self.phantom()))
        found = Patients.databasePatients()
        self.assertEqual(sorted(one.name for one in found), sorted(one.name for one in self.phantom().iterdir()))
        self.assertTrue(all(one.counts == {"CT": 1, "RTSTRUCT": 1} for one in found))
        listed = Patients.listFiles(found[:1])
        self.assertEqual(len(listed.read_text(encoding="utf-8").splitlines()), 25)
        self.panel("Preview")
        self.panel("Import")
        box = self.find("importSourceComboBox")
        self.assertTrue(box.isVisibleTo(self.importPanel.widget))
        box.setCurrentIndex(box.findData("database"))
        self.processEvents()
        self.assertIn("Check a patient", self.find("importScanButton").toolTip)
        table = self.find("importDatabaseTable")
        table.item(1, 0).setCheckState(qt.Qt.Checked)
        self.click("importScanButton")
        self.waitUntil(lambda: not self.importPanel.scanBar.isRunning)
        self.assertEqual([row[0] for row in self.rows("importPatientsTable")], [table.item(1, 0).text()])
        self.photograph("import-database")
        self.click("importLoadButton")
        self.waitUntil(lambda: not self.importPanel.loadBar.isRunning)
        self.assertIsNotNone(self.parameters.previewSegmentation)
        table.item(0, 0).setCheckState(qt.Qt.Checked)
        self.processEvents()
        self.assertEqual(self.rows("importPatientsTable"), [], "another choice, not scanned yet")

    # Corrections

    def test_a_correction_is_shown_with_what_follows_and_survives_the_next_scan(self) -> None:
        cohort = self.folder / "cohort é"
        self.parameters.cohortFolder = str(cohort)
        self.scanned()
        left, right = self.roiWith("lung_left").name, self.roiWith("lung_right").name
        self.chooseStructure(left, "lung_right")
        rois = {roi.name: roi for roi in self.importPanel.patient().rois}
        self.assertEqual((rois[left].structure, rois[left].corrected), ("lung_right", True))
        self.assertIsNone(rois[right].structure, "what the rules took before gives way to the correction")
        self.assertIn("remembered in the cohort", self.find("importCorrectionsLabel").text)
        kept = json.loads((cohort / "roi_corrections.json").read_text(encoding="utf-8"))
        self.assertIn({"rois": {left: "lung_right"}}, kept["rtstructs"].values())
        self.photograph("import-corrected")
        self.scanned()
        self.assertEqual({roi.name: roi.structure for roi in self.importPanel.patient().rois}[left], "lung_right")
        self.chooseStructure(left, "automatic")
        rois = {roi.name: roi for roi in self.importPanel.patient().rois}
        self.assertEqual((rois[left].structure, rois[right].structure), ("lung_left", "lung_right"))
        self.assertFalse(self.find("importCorrectionsLabel").visible)

    def test_corrections_without_a_cohort_move_into_it_and_into_no_folder_on_the_way(self) -> None:
        self.scanned()
        left = self.roiWith("lung_left").name
        self.chooseStructure(left, "ignore")
        self.assertIsNone({roi.name: roi for roi in self.importPanel.patient().rois}[left].structure)
        self.assertIn("until Slicer closes", self.find("importCorrectionsLabel").text)
        cohort = self.folder / "new" / "cohort"
        for text in (self.folder, self.folder / "new", cohort):
            self.find("importCohortPathLineEdit").currentPath = str(text)
            self.processEvents()
        self.assertEqual([one.name for one in self.folder.iterdir() if one.name != "screenshots"], [])
        self.parameters.importJobs = 1
        self.click("importConvertButton")
        self.waitUntil(lambda: not self.importPanel.convertBar.isRunning, timeoutS=120)
        kept = json.loads((cohort / "roi_corrections.json").read_text(encoding="utf-8"))
        self.assertIn({"rois": {left: None}}, kept["rtstructs"].values())
        record = json.loads((cohort / "cases" / self.importPanel.patient().name / "case.json").read_text("utf-8"))
        self.assertNotIn("lung_left", record["annotated"])

    def test_a_correction_that_cannot_be_kept_is_told_and_undone(self) -> None:
        self.scanned()
        (self.folder / "file").write_text("in the way")
        self.parameters.cohortFolder = str(self.folder / "file")
        left = self.roiWith("lung_left").name
        self.chooseStructure(left, "heart")
        self.assertIn("cannot", self.importPanel.messageLabel.text)
        box = self.find(f"importStructureComboBox{self.rowOf(left)}")
        self.assertEqual(box.itemData(box.currentIndex), "lung_left")

    def test_a_wheel_over_the_table_changes_no_structure(self) -> None:
        import ctk

        self.scanned()
        box = self.find("importStructureComboBox0")
        self.assertEqual(box.scrollWheelEffect, ctk.ctkComboBox.NeverScroll)

    # Into the scene

    def test_load_shows_the_corrected_structures_and_hands_them_to_the_other_panels(self) -> None:
        self.scanned()
        left = self.roiWith("lung_left").name
        self.chooseStructure(left, "heart")
        self.click("importLoadButton")
        self.waitUntil(lambda: not self.importPanel.loadBar.isRunning)
        segmentation = self.parameters.previewSegmentation
        ids = list(segmentation.GetSegmentation().GetSegmentIDs())
        self.assertNotIn("lung_left", ids)
        self.assertIn("heart", ids)
        self.assertIsNotNone(self.parameters.previewVolume)
        self.assertIs(self.parameters.inferenceVolume, self.parameters.previewVolume)
        self.assertIn("is in the scene", self.importPanel.messageLabel.text)
        self.photograph("import-loaded")

    def test_loading_can_be_cancelled_and_leaves_nothing(self) -> None:
        self.scanned()
        button = self.find("importLoadButton")
        self.click(button)
        job = self.importPanel.loadBar.job
        self.assertEqual(button.text, "Cancel")
        began = time.monotonic()
        self.click(button)
        self.waitUntil(lambda: not job.isRunning)
        self.assertLess(time.monotonic() - began, CANCEL_BAR_S)
        self.assertEqual(button.text, "Load into scene")
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode"), 0)

    def test_files_that_vanished_are_told_by_the_job(self) -> None:
        source = self.folder / "patient"
        shutil.copytree(min(self.phantom().iterdir()), source)
        self.scanned(source)
        for file in [one for one in source.rglob("*") if one.is_file()]:
            file.unlink()
        self.click("importLoadButton")
        self.waitUntil(lambda: not self.importPanel.loadBar.isRunning)
        self.assertIn("holds no CT of PHANTOM", self.find("importLoadJobStatusLabel").text)
        self.photograph("import-vanished")

    # Into a cohort

    def test_convert_makes_a_cohort_of_all_patients(self) -> None:
        self.scanned()
        cohort = self.folder / "cohort 肺"
        self.parameters.importJobs = 1
        self.find("importCohortPathLineEdit").currentPath = str(cohort)
        self.processEvents()
        self.click("importConvertButton")
        self.assertEqual(self.find("importConvertButton").text, "Cancel")
        self.waitUntil(lambda: not self.importPanel.convertBar.isRunning, timeoutS=120)
        cases = sorted(one.name for one in (cohort / "cases").iterdir())
        self.assertEqual(cases, [row[0] for row in self.rows("importPatientsTable")])
        self.assertEqual({row[3] for row in self.rows("importPatientsTable")}, {"converted"})
        self.assertIn("2 converted", self.importPanel.messageLabel.text)
        self.photograph("import-converted")
        self.click("importConvertButton")
        self.waitUntil(lambda: not self.importPanel.convertBar.isRunning, timeoutS=120)
        self.assertIn("2 kept unchanged", self.importPanel.messageLabel.text)

    def test_a_cohort_inside_the_dicom_folder_is_refused(self) -> None:
        self.scanned()
        self.find("importCohortPathLineEdit").currentPath = str(self.phantom() / "cohort")
        self.processEvents()
        button = self.find("importConvertButton")
        self.assertFalse(button.enabled)
        self.assertIn("cannot lie in", button.toolTip)

    def test_every_widget_that_a_user_touches_has_a_name_and_a_tooltip(self) -> None:
        import ctk
        import qt

        kinds = (qt.QPushButton, qt.QCheckBox, qt.QComboBox, qt.QSpinBox, qt.QDoubleSpinBox, qt.QTableWidget)
        kinds += (ctk.ctkPathLineEdit,)
        for name, widget in vars(self.importPanel.ui).items():
            if isinstance(widget, kinds):
                self.assertTrue(name.startswith("import"), name)
                self.assertTrue(widget.toolTip, f"{name} has no tooltip")


if __name__ == "__main__":
    unittest.main()
