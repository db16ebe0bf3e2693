"""Sets up the scene and the logics that Slicer's C++ start-up makes, over slicer-core."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import slicer
import vtk

from . import terminologies

# In this order: volumes need colors, segmentations need terminologies.
LOGICS = {
    "Colors": "vtkMRMLColorLogic",
    "Volumes": "vtkSlicerVolumesLogic",
    "Terminologies": "vtkSlicerTerminologiesModuleLogic",
    "SubjectHierarchy": "vtkSlicerSubjectHierarchyModuleLogic",
    "Segmentations": "vtkSlicerSegmentationsModuleLogic",
    "Models": "vtkSlicerModelsLogic",
    "Markups": "vtkSlicerMarkupsLogic",
    "Tables": "vtkSlicerTablesLogic",
    "Plots": "vtkSlicerPlotsLogic",
    "Texts": "vtkSlicerTextsLogic",
    "Transforms": "vtkSlicerTransformLogic",
    "Units": "vtkSlicerUnitsLogic",
    "Sequences": "vtkSlicerSequencesLogic",
    "Data": "vtkSlicerDataModuleLogic",
    "VolumeRendering": "vtkSlicerVolumeRenderingLogic",
}


FIRST = 10.0
"""Priority of an observer that has to come before those of the views."""


class Session:
    """The scene, the application logic and the logics of modules.

    Parameters
    ----------
    folder : Path
        Where files of the session go.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.logics: dict[str, Any] = {}
        self.scene = slicer.vtkMRMLScene()
        slicer.mrmlScene = self.scene
        crosshair = slicer.vtkMRMLCrosshairNode()
        crosshair.SetCrosshairName("default")
        self.scene.AddNode(crosshair)
        self.scene.AddNode(slicer.vtkMRMLInteractionNode())
        self.application_logic = slicer.vtkSlicerApplicationLogic()
        self.application_logic.SetMRMLScene(self.scene)
        self.application_logic.SetSliceLogics(vtk.vtkCollection())
        self.application_logic.SetViewLogics(vtk.vtkCollection())
        colors = self.application_logic.GetColorLogic()
        colors.SetMRMLScene(self.scene)
        colors.AddDefaultColorNodes()
        for factory in (
            slicer.vtkMRMLThreeDViewDisplayableManagerFactory,
            slicer.vtkMRMLSliceViewDisplayableManagerFactory,
        ):
            factory.GetInstance().SetMRMLApplicationLogic(self.application_logic)
        for name, class_name in LOGICS.items():
            self._add_logic(name, getattr(slicer, class_name)())
        slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(self.scene, True)
        self._add_file_access()
        self._observe_scene()

    def _add_logic(self, name: str, logic: Any) -> None:
        if name == "Terminologies":
            share = self.folder / "share"
            share.mkdir(exist_ok=True)
            terminologies.write(share)
            logic.SetModuleShareDirectory(str(share))
        logic.SetMRMLScene(self.scene)
        logic.SetMRMLApplicationLogic(self.application_logic)
        self.application_logic.SetModuleLogic(name, logic)
        self.logics[name] = logic

    def _add_file_access(self) -> None:
        # Without it, scenes in one file (.mrb) cannot be read.
        cache = self.folder / "RemoteIO"
        cache.mkdir(exist_ok=True)
        self._remote_files = slicer.vtkMRMLRemoteIOLogic()
        self._remote_files.SetMRMLScene(self.scene)
        self._remote_files.SetMRMLApplicationLogic(self.application_logic)
        self._remote_files.GetCacheManager().SetRemoteCacheDirectory(str(cache))
        self._data_files = slicer.vtkDataIOManagerLogic()
        self._data_files.SetMRMLScene(self.scene)
        self._data_files.SetMRMLApplicationLogic(self.application_logic)
        self._data_files.SetAndObserveDataIOManager(self._remote_files.GetDataIOManager())
        self._remote_files.AddDataIOToScene()

    def _observe_scene(self) -> None:
        # Slicer's subject hierarchy plugins make an item for each node that is shown to the user, and remove it again.
        @vtk.calldata_type(vtk.VTK_OBJECT)
        def add_item(scene: Any, event: int, node: Any) -> None:
            if not scene.IsBatchProcessing():
                self._add_item(node)

        @vtk.calldata_type(vtk.VTK_OBJECT)
        def remove_item(scene: Any, event: int, node: Any) -> None:
            if not scene.IsClosing():
                self._remove_item(node)

        self.scene.AddObserver(slicer.vtkMRMLScene.NodeAddedEvent, add_item)
        self.scene.AddObserver(slicer.vtkMRMLScene.NodeAboutToBeRemovedEvent, remove_item)
        # As in Slicer before the views hear of it: they would climb for ever through items that have no parent yet.
        for event in (slicer.vtkMRMLScene.EndImportEvent, slicer.vtkMRMLScene.EndBatchProcessEvent):
            self.scene.AddObserver(event, lambda *_: self._add_items(), FIRST)

    def _add_item(self, node: Any) -> None:
        if (
            not node.IsA("vtkMRMLDisplayableNode")
            and not node.IsA("vtkMRMLTableNode")
            and not node.IsA("vtkMRMLPlotChartNode")
        ):
            return
        if node.GetHideFromEditors():
            return
        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(self.scene)
        if not hierarchy.GetItemByDataNode(node):
            hierarchy.CreateItem(hierarchy.GetSceneItemID(), node)

    def _remove_item(self, node: Any) -> None:
        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(self.scene)
        if node.IsA("vtkMRMLSubjectHierarchyNode") or hierarchy is None:
            return
        item = hierarchy.GetItemByDataNode(node)
        if item:
            hierarchy.RemoveItem(item, False, False)

    def _add_items(self) -> None:
        # Puts the items of an imported scene where they belong; to ask for the node does not.
        slicer.vtkMRMLSubjectHierarchyNode.ResolveSubjectHierarchy(self.scene)
        for index in range(self.scene.GetNumberOfNodes()):
            self._add_item(self.scene.GetNthNode(index))
