"""The rules of the house: what may import what, what may be spelled where, what stays out of the files."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "LungSegmentationLib"
LIBRARY = ROOT / PACKAGE
SLICER_ONLY = {"slicer", "qt", "ctk", "vtk"}

# A room may import rooms of a lower rank. What stands beside the order comes after it.
RANKS = {
    "errors": 0,
    "resources": 1,
    "labels": 2,
    "geometry": 2,
    "storage": 2,
    "nifti": 2,
    "nrrd": 3,
    "structures": 3,
    "terminology": 3,
    "volumes": 3,
    "dicom": 4,
    "cohort": 5,
    "segmentation_files": 6,
    "networks": 6,
    "exporting": 7,
    "training": 7,
    "inference": 8,
    "evaluation": 9,
    "figures": 9,
    "listing": 9,
    "assessment": 10,
    "demonstration": 11,
    "cli": 12,
    "__main__": 13,
}
GROUND = 3
BESIDE = {"jobs": GROUND, "phantom": RANKS["dicom"]}
MAY_USE_BESIDE = {"jobs": RANKS["cohort"], "phantom": RANKS["demonstration"]}

SKIPPED_FOLDERS = {"build", "dist", "demo", "__pycache__"}
MACHINE_PATH = re.compile(
    r"(?<![\w.~/-])/(?:home|root|Users|work|tmp|mnt|scratch)/[A-Za-z0-9_]|[A-Za-z]:[/\\]+Users[/\\]+\w"
)


def _modules() -> list[Path]:
    return sorted(LIBRARY.rglob("*.py"))


def _name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _room(module: str) -> str:
    """Second part of a module's name; the package's own ``__init__`` is the room ''."""
    return module.split(".")[1] if "." in module else ""


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and any(
        isinstance(part, ast.Name | ast.Attribute) and ast.unparse(part).endswith("TYPE_CHECKING")
        for part in ast.walk(node.test)
    )


def _runtime_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes of a file but those that only a type checker sees."""
    for child in ast.iter_child_nodes(node):
        if not _is_type_checking(child):
            yield child
            yield from _runtime_nodes(child)


def _imported(path: Path, *, runtime_only: bool = False) -> set[str]:
    """Absolute names of the modules that a file imports, also inside functions."""
    package = _name(path) if path.name == "__init__.py" else _name(path).rpartition(".")[0]
    names: set[str] = set()
    for node in _runtime_nodes(_tree(path)) if runtime_only else ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                stem = ".".join(parents[: len(parents) - node.level + 1])
                base = f"{stem}.{base}" if base else stem
            # "from package import module" names a module only where there is such a file.
            inside = {f"{base}.{alias.name}" for alias in node.names}
            modules = {name for name in inside if name in _known_modules()}
            names |= modules
            if len(modules) < len(inside):
                names.add(base)
    return names


@cache
def _known_modules() -> frozenset[str]:
    return frozenset(_name(path) for path in _modules())


def _own_imports(path: Path, *, runtime_only: bool = False) -> set[str]:
    return {
        name for name in _imported(path, runtime_only=runtime_only) if name == PACKAGE or name.startswith(f"{PACKAGE}.")
    }


def _allowed(importer: str, imported: str) -> bool:
    if imported in {importer, ""}:
        return True
    if importer in BESIDE:
        return RANKS.get(imported, 99) <= BESIDE[importer]
    if imported in BESIDE:
        return RANKS.get(importer, -1) >= MAY_USE_BESIDE[imported]
    return RANKS.get(imported, 99) < RANKS.get(importer, -1)


def test_every_room_of_the_library_has_its_place_in_the_order() -> None:
    rooms = {_room(_name(path)) for path in _modules()} - {""}
    assert rooms <= RANKS.keys() | BESIDE.keys(), "give the new room a rank here and in Docs/architecture.md"


