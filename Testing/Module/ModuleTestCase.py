"""Base of the module's tests: the same cases run in Slicer and, without it, over the test runtime in Testing/Runtime.

A test file begins with ``from ModuleTestCase import ModuleTestCase, qt, slicer``: importing this module starts the
runtime where there is no Slicer (and skips the file where it cannot start); ``slicer`` and ``qt`` are there only then.
Cases are unittest cases with camelCase helpers:

- ``self.widget``, ``self.logic``: the module's widget (its column is open) and logic, with an empty scene;
- ``self.panel("Import")`` opens a panel and returns it; ``self.find("importFolderPathLineEdit")`` finds a widget by its
  object name, ``self.click(…)`` presses a button as a user could: never one that is hidden or disabled;
- ``self.waitUntil(condition)`` lets the window live until something holds;
- ``self.assertNeverBlocked(action)`` does something several times and measures how long the event loop stood still;
- ``self.photograph("import-filled")`` takes pictures at 400 and 700 pixels, kept where ``LUNGSEG_SCREENSHOTS`` says,
  with ``LUNGSEG_THEME=dark`` in a dark theme;
- ``self.folder`` is a temporary folder with a difficult name; ``self.phantom()`` makes DICOM patients, once.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
import unittest
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WIDTHS = (400, 700)
COLUMN_HEIGHT = 800


def inSlicer() -> bool:
    """Whether this runs in the application."""
    return "PythonQt" in sys.modules


def startRuntime() -> None:
    """Put ``slicer``, ``qt`` and ``ctk`` in place where this is not the application."""
    if inSlicer():
        return
    if str(ROOT / "Testing") not in sys.path:
        sys.path.insert(0, str(ROOT / "Testing"))
    import Runtime

    if Runtime.missing():
        raise unittest.SkipTest(Runtime.missing())
    Runtime.start()
    if os.environ.get("LUNGSEG_THEME") == "dark":
        import qt

        qt.QApplication.setPalette(darkPalette())


def darkPalette():
    """Return the colors of a dark theme, as Slicer's."""
    import qt

    palette = qt.QPalette()
    colors = {
        "Window": "#353535",
        "Button": "#353535",
        "Base": "#232323",
        "AlternateBase": "#2d2d2d",
        "Highlight": "#2a82da",
        "ToolTipBase": "#353535",
    }
    for role, color in colors.items():
        palette.setColor(getattr(qt.QPalette, role), qt.QColor(color))
    for role in ("WindowText", "Text", "ButtonText", "ToolTipText", "HighlightedText"):
        palette.setColor(getattr(qt.QPalette, role), qt.QColor("#f0f0f0"))
        palette.setColor(qt.QPalette.Disabled, getattr(qt.QPalette, role), qt.QColor("#808080"))
    return palette


startRuntime()

import qt  # noqa: E402 - there only now
import slicer  # noqa: E402


def loadModule() -> None:
    """Load the module from the source tree where it is not loaded yet."""
    if hasattr(slicer.modules, "lungsegmentation"):
        return
    path = ROOT / "LungSegmentation" / "LungSegmentation.py"
    if not inSlicer():
        import Runtime

        Runtime.start().load_module()
        return
    manager = slicer.app.moduleManager().factoryManager()
    manager.registerModule(qt.QFileInfo(str(path)))
    manager.loadModules(["LungSegmentation"])


