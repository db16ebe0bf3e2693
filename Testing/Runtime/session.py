"""Puts Slicer's modules in place and gives tests what a user has: panels, dialogs, screenshots."""

from __future__ import annotations

import atexit
import logging
import shutil
import sys
import tempfile
import traceback
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from .requirements import prepare_environment, rendering_fault

prepare_environment()

import slicer  # noqa: E402  only now may Qt and VTK look at the environment
import vtk  # noqa: E402,F401
from PySide6 import QtCore  # noqa: E402

from . import qt_objects  # noqa: E402

qt_objects.adapt_all()

from . import (  # noqa: E402
    application,
    ctk_widgets,
    dialogs,
    dicom_database,
    mrml_widgets,
    node_selectors,
    parameter_node,
    qt_module,
    sample_data,
    scripted_module,
    utilities,
    views,
)
from .scene import Session  # noqa: E402

# Each made its widgets known as it was imported.
WIDGETS = (ctk_widgets, mrml_widgets, node_selectors)

MODULE_FOLDER = Path(__file__).resolve().parents[2]


class Runtime:
    """A started Slicer without its window.

    Attributes
    ----------
    dialogs : Dialogs
        Dialogs that came up, and the answers that a test announces.
    installed : list
        What ``slicer.util.pip_install`` was asked for; nothing is installed.
    errors : list of str
        Tracebacks of what slots and observers raised, which Qt and VTK only print.
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="slicer-runtime-"))
        self.dialogs = dialogs.Dialogs()
        self.installed: list[Any] = []
        self.errors: list[str] = []
        self._views: Any = None
        QtCore.qInstallMessageHandler(_log_message)
        self._choose_settings()
        self.session = Session(self.folder)
        self.app = application.Application(self.session, self.folder)
        self._put_modules_in_place()
        self._record_errors()
        atexit.register(self.stop)

    def load_module(self, name: str = "LungSegmentation") -> tuple[Any, Any, Any]:
        """Load a module as Slicer does at its start; return module object, panel and logic.

        The panel is what ``slicer.util.getModuleWidget`` gives, the logic what ``getModuleLogic`` gives.
        """
        if not hasattr(slicer.modules, name.lower()):
            scripted_module.load(MODULE_FOLDER / name / f"{name}.py")
            slicer.app.startupCompleted.emit()
        module = slicer.util.getModule(name)
        return module, slicer.util.getModuleWidget(name), slicer.util.getModuleLogic(name)

    def unload_module(self, name: str = "LungSegmentation") -> None:
        """Do what Slicer does with a module when its window closes."""
        module = slicer.util.getModule(name)
        slicer.app.moduleManager().moduleAboutToBeUnloaded.emit(name)
        if module._representation is not None:
            module._representation.deleteLater()
        for attribute in (name.lower(), f"{name}Widget", f"{name}Instance"):
            if hasattr(slicer.modules, attribute):
                delattr(slicer.modules, attribute)
        self.process_events()

    def open_views(self) -> Any:
        """Open slice views and a 3D view, as a Slicer with a window has them; return the layout manager.

        Raises
        ------
        RuntimeError
            If VTK cannot draw here.
        """
        if self._views is None:
            fault = rendering_fault()
            if fault:
                raise RuntimeError(fault)
            self._views = views.LayoutManager(self.session)
        self.app.setLayoutManager(self._views)
        return self._views

    def close_views(self) -> None:
        """Go on as ``--no-main-window`` does: without a layout manager."""
        self.app.setLayoutManager(None)

    def clear(self) -> None:
        """Empty the scene and the DICOM database; forget dialogs, installations and errors."""
        slicer.mrmlScene.Clear(False)
        for patient in slicer.dicomDatabase.patients():
            slicer.dicomDatabase.removePatient(patient)
        self.dialogs.clear()
        self.installed.clear()
        self.errors.clear()
        self.process_events()

    def process_events(self) -> None:
        """Let Qt do what waits to be done, deletions included."""
        self.app.processEvents()
        QtCore.QCoreApplication.sendPostedEvents(None, QtCore.QEvent.Type.DeferredDelete)

    def grab(self, widget: Any, path: Path, width: int = 0, height: int = 0) -> Path:
        """Photograph a widget.

        Parameters
        ----------
        widget : QWidget
            Shown for it if it is not.
        path : Path
            PNG file to write.
        width, height : int, optional
            Size in pixels; the height is by default what the widget asks for at this width.

        Returns
        -------
        Path
            The file.
        """
        widget.show()
        window = widget.window()
        window.show()
        if width:
            widget.setFixedWidth(width)
            self.process_events()
            layout = widget.layout()
            wanted = layout.heightForWidth(width) if layout is not None and layout.hasHeightForWidth() else -1
            wanted = height or max(wanted, widget.sizeHint.height())
            widget.resize(width, wanted)
            if window is not widget:
                # The layout around the widget gives it what the window has.
                window.resize(window.width, window.height + max(0, wanted - widget.height))
        self.process_events()
        path.parent.mkdir(parents=True, exist_ok=True)
        if not widget.grab().save(str(path)):
            raise OSError(f"{path} could not be written")
        return path

    def stop(self) -> None:
        """Remove the folder of settings and temporary files."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _choose_settings(self) -> None:
        QtCore.QCoreApplication.setOrganizationName("NA-MIC")
        QtCore.QCoreApplication.setApplicationName("Slicer")
        QtCore.QSettings.setDefaultFormat(QtCore.QSettings.Format.IniFormat)
        QtCore.QSettings.setPath(
            QtCore.QSettings.Format.IniFormat, QtCore.QSettings.Scope.UserScope, str(self.folder / "settings")
        )

    def _put_modules_in_place(self) -> None:
        slicer.app = self.app
        slicer.modules = SimpleNamespace()
        slicer.dicomDatabase = dicom_database.ctkDICOMDatabase()
        for name, logic in self.session.logics.items():
            setattr(slicer.modules, name.lower(), scripted_module.built_in(name, logic))
        sys.modules["qt"] = qt_module.build()
        sys.modules["ctk"] = ctk_widgets.ctk
        slicer.qSlicerScriptedLoadableModule = scripted_module.qSlicerScriptedLoadableModule
        for name, module in (
            ("ScriptedLoadableModule", scripted_module.build()),
            ("parameterNodeWrapper", parameter_node.build()),
            ("i18n", _translations()),
        ):
            sys.modules[f"slicer.{name}"] = module
            setattr(slicer, name, module)
        sys.modules["SampleData"] = sample_data.build()
        slicer.modules.sampleDataSources = {}
        slicer.modules.sampledata = scripted_module.built_in("SampleData", None)
        utilities.adapt(self.installed.append)
        self.dialogs.install()

    def _record_errors(self) -> None:
        before = sys.excepthook

        def record(kind: Any, value: Any, trace: Any) -> None:
            self.errors.append("".join(traceback.format_exception(kind, value, trace)))
            before(kind, value, trace)

        sys.excepthook = record


def _log_message(kind: Any, context: Any, text: str) -> None:
    # Without a display there is no window manager that could be told of sizes.
    if "propagateSizeHints" not in text:
        logging.getLogger("qt").warning(text)


def _translations() -> ModuleType:
    module = ModuleType("slicer.i18n", "Translation of texts")
    module.tr = lambda text: text
    module.translate = lambda context, text: text
    return module
