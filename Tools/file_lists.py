"""Writes the lists of files in the CMakeLists.txt, which Slicer's macros want file by file: python Tools/file_lists.py.

With ``--check`` it only says what would change, and ends with 1 if anything would.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

LIBRARY_SUFFIXES = {".py", ".typed"}

ONLY_OUTSIDE = {"pytest", "Runtime"}
"""What tests in Slicer cannot import."""


def files_below(folder: Path, base: Path, suffixes: Iterable[str] = ()) -> list[str]:
    """Return the files of a folder as paths below ``base``, sorted; compiled files and pictures of docs left out."""
    wanted = set(suffixes)
    return sorted(
        path.relative_to(base).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and (not wanted or path.suffix in wanted)
    )


def runs_in_slicer(test: Path) -> bool:
    """Whether a test file needs neither pytest nor the test runtime by itself; programs in its texts do not count."""
    names = set()
    for statement in ast.parse(test.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.Import):
            names |= {alias.name for alias in statement.names}
        elif isinstance(statement, ast.ImportFrom):
            names.add(statement.module or "")
    return not ONLY_OUTSIDE & {name.partition(".")[0] for name in names}


def expected_lists(root: Path = ROOT) -> dict[Path, dict[str, list[str]]]:
    """Return the lists that each CMakeLists.txt must hold, by the names of their variables."""
    module = root / "LungSegmentation"
    scripts = files_below(module, module, {".py"})
    shared = files_below(root / "Resources", root)
    library = files_below(root / "LungSegmentationLib", root, {".py"})
    others = sorted(set(files_below(root / "LungSegmentationLib", root)) - set(library))
    tests = [path.name for path in sorted((root / "Testing" / "Module").glob("test_*.py")) if runs_in_slicer(path)]
    return {
        root / "CMakeLists.txt": {
            "LIBRARY_PYTHON_SCRIPTS": library,
            "LIBRARY_RESOURCES": [*others, *shared],
        },
        module / "CMakeLists.txt": {
            "MODULE_PYTHON_SCRIPTS": scripts,
            "MODULE_PYTHON_RESOURCES": files_below(module / "Resources", module),
        },
        root / "Testing" / "Module" / "CMakeLists.txt": {"MODULE_TESTS": tests},
    }


def stated_list(text: str, variable: str) -> list[str]:
    """Return the entries of ``set(variable …)`` in the text of a CMakeLists.txt."""
    match = re.search(rf"^set\({variable}\n(.*?)^  \)", text, re.MULTILINE | re.DOTALL)
    if match is None:
        raise ValueError(f"there is no list {variable}")
    return match[1].split()


def with_list(text: str, variable: str, entries: Iterable[str]) -> str:
    """Return the text with other entries in ``set(variable …)``."""
    lines = "".join(f"  {entry}\n" for entry in entries)
    return re.sub(
        rf"(^set\({variable}\n).*?(^  \))",
        lambda match: match[1] + lines + match[2],
        text,
        flags=re.MULTILINE | re.DOTALL,
    )


def main() -> int:
    """Write or check the lists; returns the exit code."""
    check = "--check" in sys.argv[1:]
    changed = False
    for file, lists in expected_lists().items():
        text = file.read_text(encoding="utf-8")
        new = text
        for variable, entries in lists.items():
            new = with_list(new, variable, entries)
        if new != text:
            changed = True
            print(f"{file.relative_to(ROOT)} {'is out of date' if check else 'was brought up to date'}")
            if not check:
                file.write_text(new, encoding="utf-8")
    return int(check and changed)


if __name__ == "__main__":
    sys.exit(main())
