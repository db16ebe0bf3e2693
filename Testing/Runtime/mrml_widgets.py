"""Widgets of MRML that follow the scene: base class, node selector, and the parents of module panels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import shiboken6
import slicer
from PySide6 import QtCore, QtWidgets

from .ctk_widgets import ctkSliderWidget
from .widget_tools import stored, widget_of

Signal = QtCore.Signal
ACTION = "action:"


class SceneWidget(QtWidgets.QWidget):
    """A widget that is given a scene."""

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._scene: Any = None
        self._observed: list[tuple[Any, int]] = []

    def setMRMLScene(self, scene: Any) -> None:
        if scene is not self._scene:
            self._scene = scene
            self._scene_was_set()

    def _scene_was_set(self) -> None:
        """Take notice of another scene."""

    def _observe(self, subject: Any, events: tuple[Any, ...], function: Callable[[], None]) -> None:
        # Observers outlive widgets that Qt deletes.
        for event in events:
            tag = subject.AddObserver(event, lambda *_: function() if shiboken6.isValid(self) else None)
            self._observed.append((subject, tag))

    def _stop_observing(self) -> None:
        for subject, tag in self._observed:
            subject.RemoveObserver(tag)
        self._observed = []


class SceneParent(SceneWidget):
    """A widget that gives the scene on to those inside it, by the connections of their ``.ui`` file."""

    mrmlSceneChanged = Signal(object)
    SIGNALS = {"mrmlSceneChanged": ("vtkMRMLScene*",)}

    def _scene_was_set(self) -> None:
        self.mrmlSceneChanged.emit(self._scene)


@widget_of(slicer)
class qMRMLWidget(SceneParent):
    """The parent of what shows a scene."""

    def mrmlScene(self) -> Any:
        return self._scene


@widget_of(slicer)
class qSlicerWidget(SceneParent):
    """The same, as ``.ui`` files of modules have it."""


@widget_of(slicer)
class qMRMLSliderWidget(ctkSliderWidget):
    """A slider with units; here those of its own suffix."""

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._scene: Any = None

    quantity = stored(str, "quantity", "")

    def mrmlScene(self) -> Any:
        return self._scene

    def setMRMLScene(self, scene: Any) -> None:
        self._scene = scene


@widget_of(slicer)
class qMRMLNodeComboBox(SceneWidget):
    """Chooses a node of the scene, and follows what is added, renamed and removed."""

    currentNodeChanged = Signal(object)
    currentNodeIDChanged = Signal(str)
    nodeAdded = Signal(object)
    nodeAddedByUser = Signal(object)
    nodeActivated = Signal(object)
    SIGNALS = {
        "currentNodeChanged": ("vtkMRMLNode*", "bool"),
        "currentNodeIDChanged": ("QString",),
        "nodeAdded": ("vtkMRMLNode*",),
        "nodeAddedByUser": ("vtkMRMLNode*",),
        "nodeActivated": ("vtkMRMLNode*",),
    }

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._combo_box = QtWidgets.QComboBox(self)
        self._node: Any = None
        self._attributes: dict[str, Any] = {}
        self._labels: dict[str, str] = {}
        self._refreshing = False
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._combo_box)
        self._combo_box.activated.connect(self._follow_choice)

    nodeTypes = stored("QStringList", "nodeTypes", [], "_refresh")
    hideChildNodeTypes = stored("QStringList", "hideChildNodeTypes", [], "_refresh")
    showChildNodeTypes = stored(bool, "showChildNodeTypes", True, "_refresh")
    showHidden = stored(bool, "showHidden", False, "_refresh")
    noneEnabled = stored(bool, "noneEnabled", False, "_refresh")
    noneDisplay = stored(str, "noneDisplay", "None", "_refresh")
    addEnabled = stored(bool, "addEnabled", True, "_refresh")
    removeEnabled = stored(bool, "removeEnabled", True, "_refresh")
    renameEnabled = stored(bool, "renameEnabled", False, "_refresh")
    editEnabled = stored(bool, "editEnabled", False, "_refresh")
    baseName = stored(str, "baseName", "")
    selectNodeUponCreation = stored(bool, "selectNodeUponCreation", True)

    def mrmlScene(self) -> Any:
        return self._scene

    def addAttribute(self, node_type: str, name: str, value: Any = None) -> None:
        self._attributes[name] = value
        self._refresh()

    def removeAttribute(self, node_type: str, name: str) -> None:
        self._attributes.pop(name, None)
        self._refresh()

    def setNodeTypeLabel(self, label: str, node_type: str) -> None:
        self._labels[node_type] = label
        self._refresh()

    def nodeTypeLabel(self, node_type: str) -> str:
        if node_type in self._labels:
            return self._labels[node_type]
        return slicer.mrmlScene.GetTagByClassName(node_type) or node_type

    def nodeCount(self) -> int:
        return len(self._nodes())

    def currentNode(self) -> Any:
        return self._node

    def setCurrentNode(self, node: Any) -> None:
        if isinstance(node, str):
            node = self._scene.GetNodeByID(node) if self._scene else None
        if node is not None and node not in self._nodes():
            node = None
        self._select(node)
        self._refresh()

    def setCurrentNodeID(self, node_id: str) -> None:
        self.setCurrentNode(node_id or None)

    def setCurrentNodeIndex(self, index: int) -> None:
        self.setCurrentNode(self._nodes()[index])

    def nodeFromIndex(self, index: int) -> Any:
        nodes = self._nodes()
        return nodes[index] if 0 <= index < len(nodes) else None

    def _read_id(self) -> str:
        return self._node.GetID() if self._node is not None else ""

    currentNodeID = QtCore.Property(str, _read_id, setCurrentNodeID)

    def addNode(self, node_type: str = "") -> Any:
        node_type = node_type or self.nodeTypes[0]
        name = self.baseName or self.nodeTypeLabel(node_type)
        node = self._scene.AddNewNodeByClass(node_type, self._scene.GenerateUniqueName(name))
        for attribute, value in self._attributes.items():
            node.SetAttribute(attribute, value if isinstance(value, str) else "1")
        self.nodeAddedByUser.emit(node)
        if self.selectNodeUponCreation:
            self.setCurrentNode(node)
        return node

    def removeCurrentNode(self) -> None:
        if self._node is not None:
            self._scene.RemoveNode(self._node)

    def _scene_was_set(self) -> None:
        self._stop_observing()
        scene = self._scene
        if scene is not None:
            events = (scene.NodeAddedEvent, scene.NodeRemovedEvent, scene.EndBatchProcessEvent)
            self._observe(scene, events, self._refresh)
        self._refresh()

    def _nodes(self) -> list[Any]:
        scene = self._scene
        if scene is None:
            return []
        return [node for node in map(scene.GetNthNode, range(scene.GetNumberOfNodes())) if self._shows(node)]

    def _shows(self, node: Any) -> bool:
        if self.showChildNodeTypes:
            fits = any(node.IsA(kind) for kind in self.nodeTypes)
        else:
            fits = node.GetClassName() in self.nodeTypes
        if not fits or node.GetClassName() in self.hideChildNodeTypes:
            return False
        if node.GetHideFromEditors() and not self.showHidden:
            return False
        return all(
            node.GetAttribute(name) is not None and (value is None or node.GetAttribute(name) == str(value))
            for name, value in self._attributes.items()
        )

    def _refresh(self) -> None:
        if self._refreshing or (self._scene is not None and self._scene.IsBatchProcessing()):
            return
        self._refreshing = True
        nodes = self._nodes()
        self._combo_box.clear()
        if self.noneEnabled:
            self._combo_box.addItem(self.noneDisplay, "")
        for node in nodes:
            self._combo_box.addItem(node.GetName() or "", node.GetID())
        self._add_actions()
        node = self._node
        if node not in nodes:
            node = None if self.noneEnabled or not nodes else nodes[0]
        self._combo_box.currentIndex = self._combo_box.findData(node.GetID() if node is not None else "")
        self._refreshing = False
        self._select(node)

    def _add_actions(self) -> None:
        actions = []
        if self.addEnabled and self._scene is not None:
            actions += [(f"Create new {self.nodeTypeLabel(kind)}", kind) for kind in self.nodeTypes]
        if self.removeEnabled and self._node is not None:
            actions.append((f"Delete current {self._node.GetNodeTagName()}", "remove"))
        if actions and self._combo_box.count:
            self._combo_box.insertSeparator(self._combo_box.count)
        for text, action in actions:
            self._combo_box.addItem(text, ACTION + action)

    def _select(self, node: Any) -> None:
        if node is self._node:
            return
        self._node = node
        self._stop_observing_node()
        if node is not None:
            self._node_tag = (node, node.AddObserver("ModifiedEvent", self._node_was_changed))
        self.currentNodeChanged.emit(node)
        self.currentNodeIDChanged.emit(self._read_id())

    def _stop_observing_node(self) -> None:
        node, tag = getattr(self, "_node_tag", (None, 0))
        if node is not None:
            node.RemoveObserver(tag)
        self._node_tag = (None, 0)

    def _node_was_changed(self, node: Any, event: str) -> None:
        if not shiboken6.isValid(self):
            return
        index = self._combo_box.findData(node.GetID())
        if index >= 0 and self._combo_box.itemText(index) != node.GetName():
            self._combo_box.setItemText(index, node.GetName())

    def _follow_choice(self, index: int) -> None:
        chosen = self._combo_box.itemData(index) or ""
        if chosen == ACTION + "remove":
            self.removeCurrentNode()
        elif chosen.startswith(ACTION):
            self.addNode(chosen.removeprefix(ACTION))
        else:
            self.setCurrentNodeID(chosen)
            self.nodeActivated.emit(self._node)


@widget_of(slicer)
class qSlicerScriptedLoadableModuleWidget(SceneParent):
    """What a module's panel stands in; it makes the Python widget and passes on enter and exit."""

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._python_widget: Any = None
        self._module: Any = None
        self._entered = False

    def module(self) -> Any:
        return self._module

    def self(self) -> Any:
        return self._python_widget

    def enter(self) -> None:
        self._entered = True
        if hasattr(self._python_widget, "enter"):
            self._python_widget.enter()

    def exit(self) -> None:
        self._entered = False
        if hasattr(self._python_widget, "exit"):
            self._python_widget.exit()

    def _read_entered(self) -> bool:
        return self._entered

    isEntered = QtCore.Property(bool, _read_entered)
