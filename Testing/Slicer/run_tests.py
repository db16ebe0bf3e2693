"""Runs the module's tests in Slicer: Slicer --no-main-window --no-splash --python-script Testing/Slicer/run_tests.py

Words after the script choose tests by a part of their name. Slicer ends with 0 if all passed, else with 1, whatever
happens. Cases that need pytest (those of the test runtime) are left out and counted. With ``--testing`` nothing can be
installed by mistake; without a display set ``QT_QPA_PLATFORM=offscreen``.
"""

from __future__ import annotations

import sys
import traceback
import unittest
from collections.abc import Iterator
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "Module"

PASSED, FAILED = 0, 1


def cases(suite: unittest.TestSuite) -> Iterator[unittest.TestCase]:
    """Return the single cases of nested suites."""
    for item in suite:
        if isinstance(item, unittest.TestSuite):
            yield from cases(item)
        else:
            yield item


def collected(words: list[str]) -> unittest.TestSuite:
    """Return the cases whose names hold one of the words; all without words."""
    sys.path[:0] = [str(FOLDER), str(FOLDER.parents[1]), str(FOLDER.parents[1] / "Tools")]
    from file_lists import runs_in_slicer

    suite = unittest.TestSuite()
    for file in sorted(FOLDER.glob("test_*.py")):
        if not runs_in_slicer(file):
            print(f"left out: {file.name} needs pytest or the test runtime")
            continue
        found = unittest.defaultTestLoader.loadTestsFromName(file.stem)
        suite.addTests(case for case in cases(found) if not words or any(word in case.id() for word in words))
    return suite


def main() -> int:
    """Run the tests and return the exit code."""
    suite = collected([word for word in sys.argv[1:] if not word.startswith("-")])
    count = suite.countTestCases()
    if not count:
        print("no test was found")
        return FAILED
    result = unittest.TextTestRunner(stream=sys.stdout, verbosity=2).run(suite)
    print(f"{count} tests, {len(result.failures)} failures, {len(result.errors)} errors, {len(result.skipped)} skipped")
    return PASSED if result.wasSuccessful() else FAILED


def run() -> None:
    """Run the tests and end the application."""
    import slicer

    code = FAILED
    try:
        code = main()
    except BaseException:  # noqa: BLE001 - a script that raises would leave the application running for ever
        traceback.print_exc(file=sys.stdout)
    finally:
        sys.stdout.flush()
        slicer.util.exit(code)


if __name__ == "__main__":
    run()
