"""The module's column: an accordion whose panels are made when opened, follow the scene, and fit."""

from __future__ import annotations

import re
import sys
import unittest
from unittest import mock

from ModuleTestCase import COLUMN_HEIGHT, ModuleTestCase, darkPalette, inSlicer, qt, slicer

PANELS = ("Import", "Preview", "Training", "Inference", "Evaluation")
SLICERS_COLUMN = 340
"""Pixels that a module has in Slicer's window, without the margins around it."""

TOUCHED = ("QAbstractButton", "QComboBox", "QLineEdit", "QAbstractSpinBox", "QSlider", "QAbstractItemView", "QTextEdit")
TOUCHED += ("QPlainTextEdit", "ctkPathLineEdit", "ctkSliderWidget", "qMRMLNodeComboBox")
OF_QT = re.compile(r"^qt_|^$|ScrollLeftButton|ScrollRightButton")


class Column(ModuleTestCase):
    """The parts that no panel is needed for, and what holds for all of them."""

    def openNames(self) -> list[str]:
        return [name for name, section in self.widget.accordion.sections.items() if not section.collapsed]

    def testOpeningOnePanelClosesTheOthers(self) -> None:
        for name in (*PANELS, "Import"):
            self.find(f"{name.lower()}Section").collapsed = False
            self.processEvents()
            self.assertEqual(self.openNames(), [name])
        self.find("importSection").collapsed = True
        self.assertEqual(self.openNames(), [])

    def testAPanelIsMadeOnce(self) -> None:
        first = self.panel("Import")
        self.panel("Preview")
        self.assertIs(self.panel("Import"), first)
        self.assertTrue(first.entered)
        self.assertFalse(self.widget.accordion.panels["Preview"].entered)

    def testAPanelIsSeenAlsoInAColumnThatWasOnlyDrawnForAPicture(self) -> None:
        self.panel("Import")
        self.widget.accordion.widget.grab()
        for name in (*PANELS, *PANELS):
            self.assertFalse(self.panel(name).widget.isHidden(), name)

    def testAPanelThatCannotBeMadeSaysSoAndLeavesTheOthersAlone(self) -> None:
        from LungSegmentationPanels.Accordion import Accordion

        accordion = Accordion(self.logic)
        accordion.setupPanel.checksWhenEntered = False
        import LungSegmentationPanels.ImportPanel as module

        kept = module.ImportPanel
        module.ImportPanel = lambda logic: 1 / 0
        try:
            with self.assertLogs("LungSegmentation", level="ERROR"):
                self.assertIsNone(accordion.open("Import"))
        finally:
            module.ImportPanel = kept
        texts = [label.text for label in accordion.sections["Import"].findChildren(qt.QLabel)]
        self.assertTrue([text for text in texts if "division by zero" in text])
        self.assertIsNotNone(accordion.open("Preview"))
        accordion.cleanup()
        accordion.widget.deleteLater()

    def testTheOpenPanelIsKeptInTheScene(self) -> None:
        self.panel("Evaluation")
        self.assertEqual(self.logic.parameters().openPanel, "Evaluation")

    def testASavedSceneRestoresThePanels(self) -> None:
        parameters = self.widget.accordion.parameters
        parameters.cohortFolder = "/somewhere/cohört 肺"
        parameters.importAllRois = True
        parameters.previewOpacity = 35.0
        parameters.trainingPreset = "lite"
        volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "CT")
        parameters.inferenceVolume = volume
        self.panel("Training")
        file = self.folder / "scene.mrml"
        slicer.mrmlScene.RemoveNode(volume)  # an empty volume cannot be saved
        self.assertTrue(slicer.util.saveScene(str(file)))
        slicer.mrmlScene.Clear(False)
        self.processEvents()
        self.assertEqual(self.widget.accordion.parameters.cohortFolder, "")
        slicer.util.loadScene(str(file))
        self.processEvents()
        restored = self.widget.accordion.parameters
        self.assertEqual(restored.cohortFolder, "/somewhere/cohört 肺")
        self.assertEqual((restored.importAllRois, restored.trainingPreset), (True, "lite"))
        self.assertAlmostEqual(restored.previewOpacity, 35.0)
        self.assertEqual(self.openNames(), ["Training"])

    def testAPathThatIsClearedIsForgotten(self) -> None:
        self.panel("Import")
        edit = self.find("importRoiMapPathLineEdit")
        edit.currentPath = "/somewhere/names.csv"
        self.assertEqual(self.widget.accordion.parameters.importRoiMap, "/somewhere/names.csv")
        edit.currentPath = ""
        self.assertEqual(self.widget.accordion.parameters.importRoiMap, "")
        edit.currentPath = "/elsewhere/names.csv"
        self.assertEqual(self.widget.accordion.parameters.importRoiMap, "/elsewhere/names.csv")

    def testClosingTheSceneEmptiesThePanels(self) -> None:
        self.widget.accordion.parameters.cohortFolder = "/somewhere"
        for name in PANELS:
            self.panel(name)
        slicer.mrmlScene.Clear(False)
        self.processEvents()
        for name in PANELS:
            self.assertEqual(self.panel(name).parameters.cohortFolder, "")

    def testTheColumnSurvivesASceneThatIsClosedWhileAnotherModuleIsOpen(self) -> None:
        self.panel("Import")
        self.widget.exit()
        slicer.mrmlScene.Clear(False)
        self.processEvents()
        self.widget.enter()
        self.assertIsNotNone(self.widget.accordion.parameters)

    def testAReloadTakesAllPartsAnewAndShowsTheParametersAgain(self) -> None:
        from LungSegmentationScene import Environment, Views

        self.widget.accordion.parameters.cohortFolder = "/somewhere"
        with mock.patch.object(Environment, "isTesting", return_value=True):
            self.widget.onReload()
        self.widget = slicer.util.getModuleWidget("LungSegmentation")
        self.logic = self.widget.logic
        from LungSegmentationScene import Views as again

        self.assertIsNot(again, Views)
        self.assertEqual(self.panel("Training").parameters.cohortFolder, "/somewhere")
        self.assertEqual(self.find("trainingCohortPathLineEdit").currentPath, "/somewhere")

    def testASlicerWithAnOlderPythonIsToldWhatIsNeeded(self) -> None:
        module = sys.modules["LungSegmentation"]
        parent = slicer.qMRMLWidget()
        qt.QVBoxLayout(parent)
        with mock.patch.object(module, "MINIMUM_PYTHON", (99, 1)):
            widget = module.LungSegmentationWidget(parent)
            widget.setup()
            widget.enter()
            widget.exit()
            widget.cleanup()
        self.assertIn("99.1 is needed", parent.findChild(qt.QLabel, "tooOldLabel").text)
        slicer.app.moduleManager().disconnect("moduleAboutToBeUnloaded(QString)", widget._onModuleAboutToBeUnloaded)

    def testEveryWidgetThatAUserTouchesHasANameAndATooltip(self) -> None:
        for name in PANELS:
            self.panel(name)
        faults = []
        for widget in self.widget.accordion.widget.findChildren(qt.QWidget):
            if OF_QT.search(widget.objectName) or not any(widget.inherits(kind) for kind in TOUCHED):
                continue
            if not widget.toolTip:
                faults.append(f"{widget.className()} {widget.objectName} has no tooltip")
        self.assertEqual(faults, [])

    def testNoObjectNameIsUsedTwice(self) -> None:
        for name in PANELS:
            self.panel(name)
        seen: dict[str, int] = {}
        for widget in self.widget.accordion.widget.findChildren(qt.QWidget):
            name = widget.objectName
            if re.match(r"(setup|import|preview|training|inference|evaluation)[A-Z]", name):
                seen[name] = seen.get(name, 0) + 1
        self.assertEqual([name for name, count in seen.items() if count > 1], [])

    @unittest.skipIf(inSlicer(), "sizes are measured where the fonts are known")
    def testEachPanelFitsItsColumnInItsBasicState(self) -> None:
        too_high = []
        for name in PANELS:
            self.panel(name)
            picture = qt.QPixmap(str(self.photograph(f"{name.lower()}-empty")[0]))
            if picture.height() > COLUMN_HEIGHT:
                too_high.append((name, picture.height()))
        self.assertEqual(too_high, [])

    @unittest.skipIf(inSlicer(), "sizes are measured where the fonts are known")
    def testNoPanelIsWiderThanSlicersColumn(self) -> None:
        for name in PANELS:
            self.panel(name)
            self.assertLessEqual(self.widget.accordion.widget.minimumSizeHint.width(), SLICERS_COLUMN, name)

    @unittest.skipIf(inSlicer(), "the application has its own theme")
    def testADarkThemeIsReadable(self) -> None:
        from LungSegmentationPanels.Panel import errorColor, isDark

        column = self.widget.accordion.widget
        light, dark = column.palette, darkPalette()
        if isDark(column):
            self.skipTest("this run takes its pictures in the dark theme")
        before = errorColor(column)
        column.setPalette(dark)
        try:
            self.assertTrue(isDark(column))
            self.assertNotEqual(errorColor(column), before)
            self.photograph("column-dark")
        finally:
            column.setPalette(light)


if __name__ == "__main__":
    unittest.main()