def waitedForProcessorS() -> float:
    """Return how long this thread was ready to run and another program had the processor; 0 where that is not known."""
    try:
        return int(Path("/proc/thread-self/schedstat").read_text(encoding="ascii").split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


BLOCKED_MS = 100.0
OUTLIER_MS = 250.0


class Gaps:
    """How long the event loop stood still, the time that other programs had the processor left out.

    Attributes
    ----------
    longestMs, secondMs
        The longest time between two turns of a timer of 5 ms, and the second longest.
    """

    def __init__(self) -> None:
        self.longestMs = 0.0
        self.secondMs = 0.0
        self._last = time.perf_counter()
        self._waited = waitedForProcessorS()
        self._timer = qt.QTimer()
        self._timer.setInterval(5)
        self._timer.connect("timeout()", self._tick)

    def start(self) -> None:
        """Begin to measure."""
        self._last = time.perf_counter()
        self._waited = waitedForProcessorS()
        self._timer.start()

    def stop(self) -> None:
        """Measure no more; what comes after the first call does not count."""
        if self._timer.active:
            self._tick()
            self._timer.stop()

    def _tick(self) -> None:
        now, waited = time.perf_counter(), waitedForProcessorS()
        gap = 1000 * ((now - self._last) - (waited - self._waited))
        self.secondMs, self.longestMs = sorted((self.secondMs, self.longestMs, gap))[1:]
        self._last, self._waited = now, waited


class ModuleTestCase(unittest.TestCase):
    """A case with the module loaded and an empty scene; see the text at the top of this file."""

    _phantoms: tempfile.TemporaryDirectory | None = None

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        loadModule()

    def setUp(self) -> None:
        super().setUp()
        slicer.mrmlScene.Clear(False)
        self._temporary = tempfile.TemporaryDirectory(prefix="Lunge é 肺 ", ignore_cleanup_errors=True)
        self.folder = Path(self._temporary.name)
        self.widget = slicer.util.getModuleWidget("LungSegmentation")
        self.logic = self.widget.logic
        self._settings = {key: qt.QSettings().value(key) for key in self.settingsKeys()}
        if not inSlicer():
            import Runtime

            Runtime.start().errors.clear()
        # A check imports PyTorch in a child process; tests of the set-up strip ask for it themselves.
        self.widget.accordion.setupPanel.checksWhenEntered = False
        self.widget.enter()

    def tearDown(self) -> None:
        from LungSegmentationScene import Background, ChildProcess, Jobs

        for job in Jobs.runningJobs():
            job.cancel()
        Background.finishPending()
        self.waitUntil(lambda: not Jobs.runningJobs(), message="a job did not end")
        ChildProcess.endAll()
        self.widget.exit()
        for section in self.widget.accordion.sections.values():
            section.collapsed = True
        slicer.mrmlScene.Clear(False)
        for key, value in self._settings.items():
            if value is None:
                qt.QSettings().remove(key)
            else:
                qt.QSettings().setValue(key, value)
        self._temporary.cleanup()
        if not inSlicer():
            import Runtime

            self.assertEqual(Runtime.start().errors, [], "slots or observers raised errors")
        super().tearDown()

    @staticmethod
    def settingsKeys() -> list[str]:
        """Return the keys of our settings, which every test leaves as they were."""
        from LungSegmentationScene import Environment

        return [Environment.PYTHON_SETTING]

    @classmethod
    def requireJobs(cls) -> None:
        """Skip where the Python of this application cannot run jobs; for ``setUpClass``."""
        from LungSegmentationScene import Setup

        missing = {item.name for item in Setup.windowMissing()}
        missing |= {
            name for name in ("SimpleITK", "pydicom", "rich", "typer") if importlib.util.find_spec(name) is None
        }
        if missing:
            raise unittest.SkipTest(f"jobs need {', '.join(sorted(missing))} in {sys.executable}")

    # What a user does

    def panel(self, name: str):
        """Open a panel and return it."""
        panel = self.widget.accordion.open(name)
        self.assertIsNotNone(panel, f"the panel {name} could not be made")
        self.processEvents()
        return panel

    def find(self, objectName: str):
        """Return the only widget of this name in the module."""
        # With a name, PythonQt looks only below children that have it.
        found = [one for one in self.widget.parent.findChildren(qt.QWidget) if one.objectName == objectName]
        self.assertEqual(len(found), 1, f"{len(found)} widgets are named {objectName}")
        return found[0]

    def click(self, button) -> None:
        """Press a button, given by itself or by its object name; it must be one that a user can press."""
        button = self.find(button) if isinstance(button, str) else button
        self.assertTrue(button.enabled, f"{button.objectName} is disabled: {button.toolTip}")
        self.assertFalse(button.isHidden(), f"{button.objectName} is hidden")
        button.click()
        self.processEvents()

    # How time passes

    @staticmethod
    def processEvents() -> None:
        """Let the window do what waits to be done."""
        slicer.app.processEvents()

    def waitUntil(self, condition: Callable[[], object], timeoutS: float = 60.0, message: str = "") -> None:
        """Let the window live until a condition holds; fail after a generous time."""
        deadline = time.monotonic() + timeoutS
        while not condition():
            slicer.app.processEvents()
            time.sleep(0.002)
            if time.monotonic() > deadline:
                self.fail(message or f"waited {timeoutS:.0f} s in vain")

    @contextlib.contextmanager
    def blocking(self) -> Iterator[Gaps]:
        """Measure how long the event loop stands still; inside, let the window live by :meth:`waitUntil`."""
        gaps = Gaps()
        gaps.start()
        try:
            yield gaps
        finally:
            gaps.stop()

    def assertWindowAlive(self, gaps: Gaps) -> None:
        """The window never stood still for long in what was measured once.

        Where more programs run than there are processors, one gap may be longer: the system's, for memory or the disk.
        A blockage of the module's own comes again with each event, or is longer than that.
        """
        crowded = hasattr(os, "getloadavg") and os.getloadavg()[0] > (os.cpu_count() or 1)
        self.assertLess(gaps.secondMs if crowded else gaps.longestMs, BLOCKED_MS)
        self.assertLess(gaps.longestMs, OUTLIER_MS)

    def assertNeverBlocked(
        self,
        action: Callable[[object], object],
        prepare: Callable[[], object] | None = None,
        barMs: float = 100.0,
        attempts: int = 4,
    ) -> None:
        """Fail if the event loop stands still for longer each time that the action is done.

        Other programs take the processor away now and then, which only ever adds: the best attempt counts.

        Parameters
        ----------
        action
            What is measured; gets what ``prepare`` returned.
        prepare
            Done before each attempt, not measured.
        barMs, attempts
            Longest time that the loop may stand still, and how often the action is tried.
        """
        longest = []
        for _attempt in range(attempts):
            prepared = prepare() if prepare is not None else None
            with self.blocking() as gaps:
                action(prepared)
            longest.append(round(gaps.longestMs))
            if longest[-1] < barMs:
                return
        self.fail(f"the window stood still for {longest} ms in {attempts} attempts, each more than {barMs:.0f} ms")

    # What is seen

    def photograph(self, name: str, widget=None) -> list[Path]:
        """Take pictures of the module's column (or another widget) at the widths that columns have.

        Returns
        -------
        list of Path
            PNG files, in the folder that ``LUNGSEG_SCREENSHOTS`` names, else in the temporary one.
        """
        folder = Path(os.environ.get("LUNGSEG_SCREENSHOTS") or self.folder / "screenshots")
        folder.mkdir(parents=True, exist_ok=True)
        widget = widget or self.widget.accordion.widget
        files = []
        for width in WIDTHS:
            file = folder / f"{name}-{width}.png"
            if inSlicer():
                self.widget.parent.resize(width, COLUMN_HEIGHT)
                self.processEvents()
                widget.grab().save(str(file))
            else:
                import Runtime

                # Labels that wrap know their height only once they were laid out at this width.
                for _time in range(2):
                    Runtime.start().grab(widget, file, width=width)
            files.append(file)
        return files

    # What tests work on

    @staticmethod
    def sliceNode():
        """Return the axial slice node; where there is no view, one that stands for it."""
        from LungSegmentationScene import Views

        node = Views.axialSliceNode()
        if node is None:
            node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSliceNode", "Red")
            node.SetLayoutName("Red")
            node.SetOrientation("Axial")
        return node

    @classmethod
    def phantom(cls) -> Path:
        """Return a folder with two synthetic DICOM patients, 256 pixels wide and 24 slices high; made once."""
        if ModuleTestCase._phantoms is None:
            ModuleTestCase._phantoms = tempfile.TemporaryDirectory(prefix="phantoms ", ignore_cleanup_errors=True)
            out = ModuleTestCase._phantoms.name
            command = [jobPython(), "-m", "LungSegmentationLib", "phantom", out]
            command += ["--patients", "2", "--seed", "7", "--size", "256", "--slices", "24"]
            environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"}
            subprocess.run(command, check=True, capture_output=True, env=environment, timeout=300)
        return Path(ModuleTestCase._phantoms.name) / "dicom"


def jobPython() -> str:
    """Return the Python of the jobs: the chosen one, else the one that runs the tests."""
    from LungSegmentationScene import Environment

    return str(Environment.chosenPython() or Environment.ownPython())
