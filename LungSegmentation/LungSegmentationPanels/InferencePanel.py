"""Inference: a CT and a model are chosen, Apply segments; several CTs, a sequence or a folder; results as files."""

from __future__ import annotations

from pathlib import Path

import qt
from LungSegmentationScene import Inference, Models, Runs, Sequences
from LungSegmentationScene.Errors import SceneError
from LungSegmentationScene.Jobs import CANCELLED, FINISHED, SceneJob, findJob
from slicer.i18n import tr as _

from LungSegmentationPanels.InferenceTexts import (
    fillChoices,
    modelItem,
    modelText,
    modelToolTip,
    resultText,
    sequenceText,
    withEnding,
)
from LungSegmentationPanels.JobBar import JobBar
from LungSegmentationPanels.Panel import Panel, errorColor


class InferencePanel(Panel):
    """See the module's text; object names begin with ``inference``."""

    name = "Inference"

    def setup(self) -> None:
        """Connect widgets; nothing is read before the panel is entered."""
        import slicer

        ui = self.ui
        self.model: Models.ModelInfo | None = None
        self.runs: tuple[Runs.RunInfo, ...] = ()
        self.files: list[Path] = []
        self._askedCohort: str | None = None
        self._filling = False
        self._problem = False
        self._exported: Path | None = None
        fillChoices(ui)
        self.widget.setMRMLScene(slicer.mrmlScene)
        self.runReader = Runs.CohortReader(self._onCohort)
        self.modelReader = Models.ModelReader(self._onModel)
        self.bar = JobBar("inferenceJob", ui.inferenceJobPlace, ui.inferenceApplyButton)
        self.exportBar = JobBar("inferenceExportJob", ui.inferenceExportJobPlace, ui.inferenceExportButton)
        self.bars = (self.bar, self.exportBar)
        ui.inferenceResultLabel.visible = False
        ui.inferenceModelComboBox.connect("currentIndexChanged(int)", self._onModelChosen)
        ui.inferenceModelFileButton.connect("clicked()", self.onChooseFile)
        ui.inferenceApplyButton.connect("clicked()", self.onApply)
        ui.inferenceBatchButton.connect("clicked()", self.onSegmentChecked)
        ui.inferenceSequenceButton.connect("clicked()", self.onSegmentSequence)
        ui.inferenceBatchFolderButton.connect("clicked()", self.onSegmentFolder)
        ui.inferenceBatchComboBox.connect("checkedNodesChanged()", self.updateState)
        ui.inferenceExportFormatComboBox.connect("currentIndexChanged(int)", self._onFormatChosen)
        ui.inferenceExportButton.connect("clicked()", self.onExport)

    def enter(self) -> None:
        """Look for new models, and for a job that this panel started before it was reloaded."""
        self._askedCohort = None
        if not self.bar.isRunning:
            job = findJob(Inference.KEY) or findJob(Inference.BATCH_KEY)
            if job is not None:
                self.bar.watch(job, self._onFinished)
        super().enter()

    def cleanup(self) -> None:
        """Let go of scene, jobs and readers."""
        self.runReader.close()
        self.modelReader.close()
        super().cleanup()

    def setParameterNode(self, parameters) -> None:
        """Show these parameters; without any, forget what was shown of the closed scene."""
        super().setParameterNode(parameters)
        if parameters is None:
            self.ui.inferenceResultLabel.visible = False

    # State

    def updateState(self) -> None:
        """Bring buttons and texts in line with parameters, model and job."""
        parameters = self.parameters
        if parameters is None:
            return
        if self.entered and parameters.cohortFolder.strip() != self._askedCohort:
            self._askedCohort = parameters.cohortFolder.strip()
            self.runs = ()
            if self._askedCohort:
                self.runReader.read(self._askedCohort)
        self._showModel()
        self._allowButtons()
        self.showDevice(self.ui.inferenceRunsOnLabel, None if self.bar.isRunning else parameters.inferenceDevice)

    def _allowButtons(self) -> None:
        ui, parameters = self.ui, self.parameters
        noModel, cure = self._modelReason()
        if cure:
            self.complain(noModel, cure)
            self._problem = True
        elif self._problem:
            self.clearMessage()
            self._problem = False
        noVolume = None if parameters.inferenceVolume is not None else _("Choose a CT; load one in the Import panel.")
        if not self.bar.isRunning:
            self.allow(ui.inferenceApplyButton, noVolume or noModel)
        busy = _("Another job runs; wait until it ends.") if self.bar.isRunning else None
        checked = ui.inferenceBatchComboBox.checkedNodes()
        noneChecked = None if checked else _("Check CTs in the list.")
        self.allow(ui.inferenceBatchButton, busy or noneChecked or noModel)
        self.allow(ui.inferenceSequenceButton, busy or self._sequenceReason() or noModel)
        self.allow(ui.inferenceBatchFolderButton, busy or self._folderReason() or noModel)
        if not self.exportBar.isRunning:
            self.allow(ui.inferenceExportButton, self._exportReason())

    def _modelReason(self) -> tuple[str | None, str]:
        path = self.parameters.modelPath.strip()
        if not path:
            return _("Choose a model: a run of the cohort, or a file by “…”."), ""
        if self.model is None:
            return _("The model is being read."), ""
        if self.model.problem:
            return self.model.problem, self.model.hint or _("Choose another model.")
        return None, ""

    def _sequenceReason(self) -> str | None:
        node = self.parameters.inferenceSequence
        return _("Choose a sequence of CTs.") if node is None else Sequences.problem(node)

    def _folderReason(self) -> str | None:
        source, output = self.parameters.inferenceBatchInput.strip(), self.parameters.inferenceBatchOutput.strip()
        if not source:
            return _("Choose a folder with CTs.")
        if not Path(source).exists():
            return _("There is no folder {folder}.").format(folder=source)
        if not output:
            return _("Choose a folder for the results.")
        return None

    def _exportReason(self) -> str | None:
        parameters = self.parameters
        node = parameters.inferenceSegmentation
        if node is None:
            return _("Choose a segmentation.")
        if not parameters.inferenceExportFile.strip():
            return _("Choose the file to write.")
        path = self.exportPath()
        if not path.parent.is_dir():
            return _("There is no folder {folder}.").format(folder=path.parent)
        if path.exists() and path != self._exported:
            return _("{name} exists already; choose another name.").format(name=path.name)
        if self._chosenFormat() in Inference.DICOM_FORMATS:
            source = parameters.inferenceExportSource.strip()
            if source and not Path(source).exists():
                return _("There is no folder {folder}.").format(folder=source)
            if not source and Inference.sourceOf(node) is None:
                return _("Choose the folder of the CT's DICOM files: it is not known where the CT came from.")
        return None

    # The model

    def _showModel(self) -> None:
        path = self.parameters.modelPath.strip()
        self._fillModels(path)
        label = self.ui.inferenceModelInfoLabel
        if not path:
            self.model = None
        else:
            self.model = self.modelReader.known(Path(path))
            if self.model is None:
                self.modelReader.read(Path(path))
        label.text = modelText(self.model) if path else ""
        label.toolTip = modelToolTip(self.model) if self.model is not None else ""
        label.visible = bool(label.text)

    def _fillModels(self, chosen: str) -> None:
        box = self.ui.inferenceModelComboBox
        items = [(modelItem(run), str(run.model)) for run in self.runs if run.model is not None]
        known = {path for _text, path in items}
        if chosen and chosen not in known and Path(chosen) not in self.files:
            self.files.insert(0, Path(chosen))
        items += [(Models.modelName(file), str(file)) for file in self.files if str(file) not in known]
        items.insert(0, (_("Choose a model…"), ""))
        shown = [(box.itemText(index), box.itemData(index)) for index in range(box.count)]
        self._filling = True
        try:
            if shown != items:
                box.clear()
                for text, path in items:
                    box.addItem(text, path)
            box.setCurrentIndex(max(0, box.findData(chosen)))
            box.toolTip = chosen or _("A trained network: the best one of each run of the cohort, or a file")
        finally:
            self._filling = False

    def _onModelChosen(self, index: int) -> None:
        if not self._filling and self.parameters is not None:
            self.parameters.modelPath = str(self.ui.inferenceModelComboBox.itemData(index) or "")

    def onChooseFile(self) -> None:
        """Choose a model file in a dialog."""
        start = str(Path(self.parameters.modelPath).parent) if self.parameters.modelPath else ""
        path = qt.QFileDialog.getOpenFileName(
            self.widget, _("Choose a model"), start, _("Models") + " (*.safetensors);;" + _("All files") + " (*)"
        )
        if path:
            self.parameters.modelPath = str(path)

    def _onModel(self, info: Models.ModelInfo) -> None:
        if self.parameters is not None and str(info.path) == str(Path(self.parameters.modelPath.strip())):
            self.updateState()

    def _onCohort(self, cohort: Runs.CohortInfo) -> None:
        self.runs = cohort.runs
        self.updateState()

    # Segmenting

    def options(self) -> dict:
        """Return the options of the Advanced group."""
        parameters = self.parameters
        return {
            "device": parameters.inferenceDevice,
            "augmentation": parameters.inferenceAugmentation,
            "smoothing": parameters.inferenceSmoothing,
            "postprocess": parameters.inferencePostprocess,
        }

    def onApply(self) -> None:
        """Segment the CT, or cancel the job that runs."""
        if self.bar.isRunning:
            self.bar.cancel()
            return
        self._segment([self.parameters.inferenceVolume])

    def onSegmentSequence(self) -> None:
        """Segment every frame of the sequence."""
        self._segment(self.parameters.inferenceSequence)

    def onSegmentChecked(self) -> None:
        """Segment the CTs that are checked in the list."""
        self._segment(list(self.ui.inferenceBatchComboBox.checkedNodes()))

    def onSegmentFolder(self) -> None:
        """Segment every CT of a folder into a folder."""
        parameters = self.parameters
        kind = str(self.ui.inferenceBatchFormatComboBox.itemData(self.ui.inferenceBatchFormatComboBox.currentIndex))
        self.clearMessage()
        job = Inference.segmentFolder(
            parameters.inferenceBatchInput.strip(),
            parameters.inferenceBatchOutput.strip(),
            parameters.modelPath.strip(),
            (kind,),
            **self.options(),
        )
        self.bar.watch(job, self._onFinished)
        self.updateState()

    def _segment(self, volumes) -> None:
        self.clearMessage()
        self.ui.inferenceResultLabel.visible = False
        try:
            job = Inference.segment(volumes, self.parameters.modelPath.strip(), wait=False, **self.options())
        except SceneError as error:
            self.complain(error.sentence, error.hint)
            return
        self.bar.watch(job, self._onFinished)
        self.updateState()

    def _onFinished(self, job: SceneJob) -> None:
        if isinstance(job, Inference.SequenceJob):
            if job.segmentationNode is not None and self.parameters is not None:
                self.parameters.inferenceSegmentation = job.segmentationNode
                self._showResult(sequenceText(job, errorColor(self.widget)))
        elif isinstance(job, Inference.SegmentationJob):
            done = [case for case in job.cases.values() if case.node is not None]
            if done and self.parameters is not None:
                self.parameters.inferenceSegmentation = done[-1].node
            if done:
                self._showResult(resultText(list(job.cases.values()), errorColor(self.widget)))
        elif job.state == FINISHED:
            self.say(folderSummary(job.result.summary))
        if job.state == CANCELLED:
            self.ui.inferenceResultLabel.visible = False
        self.updateState()

    def _showResult(self, text: str) -> None:
        self.ui.inferenceResultLabel.text = text
        self.ui.inferenceResultLabel.visible = True

    # Export

    def _chosenFormat(self) -> str:
        return Inference.FORMATS[self._chosenEnding()]

    def _chosenEnding(self) -> str:
        box = self.ui.inferenceExportFormatComboBox
        return str(box.itemData(box.currentIndex))

    def exportPath(self) -> Path:
        """Return the file that will be written: the chosen one with the ending of the chosen format."""
        return withEnding(Path(self.parameters.inferenceExportFile.strip()), self._chosenEnding())

    def _onFormatChosen(self, _index: int) -> None:
        if self.parameters is None:
            return
        if self.parameters.inferenceExportFile.strip():
            self.parameters.inferenceExportFile = str(self.exportPath())
        self.updateState()

    def onExport(self) -> None:
        """Write the segmentation, or cancel that."""
        if self.exportBar.isRunning:
            self.exportBar.cancel()
            return
        self.clearMessage()
        path = self.exportPath()
        source = self.parameters.inferenceExportSource.strip() or None
        try:
            job = Inference.exportSegmentation(self.parameters.inferenceSegmentation, path, source, wait=False)
        except SceneError as error:
            self.complain(error.sentence, error.hint)
            return

        def finished(ended: SceneJob) -> None:
            if ended.state == FINISHED:
                self._exported = path
                self.say(_("Written: {path}").format(path=path))
            self.updateState()

        self.exportBar.watch(job, finished)
        self.updateState()


def folderSummary(summary: dict) -> str:
    """Return what became of the CTs of a folder."""
    return _("{predicted} CTs segmented, {kept} kept from before, {failed} failed.").format(
        **{state: summary.get(state, 0) for state in ("predicted", "kept", "failed")}
    )
