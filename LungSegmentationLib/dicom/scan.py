"""What a folder of DICOM files holds: patients, CT series that can form a volume, and the RTSTRUCTs drawn on them.

Every file is looked at, whatever its name and wherever it lies, but only its header. Nothing in a file stops the scan:
what cannot be used is counted and listed.
"""

from __future__ import annotations

import filecmp
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from pydicom.uid import UID

from LungSegmentationLib.dicom.grouping import Slice, ct_series, group_patients
from LungSegmentationLib.dicom.header_reader import DICOMDIR, FileStart, fetch, quiet_parser, read_header
from LungSegmentationLib.dicom.headers import Header
from LungSegmentationLib.dicom.images import CT_CLASSES, image_info
from LungSegmentationLib.dicom.rtstruct import RTStruct, read_rtstruct
from LungSegmentationLib.dicom.series import CTSeries, Link, Patient, RTStructFile, ScanResult, Study
from LungSegmentationLib.errors import BadInputError, LungSegError

__all__ = ["CTSeries", "Link", "Patient", "RTStructFile", "ScanResult", "Study", "scan"]

RTSTRUCT: Final = "1.2.840.10008.5.1.4.1.1.481.3"
# Files in flight at a time: memory stays bounded, and a callback can stop the scan soon.
CHUNK: Final = 256

Progress = Callable[[int, int], None]
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class _Other:
    kind: str


@dataclass(frozen=True, slots=True)
class _Unreadable:
    path: Path
    reason: str


_Found = Slice | RTStruct | _Other | _Unreadable


def scan(folder: Path, *, deep: bool = True, threads: int = 4, progress: Progress | None = None) -> ScanResult:
    """Look at all files below a folder.

    Parameters
    ----------
    folder
        Of any nesting; links to folders are followed, each folder is entered once. Or a text file (``.txt``, UTF-8)
        that lists files and folders, one a line, as for patients of a database whose files lie in many places.
    deep
        Whether to enter the folders in it.
    threads
        Files looked at at the same time.
    progress
        Called with the number of files done and of all files; what it raises ends the scan.

    Raises
    ------
    BadInputError
        There is no such folder or list.
    """
    folder = Path(folder)
    paths, unreadable = _listed(folder, deep) if folder.suffix.lower() == ".txt" else ([], [])
    if folder.is_dir():
        paths, unreadable = _walk(folder, deep)
    elif not paths and not unreadable:
        raise BadInputError(f"{folder}: there is no such folder.", "Choose the folder that holds the DICOM files.")
    slices: list[Slice] = []
    rtstructs: list[RTStruct] = []
    other: Counter[str] = Counter()
    with quiet_parser(), ThreadPoolExecutor(max(1, threads)) as pool:
        for start in range(0, len(paths), CHUNK):
            chunk = paths[start : start + CHUNK]
            for start_of_file in pool.map(_fetch, chunk):
                found = _look(start_of_file)
                if isinstance(found, Slice):
                    slices.append(found)
                elif isinstance(found, RTStruct):
                    rtstructs.append(found)
                elif isinstance(found, _Other):
                    other[found.kind] += 1
                else:
                    unreadable.append((found.path, found.reason))
            if progress is not None:
                progress(start + len(chunk), len(paths))
        found_files = len(slices) + len(rtstructs)
        slices = _without_doubles(slices, lambda one: one.info.sop_instance_uid, lambda one: one.info.path)
        rtstructs = _without_doubles(rtstructs, lambda one: one.sop_instance_uid, lambda one: one.path)
        copies = found_files - len(slices) - len(rtstructs)
        series, unplaced = ct_series(slices)
        unreadable.extend(unplaced)
        patients, warnings = group_patients(series, rtstructs)
    if copies:
        warnings = (f"{copies} file(s) are exact copies of others and were left out.", *warnings)
    return ScanResult(patients, tuple(unreadable), dict(sorted(other.items())), len(paths), warnings)


def _listed(file: Path, deep: bool) -> tuple[list[Path], list[tuple[Path, str]]]:
    """Return the files that a text file lists, those below listed folders included; none if it is no text file."""
    if not file.is_file():
        return [], []
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInputError(f"{file} is no list of files: {error}.", "Write one path a line, as UTF-8.") from error
    paths: list[Path] = []
    unreadable: list[tuple[Path, str]] = []
    for line in filter(None, (line.strip() for line in lines)):
        path = file.parent / line
        if path.is_dir():
            inside, refused = _walk(path, deep)
            paths += inside
            unreadable += refused
        elif path.is_file():
            paths.append(path)
        else:
            unreadable.append((path, "It is listed, but not there."))
    return list(dict.fromkeys(paths)), unreadable