def test_the_library_never_imports_slicer() -> None:
    offenders = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in _modules()
        for name in _imported(path)
        if name.split(".")[0] in SLICER_ONLY
    }
    assert not offenders


def test_rooms_import_downwards_only() -> None:
    offenders = [
        f"{_name(path)} imports {name}"
        for path in _modules()
        for name in sorted(_own_imports(path))
        if not _allowed(_room(_name(path)), _room(name))
    ]
    assert not offenders


def test_the_package_itself_imports_nothing() -> None:
    imported = _imported(LIBRARY / "__init__.py")
    assert imported <= {"__future__"}


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {_name(path): _own_imports(path, runtime_only=True) - {_name(path)} for path in _modules()}
    while leaves := {module for module, imports in graph.items() if not imports & graph.keys()}:
        graph = {module: imports for module, imports in graph.items() if module not in leaves}
    assert not graph, "these import each other"


@pytest.mark.parametrize(
    ("importer", "imported", "allowed"),
    [
        ("labels", "errors", True),
        ("errors", "labels", False),
        ("dicom", "structures", True),
        ("structures", "dicom", False),
        ("cohort", "dicom", True),
        ("dicom", "cohort", False),
        ("jobs", "errors", True),
        ("jobs", "dicom", False),
        ("labels", "jobs", False),
        ("cohort", "jobs", True),
        ("phantom", "dicom", True),
        ("phantom", "cohort", False),
        ("cohort", "phantom", False),
        ("cli", "phantom", True),
        ("cohort", "cohort", True),
    ],
)
def test_the_rule_of_directions_says_what_it_should(importer: str, imported: str, allowed: bool) -> None:
    assert _allowed(importer, imported) is allowed


def _codes_and_colors() -> tuple[set[str], set[tuple[int, ...]]]:
    codes: set[str] = set()
    colors: set[tuple[int, ...]] = set()
    for file in (ROOT / "Resources" / "LabelSets").glob("*.json"):
        for structure in json.loads(file.read_text(encoding="utf-8"))["structures"]:
            colors.add(tuple(structure["color"]))
            codes |= {structure[part]["value"] for part in ("category", "type", "modifier") if structure.get(part)}
    return codes, colors


def _spelled(tree: ast.AST) -> Iterator[str]:
    """Each code or color of a label set that a file spells as a literal."""
    codes, colors = _codes_and_colors()
    hexadecimal = {"#{:02x}{:02x}{:02x}".format(*color) for color in colors}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str | int):
            text = str(node.value)
            yield from (code for code in codes if re.search(rf"(?<!\d){code}(?!\d)", text))
            yield from (color for color in hexadecimal if color in text.lower())
        elif isinstance(node, ast.Tuple | ast.List) and len(node.elts) == 3:
            values = tuple(part.value for part in node.elts if isinstance(part, ast.Constant))
            if values in colors:
                yield str(values)


def test_only_the_label_sets_spell_codes_and_colors() -> None:
    offenders = {
        f"{path.relative_to(ROOT)}: {found}"
        for path in [*_modules(), *(ROOT / "LungSegmentation").rglob("*.py")]
        if path != LIBRARY / "labels.py"
        for found in _spelled(_tree(path))
    }
    assert not offenders


@pytest.mark.parametrize("text", ["red = (255, 0, 0)", "code = '39607008'", "code = 2748008", "cyan = '#00FFFF'"])
def test_a_spelled_code_or_color_is_found(text: str) -> None:
    assert list(_spelled(ast.parse(text)))


@pytest.mark.parametrize("text", ["origin = (0, 0, 0)", "number = 1396070081", "triple = (255, 0)"])
def test_other_numbers_are_not_taken_for_codes(text: str) -> None:
    assert not list(_spelled(ast.parse(text)))


Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def _public_definitions(node: ast.AST, prefix: str) -> Iterator[tuple[str, Definition]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Definition) and not child.name.startswith("_"):
            yield f"{prefix}.{child.name}", child
            if isinstance(child, ast.ClassDef):
                yield from _public_definitions(child, f"{prefix}.{child.name}")
        elif isinstance(child, ast.If | ast.Try):
            yield from _public_definitions(child, prefix)


