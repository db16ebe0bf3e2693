"""``slicer.app`` and its managers: what the extension asks the application for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import slicer
from PySide6 import QtCore, QtWidgets

from . import api
from .file_manager import FileManager
from .qt_objects import INTERNAL
from .scene import Session

Signal = QtCore.Signal


class ModuleManager(QtCore.QObject):
    """``slicer.app.moduleManager()``."""

    moduleAboutToBeUnloaded = Signal(str)
    moduleLoaded = Signal(str)
    SIGNALS = {"moduleAboutToBeUnloaded": ("QString",), "moduleLoaded": ("QString",)}

    def module(self, name: str) -> Any:
        return getattr(slicer.modules, name.lower(), None)

    def modulesNames(self) -> list[str]:
        return [module.name for module in vars(slicer.modules).values() if hasattr(module, "widgetRepresentation")]


class Application(QtWidgets.QApplication):
    """``slicer.app``."""

    startupCompleted = Signal()
    mrmlSceneChanged = Signal(object)
    SIGNALS = {"startupCompleted": ("",), "mrmlSceneChanged": ("vtkMRMLScene*",)}

    def __init__(self, session: Session, folder: Path) -> None:
        super().__init__(["Slicer"])
        self._session = session
        self._folder = folder
        self._module_manager = ModuleManager()
        self._file_manager = FileManager(session)
        self._layout_manager: Any = None
        self._settings = QtCore.QSettings()
        self._render_paused = 0

    majorVersion = 5
    minorVersion = 8
    revision = "33241"
    documentationBaseUrl = "https://slicer.readthedocs.io"
    documentationVersion = "5.8"

    @property
    def temporaryPath(self) -> str:
        path = self._folder / "temporary"
        path.mkdir(exist_ok=True)
        return str(path)

    @property
    def slicerHome(self) -> str:
        return str(self._folder / "home")

    def applicationLogic(self) -> Any:
        return self._session.application_logic

    def mrmlScene(self) -> Any:
        return slicer.mrmlScene

    def moduleLogic(self, name: str) -> Any:
        return self._session.logics.get(name)

    def moduleManager(self) -> ModuleManager:
        return self._module_manager

    def ioManager(self) -> FileManager:
        return self._file_manager

    def coreIOManager(self) -> FileManager:
        return self._file_manager

    def layoutManager(self) -> Any:
        return self._layout_manager

    def setLayoutManager(self, manager: Any) -> None:
        self._layout_manager = manager

    def settings(self) -> QtCore.QSettings:
        return self._settings

    def userSettings(self) -> QtCore.QSettings:
        return self._settings

    def revisionUserSettings(self) -> QtCore.QSettings:
        return self._settings

    def testingEnabled(self) -> bool:
        return False

    def pythonConsole(self) -> None:
        return None

    def commandOptions(self) -> QtCore.QObject:
        options = QtCore.QObject()
        options.setProperty("noMainWindow", True)
        return options

    def startupEnvironment(self) -> QtCore.QProcessEnvironment:
        return QtCore.QProcessEnvironment.systemEnvironment()

    def translate(self, context: str, text: str) -> str:
        return text

    def pauseRender(self) -> None:
        self._render_paused += 1

    def resumeRender(self) -> None:
        self._render_paused -= 1

    @property
    def renderPaused(self) -> bool:
        return self._render_paused > 0

    def moduleDocumentationUrl(self, name: str) -> str:
        return f"{self.documentationBaseUrl}/en/{self.documentationVersion}/user_guide/modules/{name.lower()}.html"

    def openUrl(self, url: str) -> None:
        raise RuntimeError(f"there is no browser here to open {url} with")

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("_") and name not in _KNOWN:
            raise AttributeError(f"slicer.app has no attribute '{name}' in Slicer")
        return super().__getattribute__(name)


_KNOWN = api.instance_names("slicer.app") | INTERNAL | {"name", "staticMetaObject"}
