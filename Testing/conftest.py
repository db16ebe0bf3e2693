"""What all tests share: where the real patients are, and which independent programs there are."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    folder = _data_folder()
    for item in items:
        if item.get_closest_marker("realdata") and not folder.is_dir():
            item.add_marker(pytest.mark.skip(reason=f"no test data at {folder}: set LUNGSEG_TEST_DATA"))
        if item.get_closest_marker("oracle") and shutil.which("plastimatch") is None:
            item.add_marker(pytest.mark.skip(reason="plastimatch is not installed (Debian: apt install plastimatch)"))


def _data_folder() -> Path:
    return Path(os.environ.get("LUNGSEG_TEST_DATA", ROOT.parent / "shared" / "data")).resolve()


@pytest.fixture(scope="session")
def data() -> Path:
    """Folder of the real patients; only for tests marked ``realdata``."""
    return _data_folder()
