"""Starting Slicer with the extension costs next to nothing: nothing heavy is imported, nothing run, nothing scanned."""

from __future__ import annotations

import os
import subprocess
import sys
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "Testing"))

OWN_TIME_BAR_MS = 150

HEAVY = "SimpleITK torch pydicom scipy matplotlib skimage highdicom pydantic psutil rt_utils cv2 plotly typer rich"

LOAD = f"""
import sys, time
sys.path.insert(0, sys.argv[1])
import Runtime
runtime = Runtime.start()
from Runtime import scripted_module
before = set(sys.modules)
import subprocess, threading
started = []
subprocess.Popen.__init__ = lambda self, *a, **k: started.append(a)
begin = time.perf_counter()
scripted_module.load(__import__("pathlib").Path(sys.argv[2]))
import slicer
slicer.app.startupCompleted.emit()
milliseconds = 1000 * (time.perf_counter() - begin)
heavy = sorted({{name.split(".")[0] for name in set(sys.modules) - before}} & set("{HEAVY}".split()))
own = sorted(name for name in set(sys.modules) - before if name.startswith("LungSegmentation"))
assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLScriptedModuleNode") == 0, "a node at start-up"
assert threading.active_count() == 1, threading.enumerate()
print("RESULT", round(milliseconds, 1), "heavy:", *heavy, "started:", len(started))
print("OWN", *own)
"""


def load() -> tuple[float, list[str], int, list[str]]:
    """Load the module in a fresh process; return ms, heavy modules, started programs and own modules."""
    if "PythonQt" in sys.modules:
        raise unittest.SkipTest("measured over the test runtime")
    import Runtime

    if Runtime.missing():
        raise unittest.SkipTest(Runtime.missing())
    module = ROOT / "LungSegmentation" / "LungSegmentation.py"
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(ROOT / "Testing"), str(module)],
        capture_output=True, text=True, timeout=300, check=False, env=dict(os.environ),
    )  # fmt: skip
    if done.returncode:
        raise AssertionError(done.stderr[-4000:])
    lines = done.stdout.splitlines()
    result = next(line for line in lines if line.startswith("RESULT")).split()
    own = next(line for line in lines if line.startswith("OWN")).split()[1:]
    heavy = result[3 : result.index("started:")]
    return float(result[1]), heavy, int(result[-1]), own


class ModuleLoad(unittest.TestCase):
    """What happens before a user opens the module."""

    @classmethod
    def setUpClass(cls) -> None:
        cls.milliseconds, cls.heavy, cls.started, cls.own = load()

    def testNothingHeavyIsImported(self) -> None:
        self.assertEqual(self.heavy, [])

    def testNoProgramIsStarted(self) -> None:
        self.assertEqual(self.started, 0)

    def testPanelsAreNotImported(self) -> None:
        self.assertEqual([name for name in self.own if name.startswith("LungSegmentationPanels.")], [])

    def testOwnImportTimeIsBelowTheBar(self) -> None:
        # The best of three, as other programs take their share of the processor.
        best = min(self.milliseconds, *(load()[0] for _ in range(2)))
        self.assertLess(best, OWN_TIME_BAR_MS)


if __name__ == "__main__":
    unittest.main()
