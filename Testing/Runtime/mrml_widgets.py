"""Widgets of MRML that follow the scene: base class, node selector, and the parents of module panels."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import shiboken6
import slicer
from PySide6 import QtCore, QtWidgets

from .widget_tools import widget_of

Signal = QtCore.Signal


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

    def reload(self) -> None:
        # slicer.util.reloadScriptedModule has read the file anew and let go of the former widget by then.
        name = self._module.name
        self._python_widget = getattr(sys.modules[name], f"{name}Widget")(self)
        self._python_widget.setup()
        setattr(slicer.modules, f"{name}Widget", self._python_widget)

    def _read_entered(self) -> bool:
        return self._entered

    isEntered = QtCore.Property(bool, _read_entered)
