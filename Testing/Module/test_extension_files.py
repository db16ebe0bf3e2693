"""What the extension's build and the extensions index read: file lists, descriptor, icon, requirements, tooltips."""

from __future__ import annotations

import importlib.util
import json
import re
import struct
import sys
import tomllib
import unittest
import xml.etree.ElementTree as ET
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
MODULE = ROOT / "LungSegmentation"

# What the schema of the catalog's entries knows (slicer-extension-catalog-entry-schema-v1.0.1).
REQUIRED = {"$schema", "category", "scm_url"}
KNOWN = REQUIRED | {"scm_revision", "scm_type", "build_dependencies", "build_subdirectory", "enabled", "tier"}

LISTS = "run python Tools/file_lists.py"
TOUCHED = re.compile(r"Button|LineEdit|ComboBox|SpinBox|Slider|CheckBox|Table|Tree|TextEdit|List|Selector|Bar$")
CONTAINERS = {"QWidget", "QFrame", "QStackedWidget", "QSplitter", "ctkCollapsibleGroupBox", "ctkCollapsibleButton"}


def fileLists() -> ModuleType:
    spec = importlib.util.spec_from_file_location("file_lists", ROOT / "Tools" / "file_lists.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["file_lists"] = module
    spec.loader.exec_module(module)
    return module


def uiFiles() -> list[Path]:
    return sorted((MODULE / "Resources" / "UI").glob("*.ui"))


class ExtensionFiles(unittest.TestCase):
    """Read as text: nothing of Slicer is needed."""

    def testEveryPythonFileOfTheModuleIsListed(self) -> None:
        text = (MODULE / "CMakeLists.txt").read_text(encoding="utf-8")
        there = {path.relative_to(MODULE).as_posix() for path in MODULE.rglob("*.py")}
        self.assertEqual(set(fileLists().stated_list(text, "MODULE_PYTHON_SCRIPTS")), there, LISTS)

    def testEveryResourceOfTheModuleIsListed(self) -> None:
        text = (MODULE / "CMakeLists.txt").read_text(encoding="utf-8")
        there = {path.relative_to(MODULE).as_posix() for path in (MODULE / "Resources").rglob("*") if path.is_file()}
        self.assertEqual(set(fileLists().stated_list(text, "MODULE_PYTHON_RESOURCES")), there, LISTS)

    def testEveryPythonFileOfTheLibraryIsListed(self) -> None:
        text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
        there = {path.relative_to(ROOT).as_posix() for path in (ROOT / "LungSegmentationLib").rglob("*.py")}
        self.assertEqual(set(fileLists().stated_list(text, "LIBRARY_PYTHON_SCRIPTS")), there, LISTS)

    def testEveryDataFileOfTheLibraryIsListed(self) -> None:
        stated = set(
            fileLists().stated_list((ROOT / "CMakeLists.txt").read_text(encoding="utf-8"), "LIBRARY_RESOURCES")
        )
        there = {path.relative_to(ROOT).as_posix() for path in (ROOT / "Resources").rglob("*.json")}
        self.assertLessEqual(there, stated, LISTS)

    def testEveryTestOfTheModuleIsRegistered(self) -> None:
        text = (ROOT / "Testing" / "Module" / "CMakeLists.txt").read_text(encoding="utf-8")
        lists = fileLists()
        there = {path.name for path in (ROOT / "Testing" / "Module").glob("test_*.py") if lists.runs_in_slicer(path)}
        self.assertIn("test_column.py", there)
        self.assertEqual(set(fileLists().stated_list(text, "MODULE_TESTS")), there, LISTS)

    def testTheToolFindsNothingToChange(self) -> None:
        lists = fileLists()
        for file, expected in lists.expected_lists().items():
            text = file.read_text(encoding="utf-8")
            for variable, entries in expected.items():
                self.assertEqual(lists.stated_list(text, variable), entries, LISTS)

    def testTheDescriptorFollowsTheSchemaOfTheIndex(self) -> None:
        descriptor = json.loads((ROOT / "LungSegmentation.json").read_text(encoding="utf-8"))
        self.assertLessEqual(REQUIRED, descriptor.keys())
        self.assertLessEqual(descriptor.keys(), KNOWN)
        self.assertRegex(descriptor["$schema"], r"slicer-extension-catalog-entry-schema-v1\.0\.\d\.json#$")
        self.assertEqual(descriptor["category"], "Segmentation")
        self.assertIn(descriptor["tier"], range(1, 6))

    def testProjectDescriptorAndModuleHaveOneName(self) -> None:
        text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
        self.assertIn("project(LungSegmentation)", text)
        self.assertTrue((ROOT / "LungSegmentation.json").is_file())
        self.assertTrue((MODULE / "LungSegmentation.py").is_file())
        category = re.search(r'set\(EXTENSION_CATEGORY "([^"]+)"\)', text)[1]
        self.assertEqual(category, json.loads((ROOT / "LungSegmentation.json").read_text())["category"])

    def testTheIconsAre128PixelsWideAndHigh(self) -> None:
        for file in (ROOT / "LungSegmentation.png", MODULE / "Resources" / "Icons" / "LungSegmentation.png"):
            header = file.read_bytes()[:24]
            self.assertEqual(header[:8], b"\x89PNG\r\n\x1a\n", file)
            self.assertEqual(struct.unpack(">II", header[16:24]), (128, 128), file)

    def testTheScreenshotsOfTheExtensionAreThereAndSmall(self) -> None:
        text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
        home = re.search(r'set\(EXTENSION_HOMEPAGE "https://github.com/([^"]+)"\)', text)[1]
        raw = f"https://raw.githubusercontent.com/{home}/main/"
        urls = re.search(r'set\(EXTENSION_SCREENSHOTURLS "([^"]+)"\)', text)[1].split()
        icon = re.search(r'set\(EXTENSION_ICONURL "([^"]+)"\)', text)[1]
        for url in [*urls, icon]:
            self.assertTrue(url.startswith(raw), url)
            file = ROOT / url.removeprefix(raw)
            self.assertTrue(file.is_file(), f"{file} is not there")
            self.assertEqual(file.read_bytes()[:8], b"\x89PNG\r\n\x1a\n", file)
            self.assertLessEqual(file.stat().st_size, 150_000, file)

    def testTheRequirementsAreThoseOfTheLibrary(self) -> None:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        groups = project["optional-dependencies"]
        wanted = {*project["dependencies"], *groups["train"], *groups["report"]}
        lines = (MODULE / "Resources" / "requirements.txt").read_text(encoding="utf-8").splitlines()
        stated = {line.partition("#")[0].strip() for line in lines} - {""}
        self.assertEqual(stated, wanted)

    def testEveryRequirementStatesTheSizeOfItsDownload(self) -> None:
        lines = (MODULE / "Resources" / "requirements.txt").read_text(encoding="utf-8").splitlines()
        for line in lines:
            if not line.startswith("#"):
                self.assertRegex(line, r"^[\w-]+>=[\d.]+  # \d+(–\d+)?$")

    def testEveryWidgetThatAUserTouchesHasANameAndATooltip(self) -> None:
        for file in uiFiles():
            for widget in ET.parse(file).getroot().iter("widget"):
                kind, name = widget.get("class"), widget.get("name")
                if kind in CONTAINERS or not TOUCHED.search(kind):
                    continue
                self.assertRegex(name, r"^[a-z][A-Za-z0-9]{6,}$", f"{file.name}: {name}")
                self.assertNotRegex(name, r"_\d+$", f"{file.name}: {name} is no telling name")
                toolTip = widget.find("property[@name='toolTip']/string")
                self.assertIsNotNone(toolTip, f"{file.name}: {name} has no tooltip")

    def testNoObjectNameIsUsedTwice(self) -> None:
        seen: dict[str, str] = {}
        for file in uiFiles():
            for widget in ET.parse(file).getroot().iter("widget"):
                name = widget.get("name")
                self.assertNotIn(name, seen, f"{name} is in {seen.get(name)} and {file.name}")
                seen[name] = file.name

    def testEveryNamedWidgetIsInTheDocs(self) -> None:
        text = (ROOT / "Docs" / "window.md").read_text(encoding="utf-8")
        for file in uiFiles():
            for widget in ET.parse(file).getroot().iter("widget"):
                kind, name = widget.get("class"), widget.get("name")
                if kind not in CONTAINERS and TOUCHED.search(kind):
                    self.assertIn(f"`{name}`", text, f"Docs/window.md does not name {name} of {file.name}")


if __name__ == "__main__":
    unittest.main()
