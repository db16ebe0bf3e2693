"""``slicer.app.ioManager()``: reads and writes files by MRML's own storage nodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import slicer
import vtk
from PySide6 import QtCore

from .scene import Session

TYPES = {
    "SceneFile": (".mrml", ".mrb"),
    "SegmentationFile": (".seg.nrrd", ".seg.nhdr"),
    "TableFile": (".csv", ".tsv", ".schema.csv"),
    "ModelFile": (".vtk", ".vtp", ".stl", ".ply", ".obj"),
    "TextFile": (".txt", ".json", ".xml"),
    "ColorTableFile": (".ctbl", ".colors"),
    "TransformFile": (".h5", ".tfm", ".mat"),
}
NODE_CLASSES = {
    "SegmentationFile": "vtkMRMLSegmentationNode",
    "TableFile": "vtkMRMLTableNode",
    "ModelFile": "vtkMRMLModelNode",
    "TextFile": "vtkMRMLTextNode",
    "ColorTableFile": "vtkMRMLColorTableNode",
    "TransformFile": "vtkMRMLTransformNode",
}
LABEL_MAP, CENTERED = 1, 2


class FileManager(QtCore.QObject):
    """Loads nodes from files and saves them, as ``slicer.util`` asks for it."""

    newFileLoaded = QtCore.Signal(object)
    fileSaved = QtCore.Signal(object)
    SIGNALS = {"newFileLoaded": ("qSlicerIO::IOProperties",), "fileSaved": ("qSlicerIO::IOProperties",)}

    def __init__(self, session: Session) -> None:
        super().__init__()
        self._session = session

    def fileType(self, path: str) -> str:
        for file_type, endings in TYPES.items():
            if str(path).lower().endswith(endings):
                return file_type
        return "VolumeFile"

    def fileWriterFileType(self, node: Any) -> str:
        for file_type, class_name in NODE_CLASSES.items():
            if node.IsA(class_name):
                return file_type
        return "VolumeFile"

    def loadNodes(self, file_type: str, properties: dict[str, Any], nodes: Any = None, messages: Any = None) -> bool:
        path = Path(properties["fileName"]).absolute()
        if not path.exists():
            if messages is not None:
                messages.AddMessage(vtk.vtkCommand.ErrorEvent, f"File not found: {path}")
            return False
        if file_type == "SceneFile":
            return self._load_scene(path, clear=bool(properties.get("clear", True)))
        node = self._load_node(file_type, path, properties)
        if node is not None and nodes is not None:
            nodes.AddItem(node)
        return node is not None

    def saveNodes(self, file_type: str, properties: dict[str, Any], messages: Any = None) -> bool:
        path = str(Path(properties["fileName"]).absolute())
        scene = self._session.scene
        if file_type == "SceneFile":
            if path.endswith(".mrb"):
                return bool(scene.WriteToMRB(path))
            scene.SetURL(path)
            return bool(scene.Commit())
        node = scene.GetNodeByID(properties["nodeID"])
        if not node.AddDefaultStorageNode(path):
            return False
        storage = node.GetStorageNode()
        storage.SetFileName(path)
        if "useCompression" in properties:
            storage.SetUseCompression(int(properties["useCompression"]))
        return bool(storage.WriteData(node))

    def _load_scene(self, path: Path, clear: bool) -> bool:
        scene = self._session.scene
        if clear:
            scene.Clear(False)
        if path.suffix == ".mrb":
            return bool(scene.ReadFromMRB(str(path), False))
        scene.SetURL(str(path))
        return bool(scene.Import())

    def _load_node(self, file_type: str, path: Path, properties: dict[str, Any]) -> Any:
        scene = self._session.scene
        name = properties.get("name") or path.name.split(".")[0]
        if file_type == "VolumeFile":
            options = LABEL_MAP * bool(properties.get("labelmap")) + CENTERED * bool(properties.get("center"))
            return self._session.logics["Volumes"].AddArchetypeVolume(str(path), name, options)
        node = scene.AddNewNodeByClass(NODE_CLASSES[file_type], scene.GenerateUniqueName(name))
        node.AddDefaultStorageNode(str(path))
        if not node.GetStorageNode().ReadData(node):
            scene.RemoveNode(node)
            return None
        if isinstance(node, slicer.vtkMRMLDisplayableNode):
            node.CreateDefaultDisplayNodes()
        return node