def _walk(folder: Path, deep: bool) -> tuple[list[Path], list[tuple[Path, str]]]:
    """Return all regular files below a folder in a fixed order, and what could not be entered."""
    files: list[Path] = []
    unreadable: list[tuple[Path, str]] = []
    entered: set[tuple[int, int]] = set()
    waiting = [folder]
    while waiting:
        current = waiting.pop()
        try:
            status = current.stat()
            if (status.st_dev, status.st_ino) in entered:
                continue  # entered already by another way: a link that leads back
            entered.add((status.st_dev, status.st_ino))
            with os.scandir(current) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            unreadable.append((current, f"The folder cannot be read ({error.strerror or error})."))
            continue
        below = []
        for entry in entries:
            path = Path(entry.path)
            try:
                if entry.is_dir():
                    if deep:
                        below.append(path)
                elif entry.is_file():
                    files.append(path)
                else:
                    unreadable.append((path, "This is no regular file, or a link that leads nowhere."))
            except OSError as error:
                unreadable.append((path, f"It cannot be read ({error.strerror or error})."))
        waiting.extend(reversed(below))
    return files, unreadable


def _fetch(path: Path) -> FileStart | _Unreadable:
    try:
        return fetch(path)
    except LungSegError as error:
        return _Unreadable(path, error.message)


def _look(start: FileStart | _Unreadable) -> _Found:
    if isinstance(start, _Unreadable):
        return start
    path = start.path
    try:
        if _says_rtstruct(start.prefix):
            return read_rtstruct(path, with_contours=False)
        header = read_header(start)
        kind = _kind(header)
        if kind == "RTSTRUCT":
            return read_rtstruct(path, with_contours=False)
        if kind != "CT":
            return _Other(kind)
        return _slice(header)
    except LungSegError as error:
        return _Unreadable(path, error.message)
    except OSError as error:
        return _Unreadable(path, f"{path}: the file cannot be read ({error.strerror or error}).")


def _says_rtstruct(prefix: bytes) -> bool:
    """Whether the meta information names an RTSTRUCT: these can be long, and need no look at their header first."""
    return prefix[128:132] == b"DICM" and RTSTRUCT.encode() + b"\0" in prefix[:512]


def _kind(header: Header) -> str:
    """Return CT, RTSTRUCT, or under which name the file is counted."""
    modality, sop_class = header.text("Modality").upper(), header.sop_class
    if sop_class == DICOMDIR:
        return "DICOMDIR"
    if modality == "RTSTRUCT" or sop_class == RTSTRUCT:
        return "RTSTRUCT"
    if header.integer("Rows") is None:
        return "CT without image" if modality == "CT" else modality or _class_name(sop_class)
    if modality == "CT" or (not modality and (sop_class in CT_CLASSES or (not sop_class and _looks_like_ct(header)))):
        placed = header.item("ImagePositionPatient") is not None or header.sequence("PerFrameFunctionalGroupsSequence")
        if "LOCALIZER" in header.text("ImageType").upper():
            return "CT localizer"
        return "CT" if placed else "CT without position"
    return modality or _class_name(sop_class)


def _looks_like_ct(header: Header) -> bool:
    """Whether a file without modality and class holds what only a CT slice has: a place in the patient, and HU."""
    return header.item("ImagePositionPatient") is not None and header.item("RescaleIntercept") is not None


def _class_name(sop_class: str) -> str:
    return UID(sop_class).name if sop_class else "unknown"


def _slice(header: Header) -> Slice | _Other:
    info = image_info(header)
    if info.is_localizer:
        return _Other("CT localizer")
    if info.samples != 1:
        return _Other("CT in color")
    return Slice(info, header.human("PatientName"), header.text("PatientBirthDate"))


def _without_doubles(items: Sequence[Item], uid: Callable[[Item], str], path: Callable[[Item], Path]) -> list[Item]:
    """Drop files that are byte for byte copies of another with the same SOP Instance UID."""
    kept: list[Item] = []
    known: dict[str, list[Path]] = defaultdict(list)
    for item in items:
        same = known[uid(item)] if uid(item) else []
        if any(_equal(path(item), other) for other in same):
            continue  # counted by the caller from the lengths
        same.append(path(item))
        kept.append(item)
    return kept


def _equal(one: Path, other: Path) -> bool:
    try:
        return filecmp.cmp(one, other, shallow=False)
    except OSError:
        # A file that vanished or lost its permission since: kept here, reported where it is read.
        return False
