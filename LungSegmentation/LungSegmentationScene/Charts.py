"""Curves and bars in Slicer's own plots: what a training learns, epoch by epoch, and the scores of a comparison.

One set of nodes shows one run at a time, so that looking at ten runs does not fill the scene; nodes that came with a
loaded scene are found again and used on.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import slicer
import vtk
from slicer.i18n import tr as _

ROLE = "LungSegmentation.Role"
"""Node attribute that says what one of our nodes is for."""

EPOCH_COLUMN = "Epoch"
LOSS_COLORS = {"Training loss": (0.12, 0.47, 0.71), "Validation loss": (0.90, 0.33, 0.05)}
MEAN_COLUMN = "Mean Dice"
MEAN_COLOR = (0.45, 0.45, 0.45)
BAR_COLORS = ((0.12, 0.47, 0.71), (0.55, 0.71, 0.86))


@dataclass
class RunCurves:
    """What a run has brought so far.

    Attributes
    ----------
    structures
        Keys in the order in which they were first told.
    epochs
        By number: training loss, validation loss, mean Dice, Dice by structure key; None where there is none.
    """

    structures: list[str] = field(default_factory=list)
    epochs: dict[int, tuple[float | None, float | None, float | None, dict]] = field(default_factory=dict)

    def take(self, epoch) -> None:
        """Add an epoch: an event of the job, or a record of ``training_history.json``.

        A run that was killed goes on from its last checkpoint: what it had told of later epochs no longer holds.
        """
        for later in [number for number in self.epochs if number >= epoch.epoch]:
            del self.epochs[later]
        self.structures += [key for key in epoch.dice if key not in self.structures]
        self.epochs[epoch.epoch] = (epoch.train_loss, epoch.val_loss, epoch.mean_dice, dict(epoch.dice))

    @property
    def lastDice(self) -> dict[str, float | None]:
        """Dice by structure of the last epoch that was validated."""
        return next((dice for *_rest, dice in reversed(self.epochs.values()) if dice), {})

    @property
    def bestDice(self) -> dict[str, float | None]:
        """Highest Dice so far by structure."""
        best: dict[str, float | None] = dict.fromkeys(self.structures)
        for *_rest, dice in self.epochs.values():
            for key, value in dice.items():
                if value is not None and (best[key] is None or value > best[key]):
                    best[key] = value
        return best


class TrainingCharts:
    """The plots “Loss” and “Dice” of the run that is looked at.

    Parameters
    ----------
    structures
        Of the label set: names and colors of the curves.
    """

    def __init__(self, structures: Sequence) -> None:
        self._structures = {structure.key: structure for structure in structures}

    def show(self, run: str, curves: RunCurves) -> None:
        """Bring table, series and charts in line with a run."""
        table = roleNode("vtkMRMLTableNode", "trainingCurves", _("Training curves"))
        names = {key: self._structures[key].name if key in self._structures else key for key in curves.structures}
        epochs = sorted(curves.epochs.items())
        columns: dict[str, list] = {EPOCH_COLUMN: [number for number, _values in epochs]}
        for place, name in enumerate(LOSS_COLORS):
            columns[name] = [values[place] for _number, values in epochs]
        columns[MEAN_COLUMN] = [values[2] for _number, values in epochs]
        for key, name in names.items():
            columns[name] = [values[3].get(key) for _number, values in epochs]
        fillTable(table, columns)
        table.SetName(_("Training curves of {run}").format(run=run))

        # A single point is no line: it shows by its marker.
        marker = len(epochs) < 2
        lossSeries = [_lineSeries("trainingLoss", table, name, color, marker) for name, color in LOSS_COLORS.items()]
        diceSeries = [_lineSeries("trainingDice", table, MEAN_COLUMN, MEAN_COLOR, marker, dashed=True)]
        for key, name in names.items():
            known = self._structures.get(key)
            color = tuple(part / 255 for part in known.color) if known else MEAN_COLOR
            diceSeries.append(_lineSeries("trainingDice", table, name, color, marker))
        loss = roleNode("vtkMRMLPlotChartNode", "lossChart", _("Loss"))
        fillChart(loss, _("Loss of {run}").format(run=run), _("Epoch"), _("Loss"), lossSeries)
        dice = roleNode("vtkMRMLPlotChartNode", "diceChart", _("Dice"))
        fillChart(dice, _("Dice of {run}").format(run=run), _("Epoch"), _("Dice"), diceSeries)
        setRange(dice, 0.0, 1.0)
        _removeOthers("trainingDice", diceSeries)
        _removeOthers("trainingLoss", lossSeries)

    @staticmethod
    def lossChart():
        """Return the chart of the losses, None before anything was shown."""
        return findRoleNode("vtkMRMLPlotChartNode", "lossChart")

    @staticmethod
    def diceChart():
        """Return the chart of the Dice scores, None before anything was shown."""
        return findRoleNode("vtkMRMLPlotChartNode", "diceChart")


def scoreChart(table, title: str, nameColumn: str, columns: Iterable[str]):
    """Return a chart with bars of score columns (0 to 1) over the names of another column.

    Parameters
    ----------
    table
        Table node with the columns; the chart follows it.
    title
        Of the chart.
    nameColumn
        Column of texts below the bars.
    columns
        Columns of numbers, a series each.
    """
    chart = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLPlotChartNode", title)
    series = []
    for name, color in zip(columns, BAR_COLORS, strict=False):
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLPlotSeriesNode", name)
        node.SetAndObserveTableNodeID(table.GetID())
        node.SetPlotType(slicer.vtkMRMLPlotSeriesNode.PlotTypeBar)
        node.SetYColumnName(name)
        node.SetLabelColumnName(nameColumn)
        node.SetColor(*color)
        series.append(node)
    fillChart(chart, title, "", _("Score"), series)
    setRange(chart, 0.0, 1.0)
    return chart


def showChart(chart) -> bool:
    """Show a chart in a plot view, in a layout that has one; returns whether there is a window to show it in."""
    if chart is None:
        return False
    manager = slicer.app.layoutManager()
    if manager is None:
        return False
    if manager.plotViewCount == 0 or not _plotVisible(manager):
        layout = slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpPlotView
        manager.setLayout(layout)
    selectChart(chart)
    return True


def selectChart(chart) -> None:
    """Let the plot views show a chart, wherever there are such views."""
    selection = slicer.app.applicationLogic().GetSelectionNode()
    selection.SetReferenceActivePlotChartID(chart.GetID())
    slicer.app.applicationLogic().PropagatePlotChartSelection()


def _plotVisible(manager) -> bool:
    return any(manager.plotWidget(index).visible for index in range(manager.plotViewCount))


def fillChart(chart, title: str, xTitle: str, yTitle: str, series: Sequence) -> None:
    """Give a chart its titles and exactly these series; unchanged ones are left alone, so that nothing flickers."""
    wanted = [node.GetID() for node in series]
    shown = [chart.GetNthPlotSeriesNodeID(index) for index in range(chart.GetNumberOfPlotSeriesNodes())]
    was = chart.StartModify()
    if shown != wanted:
        chart.RemoveAllPlotSeriesNodeIDs()
        for identifier in wanted:
            chart.AddAndObservePlotSeriesNodeID(identifier)
    chart.SetTitle(title)
    chart.SetXAxisTitle(xTitle)
    chart.SetYAxisTitle(yTitle)
    chart.EndModify(was)


def setRange(chart, low: float, high: float) -> None:
    """Fix the range of a chart's y axis."""
    chart.SetYAxisRangeAuto(False)
    chart.SetYAxisRange(low, high)


