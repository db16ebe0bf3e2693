"""Files are whole or not there; names from anywhere are safe."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from LungSegmentationLib.cohort.batch import remove_leftovers
from LungSegmentationLib.errors import BadInputError, StorageError
from LungSegmentationLib.storage import (
    atomic_folder,
    atomic_path,
    read_json,
    restore_folders,
    safe_name,
    storage_errors,
    write_json,
    write_text,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("LUNG1-001", "LUNG1-001"),
        ("../../etc/passwd", "etc_passwd"),
        ("a/b\\c:d", "a_b_c_d"),
        ("..", "unnamed"),
        ("", "unnamed"),
        ("CON", "_CON"),
        ("nul.txt", "_nul.txt"),
        ("Müller, André", "Müller_André"),
        ("山田太郎", "山田太郎"),
        ("a\x00b\nc", "a_b_c"),
        ("trailing. ", "trailing"),
    ],
)
def test_a_name_from_a_file_becomes_a_safe_name(text: str, expected: str) -> None:
    assert safe_name(text) == expected


@given(st.text(max_size=300))
def test_any_text_becomes_a_name_that_stays_in_its_folder(text: str) -> None:
    name = safe_name(text)
    assert name
    assert Path(name).name == name
    assert ".." not in name
    assert len(name.encode("utf-8", "surrogatepass")) <= 64


def test_long_names_that_differ_at_the_end_stay_different() -> None:
    assert safe_name("x" * 200 + "1") != safe_name("x" * 200 + "2")


def test_a_failing_writer_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(RuntimeError, match="half way"), atomic_path(path) as partial:
        partial.write_text("new")
        raise RuntimeError("half way")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_a_folder_takes_the_place_of_the_old_one_whole(tmp_path: Path) -> None:
    target = tmp_path / "case with space é 患者"
    for version in ("1", "2"):
        with atomic_folder(target) as folder:
            (folder / f"only-in-{version}").write_text(version)
    assert [entry.name for entry in target.iterdir()] == ["only-in-2"]
    assert [entry.name for entry in tmp_path.iterdir()] == [target.name]


def test_killed_while_a_folder_is_filled_nothing_is_seen_of_it(tmp_path: Path) -> None:
    code = (
        "import os, sys, signal\nfrom pathlib import Path\nfrom LungSegmentationLib.storage import atomic_folder\n"
        "with atomic_folder(Path(sys.argv[1])) as folder:\n"
        "    (folder / 'ct').write_text('half')\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "case")], check=False)
    assert done.returncode != 0
    assert not (tmp_path / "case").exists()
    assert all(entry.name.startswith(".partial-") for entry in tmp_path.iterdir())


KILLED_BETWEEN_THE_RENAMES = (
    "import os, sys, signal\nfrom pathlib import Path\nfrom LungSegmentationLib.storage import atomic_folder\n"
    "real = Path.replace\n"
    "def once(self, target):\n"
    "    result = real(self, target)\n"
    "    os.kill(os.getpid(), signal.SIGKILL)\n"
    "Path.replace = once\n"
    "with atomic_folder(Path(sys.argv[1])) as folder:\n"
    "    (folder / 'new.txt').write_text('new')\n"
)


@pytest.mark.parametrize("name", ["splits", "case with space é 患者", "old-P1", "12-old-x"])
def test_killed_between_the_two_renames_the_old_folder_is_put_back(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "old.txt").write_text("edited by hand")
    subprocess.run([sys.executable, "-c", KILLED_BETWEEN_THE_RENAMES, str(tmp_path / name)], check=False)
    assert not (tmp_path / name).exists()
    remove_leftovers(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == [name]
    assert [entry.name for entry in (tmp_path / name).iterdir()] == ["old.txt"]
    assert (tmp_path / name / "old.txt").read_text() == "edited by hand"


def test_an_old_folder_whose_successor_is_in_place_goes_and_a_half_filled_new_one_never_comes(tmp_path: Path) -> None:
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits" / "new.txt").touch()
    (tmp_path / ".partial-7-old-splits").mkdir()
    # A folder of this name was being filled; it is no old copy of “P1”.
    (tmp_path / ".partial-7-new-old-P1").mkdir()
    remove_leftovers(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["splits"]
    assert (tmp_path / "splits" / "new.txt").exists()


def test_of_two_old_folders_the_later_one_is_put_back(tmp_path: Path) -> None:
    for number, when in ((7, 2_000_000_000), (8, 1_000_000_000)):
        folder = tmp_path / f".partial-{number}-old-splits"
        folder.mkdir()
        (folder / f"{number}").touch()
        os.utime(folder, (when, when))
    assert restore_folders(tmp_path) == [tmp_path / "splits"]
    assert [entry.name for entry in (tmp_path / "splits").iterdir()] == ["7"]


def test_a_rename_that_fails_leaves_the_old_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "old").touch()
    real = Path.replace

    def fails_for_new(self: Path, target: Path) -> Path:
        if "-new-" in self.name:
            raise PermissionError(errno.EACCES, "in use")
        return real(self, target)

    monkeypatch.setattr(Path, "replace", fails_for_new)
    with pytest.raises(StorageError), atomic_folder(tmp_path / "a") as folder:
        (folder / "new").touch()
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]
    assert [entry.name for entry in (tmp_path / "a").iterdir()] == ["old"]


@pytest.mark.parametrize(
    ("number", "word"), [(errno.ENOSPC, "full"), (errno.EACCES, "allowed"), (errno.EROFS, "read-only")]
)
def test_a_full_or_closed_disk_is_told_in_one_sentence_with_the_file(number: int, word: str) -> None:
    with pytest.raises(StorageError) as caught, storage_errors(Path("some/where.nii.gz")):
        raise OSError(number, os.strerror(number))
    assert "where.nii.gz" in str(caught.value)
    assert word in str(caught.value)


def test_an_error_that_nobody_can_cure_by_space_or_rights_keeps_its_own_type() -> None:
    with pytest.raises(OSError, match="Input/output"), storage_errors(Path("x")):
        raise OSError(errno.EIO, "Input/output error")


def test_json_is_strict_and_readable(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"name": "Cœur", "values": [1.5, None]})
    assert "Cœur" in path.read_text(encoding="utf-8")
    assert json.loads(path.read_text(encoding="utf-8")) == {"name": "Cœur", "values": [1.5, None]}
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"bad": float("nan")})
    assert read_json(path, "table")["name"] == "Cœur"


def test_missing_and_damaged_json_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="There is no cohort at"):
        read_json(tmp_path / "no.json", "cohort")
    (tmp_path / "bad.json").write_text('{"half": ')
    with pytest.raises(BadInputError, match="damaged"):
        read_json(tmp_path / "bad.json", "cohort")
