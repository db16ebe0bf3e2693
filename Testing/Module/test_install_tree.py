"""The installed extension: configured, built and installed by CMake, it imports and finds what it needs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STAND_IN = Path(__file__).resolve().parent / "SlicerStandIn"
SCRIPTED = Path("lib") / "Slicer-5.10" / "qt-scripted-modules"

CHECK = """
import sys
from pathlib import Path
tree, testing = Path(sys.argv[1]), sys.argv[2]
sys.path.insert(0, testing)
import Runtime
runtime = Runtime.start()
from Runtime import scripted_module, session
session.MODULE_FOLDER = tree.parent
sys.path.insert(0, str(tree))  # as Slicer does with the folders of its modules
scripted_module.load(tree / "LungSegmentation.py")
import slicer
slicer.app.startupCompleted.emit()
widget = slicer.util.getModuleWidget("LungSegmentation")
widget.accordion.setupPanel.checksWhenEntered = False
widget.enter()
import LungSegmentationLib
from LungSegmentationLib.labels import load_label_set
from LungSegmentationLib.resources import resource_path
from LungSegmentationScene import Environment, Setup
for place in (LungSegmentationLib.__file__, resource_path("RoiNames"), Environment.MODULE_FOLDER):
    assert Path(place).resolve().is_relative_to(tree.resolve()), place
assert load_label_set("thorax").structures
assert resource_path("Terminologies", "LungSegmentation.term.json").is_file()
assert Setup.readRequirements()
assert widget.accordion.sections
for name in widget.accordion.sections:
    assert widget.accordion.open(name) is not None, name
assert not runtime.errors, runtime.errors
print("INSTALLED TREE IS WHOLE")
"""


def run(*command: object, folder: Path | None = None, environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        [str(part) for part in command], cwd=folder, env=environment, capture_output=True, text=True, timeout=600,
        check=False, encoding="utf-8", errors="replace",
    )  # fmt: skip
    if done.returncode:
        raise AssertionError(f"{command[0]} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done.stdout


@unittest.skipIf("PythonQt" in sys.modules, "the installed tree is loaded over the test runtime")
@unittest.skipUnless(shutil.which("cmake"), "cmake is not installed")
class InstallTree(unittest.TestCase):
    """With a stand-in for Slicer's CMake macros, as Slicer's build tree is rarely there."""

    @classmethod
    def setUpClass(cls) -> None:
        cls._temporary = tempfile.TemporaryDirectory(prefix="installed ")
        folder = Path(cls._temporary.name)
        cls.build, cls.prefix = folder / "build", folder / "prefix"
        run("cmake", "-S", ROOT, "-B", cls.build, f"-DSlicer_DIR={STAND_IN}", f"-DCMAKE_INSTALL_PREFIX={cls.prefix}",
            "-DBUILD_TESTING=ON")  # fmt: skip
        run("cmake", "--build", cls.build)
        run("cmake", "--install", cls.build)

    @classmethod
    def tearDownClass(cls) -> None:
        cls._temporary.cleanup()

    def _checkTree(self, tree: Path) -> None:
        if "PythonQt" in sys.modules:
            self.skipTest("checked over the test runtime")
        sys.path.insert(0, str(ROOT / "Testing"))
        import Runtime

        if Runtime.missing():
            self.skipTest(Runtime.missing())
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        said = run(
            sys.executable, "-c", CHECK, tree, ROOT / "Testing", folder=self.prefix.parent, environment=environment
        )
        self.assertIn("INSTALLED TREE IS WHOLE", said)

    def testTheBuildTreeIsWhole(self) -> None:
        self._checkTree(self.build / SCRIPTED)

    def testTheInstalledTreeIsWhole(self) -> None:
        self._checkTree(self.prefix / SCRIPTED)

    def testJobsRunFromTheInstalledTree(self) -> None:
        tree = self.prefix / SCRIPTED
        environment = {**os.environ, "PYTHONPATH": str(tree)}
        said = run(
            sys.executable, "-m", "LungSegmentationLib", "--version", folder=tree.parent, environment=environment
        )
        self.assertIn("lungseg", said)

    def testTestsAreRegistered(self) -> None:
        listed = run("ctest", "-N", "--test-dir", self.build)
        self.assertIn("py_LungSegmentation", listed)
        self.assertIn("py_nomainwindow_test_column", listed)


if __name__ == "__main__":
    unittest.main()
