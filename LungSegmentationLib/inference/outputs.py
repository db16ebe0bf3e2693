"""Where the files of a prediction go, and how they get there: all of a case or none, and never over the input."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from LungSegmentationLib.cohort.paths import CasePaths, CohortPaths
from LungSegmentationLib.dicom.writers import RESULT_ENDINGS, result_format
from LungSegmentationLib.errors import StorageError, UsageError
from LungSegmentationLib.inference.input_cases import InputCase
from LungSegmentationLib.inference.sources import RECORD_ENDING
from LungSegmentationLib.jobs.lock import RunLock
from LungSegmentationLib.storage import storage_errors

__all__ = ["DICOM_FORMATS", "ResultFiles", "parse_formats", "plan_outputs", "put_in_place", "staging"]

DICOM_FORMATS: Final = ("dicom-seg", "rtstruct")
DEFAULT_FORMATS: Final = ("nifti",)
LABEL_MAPS: Final = ("nifti", "nrrd", "mha")
STRUCTURES: Final = "structures"
CONFIDENCE: Final = "confidence"

_ENDINGS: Final = tuple(sorted({*RESULT_ENDINGS.values(), ".nii", ".dcm"}, key=len, reverse=True))
_LEFT_BEHIND_S: Final = 3600.0


@dataclass(frozen=True)
class ResultFiles:
    """The files of one case.

    Attributes
    ----------
    folder
        Where all of them lie.
    names
        File name of each format.
    confidence, record
        File names of the confidence map, and of what is known of the prediction.
    structures
        File name of the structure bits, for models that keep overlaps; empty for none.
    """

    folder: Path
    names: Mapping[str, str]
    confidence: str
    record: str
    structures: str = ""

    @property
    def record_path(self) -> Path:
        """The file of what is known of the prediction."""
        return self.folder / self.record

    def paths(self, kinds: Sequence[str]) -> list[Path]:
        """Return the files of formats, or of ``confidence`` and ``structures``."""
        return [self.path(kind) for kind in kinds]

    def path(self, kind: str) -> Path:
        """Return the file of a format, or of ``confidence`` or ``structures``."""
        return self.folder / self.name(kind)

    def name(self, kind: str) -> str:
        """Return the name of the file of a format, or of ``confidence`` or ``structures``."""
        return {**self.names, CONFIDENCE: self.confidence, STRUCTURES: self.structures}[kind]


def parse_formats(texts: Sequence[str]) -> tuple[str, ...]:
    """Return the formats in texts such as ``nifti,rtstruct``, each once.

    Raises
    ------
    UsageError
        If one is unknown.
    """
    found = tuple(dict.fromkeys(part.strip() for text in texts for part in text.split(",") if part.strip()))
    for name in found:
        if name not in RESULT_ENDINGS:
            raise UsageError(f"“{name}” is no format of a result.", f"Choose from: {', '.join(RESULT_ENDINGS)}.")
    return found


def plan_outputs(
    output: Path, cases: Sequence[InputCase], formats: Sequence[str] = ()
) -> tuple[list[ResultFiles], tuple[str, ...]]:
    """Find out where the results of each case go; nothing is touched.

    Parameters
    ----------
    output
        A file whose ending tells what it is: then the others of the case lie beside it, with its name. Anything else
        is a folder, with a folder for each case.
    cases
        What is segmented.
    formats
        Keys of ``RESULT_ENDINGS``; by default what the ending of ``output`` says, or NIfTI.

    Returns
    -------
    list of ResultFiles
        One a case.
    tuple of str
        The formats.

    Raises
    ------
    UsageError
        If a file is given for several cases, its ending contradicts the formats, a DICOM result is asked for where the
        input is none, a file of the input would be overwritten, or the folder belongs to a cohort.
    """
    with storage_errors(output):  # for example a name that no disk takes
        single = not output.is_dir() and _is_file_name(output, formats)
    if single:
        files, formats = _beside(output, tuple(formats))
        if len(cases) != 1:
            raise UsageError(
                f"{output} is one file, but there are {len(cases)} CTs to segment.",
                "Give a folder for the results.",
            )
        planned = [files]
    else:
        if output.exists() and not output.is_dir():
            raise UsageError(f"{output} is a file, not a folder for results.", "Choose another folder.")
        formats = tuple(formats) or DEFAULT_FORMATS
        planned = [_in_folder(output / case.name, formats) for case in cases]
    _refuse_dicom(formats, cases)
    _refuse_inputs(planned, cases)
    _refuse_cohorts(planned)
    return planned, tuple(formats)


def _is_file_name(output: Path, formats: Sequence[str]) -> bool:
    name = output.name.lower()
    if name in _ENDINGS:
        raise UsageError(f"{output} has an ending, but no name.", "Put a name before it.")
    if name.endswith(_ENDINGS):
        return True
    suffix = output.suffix[1:]
    # “results.v2” can be a folder; “result.stl” is meant as a file.
    if suffix.isalpha() and len(suffix) <= 4 and not output.exists():
        result_format(output, formats[0] if len(formats) == 1 else None)
    return False


def _beside(output: Path, formats: tuple[str, ...]) -> tuple[ResultFiles, tuple[str, ...]]:
    plain_dicom = output.name.lower().endswith(".dcm") and not output.name.lower().endswith(
        (".seg.dcm", ".rtstruct.dcm")
    )
    if plain_dicom:
        dicom = [name for name in formats if name in DICOM_FORMATS]
        own = result_format(output, dicom[0] if len(dicom) == 1 else None)
    else:
        own = result_format(output)
    if formats and own not in formats:
        raise UsageError(
            f"{output} ends as a {own} file does, but the format asked for is {', '.join(formats)}.",
            f"End it in {RESULT_ENDINGS[formats[0]]}, or name {own} as well.",
        )
    stem = next(output.name[: -len(ending)] for ending in _ENDINGS if output.name.lower().endswith(ending))
    formats = formats or (own,)
    names = {name: f"{stem}{RESULT_ENDINGS[name]}" for name in formats}
    names[own] = output.name
    return ResultFiles(output.parent, names, f"{stem}.confidence.nii.gz", f"{stem}.{RECORD_ENDING}"), formats


def _in_folder(folder: Path, formats: Sequence[str]) -> ResultFiles:
    # The names of a cohort's case folder where the content is the same, so that an evaluation finds them.
    names = {name: f"{'labels' if name in LABEL_MAPS else 'segmentation'}{RESULT_ENDINGS[name]}" for name in formats}
    return ResultFiles(folder, names, "confidence.nii.gz", RECORD_ENDING, "structures.nii.gz")


def _refuse_dicom(formats: Sequence[str], cases: Sequence[InputCase]) -> None:
    wanted = [name for name in formats if name in DICOM_FORMATS]
    if wanted and not all(case.is_dicom for case in cases):
        raise UsageError(
            f"A result as {wanted[0]} refers to the DICOM series that was segmented, and the input is none.",
            "Segment the DICOM folder, or write nifti or seg.nrrd.",
        )


def _refuse_inputs(planned: Sequence[ResultFiles], cases: Sequence[InputCase]) -> None:
    written = [path for files in planned for path in (*files.paths([*files.names, CONFIDENCE]), files.record_path)]
    there = [path for path in written if path.exists()]
    read = {file.resolve() for case in cases for file in case.files} if there else set()
    for path in there:
        if path.resolve() in read:
            raise UsageError(f"{path} is a file of the input and would be overwritten.", "Choose another output.")


def _refuse_cohorts(planned: Sequence[ResultFiles]) -> None:
    """Refuse the folders of a cohort, where a label map has the name of what physicians drew."""
    for folder in dict.fromkeys(files.folder for files in planned):
        if CasePaths(folder).record.is_file() or CohortPaths(folder.parent).cohort.is_file():
            raise UsageError(
                f"{folder} belongs to a cohort, whose files a prediction must not replace.",
                "Choose a folder outside of the cohort.",
            )


@contextmanager
def staging(files: ResultFiles) -> Iterator[Path]:
    """Make the folder of the results, and give a hidden folder in it to write to; it vanishes at the end.

    Meanwhile nobody else can: two predictions would mix their files under one record.

    Raises
    ------
    LockedError
        If another prediction is writing the same results.
    StorageError
        If nothing can be written there.
    """
    made = not files.folder.exists()
    with storage_errors(files.folder):
        try:
            files.folder.mkdir(parents=True, exist_ok=True)
        except (FileNotFoundError, FileExistsError) as error:
            # Systems say so of folders that are made by themselves, or of a file in the folder's place.
            raise StorageError(f"{files.folder} cannot be made.", "Choose another folder.") from error
    try:
        with _held(files):
            folder = files.folder / f".partial-{os.getpid()}-new-{files.record}"
            with storage_errors(files.folder):
                _remove_left_behind(files.folder)
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
            with _told_of(files.folder, folder):
                yield folder
    finally:
        if made:
            with suppress(OSError):
                files.folder.rmdir()  # only where nothing came into it


@contextmanager
def _held(files: ResultFiles) -> Iterator[None]:
    """Hold the results of one case; the file that says so means nothing to a user, and vanishes."""
    name = f".{files.record}.lock"
    lock = RunLock(
        files.folder,
        name=name,
        doing="holds results that are being written",
        cure="Wait until that prediction is done, or choose another output.",
        forcible=False,
    )
    try:
        lock.acquire()
    except StorageError as error:
        raise StorageError(error.message.replace(str(files.folder / name), str(files.folder)), error.hint) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _told_of(place: Path, folder: Path) -> Iterator[None]:
    """Tell of faults as the user knows the place; at the end the hidden folder vanishes."""
    try:
        yield
    except StorageError as error:
        # The hidden folder means nothing to a user.
        raise StorageError(error.message.replace(str(folder), str(place)), error.hint) from error
    except OSError as error:
        raise StorageError(
            f"{place} cannot be written: {error.strerror or error}.", "Choose another folder."
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def put_in_place(staged: Path, files: ResultFiles, stale: Sequence[str] = ()) -> None:
    """Move what was written to its place. The record goes first and comes last: where it stands, all is whole.

    Parameters
    ----------
    staged
        Folder of :func:`staging`; all files in it are moved.
    files
        Where to.
    stale
        Names of files of an earlier prediction that must not stay beside the new ones.
    """
    for name in (*stale, files.record):
        with storage_errors(files.folder / name):
            (files.folder / name).unlink(missing_ok=True)
    for file in sorted(staged.iterdir(), key=lambda file: file.name == files.record):
        target = files.folder / file.name
        with storage_errors(target):
            file.replace(target)


def _remove_left_behind(folder: Path) -> None:
    """Remove hidden folders of predictions that were killed; of another computer's nothing is known for an hour."""
    for entry in folder.glob(".partial-*-new-*"):
        pid = entry.name.split("-")[1]
        with suppress(OSError):
            old = time.time() - entry.stat().st_mtime > _LEFT_BEHIND_S
            if entry.is_dir() and old and pid.isdigit() and not psutil.pid_exists(int(pid)):
                shutil.rmtree(entry, ignore_errors=True)