def _is_overload_or_setter(node: Definition) -> bool:
    decorators = [ast.unparse(item) for item in node.decorator_list]
    return any(text.endswith(("overload", ".setter", "override")) for text in decorators)


def test_every_module_and_public_function_says_what_it_does() -> None:
    missing = [_name(path) for path in _modules() if not ast.get_docstring(_tree(path))]
    missing += [
        name
        for path in _modules()
        for name, node in _public_definitions(_tree(path), _name(path))
        if not _is_overload_or_setter(node) and not ast.get_docstring(node)
    ]
    assert not missing


def _project_files() -> list[Path]:
    """The files under version control; where there is no git, all that no command has made."""
    try:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, timeout=60)
        files = [ROOT / name for name in listed.stdout.decode("utf-8").split("\0") if name]
    except (OSError, subprocess.SubprocessError):
        files = [
            path
            for path in ROOT.rglob("*")
            if not any(
                part in SKIPPED_FOLDERS or (part.startswith(".") and part not in {".ci", ".gitignore"})
                for part in path.relative_to(ROOT).parts
            )
        ]
    return [path for path in files if path.is_file()]


def _machine_paths(text: str) -> list[str]:
    return MACHINE_PATH.findall(text)


def test_no_file_names_a_path_of_somebodys_machine() -> None:
    offenders = []
    for path in _project_files():
        content = path.read_bytes()
        if b"\0" not in content:
            lines = content.decode("utf-8", errors="replace").splitlines()
            offenders += [f"{path.relative_to(ROOT)}:{n}" for n, line in enumerate(lines, 1) if _machine_paths(line)]
    assert not offenders


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("open('|home|anna|ct')", True),
        ("C:|Users|anna", True),
        ("|tmp|x", True),
        ("#!|usr|bin|env python", False),
        ("LungSegmentation|Resources", False),
        ("https:||example.org|home|page", False),
        ("no home|here", False),
        ("|home|é", False),  # an invented user, to try odd letters
    ],
)
def test_a_machine_path_is_told_from_other_text(text: str, found: bool) -> None:
    # The bars keep these examples from being found in this file.
    assert bool(_machine_paths(text.replace("|", "/"))) is found


def test_files_stay_of_a_size_that_can_be_read() -> None:
    # A file may be longer for a reason that can be said in one sentence: then it is named here with it.
    reasons: dict[str, str] = {}
    too_long = {
        str(path.relative_to(ROOT))
        for path in _modules()
        if len(path.read_text(encoding="utf-8").splitlines()) > 450 and str(path.relative_to(ROOT)) not in reasons
    }
    assert not too_long


@pytest.mark.parametrize(
    "statement",
    [
        "import LungSegmentationLib",
        "from LungSegmentationLib.labels import load_label_set; load_label_set('thorax')",
        "import LungSegmentationLib.dicom.roi_names",
        "import LungSegmentationLib.cli",
        "import LungSegmentationLib.errors, LungSegmentationLib.resources, LungSegmentationLib.storage",
    ],
)
def test_light_parts_of_the_library_bring_in_nothing_heavy(statement: str) -> None:
    heavy = "SimpleITK torch pydicom scipy matplotlib skimage highdicom"
    script = f"import sys; {statement}; print(*sorted(set('{heavy}'.split()) & sys.modules.keys()))"
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )
    assert (run.returncode, run.stdout.strip(), run.stderr) == (0, "", "")


def test_the_version_is_spelled_once() -> None:
    spelled = re.search(
        r'^__version__ = "(\d+\.\d+\.\d+)"', (LIBRARY / "__init__.py").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert spelled
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.search(rf"^version: {re.escape(spelled[1])}$", citation, re.MULTILINE)
