"""The plot view of the layout: the chart that its node names, drawn off screen by VTK's charts, as Slicer does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import slicer
import vtk

from .mrml_widgets import SceneParent
from .widget_tools import widget_of

SIZE = (640, 420)


class PlotView:
    """Draws the chart of a plot view node."""

    def __init__(self, node: Any) -> None:
        self._node = node
        self._view = vtk.vtkContextView()
        self._view.GetRenderer().SetBackground(1.0, 1.0, 1.0)
        self._window = self._view.GetRenderWindow()
        self._window.SetShowWindow(False)
        self._window.SetOffScreenRendering(True)
        self._window.SetMultiSamples(0)
        self._window.SetSize(*SIZE)

    def renderWindow(self) -> Any:
        return self._window

    def chart(self) -> Any:
        """Return VTK's chart with what the node's chart says now; None without one."""
        node = self._node.GetPlotChartNode()
        if node is None:
            return None
        chart = vtk.vtkChartXY()
        chart.SetTitle(node.GetTitle() or "")
        chart.SetShowLegend(True)
        for axis, title in ((vtk.vtkAxis.BOTTOM, node.GetXAxisTitle()), (vtk.vtkAxis.LEFT, node.GetYAxisTitle())):
            chart.GetAxis(axis).SetTitle(title or "")
        if not node.GetYAxisRangeAuto():
            chart.GetAxis(vtk.vtkAxis.LEFT).SetBehavior(vtk.vtkAxis.FIXED)
            chart.GetAxis(vtk.vtkAxis.LEFT).SetRange(*node.GetYAxisRange())
        for index in range(node.GetNumberOfPlotSeriesNodes()):
            _add_series(chart, node.GetNthPlotSeriesNode(index))
        return chart

    def save(self, path: Path) -> Path:
        """Draw the chart into a PNG file."""
        self._view.GetScene().ClearItems()
        chart = self.chart()
        if chart is not None:
            self._view.GetScene().AddItem(chart)
        self._window.Render()
        image = vtk.vtkWindowToImageFilter()
        image.SetInput(self._window)
        image.ReadFrontBufferOff()
        writer = vtk.vtkPNGWriter()
        writer.SetFileName(str(path))
        writer.SetInputConnection(image.GetOutputPort())
        writer.Write()
        return path


@widget_of(slicer)
class qMRMLPlotWidget(SceneParent):
    """The place of a plot in the layout."""

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._view: PlotView | None = None
        self._node: Any = None

    def mrmlScene(self) -> Any:
        return self._scene

    def mrmlPlotViewNode(self) -> Any:
        return self._node

    def setMRMLPlotViewNode(self, node: Any) -> None:
        self._node = node
        self._view = PlotView(node)

    def plotView(self) -> PlotView | None:
        return self._view


def _add_series(chart: Any, series: Any) -> None:
    table = series.GetTableNode().GetTable()
    bars = series.GetPlotType() == slicer.vtkMRMLPlotSeriesNode.PlotTypeBar
    plot = chart.AddPlot(vtk.vtkChart.BAR if bars else vtk.vtkChart.LINE)
    if bars:
        positions = vtk.vtkDoubleArray()
        positions.SetName("position")
        for row in range(table.GetNumberOfRows()):
            positions.InsertNextValue(row)
        shown = vtk.vtkTable()
        shown.AddColumn(positions)
        shown.AddColumn(table.GetColumnByName(series.GetYColumnName()))
        plot.SetInputData(shown, 0, 1)
        _label(chart, table.GetColumnByName(series.GetLabelColumnName() or ""), positions)
    else:
        plot.SetInputData(table, series.GetXColumnName(), series.GetYColumnName())
        plot.SetMarkerStyle(series.GetMarkerStyle())
        plot.GetPen().SetLineType(series.GetLineStyle())
    plot.SetColorF(*series.GetColor())
    plot.SetWidth(series.GetLineWidth())
    plot.SetLabel(series.GetName())


def _label(chart: Any, names: Any, positions: Any) -> None:
    if names is not None:
        chart.GetAxis(vtk.vtkAxis.BOTTOM).SetCustomTickPositions(positions, names)