def fillTable(table, columns: dict[str, Sequence]) -> None:
    """Replace the columns of a table node: texts, or numbers with NaN where there is none."""
    was = table.StartModify()
    content = vtk.vtkTable()
    for name, values in columns.items():
        texts = any(isinstance(value, str) for value in values)
        array = vtk.vtkStringArray() if texts else vtk.vtkDoubleArray()
        array.SetName(name)
        array.SetNumberOfValues(len(values))
        for row, value in enumerate(values):
            if texts:
                array.SetValue(row, str(value))
            else:
                array.SetValue(row, math.nan if value is None else float(value))
        content.AddColumn(array)
    table.SetAndObserveTable(content)
    table.EndModify(was)


def roleNode(className: str, role: str, name: str):
    """Return our node of a role, made if it is not in the scene."""
    node = findRoleNode(className, role)
    if node is None:
        node = slicer.mrmlScene.AddNewNodeByClass(className, name)
        node.SetAttribute(ROLE, role)
    return node


def findRoleNode(className: str, role: str):
    """Return our node of a role, None if it is not in the scene."""
    nodes = slicer.util.getNodesByClass(className)
    return next((node for node in nodes if node.GetAttribute(ROLE) == role), None)


def _lineSeries(role: str, table, column: str, color, marker: bool, dashed: bool = False):
    """Return the curve of a column, made if it is not in the scene."""
    kind = slicer.vtkMRMLPlotSeriesNode
    nodes = slicer.util.getNodesByClass("vtkMRMLPlotSeriesNode")
    node = next((one for one in nodes if one.GetAttribute(ROLE) == role and one.GetYColumnName() == column), None)
    if node is None:
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLPlotSeriesNode", column)
        node.SetAttribute(ROLE, role)
    was = node.StartModify()
    node.SetAndObserveTableNodeID(table.GetID())
    node.SetPlotType(kind.PlotTypeScatter)
    node.SetXColumnName(EPOCH_COLUMN)
    node.SetYColumnName(column)
    node.SetColor(*color)
    node.SetLineWidth(2)
    node.SetLineStyle(kind.LineStyleDash if dashed else kind.LineStyleSolid)
    node.SetMarkerStyle(kind.MarkerStyleCircle if marker else kind.MarkerStyleNone)
    node.EndModify(was)
    return node


def _removeOthers(role: str, kept: Sequence) -> None:
    """Remove the curves of structures that the run that is shown now does not learn."""
    identifiers = {node.GetID() for node in kept}
    for node in slicer.util.getNodesByClass("vtkMRMLPlotSeriesNode"):
        if node.GetAttribute(ROLE) == role and node.GetID() not in identifiers:
            slicer.mrmlScene.RemoveNode(node)
