"""Preview: a CT with its structures, slice by slice: how they are painted, how large they are, what looks unusual."""

from __future__ import annotations

import json
from pathlib import Path

import qt
import slicer
import vtk
from LungSegmentationScene import Measurements, Pictures, Segmentations, Surfaces, Views, Volumes
from LungSegmentationScene.Background import InTurns
from LungSegmentationScene.Errors import SceneError
from LungSegmentationScene.Measurements import Measure, Measuring
from slicer.i18n import tr as _
from slicer.util import VTKObservationMixin

from LungSegmentationPanels.Panel import Panel
from LungSegmentationPanels.TableTools import colorItem, fillRows, fitColumns, numberItem

STRUCTURE, VOLUME, MEAN = range(3)
AFTER_CHANGE_MS = 400
"""How long after the last change of a segmentation it is measured anew: somebody may be painting."""

COLORS, LABEL_SET = "colors", "thorax"
TRAINING = "training"


class PreviewPanel(Panel, VTKObservationMixin):
    """See the module's text; object names begin with ``preview``."""

    name = "Preview"

    def setup(self) -> None:
        """Connect widgets; nothing is shown or measured before the panel is entered."""
        from LungSegmentationLib.labels import load_label_set

        VTKObservationMixin.__init__(self)
        self._labelSet = load_label_set()
        self._volume = None
        self._segmentation = None
        self._rows: list[str] = []
        self._offsets: list[float] | None = None
        self._filling = False
        self._painted: tuple | None = None
        self._window = ""
        self._surfaces: InTurns | None = None
        self._closed = False
        self.measuring = Measuring(self._showMeasure, self._showChecks, self._showFault)
        self._delay = qt.QTimer()
        self._delay.setSingleShot(True)
        self._delay.connect("timeout()", self._refresh)
        ui = self.ui
        self.widget.setMRMLScene(slicer.mrmlScene)
        self._show3DText = ui.previewShow3DButton.text
        self._fillChoices()
        fitColumns(ui.previewSegmentsTable)
        ui.previewSegmentsTable.connect("itemChanged(QTableWidgetItem*)", self.onItemChanged)
        ui.previewSegmentsTable.connect("itemSelectionChanged()", self.updateState)
        ui.previewSegmentsTable.connect("cellDoubleClicked(int,int)", lambda _row, _column: self.onJump())
        ui.previewJumpButton.connect("clicked()", self.onJump)
        ui.previewPreviousButton.connect("clicked()", lambda: self.onStep(forward=False))
        ui.previewNextButton.connect("clicked()", lambda: self.onStep(forward=True))
        ui.previewShow3DButton.connect("toggled(bool)", self.onShow3D)
        ui.previewPictureButton.connect("clicked()", self.onSavePicture)

    def _fillChoices(self) -> None:
        ui = self.ui
        ui.previewWindowComboBox.addItem(_("unchanged"), "")
        for text, key in ((_("Lung"), "lung"), (_("Mediastinum"), "mediastinum"), (_("Bone"), "bone")):
            low, high = Volumes.WINDOWS[key]
            ui.previewWindowComboBox.addItem(_windowText(text, low, high), key)
        ui.previewWindowComboBox.addItem(_windowText(_("Training"), *Volumes.TRAINING_WINDOW), TRAINING)
        ui.previewLabelNamesComboBox.addItem(_("names and colors of their color table"), COLORS)
        ui.previewLabelNamesComboBox.addItem(
            _("structures of this module (1 is {first})").format(first=self._labelSet.structures[0].name), LABEL_SET
        )

    def enter(self) -> None:
        """Choose what there is only one of, and show it."""
        if self.parameters is not None:
            volumes = [node for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode") if _isPlain(node)]
            segmentations = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
            if self.parameters.previewVolume is None and len(volumes) == 1:
                self.parameters.previewVolume = volumes[0]
            if self.parameters.previewSegmentation is None and len(segmentations) == 1:
                self.parameters.previewSegmentation = segmentations[0]
        super().enter()

    def cleanup(self) -> None:
        """Let go of the scene."""
        self._delay.stop()
        self.measuring.stop()
        self._closed = True
        self._stopSurfaces()
        self.removeObservers()
        super().cleanup()

    # What the state allows

    def updateState(self) -> None:
        """Bring views and buttons in line with the parameters."""
        parameters = self.parameters
        volume = parameters.previewVolume if parameters is not None else None
        segmentation = parameters.previewSegmentation if parameters is not None else None
        if not self.entered and parameters is not None:
            return
        if segmentation is not None and segmentation.IsA("vtkMRMLLabelMapVolumeNode"):
            self._delay.start(0)
            return
        if volume is not self._volume or segmentation is not self._segmentation:
            self._show(volume, segmentation)
        if parameters is None:
            return
        self._showWindow()
        self._paint()
        self._allowButtons()

    def _allowButtons(self) -> None:
        ui, segmentation = self.ui, self._segmentation
        none = None if segmentation is not None else _("Choose structures first.")
        empty = none or (None if self._rows else _("There is no structure in it."))
        views = empty or (None if Views.axialSliceNode() is not None else _("There is no slice view."))
        self.allow(ui.previewPreviousButton, views)
        self.allow(ui.previewNextButton, views)
        chosen = empty or (None if self._chosen() else _("Choose a structure in the table."))
        self.allow(ui.previewJumpButton, chosen)
        self.allow(ui.previewShow3DButton, empty)
        self.allow(ui.previewPictureButton, empty or (None if self._volume is not None else _("Choose a CT first.")))
        for widget in (ui.previewFillCheckBox, ui.previewOutlineCheckBox, ui.previewSegmentsTable):
            widget.enabled = segmentation is not None
        filled = self.parameters.previewFill
        self.allow(ui.previewOpacitySlider, none or (None if filled else _("The structures are not filled.")))
        self.allow(ui.previewWindowComboBox, None if self._volume is not None else _("Choose a CT first."))

    # What is shown

    def _show(self, volume, segmentation) -> None:
        """Show another CT or other structures."""
        if volume is not self._volume and volume is not None:
            Views.showVolume(volume)
            self._window = ""
        if segmentation is not self._segmentation:
            self._stopSurfaces()
        self._volume, self._segmentation, self._painted = volume, segmentation, None
        self.removeObservers()
        self.clearMessage()
        if segmentation is not None:
            if segmentation.GetDisplayNode() is None:
                segmentation.CreateDefaultDisplayNodes()
            for event in _contentEvents():
                self.addObserver(segmentation, event, self._onContentChanged)
            self.addObserver(segmentation.GetDisplayNode(), vtk.vtkCommand.ModifiedEvent, self._onDisplayChanged)
        self._refresh()

    def _refresh(self) -> None:
        """Fill the table and measure anew; a label map becomes a segmentation first."""
        chosen = self.parameters.previewSegmentation if self.parameters is not None else None
        if chosen is not None and chosen.IsA("vtkMRMLLabelMapVolumeNode"):
            self._showLabelMap(chosen)
            return
        self.measuring.stop()
        self._offsets = None
        node = self._segmentation
        segments = Segmentations.segments(node) if node is not None else []
        selected = self._chosen()
        self._rows = [segmentId for segmentId, _segment in segments]
        self._filling = True
        # Items are replaced even where the text stays: the color or what is checked may be another.
        self.ui.previewSegmentsTable.setRowCount(0)
        fillRows(self.ui.previewSegmentsTable, [self._items(*entry) for entry in segments])
        if selected in self._rows:
            self.ui.previewSegmentsTable.selectRow(self._rows.index(selected))
        self._filling = False
        self.ui.previewChecksText.setPlainText("" if not segments else _("Measuring…"))
        if self._surfaces is None:
            self.ui.previewShow3DButton.checked = node is not None and Views.isShown3D(node)
        if segments:
            self.measuring.start(node, self._volume, self._labelSet)
        if self.parameters is not None:
            self._allowButtons()

    def _items(self, segmentId: str, segment) -> list:
        first = colorItem(segment.GetName(), [round(255 * value) for value in segment.GetColor()])
        first.setFlags(qt.Qt.ItemIsEnabled | qt.Qt.ItemIsSelectable | qt.Qt.ItemIsUserCheckable)
        first.setCheckState(qt.Qt.Checked if Views.isVisible(self._segmentation, segmentId) else qt.Qt.Unchecked)
        return [first, numberItem("…"), numberItem("…")]

    def _showLabelMap(self, labelMap) -> None:
        """Show a label map by a segmentation, made once."""
        shown = next(
            (
                node
                for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
                if node.GetAttribute(Segmentations.LABELS_ATTRIBUTE) == labelMap.GetID()
            ),
            None,
        )
        if shown is None:
            try:
                with slicer.util.WaitCursor():
                    shown = Segmentations.fromLabelMap(labelMap, self._namesOf(labelMap))
                shown.SetAttribute(Segmentations.LABELS_ATTRIBUTE, labelMap.GetID())
            except SceneError as error:
                self.parameters.previewSegmentation = None
                self.complain(error.sentence, error.hint)
                return
        self.parameters.previewSegmentation = shown

    def _namesOf(self, labelMap):
        """Return the label set of a label map's values, None for its own color table."""
        from LungSegmentationLib.errors import LungSegError
        from LungSegmentationLib.labels import load_label_set

        if self.parameters.previewLabelNames == LABEL_SET:
            return self._labelSet
        storage = labelMap.GetStorageNode()
        file = storage.GetFileName() if storage is not None else None
        record = Path(file).parent / "case.json" if file else None
        try:
            if record is not None and record.is_file():
                return load_label_set(json.loads(record.read_text(encoding="utf-8"))["label_set"])
        except (OSError, ValueError, KeyError, TypeError, LungSegError):
            return None  # a file of another program with this name says nothing of ours
        return None

    # Painting

    def _paint(self) -> None:
        parameters = self.parameters
        wanted = parameters.previewOpacity / 100.0, parameters.previewFill, parameters.previewOutline
        if self._segmentation is not None and wanted != self._painted:
            self._painted = wanted
            Views.paint(self._segmentation, *wanted)

    def _showWindow(self) -> None:
        name = self.parameters.previewWindow
        if self._volume is None or name == self._window:
            return
        self._window = name
        if name == TRAINING:
            Volumes.showWindow(self._volume, *self._trainingWindow())
        elif name in Volumes.WINDOWS:
            Volumes.showWindow(self._volume, *Volumes.WINDOWS[name])

    def _trainingWindow(self) -> tuple[float, float]:
        """Return the window of the cohort that is chosen, where it says one."""
        cohort = self.parameters.cohortFolder.strip()
        try:
            low, high = json.loads((Path(cohort) / "cohort.json").read_text(encoding="utf-8"))["window"]
            return float(low), float(high)
        except (OSError, ValueError, KeyError, TypeError):
            return Volumes.TRAINING_WINDOW  # no cohort, or one that was never prepared

    def onItemChanged(self, item) -> None:
        """Show or hide the structure that was checked."""
        row = item.row()
        if self._filling or item.column() != STRUCTURE or not 0 <= row < len(self._rows):
            return
        self._offsets = None
        Views.setVisible(self._segmentation, self._rows[row], item.checkState() == qt.Qt.Checked)

    # Surfaces

    def onShow3D(self, shown: bool) -> None:
        """Show or hide the surfaces; while they are made, leave that."""
        if self._surfaces is not None:
            self._surfaces.stop()
            return
        node = self._segmentation
        if node is None or shown == Views.isShown3D(node):
            return
        if not shown or Views.hasSurfaces(node):
            Views.show3D(node, shown)
            return
        self.clearMessage()
        self._surfaces = Surfaces.makeSurfaces(
            node, self._showSurfacesProgress, lambda made, error: self._onSurfaces(node, made, error)
        )
        self._showSurfacesProgress(0, len(self._rows))

    def _stopSurfaces(self) -> None:
        if self._surfaces is not None:
            self._surfaces.stop()

    def _showSurfacesProgress(self, done: int, total: int) -> None:
        self.ui.previewShow3DButton.text = _("Cancel 3D ({done} of {total})").format(done=done, total=total)

    def _onSurfaces(self, node, made: list | None, error: Exception | None) -> None:
        self._surfaces = None
        if self._closed:
            return
        button = self.ui.previewShow3DButton
        button.text = self._show3DText
        if error is not None:
            self.complainOfFault(error, _("The surfaces could not be made:"))
        elif made is not None and node is self._segmentation:
            self._filling = True  # what is in the structures stays as it is
            Surfaces.attach(node, made)
            self._filling = False
            Views.show3D(node, True)
        button.checked = self._segmentation is not None and Views.isShown3D(self._segmentation)

    # Going to slices

    def _chosen(self) -> str | None:
        table = self.ui.previewSegmentsTable
        row = table.currentRow()
        return self._rows[row] if table.selectedItems() and 0 <= row < len(self._rows) else None

    def onJump(self) -> None:
        """Go to the middle of the chosen structure."""
        chosen = self._chosen()
        point = Views.center(self._segmentation, chosen) if chosen else None
        if point is None:
            self.complain(_("This structure is empty."))
            return
        self.clearMessage()
        Views.jumpTo(point)

    def onStep(self, forward: bool) -> None:
        """Go to the next or previous slice with a structure that is shown."""
        if self._offsets is None:
            self._offsets = Views.labelledOffsets(self._segmentation)
        if not self._offsets:
            self.complain(_("No structure is visible."), _("Check one in the table."))
        elif Views.stepToLabelled(self._offsets, forward) is None:
            self.say(_("This is the last slice with a structure.") if forward else _("This is the first one."))
        else:
            self.clearMessage()

    # Numbers

    def _showMeasure(self, measure: Measure) -> None:
        if measure.segmentId not in self._rows:
            return
        row, table = self._rows.index(measure.segmentId), self.ui.previewSegmentsTable
        self._filling = True
        table.item(row, VOLUME).setText(f"{measure.volumeCc:.1f}")
        table.item(row, MEAN).setText("–" if measure.meanHu is None else f"{measure.meanHu:.0f}")
        self._filling = False

    def _showChecks(self, measures: list[Measure]) -> None:
        found = Measurements.checks(measures, self._labelSet)
        drawn = [one for one in measures if one.voxels]
        if self._volume is not None and drawn and all(one.meanHu is None for one in drawn):
            found.insert(0, _("The structures lie on another grid than this CT: there is no mean HU."))
        self.ui.previewChecksText.setPlainText("\n".join(found) or _("Nothing looks unusual."))

    def _showFault(self, error: Exception) -> None:
        self.ui.previewChecksText.setPlainText("")
        self.complainOfFault(error, _("The structures could not be measured:"))

    def _onContentChanged(self, caller=None, event=None) -> None:  # noqa: ARG002 - the signature of observers
        if self._filling:
            return
        self.measuring.stop()
        self._stopSurfaces()
        self._delay.start(AFTER_CHANGE_MS)

    def _onDisplayChanged(self, caller=None, event=None) -> None:  # noqa: ARG002 - the signature of observers
        """Follow what other modules show and hide."""
        if self._filling or self._segmentation is None:
            return
        self._filling = True
        for row, segmentId in enumerate(self._rows):
            wanted = qt.Qt.Checked if Views.isVisible(self._segmentation, segmentId) else qt.Qt.Unchecked
            item = self.ui.previewSegmentsTable.item(row, STRUCTURE)
            if item is not None and item.checkState() != wanted:
                item.setCheckState(wanted)
                self._offsets = None
        self._filling = False

    # Picture

    def onSavePicture(self) -> None:
        """Ask for a file and save the picture of the slice that is shown."""
        suggested = f"{self._segmentation.GetName()}.png"
        file = qt.QFileDialog.getSaveFileName(self.widget, _("Save picture"), suggested, _("Picture (*.png)"))
        if not file:
            return
        path = Path(file) if file.lower().endswith(".png") else Path(f"{file}.png")
        sliceNode = Views.axialSliceNode()
        offset = sliceNode.GetSliceOffset() if sliceNode is not None else None
        try:
            with slicer.util.WaitCursor():
                Pictures.savePicture(
                    path, self._volume, self._segmentation, self.parameters.previewOpacity / 100.0, offset
                )
        except SceneError as error:
            self.complain(error.sentence, error.hint)
        else:
            self.say(_("Saved {file}.").format(file=path))


def _windowText(name: str, low: float, high: float) -> str:
    return _("{name} ({low:.0f} to {high:.0f} HU)").format(name=name, low=low, high=high)


def _isPlain(node) -> bool:
    return node.GetClassName() == "vtkMRMLScalarVolumeNode"


def _contentEvents() -> list[int]:
    # The last one was renamed in Slicer; older versions know the other name only.
    names = ("SegmentAdded", "SegmentRemoved", "SegmentModified", "SourceRepresentationModified")
    kind = slicer.vtkSegmentation
    return [getattr(kind, name) if hasattr(kind, name) else kind.MasterRepresentationModified for name in names]
