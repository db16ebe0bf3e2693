"""``slicer.ScriptedLoadableModule`` and the loading of a module's file, in the order in which Slicer does it."""

from __future__ import annotations

import importlib.util
import logging
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import slicer
from PySide6 import QtCore, QtGui, QtWidgets
from slicer.util import VTKObservationMixin  # noqa: F401  modules import it from slicer.util; kept loaded

from .mrml_widgets import qSlicerScriptedLoadableModuleWidget
from .widget_tools import stored

logger = logging.getLogger(__name__)


class qSlicerScriptedLoadableModule(QtCore.QObject):
    """The C++ side of a module written in Python."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = str(path)
        self._name = path.stem
        self._icon = QtGui.QIcon()
        self._logic = slicer.vtkSlicerScriptedLoadableModuleLogic()
        self._logic.SetMRMLScene(slicer.mrmlScene)
        self._representation: Any = None
        self._python_file: ModuleType | None = None

    title = stored(str, "title", "")
    categories = stored("QStringList", "categories", [])
    dependencies = stored("QStringList", "dependencies", [])
    contributors = stored("QStringList", "contributors", [])
    helpText = stored(str, "helpText", "")
    acknowledgementText = stored(str, "acknowledgementText", "")
    hidden = stored(bool, "hidden", False)
    icon = stored("QVariant", "icon", None)
    associatedNodeTypes = stored("QStringList", "associatedNodeTypes", [])
    widgetRepresentationCreationEnabled = stored(bool, "widgetRepresentationCreationEnabled", True)

    def _read_name(self) -> str:
        return self._name

    def _read_path(self) -> str:
        return self._path

    name = QtCore.Property(str, _read_name)
    path = QtCore.Property(str, _read_path)

    def logic(self) -> Any:
        return self._logic

    def mrmlScene(self) -> Any:
        return slicer.mrmlScene

    def widgetRepresentation(self) -> Any:
        if self._representation is None:
            self._representation = self.createNewWidgetRepresentation()
        return self._representation

    def createNewWidgetRepresentation(self) -> Any:
        widget = qSlicerScriptedLoadableModuleWidget()
        widget.setObjectName(f"{self._name}ModuleWidget")
        widget._module = self
        widget.setLayout(QtWidgets.QVBoxLayout())
        widget.setMRMLScene(slicer.mrmlScene)
        widget._python_widget = getattr(self._python_file, f"{self._name}Widget")(widget)
        widget._python_widget.setup()
        setattr(slicer.modules, f"{self._name}Widget", widget._python_widget)
        return widget


def load(path: Path) -> qSlicerScriptedLoadableModule:
    """Load a module's file and instantiate its module class, as at Slicer's start.

    Parameters
    ----------
    path : Path
        The Python file, named as the module.
    """
    module = qSlicerScriptedLoadableModule(path)
    name = path.stem
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    # The class asks for its resources while it is being made.
    setattr(slicer.modules, name.lower(), module)
    specification = importlib.util.spec_from_file_location(name, path)
    module._python_file = importlib.util.module_from_spec(specification)
    sys.modules[name] = module._python_file
    specification.loader.exec_module(module._python_file)
    setattr(slicer.modules, f"{name}Instance", getattr(module._python_file, name)(module))
    slicer.app.moduleManager().moduleLoaded.emit(name)
    return module


class ScriptedLoadableModule:
    """Describes a module: title, category, help."""

    def __init__(self, parent: Any) -> None:
        self.parent = parent
        self.moduleName = type(self).__name__
        parent.title = ""
        parent.categories = []
        parent.dependencies = []
        parent.contributors = ["Anonymous"]
        parent.helpText = ""
        parent.acknowledgementText = ""
        icon = Path(self.resourcePath(f"Icons/{self.moduleName}.png"))
        if icon.exists():
            parent.icon = QtGui.QIcon(str(icon))

    def resourcePath(self, filename: str) -> str:
        return _resource(self.moduleName, filename)

    def getDefaultModuleDocumentationLink(self, docPage: str | None = None) -> str:
        url = slicer.app.moduleDocumentationUrl(self.moduleName)
        return f'<p>For more information see the <a href="{url}">online documentation</a>.</p>'


class ScriptedLoadableModuleWidget:
    """The panel of a module."""

    def __init__(self, parent: Any = None) -> None:
        self.moduleName = type(self).__name__.removesuffix("Widget")
        self.developerMode = False
        if parent is None:
            parent = slicer.qMRMLWidget()
            parent.setLayout(QtWidgets.QVBoxLayout())
            parent.setMRMLScene(slicer.mrmlScene)
        self.parent = parent
        self.layout = parent.layout()
        slicer.app.moduleManager().connect("moduleAboutToBeUnloaded(QString)", self._onModuleAboutToBeUnloaded)

    def resourcePath(self, filename: str) -> str:
        return _resource(self.moduleName, filename)

    def setup(self) -> None:
        self.setupDeveloperSection()

    def setupDeveloperSection(self) -> None:
        """Add nothing: the section is only there in developer mode."""

    def cleanup(self) -> None:
        """Leave it to the module."""

    def _onModuleAboutToBeUnloaded(self, moduleName: str) -> None:
        if moduleName == self.moduleName:
            self.cleanup()
            slicer.app.moduleManager().disconnect("moduleAboutToBeUnloaded(QString)", self._onModuleAboutToBeUnloaded)


class ScriptedLoadableModuleLogic:
    """What a module computes, without its panel."""

    def __init__(self, parent: Any = None) -> None:
        self.moduleName = type(self).__name__.removesuffix("Logic")
        self.isSingletonParameterNode = True

    def getParameterNode(self) -> Any:
        if self.isSingletonParameterNode:
            node = slicer.mrmlScene.GetSingletonNode(self.moduleName, "vtkMRMLScriptedModuleNode")
            return node if node is not None else self.createParameterNode()
        nodes = self.getAllParameterNodes()
        return nodes[0] if nodes else self.createParameterNode()

    def getAllParameterNodes(self) -> list[Any]:
        nodes = slicer.util.getNodesByClass("vtkMRMLScriptedModuleNode")
        return [node for node in nodes if node.GetAttribute("ModuleName") == self.moduleName]

    def createParameterNode(self) -> Any:
        node = slicer.mrmlScene.CreateNodeByClass("vtkMRMLScriptedModuleNode")
        node.UnRegister(None)
        if self.isSingletonParameterNode:
            node.SetSingletonTag(self.moduleName)
        node.SetModuleName(self.moduleName)
        node.SetAttribute("ModuleName", self.moduleName)
        node.SetName(slicer.mrmlScene.GenerateUniqueName(self.moduleName))
        return slicer.mrmlScene.AddNode(node)


class ScriptedLoadableModuleTest:
    """The base of a module's self test."""

    def setUp(self) -> None:
        slicer.mrmlScene.Clear(0)

    def runTest(self) -> None:
        raise NotImplementedError

    def delayDisplay(self, message: str, requestedDelay: Any = None, msec: Any = None) -> None:
        logger.info(message)


def build() -> ModuleType:
    """Return the module ``slicer.ScriptedLoadableModule``."""
    module = ModuleType("slicer.ScriptedLoadableModule", "Base classes of scripted modules")
    classes = (
        ScriptedLoadableModule,
        ScriptedLoadableModuleWidget,
        ScriptedLoadableModuleLogic,
        ScriptedLoadableModuleTest,
    )
    for cls in classes:
        setattr(module, cls.__name__, cls)
    module.__all__ = [cls.__name__ for cls in classes]
    return module


def built_in(name: str, logic: Any) -> SimpleNamespace:
    """Return a C++ module of Slicer: its logic, and no panel."""
    return SimpleNamespace(name=name, title=name, path="", logic=lambda: logic, widgetRepresentation=lambda: None)


def _resource(module_name: str, filename: str) -> str:
    return str(Path(slicer.util.modulePath(module_name)).parent / "Resources" / filename)
