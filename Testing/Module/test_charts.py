"""Curves of a training and bars of scores as Slicer's plot nodes."""

from __future__ import annotations

import math
import sys
import types
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import slicer
from ModuleTestCase import ModuleTestCase, inSlicer


def epoch(number: int, train: float | None, val: float | None, **dice: float | None):
    known = [value for value in dice.values() if value is not None]
    mean = sum(known) / len(known) if known else None
    return types.SimpleNamespace(epoch=number, train_loss=train, val_loss=val, dice=dice, mean_dice=mean)


def imagePixels(path):
    """Return the pixels of a PNG as rows of red, green and blue."""
    import vtk
    from vtk.util.numpy_support import vtk_to_numpy

    reader = vtk.vtkPNGReader()
    reader.SetFileName(str(path))
    reader.Update()
    image = reader.GetOutput()
    return vtk_to_numpy(image.GetPointData().GetScalars()).astype(float).reshape(*image.GetDimensions()[1::-1], -1)


class ChartsTest(ModuleTestCase):
    def setUp(self) -> None:
        super().setUp()
        from LungSegmentationScene.Charts import RunCurves, TrainingCharts

        from LungSegmentationLib.labels import load_label_set

        self.labelSet = load_label_set()
        self.charts = TrainingCharts(self.labelSet.structures)
        self.curves = RunCurves()

    def column(self, name: str) -> list[float]:
        table = self.charts.lossChart().GetNthPlotSeriesNode(0).GetTableNode()
        column = table.GetTable().GetColumnByName(name)
        return [column.GetValue(row) for row in range(column.GetNumberOfValues())]

    def seriesNames(self, chart) -> list[str]:
        return [chart.GetNthPlotSeriesNode(i).GetYColumnName() for i in range(chart.GetNumberOfPlotSeriesNodes())]

    def test_curves_hold_what_each_epoch_told_and_nothing_where_a_structure_was_not_drawn(self) -> None:
        self.curves.take(epoch(1, 0.9, 1.0, gtv=0.1, heart=None))
        self.curves.take(epoch(2, 0.7, None, gtv=0.3, heart=0.5))
        self.charts.show("first", self.curves)
        self.assertEqual(self.column("Epoch"), [1, 2])
        self.assertEqual(self.column("Training loss"), [0.9, 0.7])
        self.assertEqual(self.column("Validation loss")[0], 1.0)
        self.assertTrue(math.isnan(self.column("Validation loss")[1]))
        self.assertEqual(self.column(self.labelSet["gtv"].name), [0.1, 0.3])
        self.assertTrue(math.isnan(self.column(self.labelSet["heart"].name)[0]))
        self.assertEqual(self.seriesNames(self.charts.lossChart()), ["Training loss", "Validation loss"])

    def test_dice_curves_have_the_colors_of_the_structures(self) -> None:
        self.curves.take(epoch(1, 0.9, 1.0, gtv=0.1, heart=0.2))
        self.charts.show("first", self.curves)
        chart = self.charts.diceChart()
        colors = {
            chart.GetNthPlotSeriesNode(i).GetYColumnName(): chart.GetNthPlotSeriesNode(i).GetColor()
            for i in range(chart.GetNumberOfPlotSeriesNodes())
        }
        for key in ("gtv", "heart"):
            expected = [part / 255 for part in self.labelSet[key].color]
            for one, other in zip(colors[self.labelSet[key].name], expected, strict=True):
                self.assertAlmostEqual(one, other, 6)

    def test_another_run_takes_the_place_of_the_first_and_the_scene_does_not_fill_up(self) -> None:
        self.curves.take(epoch(1, 0.9, 1.0, gtv=0.1, heart=0.2))
        self.charts.show("first", self.curves)
        before = slicer.mrmlScene.GetNumberOfNodes()
        other = type(self.curves)()
        other.take(epoch(1, 0.5, 0.6, heart=0.4))
        self.charts.show("second", other)
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodes(), before - 1)  # the curve of the GTV
        self.assertIn("second", self.charts.diceChart().GetTitle())
        self.assertNotIn(self.labelSet["gtv"].name, self.seriesNames(self.charts.diceChart()))

    def test_a_run_resumed_from_an_older_checkpoint_forgets_the_epochs_after_it(self) -> None:
        for number in (1, 2, 3):
            self.curves.take(epoch(number, 1.0 / number, None, gtv=0.1 * number))
        self.curves.take(epoch(2, 0.55, None, gtv=0.25))
        self.assertEqual(list(self.curves.epochs), [1, 2])
        self.assertEqual(self.curves.lastDice, {"gtv": 0.25})

    def test_best_is_the_highest_of_each_structure_on_its_own(self) -> None:
        self.curves.take(epoch(1, 0.9, 1.0, gtv=0.6, heart=0.2))
        self.curves.take(epoch(2, 0.9, 1.0, gtv=0.3, heart=None))
        self.curves.take(epoch(3, 0.9, 1.0, gtv=0.4, heart=0.5))
        self.assertEqual(self.curves.bestDice, {"gtv": 0.6, "heart": 0.5})

    def test_curves_are_found_again_in_a_scene_that_was_saved(self) -> None:
        self.curves.take(epoch(1, 0.9, 1.0, gtv=0.1))
        self.curves.take(epoch(2, 0.8, 0.9, gtv=0.2))
        self.charts.show("first", self.curves)
        file = self.folder / "scene.mrb"
        self.assertTrue(slicer.util.saveScene(str(file)))
        slicer.mrmlScene.Clear(False)
        self.assertIsNone(self.charts.lossChart())
        slicer.util.loadScene(str(file))
        self.assertEqual(self.column("Training loss"), [0.9, 0.8])
        self.curves.take(epoch(3, 0.7, 0.8, gtv=0.3))
        count = slicer.mrmlScene.GetNumberOfNodes()
        self.charts.show("first", self.curves)
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodes(), count)
        self.assertEqual(self.column("Training loss"), [0.9, 0.8, 0.7])

    def test_bars_stand_over_the_names_of_the_structures(self) -> None:
        from LungSegmentationScene import Charts

        table = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode", "scores")
        Charts.fillTable(table, {"Structure": ["heart", "GTV"], "Dice": [0.9, None], "Surface Dice": [0.8, 0.1]})
        chart = Charts.scoreChart(table, "Scores", "Structure", ["Dice", "Surface Dice"])
        self.assertEqual(self.seriesNames(chart), ["Dice", "Surface Dice"])
        series = chart.GetNthPlotSeriesNode(0)
        self.assertEqual(series.GetLabelColumnName(), "Structure")
        self.assertEqual(series.GetPlotTypeAsString(series.GetPlotType()), "Bar")
        self.assertTrue(math.isnan(table.GetTable().GetColumnByName("Dice").GetValue(1)))

    def test_in_a_window_the_chart_comes_up_in_a_plot_view(self) -> None:
        from LungSegmentationScene import Charts

        for number in (1, 2, 3):
            self.curves.take(epoch(number, 1.0 / number, 1.2 / number, gtv=0.2 * number, heart=0.3 * number))
        self.charts.show("first", self.curves)
        if not inSlicer():
            import Runtime

            Runtime.start().open_views()
        manager = slicer.app.layoutManager()
        if manager is None:
            self.skipTest("Slicer runs without its window")
        try:
            self.assertTrue(Charts.showChart(self.charts.diceChart()))
            node = manager.plotWidget(0).mrmlPlotViewNode()
            self.assertEqual(node.GetPlotChartNode(), self.charts.diceChart())
            layout = manager.layout
            self.assertTrue(Charts.showChart(self.charts.lossChart()))
            self.assertEqual(node.GetPlotChartNode(), self.charts.lossChart())
            self.assertEqual(manager.layout, layout)
            if not inSlicer():
                self.assertDrawn(manager.plotWidget(0))
        finally:
            if not inSlicer():
                Runtime.start().close_views()

    def assertDrawn(self, widget) -> None:
        """The picture of the view holds the colors of the curves."""
        from LungSegmentationScene.Charts import LOSS_COLORS

        pixels = imagePixels(widget.plotView().save(self.folder / "loss.png"))
        for name, color in LOSS_COLORS.items():
            near = (abs(pixels[..., :3] - [255 * part for part in color]) < 12).all(axis=-1)
            self.assertGreater(int(near.sum()), 50, f"{name} is not drawn")

    def test_without_a_window_a_chart_stays_in_the_scene_and_nothing_is_raised(self) -> None:
        from LungSegmentationScene import Charts

        self.curves.take(epoch(1, 0.9, 1.0, gtv=0.1))
        self.charts.show("first", self.curves)
        if slicer.app.layoutManager() is None:
            self.assertFalse(Charts.showChart(self.charts.lossChart()))
        self.assertFalse(Charts.showChart(None))


if __name__ == "__main__":
    unittest.main()
