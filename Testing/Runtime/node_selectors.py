"""Widgets that choose nodes of the scene, and follow what is added, renamed and removed."""

from __future__ import annotations

from typing import Any

import shiboken6
import slicer
from PySide6 import QtCore, QtWidgets

from .mrml_widgets import SceneWidget
from .widget_tools import stored, widget_of

Signal = QtCore.Signal
ACTION = "action:"


@widget_of(slicer)
class qMRMLNodeComboBox(SceneWidget):
    """Chooses a node of the scene, and follows what is added, renamed and removed."""

    currentNodeChanged = Signal(object)
    currentNodeIDChanged = Signal(str)
    nodeAdded = Signal(object)
    nodeAddedByUser = Signal(object)
    nodeActivated = Signal(object)
    SIGNALS = {
        "currentNodeChanged": ("vtkMRMLNode*",),
        "currentNodeIDChanged": ("QString",),
        "nodeAdded": ("vtkMRMLNode*",),
        "nodeAddedByUser": ("vtkMRMLNode*",),
        "nodeActivated": ("vtkMRMLNode*",),
    }

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._combo_box = self._make_combo_box()
        self._node: Any = None
        self._attributes: dict[str, Any] = {}
        self._labels: dict[str, str] = {}
        self._refreshing = False
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._combo_box)
        self._combo_box.activated.connect(self._follow_choice)

    def _make_combo_box(self) -> QtWidgets.QComboBox:
        return QtWidgets.QComboBox(self)

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


class CheckBoxes(QtWidgets.QComboBox):
    """A combo box whose items are checked, and which shows the checked ones."""

    def __init__(self, parent: Any) -> None:
        super().__init__(parent)
        self.view().viewport().installEventFilter(self)

    def eventFilter(self, watched: Any, event: QtCore.QEvent) -> bool:
        if event.type() == QtCore.QEvent.Type.MouseButtonRelease:
            index = self.view().indexAt(event.position().toPoint())
            states = QtCore.Qt.CheckState
            was = self.itemData(index.row(), QtCore.Qt.ItemDataRole.CheckStateRole)
            checked = states(was or 0) == states.Checked
            new = states.Unchecked if checked else states.Checked
            self.setItemData(index.row(), new.value, QtCore.Qt.ItemDataRole.CheckStateRole)
            return True
        return super().eventFilter(watched, event)

    def paintEvent(self, event: Any) -> None:
        painter = QtWidgets.QStylePainter(self)
        option = QtWidgets.QStyleOptionComboBox()
        self.initStyleOption(option)
        rows = range(self.count)
        checked = [self.itemText(row) for row in rows if self.itemData(row, QtCore.Qt.ItemDataRole.CheckStateRole)]
        option.currentText = ", ".join(checked)
        painter.drawComplexControl(QtWidgets.QStyle.ComplexControl.CC_ComboBox, option)
        painter.drawControl(QtWidgets.QStyle.ControlElement.CE_ComboBoxLabel, option)


@widget_of(slicer)
class qMRMLCheckableNodeComboBox(qMRMLNodeComboBox):
    """Chooses any number of nodes."""

    checkedNodesChanged = Signal()
    SIGNALS = {"checkedNodesChanged": ("",)}

    def _make_combo_box(self) -> QtWidgets.QComboBox:
        box = CheckBoxes(self)
        box.model().dataChanged.connect(self._follow_check)
        return box

    def checkedNodes(self) -> list[Any]:
        return [node for node in self._nodes() if self.checkState(node) == QtCore.Qt.CheckState.Checked]

    def uncheckedNodes(self) -> list[Any]:
        return [node for node in self._nodes() if self.checkState(node) != QtCore.Qt.CheckState.Checked]

    def allChecked(self) -> bool:
        return not self.uncheckedNodes()

    def noneChecked(self) -> bool:
        return not self.checkedNodes()

    def checkState(self, node: Any) -> QtCore.Qt.CheckState:
        row = self._combo_box.findData(node.GetID())
        value = self._combo_box.itemData(row, QtCore.Qt.ItemDataRole.CheckStateRole)
        return QtCore.Qt.CheckState(value or 0)

    def setCheckState(self, node: Any, state: QtCore.Qt.CheckState) -> None:
        row = self._combo_box.findData(node.GetID())
        value = QtCore.Qt.CheckState(state).value
        self._combo_box.setItemData(row, value, QtCore.Qt.ItemDataRole.CheckStateRole)

    def check(self, node: Any) -> None:
        self.setCheckState(node, QtCore.Qt.CheckState.Checked)

    def uncheck(self, node: Any) -> None:
        self.setCheckState(node, QtCore.Qt.CheckState.Unchecked)

    def _refresh(self) -> None:
        checked = self.checkedNodes() if self._scene is not None and self._combo_box.count else []
        was_blocked = self._combo_box.model().blockSignals(True)
        super()._refresh()
        for node in self._nodes():
            state = QtCore.Qt.CheckState.Checked if node in checked else QtCore.Qt.CheckState.Unchecked
            self.setCheckState(node, state)
        self._combo_box.model().blockSignals(was_blocked)
        if self.checkedNodes() != checked:
            self.checkedNodesChanged.emit()

    def _follow_check(self, first: Any, last: Any, roles: Any = ()) -> None:
        if not self._refreshing:
            self._combo_box.update()
            self.checkedNodesChanged.emit()
