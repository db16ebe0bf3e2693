"""The scene of the runtime: nodes, files, parameters, dialogs, views and the DICOM database behave as in Slicer."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Union

import numpy as np
import pydicom
import pytest
from PIL import Image
from Runtime import api, missing, start
from Runtime.requirements import rendering_fault

if missing():
    pytest.skip(missing(), allow_module_level=True)

if TYPE_CHECKING:
    from Runtime.session import Runtime

start()

import ctk  # noqa: E402  the runtime puts these in place
import qt  # noqa: E402
import slicer  # noqa: E402
from Runtime import mrml_widgets, qt_objects  # noqa: E402
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]


def test_a_node_has_its_place_in_the_subject_hierarchy_while_it_is_in_the_scene(runtime: Runtime) -> None:
    volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "CT")
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    item = hierarchy.GetItemByDataNode(volume)
    assert hierarchy.GetItemName(item) == "CT"
    slicer.mrmlScene.RemoveNode(volume)
    assert hierarchy.GetItemName(item) == ""


def test_a_segmentation_comes_back_from_its_file(runtime: Runtime, tmp_path: Path) -> None:
    labels = np.zeros((4, 5, 6), np.uint8)
    labels[1:3, 2:4, 1:5] = 1
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode")
    slicer.util.updateVolumeFromArray(node, labels)
    segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Lungs")
    slicer.modules.segmentations.logic().ImportLabelmapToSegmentationNode(node, segmentation)
    path = str(tmp_path / "lungs é.seg.nrrd")
    assert slicer.util.saveNode(segmentation, path)
    again = slicer.util.loadSegmentation(path)
    (segment,) = again.GetSegmentation().GetSegmentIDs()
    read = slicer.util.arrayFromSegmentBinaryLabelmap(again, segment, node)
    assert np.array_equal(read, labels)


@pytest.mark.parametrize("ending", [".mrb", ".mrml"])
def test_parameters_come_back_with_their_scene(runtime: Runtime, tmp_path: Path, ending: str) -> None:
    @parameterNodeWrapper
    class Parameters:
        volume: slicer.vtkMRMLScalarVolumeNode
        folder: str = ""
        epochs: Annotated[int, WithinRange(1, 500)] = 50
        smooth: bool = False

    logic = slicer.ScriptedLoadableModule.ScriptedLoadableModuleLogic()
    parameters = Parameters(logic.getParameterNode())
    assert (parameters.volume, parameters.folder, parameters.epochs, parameters.smooth) == (None, "", 50, False)
    parameters.volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "CT")
    parameters.epochs, parameters.smooth, parameters.folder = 7, True, "/データ/a b"
    with pytest.raises(ValueError, match="within"):
        parameters.epochs = 0
    with pytest.raises(TypeError):
        parameters.folder = Path("/")
    path = str(tmp_path / f"scene{ending}")
    assert slicer.util.saveScene(path)
    slicer.mrmlScene.Clear(False)
    slicer.util.loadScene(path)
    again = Parameters(logic.getParameterNode())
    assert (again.folder, again.epochs, again.smooth) == ("/データ/a b", 7, True)
    assert again.volume.GetName() == "CT"


def test_a_choice_of_several_kinds_of_nodes_has_to_allow_none(runtime: Runtime) -> None:
    @parameterNodeWrapper
    class Parameters:
        labels: Union[slicer.vtkMRMLSegmentationNode, slicer.vtkMRMLLabelMapVolumeNode, None]  # noqa: UP007

    assert Parameters(slicer.vtkMRMLScriptedModuleNode()).labels is None

    class Refused:
        labels: Union[slicer.vtkMRMLSegmentationNode, slicer.vtkMRMLLabelMapVolumeNode]  # noqa: UP007

    with pytest.raises(TypeError, match="None"):
        parameterNodeWrapper(Refused)


def test_a_dialog_that_nobody_expects_fails_instead_of_waiting(runtime: Runtime) -> None:
    with pytest.raises(AssertionError, match="Remove it"):
        slicer.util.confirmYesNoDisplay("Remove it?")
    runtime.dialogs.expect(qt.QMessageBox.Yes)
    assert slicer.util.confirmYesNoDisplay("Remove it?")
    assert runtime.dialogs.asked == ["Remove it?", "Remove it?"]


def test_an_installation_is_only_written_down(runtime: Runtime) -> None:
    slicer.util.pip_install("torch")
    assert runtime.installed == ["torch"]


def test_a_module_without_a_scene_of_its_own_stands_on_that_of_the_application() -> None:
    widget = slicer.ScriptedLoadableModule.ScriptedLoadableModuleWidget()
    assert isinstance(widget.parent, mrml_widgets.qMRMLWidget)
    assert widget.parent.mrmlScene() is slicer.mrmlScene


def test_opencv_in_the_same_process_does_not_keep_qt_from_starting() -> None:
    code = (
        "import os, sys; sys.path.insert(0, 'Testing'); os.environ['QT_QPA_PLATFORM_PLUGIN_PATH'] = '/nowhere'; "
        "from Runtime import start; start(); import qt; print(qt.QPushButton('seen').text)"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], check=False, cwd=root, capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()) == (0, ["seen"]), done.stderr


# Views


def test_views_draw_a_volume_and_a_segmentation_over_it(runtime: Runtime, tmp_path: Path) -> None:
    if rendering_fault():
        pytest.skip(rendering_fault())
    manager = runtime.open_views()
    try:
        red, gray = shown_slice(manager, tmp_path, opacity=1.0), shown_slice(manager, tmp_path, opacity=0.0)
        # The corner is outside of the segment, the middle inside.
        assert gray[10, 10].tolist() == red[10, 10].tolist() == [127, 127, 127]
        assert gray[256, 256].tolist() == [127, 127, 127]
        assert red[256, 256].tolist() == [255, 0, 0]
    finally:
        runtime.close_views()


def test_a_slice_node_that_is_there_before_its_view_opens_is_that_of_the_view() -> None:
    if rendering_fault():
        pytest.skip(rendering_fault())
    # Views open once in a process, so this takes one that has none yet.
    code = (
        "import sys; sys.path.insert(0, 'Testing'); from Runtime import start; runtime = start(); import slicer; "
        "node = slicer.mrmlScene.AddNewNodeByClass('vtkMRMLSliceNode'); node.SetLayoutName('Red'); "
        "slicer.mrmlScene.Clear(False); views = runtime.open_views(); "
        "print(views.sliceWidget('Red').mrmlSliceNode() is node, "
        "[n.GetLayoutName() for n in slicer.util.getNodesByClass('vtkMRMLSliceNode')])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "True ['Red', 'Green', 'Yellow']"), done.stderr


def shown_slice(manager: Any, folder: Path, opacity: float) -> np.ndarray:
    slicer.mrmlScene.Clear(False)
    volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "CT")
    slicer.util.updateVolumeFromArray(volume, np.full((8, 32, 32), 40, np.int16))
    volume.CreateDefaultDisplayNodes()
    volume.GetDisplayNode().SetAutoWindowLevel(False)
    volume.GetDisplayNode().SetWindowLevel(400, 40)
    labels = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode")
    values = np.zeros((8, 32, 32), np.uint8)
    values[:, 8:24, 8:24] = 1
    slicer.util.updateVolumeFromArray(labels, values)
    segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Target")
    slicer.modules.segmentations.logic().ImportLabelmapToSegmentationNode(labels, segmentation)
    segmentation.GetSegmentation().GetNthSegment(0).SetColor(1, 0, 0)
    segmentation.CreateDefaultDisplayNodes()
    segmentation.GetDisplayNode().SetOpacity2DFill(opacity)
    segmentation.GetDisplayNode().SetVisibility2DOutline(False)
    slicer.util.setSliceViewerLayers(background=volume)
    slicer.util.resetSliceViews()
    path = manager.sliceWidget("Red").sliceView().save(folder / "red.png")
    return np.asarray(Image.open(path).convert("RGB"))


def test_the_layout_manager_offers_no_name_that_it_lacks_in_slicer(runtime: Runtime) -> None:
    if rendering_fault():
        pytest.skip(rendering_fault())
    manager = runtime.open_views()
    runtime.close_views()
    private = qt_objects.VIRTUAL | qt_objects.INTERNAL | {"name", "SIGNALS"}
    answered = {name for name in dir(manager) if not name.startswith("_") and hasattr(manager, name)}
    assert sorted(answered - api.instance_names("slicer.app.layoutManager()") - private) == []


def test_the_dicom_database_knows_what_was_indexed(runtime: Runtime, tmp_path: Path) -> None:
    for number, (patient, modality) in enumerate([("A", "CT"), ("A", "CT"), ("A", "RTSTRUCT"), ("B", "CT")]):
        dataset = pydicom.Dataset()
        dataset.PatientID, dataset.PatientName, dataset.Modality = patient, f"Name of {patient}", modality
        dataset.StudyInstanceUID = "1.2.1" if patient == "A" else "1.2.2"
        dataset.SeriesInstanceUID = f"{dataset.StudyInstanceUID}.{len(modality)}"
        dataset.SOPInstanceUID, dataset.SOPClassUID = f"1.2.3.{number}", "1.2.840.10008.5.1.4.1.1.2"
        dataset.file_meta = pydicom.dataset.FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
        dataset.save_as(tmp_path / f"{number}", enforce_file_format=True)
    (tmp_path / "notes.txt").write_text("no DICOM", encoding="utf-8")
    database = slicer.dicomDatabase
    ctk.ctkDICOMIndexer().addDirectory(database, str(tmp_path))
    first, second = database.patients()
    assert [database.nameForPatient(key) for key in (first, second)] == ["Name of A", "Name of B"]
    (study,) = database.studiesForPatient(first)
    assert [database.fieldForSeries("Modality", uid) for uid in database.seriesForStudy(study)] == [
        "CT",
        "RTSTRUCT",
    ]
    assert database.filesForSeries("1.2.1.2") == [str(tmp_path / "0"), str(tmp_path / "1")]
    assert database.seriesForFile(database.fileForInstance("1.2.3.3")) == "1.2.2.2"


def test_a_plot_shows_the_chart_that_was_chosen(runtime: Runtime, tmp_path: Path) -> None:
    if rendering_fault():
        pytest.skip(rendering_fault())
    table = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode")
    slicer.util.updateTableFromArray(table, np.array([[1, 0.5], [2, 0.75]]), ["Epoch", "Dice"])
    series = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLPlotSeriesNode", "Dice")
    series.SetAndObserveTableNodeID(table.GetID())
    series.SetPlotType(slicer.vtkMRMLPlotSeriesNode.PlotTypeScatter)
    series.SetXColumnName("Epoch")
    series.SetYColumnName("Dice")
    chart = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLPlotChartNode")
    chart.SetTitle("Dice of a run")
    chart.AddAndObservePlotSeriesNodeID(series.GetID())
    manager = runtime.open_views()
    try:
        manager.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpPlotView)
        slicer.app.applicationLogic().GetSelectionNode().SetReferenceActivePlotChartID(chart.GetID())
        slicer.app.applicationLogic().PropagatePlotChartSelection()
        widget = manager.plotWidget(0)
        assert widget.visible
        assert widget.mrmlPlotViewNode().GetPlotChartNode() is chart
        drawn = widget.plotView().chart()
        assert (drawn.GetTitle(), drawn.GetNumberOfPlots()) == ("Dice of a run", 1)
        colors = np.asarray(Image.open(widget.plotView().save(tmp_path / "plot.png")).convert("RGB")).reshape(-1, 3)
        assert len(np.unique(colors, axis=0)) > 2
    finally:
        manager.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutConventionalView)
        runtime.close_views()
