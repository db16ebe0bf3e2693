"""Training: a cohort is prepared, a network learns in the background, and each run can be looked at, resumed and used.

The training is a process of its own: it goes on when Slicer is closed, and is found again by the files of its run.
"""

from __future__ import annotations

from pathlib import Path

import qt
from LungSegmentationScene import Charts, Runs, Training
from LungSegmentationScene.Charts import RunCurves, TrainingCharts
from LungSegmentationScene.Errors import SceneError
from LungSegmentationScene.Jobs import SceneJob, findJob
from slicer.i18n import tr as _

from LungSegmentationPanels.JobBar import JobBar
from LungSegmentationPanels.Panel import Panel
from LungSegmentationPanels.TableTools import colorItem, fillRows, fitColumns, fitHeight, numberItem, openPath, textItem
from LungSegmentationPanels.TrainingBar import TrainingBar
from LungSegmentationPanels.TrainingTexts import (
    cohortText,
    diceText,
    fillChoices,
    resumeReason,
    startReason,
    statusText,
)

REDRAW_MS = 200
RUN_ROWS, DICE_ROWS = 4, 7
"""Rows that are seen without scrolling."""


class TrainingPanel(Panel):
    """See the module's text; object names begin with ``training``."""

    name = "Training"

    def setup(self) -> None:
        """Connect widgets; nothing is read before the panel is entered."""
        from LungSegmentationLib.labels import load_label_set

        self.cohort: Runs.CohortInfo | None = None
        self.curves: dict[str, RunCurves] = {}
        self.shownRun = ""
        self._job: SceneJob | None = None
        self._listener = None
        self._prepareListener = None
        self._askedFolder: str | None = None
        self._filling = False
        self._problem = False
        self._ownRow = False
        self._structures = load_label_set().structures
        self.charts = TrainingCharts(self._structures)
        self.reader = Runs.CohortReader(self._onCohort)
        ui = self.ui
        fillChoices(ui)
        self.bar = TrainingBar("trainingJob", ui.trainingJobPlace, ui.trainingStartButton)
        self.prepareBar = JobBar("trainingPrepareJob", ui.trainingPrepareJobPlace, ui.trainingPrepareButton)
        self.bars = (self.bar, self.prepareBar)
        ui.trainingStartButton.connect("clicked()", self.onStart)
        ui.trainingPrepareButton.connect("clicked()", self.onPrepare)
        ui.trainingLossChartButton.connect("clicked()", lambda: self.showChart("loss"))
        ui.trainingDiceChartButton.connect("clicked()", lambda: self.showChart("dice"))
        ui.trainingResumeButton.connect("clicked()", self.onResume)
        ui.trainingOpenFolderButton.connect("clicked()", self.onOpenFolder)
        ui.trainingUseButton.connect("clicked()", self.onUse)
        ui.trainingRunsTable.connect("itemSelectionChanged()", self._onRunSelected)
        ui.trainingSettingsPlainTextEdit.connect("textChanged()", self._onSettingsEdited)
        for table in (ui.trainingDiceTable, ui.trainingRunsTable):
            fitColumns(table)
        self._redrawTimer = qt.QTimer()
        self._redrawTimer.setSingleShot(True)
        self._redrawTimer.setInterval(REDRAW_MS)
        self._redrawTimer.connect("timeout()", self._redraw)

    def enter(self) -> None:
        """Read the cohort anew, as other programs may have worked on it."""
        self._askedFolder = None
        super().enter()

    def cleanup(self) -> None:
        """Let go of scene and job; a training goes on."""
        self.reader.close()
        self._redrawTimer.stop()
        self._watch(None)
        super().cleanup()

    def setParameterNode(self, parameters) -> None:
        """Show these parameters; without any, forget what was shown of the closed scene."""
        super().setParameterNode(parameters)
        if parameters is None:
            self._askedFolder = None

    # State

    def updateState(self) -> None:
        """Bring buttons and texts in line with parameters, cohort and job."""
        parameters, ui = self.parameters, self.ui
        folder = parameters.cohortFolder.strip() if parameters is not None else ""
        if parameters is not None:
            if ui.trainingSettingsPlainTextEdit.plainText != parameters.trainingSettings:
                ui.trainingSettingsPlainTextEdit.setPlainText(parameters.trainingSettings)
            if self.entered and folder != self._askedFolder:
                self._askedFolder = folder
                if folder:
                    self.reader.read(folder)
        if self.cohort is not None and str(self.cohort.folder) != str(Path(folder)):
            self.cohort = None
        ui.trainingCohortStateLabel.text = cohortText(folder, self.cohort)
        self._allowButtons(folder)
        wanted = parameters.trainingDevice if parameters is not None and not self.bar.isRunning else None
        self.showDevice(ui.trainingRunsOnLabel, wanted)
        self._fillRuns()
        self._fillDice()

    def _allowButtons(self, folder: str) -> None:
        ui, cohort = self.ui, self.cohort
        preparing, training = self.prepareBar.isRunning, self.bar.isRunning
        reason, cure = startReason(folder, cohort, self.parameters)
        if not training:
            self.allow(ui.trainingStartButton, _("The cohort is being prepared.") if preparing else reason)
        if not preparing:
            noCohort = reason if cohort is None or not cohort.exists else None
            busy = _("A training reads the cohort; wait until it ends.") if training else None
            self.allow(ui.trainingPrepareButton, busy or noCohort or (None if folder else reason))
        # Wrong is only what the user has done, not what is still to do.
        if cure and folder:
            self.complain(reason, cure)
            self._problem = True
        elif self._problem:
            self.clearMessage()
            self._problem = False
        run = self.selectedRun()
        none = _("Choose a run in the list.") if run is None else None
        busy = _("A training runs already.") if training or preparing else None
        self.allow(ui.trainingResumeButton, none or busy or resumeReason(run, self.parameters))
        self.allow(ui.trainingOpenFolderButton, none)
        noModel = _("This run has no network yet.") if run is not None and run.model is None else None
        self.allow(ui.trainingUseButton, none or noModel)
        known = self.curves.get(self.shownRun)
        nothing = None if known is not None and known.epochs else _("No epoch is finished yet.")
        for button in (ui.trainingLossChartButton, ui.trainingDiceChartButton):
            self.allow(button, none or nothing)

    def runs(self) -> list[Runs.RunInfo]:
        """Return the runs of the cohort, the one of the latest job as that tells it until the list was read again."""
        runs = list(self.cohort.runs) if self.cohort is not None else []
        job = self._job
        if job is None or not self._ownRow or job.runFolder is None or self.cohort is None:
            return runs
        if job.runFolder.parent.parent != self.cohort.folder:
            return runs
        known = next((run for run in runs if run.name == job.runFolder.name), None)
        model = job.runFolder / "best_unet_multi_organ.safetensors"
        live = Runs.RunInfo(
            job.runFolder,
            Runs.RUNNING if job.isRunning else job.state,
            *self._liveNumbers(job.runFolder.name, known),
            resumable=(job.runFolder / "last.pt").is_file(),
            model=model if model.is_file() else None,
        )
        return [live, *(run for run in runs if run.name != live.name)]

    def _liveNumbers(self, name: str, known: Runs.RunInfo | None) -> tuple[int | None, int | None, float | None]:
        curves = self.curves.get(name)
        if curves is None or not curves.epochs:
            return (known.epoch, known.epochs, known.bestDice) if known is not None else (None, None, None)
        means = [values[2] for values in curves.epochs.values() if values[2] is not None]
        return max(curves.epochs), self._epochs, max(means, default=None)

    def selectedRun(self) -> Runs.RunInfo | None:
        """Return the run that is chosen in the list."""
        return next((run for run in self.runs() if run.name == self.shownRun), None)

    def _onSettingsEdited(self) -> None:
        if self.parameters is not None:
            self.parameters.trainingSettings = self.ui.trainingSettingsPlainTextEdit.plainText

    # The cohort

    def _onCohort(self, cohort: Runs.CohortInfo) -> None:
        self.cohort = cohort
        watched = self._job.runFolder.name if self._job is not None and self._job.isRunning else ""
        for name, curves in cohort.curves.items():
            if name != watched or name not in self.curves:
                self.curves[name] = curves
        if not self.bar.isRunning:
            self._ownRow = False
            self._findRunning(cohort)
        preparation = findJob(Training.PREPARE_KEY)
        if preparation is not None and not self.prepareBar.isRunning:
            self._watchPreparation(preparation)
        names = [run.name for run in self.runs()]
        if self.shownRun not in names:
            self.shownRun = names[0] if names else ""
        self.updateState()

    def _findRunning(self, cohort: Runs.CohortInfo) -> None:
        for run in cohort.runs:
            job = Training.runningTraining(run.folder) if run.status == Runs.RUNNING else None
            if job is not None:
                self._watch(job)
                self.shownRun = run.name
                return

    def reload(self) -> None:
        """Read the cohort again."""
        if self.parameters is not None and self.parameters.cohortFolder.strip():
            self.reader.read(self.parameters.cohortFolder.strip())

    # Preparing

    def onPrepare(self) -> None:
        """Prepare the cohort, or cancel that."""
        if self.prepareBar.isRunning:
            self.prepareBar.cancel()
            return
        options = {"slice_size": self.parameters.trainingSliceSize} if self.parameters.trainingSliceSize else {}
        self.clearMessage()
        self._watchPreparation(Training.prepareCohort(self.parameters.cohortFolder.strip(), **options))
        self.updateState()

    def _watchPreparation(self, job: SceneJob) -> None:
        if not self.bar.isRunning:
            self.bar.watch(None)
        self.prepareBar.watch(job)
        job.listen(onFinished=lambda _job: self.reload() if self.parameters is not None else None)

    # Training

    def onStart(self) -> None:
        """Start a training, or stop the one that runs; pressed again while it stops, end it at once."""
        if self.bar.isRunning:
            self.bar.cancel()
            return
        parameters = self.parameters
        settings = {
            "network": parameters.trainingPreset,
            "epochs": parameters.trainingEpochs,
            "batch_size": parameters.trainingBatchSize,
            "learning_rate": parameters.trainingLearningRate.strip(),
            "overlap": parameters.trainingOverlap,
            "augmentation": parameters.trainingAugmentation,
            "device": parameters.trainingDevice,
        }
        lines = [*Training.settingTexts(settings), *parameters.trainingSettings.splitlines()]
        self._start(run=parameters.trainingRun.strip() or None, settings=lines)

    def onResume(self) -> None:
        """Go on with the chosen run; more epochs and another device hold, all else is as it was."""
        run, parameters = self.selectedRun(), self.parameters
        settings: dict[str, object] = {}
        if parameters.trainingEpochs > (run.epochs or 0):
            settings["epochs"] = parameters.trainingEpochs
        if parameters.trainingDevice != "auto":
            settings["device"] = parameters.trainingDevice
        self._start(run=run.name, resume=True, settings=settings)

    def _start(self, **options) -> None:
        self.clearMessage()
        try:
            job = Training.startTraining(Path(self.parameters.cohortFolder.strip()), **options)
        except SceneError as error:
            self.complain(error.sentence, error.hint)
            return
        self.shownRun = job.runFolder.name
        self.prepareBar.watch(None)
        self._watch(job)
        self.updateState()

    def _watch(self, job: SceneJob | None) -> None:
        if self._job is not None:
            self._job.forget(self._listener)
        self._job = job
        self._epochs: int | None = None
        if job is None:
            return
        self._ownRow = True
        # The events of the whole run are told from the first one on.
        self.bar.watch(job)
        self._listener = job.listen(self._onEvent, self._onProgress, self._onFinished)

    def _onEvent(self, event) -> None:
        name = self._job.runFolder.name
        if event.event == "epoch":
            self._epochs = event.epochs
            self.curves.setdefault(name, RunCurves()).take(event)
            self._redrawTimer.start()
        elif event.event == "warning":
            self.say(event.message)
        elif event.event == "log" and event.level == "info" and not self.curves.get(name, RunCurves()).epochs:
            self.say(event.message)  # on which device it runs

    def _onProgress(self, job: SceneJob) -> None:  # noqa: ARG002 - the signature of listeners
        if not self._redrawTimer.active:
            self._redrawTimer.start()

    def _onFinished(self, job: SceneJob) -> None:  # noqa: ARG002 - the signature of listeners
        self._redraw()
        self.reload()

    def _redraw(self) -> None:
        self._redrawTimer.stop()
        if self.parameters is None:
            return
        self.updateState()
        if self._job is not None and self.shownRun == self._job.runFolder.name:
            self._showCurves()

    def _showCurves(self) -> None:
        curves = self.curves.get(self.shownRun)
        if curves is not None and curves.epochs:
            self.charts.show(self.shownRun, curves)

    def showChart(self, which: str) -> None:
        """Show a chart of the chosen run in a plot view: ``loss`` or ``dice``."""
        self._showCurves()
        chart = self.charts.lossChart() if which == "loss" else self.charts.diceChart()
        if not Charts.showChart(chart):
            self.say(_("There is no window with plot views; the chart is in the scene."))

    # Runs

    def onOpenFolder(self) -> None:
        """Show the files of the chosen run."""
        openPath(self.selectedRun().folder)

    def onUse(self) -> None:
        """Segment with the best network of the chosen run."""
        self.parameters.modelPath = str(self.selectedRun().model)
        self.openPanel("Inference")

    def openPanel(self, name: str) -> None:
        """Open another panel; the accordion puts its own function here."""

    def _onRunSelected(self) -> None:
        if self._filling:
            return
        row = self.ui.trainingRunsTable.currentRow()
        runs = self.runs()
        if 0 <= row < len(runs) and runs[row].name != self.shownRun:
            self.shownRun = runs[row].name
            self.updateState()
            if Charts.TrainingCharts.lossChart() is not None:
                self._showCurves()

    def _fillRuns(self) -> None:
        ui, runs = self.ui, self.runs()
        table = ui.trainingRunsTable
        for widget in (table, ui.trainingResumeButton, ui.trainingOpenFolderButton, ui.trainingUseButton):
            widget.visible = bool(runs)
        rows = []
        for run in runs:
            epochs = "–" if run.epoch is None else f"{run.epoch} / {run.epochs}" if run.epochs else str(run.epoch)
            cells = [textItem(run.name), textItem(statusText(run.status))]
            cells += [numberItem(epochs), numberItem(diceText(run.bestDice))]
            for cell in cells:
                cell.setToolTip(run.message or str(run.folder))
            rows.append(cells)
        self._filling = True
        try:
            fillRows(table, rows)
            fitHeight(table, RUN_ROWS)
            place = next((row for row, run in enumerate(runs) if run.name == self.shownRun), -1)
            if place != table.currentRow() and place >= 0:
                table.setCurrentCell(place, 0)
        finally:
            self._filling = False

    def _fillDice(self) -> None:
        curves = self.curves.get(self.shownRun) if self.selectedRun() is not None else None
        shown = curves is not None and bool(curves.epochs)
        ui = self.ui
        ui.trainingShownRunLabel.text = _("Dice of {run}").format(run=self.shownRun) if shown else ""
        for widget in (ui.trainingDiceTable, ui.trainingLossChartButton, ui.trainingDiceChartButton):
            widget.visible = shown
        ui.trainingShownRunLabel.visible = shown
        rows = []
        if curves is not None:
            last, best = curves.lastDice, curves.bestDice
            known = {structure.key: structure for structure in self._structures}
            for key in curves.structures:
                structure = known.get(key)
                name = colorItem(structure.name, structure.color) if structure else textItem(key)
                rows.append([name, numberItem(diceText(last.get(key))), numberItem(diceText(best.get(key)))])
        fillRows(ui.trainingDiceTable, rows)
        fitHeight(ui.trainingDiceTable, DICE_ROWS)
