"""Evaluation: two segmentations are compared; scores as a table node, plot, report and CSV, differences in colors."""

from __future__ import annotations

import shutil
from pathlib import Path

import qt
import slicer
from LungSegmentationScene import Charts, Evaluation, Tables
from LungSegmentationScene.Errors import SceneError
from LungSegmentationScene.Jobs import FINISHED, SceneJob, findJob
from slicer.i18n import tr as _

from LungSegmentationPanels.JobBar import JobBar
from LungSegmentationPanels.Panel import Panel
from LungSegmentationPanels.TableTools import colorItem, fillRows, fitColumns, fitHeight, numberItem, openPath, textItem

SHOWN = {
    "Dice": "{:.3f}",
    "IoU": "{:.3f}",
    "HD95 (mm)": "{:.1f}",
    "Surface Dice (2 mm)": "{:.3f}",
    "Volume (cc)": "{:.1f}",
    "Reference (cc)": "{:.1f}",
}
"""Columns of the table node that the panel shows, and how."""


class EvaluationPanel(Panel):
    """See the module's text; object names begin with ``evaluation``."""

    name = "Evaluation"

    def setup(self) -> None:
        """Connect widgets."""
        from LungSegmentationLib.labels import load_label_set

        ui = self.ui
        self._labelSet = load_label_set()
        self._chartIds: dict[str, str] = {}
        self.widget.setMRMLScene(slicer.mrmlScene)
        self.bar = JobBar("evaluationJob", ui.evaluationJobPlace, ui.evaluationApplyButton)
        self.bars = (self.bar,)
        ui.evaluationNoteLabel.visible = False
        ui.evaluationStructureComboBox.addItem(_("All structures"), "")
        for structure in self._labelSet.structures:
            ui.evaluationStructureComboBox.addItem(structure.name, structure.key)
        fitColumns(ui.evaluationScoresTable)
        ui.evaluationApplyButton.connect("clicked()", self.onApply)
        ui.evaluationChartButton.connect("clicked()", self.onChart)
        ui.evaluationReportButton.connect("clicked()", self.onReport)
        ui.evaluationSaveButton.connect("clicked()", self.onSave)
        ui.evaluationDifferenceButton.connect("clicked()", self.onDifference)

    def enter(self) -> None:
        """Go on showing a job that this panel started before it was reloaded."""
        job = findJob(Evaluation.KEY)
        if job is not None and not self.bar.isRunning:
            self.bar.watch(job, self._onFinished)
        super().enter()

    def setParameterNode(self, parameters) -> None:
        """Show these parameters; without any, forget what was shown of the closed scene."""
        super().setParameterNode(parameters)
        if parameters is None:
            self._note("")

    # State

    def updateState(self) -> None:
        """Bring buttons and the table in line with parameters and job."""
        parameters, ui = self.parameters, self.ui
        if parameters is None:
            return
        reason = self._pairReason()
        if not self.bar.isRunning:
            self.allow(ui.evaluationApplyButton, reason)
        self.allow(ui.evaluationDifferenceButton, reason)
        table = parameters.evaluationTable
        none = None if table is not None else _("Compare first.")
        self.allow(ui.evaluationChartButton, none)
        report = self._report()
        gone = None if report is not None and report.is_file() else _("The report was removed; compare again.")
        self.allow(ui.evaluationReportButton, none or gone)
        self.allow(ui.evaluationSaveButton, none or (gone if self._results() is None else None))
        self._fillScores(table)

    def _pairReason(self) -> str | None:
        first, second = self.parameters.evaluationSegmentation, self.parameters.evaluationReference
        if first is None:
            return _("Choose the segmentation to judge.")
        if second is None:
            return _("Choose the reference to compare it with.")
        if first == second:
            return _("Choose two different nodes.")
        return None

    def _fillScores(self, table) -> None:
        rows = []
        if table is not None and table.GetTable() is not None:
            names = Tables.columnValues(table, Tables.STRUCTURE)
            outcomes = Tables.columnValues(table, Tables.OUTCOME)
            colors = {structure.name: structure.color for structure in self._labelSet.structures}
            columns = [(Tables.columnValues(table, title), form) for title, form in SHOWN.items()]
            for row, name in enumerate(names):
                first = colorItem(name, colors[name]) if name in colors else textItem(name)
                first.setToolTip(f"{name}: {outcomes[row]}")
                cells = [numberItem("–" if v[row] is None else form.format(v[row])) for v, form in columns]
                rows.append([first, *cells])
        ui = self.ui
        fillRows(ui.evaluationScoresTable, rows)
        fitHeight(ui.evaluationScoresTable, len(self._labelSet))
        for widget in (
            ui.evaluationScoresTable,
            ui.evaluationChartButton,
            ui.evaluationReportButton,
            ui.evaluationSaveButton,
        ):
            widget.visible = table is not None

    def _report(self) -> Path | None:
        table = self.parameters.evaluationTable if self.parameters is not None else None
        text = table.GetAttribute(Evaluation.REPORT_ATTRIBUTE) if table is not None else None
        return Path(text) if text else None

    def _results(self) -> Path | None:
        report = self._report()
        files = sorted(report.parent.glob("evaluation_results_*.csv")) if report is not None else []
        return files[-1] if files else None

    # Comparing

    def onApply(self) -> None:
        """Compare, or cancel that."""
        if self.bar.isRunning:
            self.bar.cancel()
            return
        parameters = self.parameters
        self._note("")
        self.clearMessage()
        try:
            job = Evaluation.evaluate(
                parameters.evaluationSegmentation,
                parameters.evaluationReference,
                parameters.evaluationVolume,
                parameters.evaluationFolder.strip() or None,
                wait=False,
            )
        except SceneError as error:
            self.complain(error.sentence, error.hint)
            return
        self.bar.watch(job, self._onFinished)
        self.updateState()

    def _onFinished(self, job: SceneJob) -> None:
        if job.state == FINISHED and self.parameters is not None:
            self.parameters.evaluationTable = job.tableNode
            mean = job.result.summary.get("mean_dice")
            told = [] if mean is None else [_("Mean Dice {mean:.3f}.").format(mean=mean)]
            self._note(" ".join([*told, *job.leftOut, *(warning.message for warning in job.warnings)]))
        self.updateState()

    def _note(self, text: str) -> None:
        self.ui.evaluationNoteLabel.text = text
        self.ui.evaluationNoteLabel.visible = bool(text)

    # Results

    def onChart(self) -> None:
        """Show the scores as bars."""
        table = self.parameters.evaluationTable
        chart = slicer.mrmlScene.GetNodeByID(self._chartIds.get(table.GetID(), ""))
        if chart is None:
            columns = (Tables.COLUMNS["dice"], Tables.COLUMNS["surface_dice"])
            chart = Charts.scoreChart(table, table.GetName(), Tables.STRUCTURE, columns)
            self._chartIds[table.GetID()] = chart.GetID()
        if not Charts.showChart(chart):
            self.say(_("There is no window with plot views; the chart is in the scene."))

    def onReport(self) -> None:
        """Open the report in the browser of the system."""
        openPath(self._report())

    def onSave(self) -> None:
        """Save the scores as CSV where the user wants them."""
        results = self._results()
        path = qt.QFileDialog.getSaveFileName(self.widget, _("Save the scores"), results.name, _("Tables") + " (*.csv)")
        if not path:
            return
        try:
            shutil.copyfile(results, path)
        except OSError as error:
            self.complain(
                _("{path} cannot be written: {reason}.").format(path=path, reason=error.strerror),
                _("Choose another folder."),
            )
            return
        self.say(_("Written: {path}").format(path=path))

    def onDifference(self) -> None:
        """Show what only one side has."""
        parameters, box = self.parameters, self.ui.evaluationStructureComboBox
        self.clearMessage()
        try:
            with slicer.util.WaitCursor():
                node = Evaluation.showDifference(
                    parameters.evaluationSegmentation,
                    parameters.evaluationReference,
                    str(box.itemData(box.currentIndex) or ""),
                )
        except SceneError as error:
            self.complain(error.sentence, error.hint)
            return
        self.say(_("Shown as “{name}”.").format(name=node.GetName()))
