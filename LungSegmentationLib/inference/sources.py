"""What is to be segmented: the CTs that a path holds, in DICOM or in volume files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from pydicom.uid import UID

from LungSegmentationLib.cohort.paths import CasePaths, CohortPaths
from LungSegmentationLib.cohort.selection import case_names, volume_key
from LungSegmentationLib.dicom.header_reader import DICOMDIR, quiet_parser, read_header
from LungSegmentationLib.dicom.scan import scan
from LungSegmentationLib.dicom.series import ScanResult
from LungSegmentationLib.errors import BadInputError, StorageError, UnsupportedFileError
from LungSegmentationLib.inference.input_cases import DicomCase, InputCase, VolumeCase, has_bytes
from LungSegmentationLib.storage import safe_name
from LungSegmentationLib.volumes import VOLUME_ENDINGS, volume_stem

__all__ = ["RECORD_ENDING", "FoundInputs", "find_inputs"]

RECORD_ENDING: Final = "prediction.json"
"""End of the name of the file that stands beside a prediction; what has one is a result and no CT."""

FEWEST_SLICES: Final = 3
"""A CT of fewer slices (a scout's companion, a test bolus) is left out where there are others."""

_CT = "ct"
_SEGMENTATIONS: Final = {"labels", "structures", "confidence", "segmentation"}
_KINDS: Final = {
    "RTSTRUCT": "an RTSTRUCT",
    "SEG": "a DICOM SEG",
    "PT": "a PET image",
    "MR": "an MR image",
    "RTDOSE": "an RTDOSE",
    "RTPLAN": "an RTPLAN",
}
_ANY_INPUT: Final = (
    "Give a folder of DICOM files, one of its CT files, or a volume or a folder of volumes "
    f"({', '.join(VOLUME_ENDINGS)})."
)

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class FoundInputs:
    """The CTs below a path.

    Attributes
    ----------
    cases
        By name.
    warnings
        What a user should know of the whole: files that cannot be read, CTs that were left out.
    notes
        What else is there and is no CT.
    """

    cases: tuple[InputCase, ...]
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def find_inputs(path: Path, *, progress: Progress | None = None) -> FoundInputs:
    """Find the CTs that a path holds; only headers are read.

    Parameters
    ----------
    path
        - A folder of DICOM files, in any order and depth: a case for each CT series. Localizers and what is no CT are
          left out, and so are CTs of fewer than 3 slices where there are others.
        - A single DICOM file: the series of its folder that it belongs to, or the CT that it holds in many frames.
        - A volume file (.nii.gz, .nii, .nrrd, .nhdr, .mha, .mhd), or a folder of these, without segmentations (called
          ``labels``, ``.seg.nrrd`` …, or of 8-bit values) and results of predictions.
        - A cohort, its folder of cases, or a case: ``ct.nii.gz`` of each.

        Where DICOM CTs and volume files lie together, the DICOM CTs are taken.
    progress
        Called with the number of files looked at and of all files; what it raises ends the search.

    Raises
    ------
    BadInputError
        If there is no such path, or no CT in it.
    UnsupportedFileError
        If a file is given that is no CT.
    """
    path = Path(path)
    if path.is_dir():
        return _in_folder(path, progress)
    if not path.exists():
        raise BadInputError(f"There is no file or folder {path}.", _ANY_INPUT)
    if path.name.lower().endswith(VOLUME_ENDINGS):
        if reason := _no_ct(path):
            raise UnsupportedFileError(f"{path} is {reason}, no CT.", "Give the CT.")
        return FoundInputs((VolumeCase(_volume_name(path), path),))
    return _dicom_file(path, progress)


def _in_folder(path: Path, progress: Progress | None) -> FoundInputs:
    cohort = CohortPaths(path)
    if cohort.cohort.is_file():
        return _of_cohort(cohort)
    volumes, left_out = _volumes(path)
    found = scan(path, progress=progress)
    notes = (*found.warnings, *((_what_else(found),) if found.other else ()))
    if found.patients and any(patient.series for patient in found.patients):
        cases, warnings = _dicom_cases(found)
        if volumes:
            told = f"{len(volumes)} volume file(s) beside the DICOM CTs were left out, the first: {volumes[0].name}."
            warnings = (*warnings, f"{told} To segment them, give them by their names.")
        return FoundInputs(cases, (*_unreadable(found, [*volumes, *left_out]), *warnings), notes)
    if not volumes:
        raise _nothing_found(path, found, left_out)
    warnings = ()
    if left_out:
        warnings = (
            f"{len(left_out)} volume file(s) were left out as segmentations or results, the first: {left_out[0].name}.",
        )
    return FoundInputs(_named(VolumeCase(_volume_name(file), file) for file in volumes), warnings, notes)


def _of_cohort(cohort: CohortPaths) -> FoundInputs:
    finished = cohort.finished_cases()
    files = [case.ct for case in finished if case.ct.is_file()]
    if not files:
        raise BadInputError(f"The cohort {cohort.root} has no case with a CT.", "Convert into it first.")
    lost = len(finished) - len(files)
    warnings = (f"{lost} case(s) of the cohort have no ct.nii.gz and were left out.",) if lost else ()
    return FoundInputs(tuple(VolumeCase(file.parent.name, file) for file in files), warnings)


def _volumes(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the volume files of a folder and the CTs of its case folders, and those that are no CT."""
    taken: list[Path] = []
    left_out: list[Path] = []
    try:
        entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise StorageError(f"{folder} cannot be read: {error.strerror}.", "Choose another folder.") from error
    for entry in entries:
        if entry.is_file() and entry.name.lower().endswith(VOLUME_ENDINGS):
            (left_out if _no_ct(entry) or has_bytes(entry) else taken).append(entry)
        elif entry.is_dir():
            cts = [entry / f"{_CT}{ending}" for ending in VOLUME_ENDINGS]
            # A folder that may not be entered says so in the scan.
            taken += [ct for ct in cts if os.path.isfile(ct)][:1]  # noqa: PTH113 (Path.is_file raises there)
    return taken, left_out


def _no_ct(file: Path) -> str:
    """Return what a volume file is according to its name and neighbors, if that is no CT."""
    stem = volume_stem(file)
    plain = stem.lower()
    if file.name.lower().endswith(".seg.nrrd") or plain in _SEGMENTATIONS:
        return "a segmentation"
    results = {f"{stem}.{RECORD_ENDING}", f"{stem.removesuffix('.confidence')}.{RECORD_ENDING}"}
    if any((file.parent / name).is_file() for name in results):
        return "a result of a prediction"
    return ""


def _volume_name(file: Path) -> str:
    """Return the name of the file, or of its folder where the file is called ``ct``."""
    stem = volume_stem(file)
    folder = file.absolute().parent
    generic = stem.lower() == _CT and folder.name
    if generic and CasePaths(folder).record.is_file():
        return folder.name
    return safe_name(folder.name if generic else stem)


def _named(cases: Iterable[VolumeCase]) -> tuple[VolumeCase, ...]:
    taken: set[str] = set()
    named = []
    for case in cases:
        name = _free(case.name, taken)
        named.append(replace(case, name=name))
    return tuple(named)


def _free(name: str, taken: set[str]) -> str:
    """Return the name, with a number where it is taken, and remember it."""
    number, free = 1, name
    while free.casefold() in taken:
        number += 1
        free = f"{name}_{number}"
    taken.add(free.casefold())
    return free


def _dicom_cases(found: ScanResult) -> tuple[tuple[DicomCase, ...], tuple[str, ...]]:
    series = [(one, patient.warnings) for patient in found.patients for one in patient.series]
    enough = [(one, told) for one, told in series if one.slice_count >= FEWEST_SLICES]
    warnings = []
    if enough and len(enough) < len(series):
        short = [one.description or "without description" for one, _ in series if one.slice_count < FEWEST_SLICES]
        shown = ", ".join(f"“{text}”" for text in short[:3]) + (" …" if len(short) > 3 else "")
        warnings.append(f"{len(short)} CT(s) of fewer than {FEWEST_SLICES} slices were left out: {shown}.")
    series = enough or series
    names = case_names(list({volume_key(one): one for one, _ in series}.values()), {})
    taken: set[str] = set()
    cases = [DicomCase(_free(names[volume_key(one)], taken), one, told) for one, told in series]
    return tuple(sorted(cases, key=lambda case: case.name)), tuple(warnings)


def _unreadable(found: ScanResult, known: Sequence[Path]) -> tuple[str, ...]:
    lost = [(path, reason) for path, reason in found.unreadable if path not in set(known)]
    if not lost:
        return ()
    path, reason = lost[0]
    told = reason if str(path) in reason else f"{path}: {reason}"
    return (f"{len(lost)} file(s) are no DICOM or cannot be read, the first: {told}",)


def _what_else(found: ScanResult) -> str:
    return f"Left out, as no CT: {', '.join(f'{count} {kind}' for kind, count in found.other.items())}."


def _nothing_found(path: Path, found: ScanResult, left_out: Sequence[Path]) -> BadInputError:
    there = [f"{count} {kind}" for kind, count in found.other.items()]
    rtstructs = sum(len(patient.rtstructs) for patient in found.patients)
    if rtstructs:
        there.append(f"{rtstructs} RTSTRUCT")
    if left_out:
        there.append(f"{len(left_out)} segmentation(s) such as {left_out[0].name}")
    foreign = len(found.unreadable) - len(left_out)
    if foreign > 0:
        there.append(f"{foreign} file(s) that are no DICOM or cannot be read")
    what = f" It holds {', '.join(there)}." if there else " It is empty." if not found.files else ""
    return BadInputError(f"{path} holds no CT.{what}", _ANY_INPUT)


def _dicom_file(path: Path, progress: Progress | None) -> FoundInputs:
    try:
        with quiet_parser():
            header = read_header(path)
    except UnsupportedFileError as error:
        raise UnsupportedFileError(f"{path} is neither DICOM nor a volume file.", _ANY_INPUT) from error
    if header.sop_class == DICOMDIR:
        return _in_folder(path.parent, progress)
    kind = header.text("Modality").upper()
    found = scan(path.parent, deep=False, progress=progress)
    series = [(one, patient.warnings) for patient in found.patients for one in patient.series]
    uid = header.text("SOPInstanceUID")
    # Of a file that is there twice the other copy may have been taken.
    holding = [pair for pair in series if path.name in {file.name for file in pair[0].files}] or [
        pair for pair in series if uid and uid in pair[0].sop_instance_uids
    ]
    if holding:
        one, told = holding[0]
        names = case_names([one], {})
        return FoundInputs((DicomCase(names[volume_key(one)], one, told),), (), found.warnings)
    if kind and kind != "CT":
        raise UnsupportedFileError(f"{path} is {_KINDS.get(kind, f'of the kind {kind}')}, no CT.", "Give the CT.")
    reason = next((reason for other, reason in found.unreadable if other == path), "")
    what = f"({UID(header.sop_class).name})" if header.sop_class else ""
    raise UnsupportedFileError(
        reason or f"{path} is no slice of a CT {what}: a localizer, or an image without a place in the patient.",
        "Give the folder of the CT, or one of its slices.",
    )
