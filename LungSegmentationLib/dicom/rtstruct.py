"""RTSTRUCT files: contours in mm with their type, ROI names, and what the file refers to.

Nothing in a file is trusted: missing items, wrong character sets and numbers that are no numbers lose neither a slice
nor a structure in silence; what cannot be used is told in ``RTStruct.warnings``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from LungSegmentationLib import PRODUCT
from LungSegmentationLib.dicom.decimal_strings import number_lists, numbers
from LungSegmentationLib.dicom.raw_elements import (
    ElementSet,
    character_set,
    integer,
    is_complete,
    items,
    kind_of,
    open_dataset,
    raw_value,
    term,
    text,
    uid,
)
from LungSegmentationLib.errors import BadInputError, LungSegError, UnsupportedFileError

__all__ = ["ROI", "Contour", "ContourType", "RTStruct", "read_rtstruct"]

RT_STRUCTURE_SET_STORAGE = "1.2.840.10008.5.1.4.1.1.481.3"

PATIENT_NAME = 0x00100010
PATIENT_ID = 0x00100020
SOP_CLASS_UID = 0x00080016
SOP_INSTANCE_UID = 0x00080018
MODALITY = 0x00080060
MANUFACTURER = 0x00080070
STUDY_UID = 0x0020000D
SERIES_UID = 0x0020000E
FRAME_OF_REFERENCE_UID = 0x00200052
LABEL = 0x30060002
NAME = 0x30060004
DATE = 0x30060008
TIME = 0x30060009
REFERENCED_FRAMES = 0x30060010
REFERENCED_STUDIES = 0x30060012
REFERENCED_SERIES = 0x30060014
CONTOUR_IMAGES = 0x30060016
REFERENCED_SOP_INSTANCE_UID = 0x00081155
ROIS = 0x30060020
ROI_NUMBER = 0x30060022
ROI_FRAME_OF_REFERENCE_UID = 0x30060024
ROI_NAME = 0x30060026
ROI_COLOR = 0x3006002A
ROI_ALGORITHM = 0x30060036
ROI_CONTOURS = 0x30060039
CONTOURS = 0x30060040
CONTOUR_TYPE = 0x30060042
POINT_COUNT = 0x30060046
CONTOUR_NUMBER = 0x30060048
CONTOUR_DATA = 0x30060050
OBSERVATIONS = 0x30060080
REFERENCED_ROI_NUMBER = 0x30060084
INTERPRETED_TYPE = 0x300600A4

_HEADER = (
    *(PATIENT_NAME, PATIENT_ID, SOP_CLASS_UID, SOP_INSTANCE_UID, MODALITY, MANUFACTURER, STUDY_UID, SERIES_UID),
    *(FRAME_OF_REFERENCE_UID, LABEL, NAME, DATE, TIME, REFERENCED_FRAMES, ROIS, OBSERVATIONS),
)


class ContourType(StrEnum):
    """Contour Geometric Type (3006,0042), DICOM PS3.3 C.8.8.6.1; ``UNKNOWN`` for anything else and for none."""

    CLOSED_PLANAR = "CLOSED_PLANAR"
    CLOSEDPLANAR_XOR = "CLOSEDPLANAR_XOR"
    OPEN_PLANAR = "OPEN_PLANAR"
    OPEN_NONPLANAR = "OPEN_NONPLANAR"
    POINT = "POINT"
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True, eq=False)
class Contour:
    """One contour.

    Attributes
    ----------
    points
        float64, shape (n, 3): LPS, mm. May hold NaN where the file holds no number.
    type
        What the points mean.
    number
        Contour Number (3006,0048), if any.
    image_uids
        SOP instances that the contour claims to lie on. They often match nothing: positions decide.
    """

    points: NDArray[np.float64]
    type: ContourType = ContourType.CLOSED_PLANAR
    number: int | None = None
    image_uids: tuple[str, ...] = ()

    @property
    def encloses(self) -> bool:
        """Whether the contour can enclose an area: it is not open, no point, and has three points or more."""
        return self.type not in _WITHOUT_AREA and len(self.points) > 2


_WITHOUT_AREA = frozenset({ContourType.OPEN_PLANAR, ContourType.OPEN_NONPLANAR, ContourType.POINT})


@dataclass(frozen=True, eq=False)
class ROI:
    """One region of interest.

    Attributes
    ----------
    number
        ROI Number (3006,0022): a name tag, not an index.
    name
        ROI Name (3006,0026) as written; may be empty.
    interpreted_type
        RT ROI Interpreted Type (3006,00A4) in capitals; may be empty.
    color
        Red, green, blue, 0–255, if given.
    frame_of_reference_uid
        Coordinate system of the points; may be empty.
    contours
        In the file's order; none for an empty ROI, and none where contours were not asked for.
    """

    number: int
    name: str
    interpreted_type: str = ""
    color: tuple[int, int, int] | None = None
    frame_of_reference_uid: str = ""
    contours: tuple[Contour, ...] = ()


@dataclass(frozen=True, eq=False)
class RTStruct:
    """One RT Structure Set (DICOM PS3.3 A.19.3).

    Attributes
    ----------
    path
        The file.
    sop_instance_uid, patient_id, patient_name, study_uid, series_uid, label, name
        As written, without padding; empty where missing.
    date, time
        Structure Set Date (``YYYYMMDD``) and Time (``HHMMSS…``); empty where missing.
    frame_of_reference_uids
        All that the file names, without repetition.
    referenced_series_uids
        Series that the file says it was drawn on.
    referenced_image_uids
        Instances of those series; where the header lists none, those that the contours name.
    rois
        In the file's order.
    warnings
        Sentences on what is missing or contradictory in the file.
    predicted
        Whether this software made all of it without a person's hand: no ground truth.
    """

    path: Path
    sop_instance_uid: str
    patient_id: str
    patient_name: str
    study_uid: str
    series_uid: str
    label: str
    name: str
    date: str
    time: str
    frame_of_reference_uids: tuple[str, ...]
    referenced_series_uids: tuple[str, ...]
    referenced_image_uids: frozenset[str]
    rois: tuple[ROI, ...]
    warnings: tuple[str, ...]
    predicted: bool = False


def read_rtstruct(path: str | Path, *, with_contours: bool = True) -> RTStruct:
    """Read an RTSTRUCT file.

    Parameters
    ----------
    path
        The file; preamble and file meta information may be missing.
    with_contours
        ``False`` reads headers, ROI names and references only: ROIs then come without contours and colors.

    Raises
    ------
    BadInputError
        If the file is missing, broken, or ends before its contours do.
    UnsupportedFileError
        If it is something else than an RTSTRUCT.
    """
    path = Path(path)
    dataset = open_dataset(path, None if with_contours else _HEADER)
    try:
        return _Reader(path, dataset).read(with_contours)
    except LungSegError:
        raise
    except Exception as error:  # sequences are parsed on access: broken bytes make pydicom raise almost anything
        raise BadInputError(
            f"The RTSTRUCT {path} is broken ({type(error).__name__}: {error}).", "Export it again."
        ) from error


class _Reader:
    """Collects one file's content and what is wrong with it."""

    def __init__(self, path: Path, dataset: ElementSet) -> None:
        self.path = path
        self.dataset = dataset
        self.character_set = character_set(dataset)
        self.warnings: list[str] = []

    def read(self, with_contours: bool) -> RTStruct:
        dataset = self.dataset
        if uid(dataset, SOP_CLASS_UID) != RT_STRUCTURE_SET_STORAGE and term(dataset, MODALITY) != "RTSTRUCT":
            kind = kind_of(dataset)
            fact = f"is of the kind {kind}, not an RTSTRUCT" if kind else "is no DICOM RTSTRUCT"
            raise UnsupportedFileError(f"The file {self.path} {fact}.")
        for tag in (REFERENCED_FRAMES, ROIS, ROI_CONTOURS, OBSERVATIONS):
            if not is_complete(dataset, tag):
                raise BadInputError(
                    f"The RTSTRUCT {self.path} ends before its contents do.", "Copy or export it again."
                )
        rois = self._with_contours(self._rois()) if with_contours else self._rois()
        frames, series, images = self._references(rois)
        if not rois:
            self.warnings.append("The file names no ROI.")
        if not images:
            images = _images_of_contours(dataset if with_contours else open_dataset(self.path))
        return RTStruct(
            path=self.path,
            sop_instance_uid=uid(dataset, SOP_INSTANCE_UID),
            patient_id=self._text(PATIENT_ID),
            patient_name=self._text(PATIENT_NAME),
            study_uid=uid(dataset, STUDY_UID),
            series_uid=uid(dataset, SERIES_UID),
            label=self._text(LABEL),
            name=self._text(NAME),
            date=self._text(DATE),
            time=self._text(TIME),
            frame_of_reference_uids=frames,
            referenced_series_uids=series,
            referenced_image_uids=images,
            rois=tuple(rois),
            warnings=tuple(self.warnings),
            predicted=self._is_predicted(),
        )

    def _is_predicted(self) -> bool:
        ways = {term(item, ROI_ALGORITHM) for item in items(self.dataset, ROIS)}
        return self._text(MANUFACTURER) == PRODUCT and ways == {"AUTOMATIC"}

    def _text(self, tag: int) -> str:
        return text(self.dataset, tag, self.character_set)

    def _rois(self) -> list[ROI]:
        kinds = {
            integer(raw_value(item, REFERENCED_ROI_NUMBER)): term(item, INTERPRETED_TYPE)
            for item in items(self.dataset, OBSERVATIONS)
        }
        rois = []
        for position, item in enumerate(items(self.dataset, ROIS), 1):
            name = text(item, ROI_NAME, character_set(item) or self.character_set)
            number = integer(raw_value(item, ROI_NUMBER))
            if number is None:
                self.warnings.append(f"ROI “{name}” (item {position}) has no number: its contours cannot be found.")
                continue
            if not name:
                self.warnings.append(f"ROI {number} has no name.")
            rois.append(ROI(number, name, kinds.get(number, ""), None, uid(item, ROI_FRAME_OF_REFERENCE_UID)))
        return rois

    def _with_contours(self, rois: Sequence[ROI]) -> list[ROI]:
        drawn: dict[int, list[ElementSet]] = defaultdict(list)
        for item in items(self.dataset, ROI_CONTOURS):
            number = integer(raw_value(item, REFERENCED_ROI_NUMBER))
            if number is None:
                self.warnings.append("Contours that belong to no ROI number were left out.")
                continue
            drawn[number].append(item)
        named: dict[int, list[ROI]] = defaultdict(list)
        for roi in rois:
            named[roi.number].append(roi)
        result = []
        for roi in rois:
            namesakes = named[roi.number]
            mine = drawn.get(roi.number, [])
            if len(namesakes) > 1:
                # Contours refer to a number only. Where a number is given several times, the order is all there is to
                # tell whose they are, and only if every ROI has exactly one item.
                mine = [mine[namesakes.index(roi)]] if len(mine) == len(namesakes) else []
                if not mine or roi is namesakes[0]:
                    fate = "were paired by their order" if mine else "cannot be told apart and were left out"
                    self.warnings.append(f"Several ROIs have the number {roi.number}: their contours {fate}.")
            result.append(self._filled(roi, mine))
        for number in drawn.keys() - named.keys():
            self.warnings.append(f"The contours of ROI {number}, which the file does not name, were left out.")
        return result

    def _filled(self, roi: ROI, drawn: Sequence[ElementSet]) -> ROI:
        color = next((value for value in map(_color, drawn) if value), None)
        contours = [contour for item in drawn for contour in self._contours(roi, item)]
        if not contours:
            self.warnings.append(f"ROI “{roi.name}” ({roi.number}) has no contours.")
        return ROI(roi.number, roi.name, roi.interpreted_type, color, roi.frame_of_reference_uid, tuple(contours))

    def _contours(self, roi: ROI, drawn: ElementSet) -> Iterator[Contour]:
        incomplete = other_count = 0
        written = items(drawn, CONTOURS)
        lists = number_lists([raw_value(item, CONTOUR_DATA) for item in written])
        for item, values in zip(written, lists, strict=True):
            # A value too many is cut off; had one got lost in the middle, the points leave the slice plane and the
            # contour is refused when it is drawn.
            incomplete += values.size % 3 != 0
            points = values[: values.size // 3 * 3].reshape(-1, 3)
            claimed = integer(raw_value(item, POINT_COUNT))
            other_count += claimed is not None and claimed != len(points)
            yield Contour(points, _type(item), integer(raw_value(item, CONTOUR_NUMBER)), tuple(_image_uids(item)))
        if incomplete:
            self.warnings.append(
                f"ROI “{roi.name}”: {incomplete} contours end within a point; the rest of it was cut off."
            )
        if other_count:
            self.warnings.append(
                f"ROI “{roi.name}”: {other_count} contours hold another number of points than they claim."
            )

    def _references(self, rois: Sequence[ROI]) -> tuple[tuple[str, ...], tuple[str, ...], frozenset[str]]:
        frames = [uid(self.dataset, FRAME_OF_REFERENCE_UID)]
        series: list[str] = []
        images: list[str] = []
        without_uid = 0
        for frame in items(self.dataset, REFERENCED_FRAMES):
            frames.append(uid(frame, FRAME_OF_REFERENCE_UID))
            for study in items(frame, REFERENCED_STUDIES):
                for item in items(study, REFERENCED_SERIES):
                    series.append(uid(item, SERIES_UID))
                    uids = _image_uids(item)
                    without_uid += sum(not value for value in uids) + (not series[-1])
                    images += uids
        frames += [roi.frame_of_reference_uid for roi in rois]
        if without_uid:
            self.warnings.append(f"{without_uid} references to images or series have no UID.")
        return _distinct(frames), _distinct(series), frozenset(images) - {""}


def _image_uids(item: ElementSet) -> list[str]:
    return [uid(image, REFERENCED_SOP_INSTANCE_UID) for image in items(item, CONTOUR_IMAGES)]


def _images_of_contours(dataset: ElementSet) -> frozenset[str]:
    contours = (contour for roi in items(dataset, ROI_CONTOURS) for contour in items(roi, CONTOURS))
    return frozenset(value for contour in contours for value in _image_uids(contour)) - {""}


def _distinct(values: Sequence[str]) -> tuple[str, ...]:
    return tuple(value for value in dict.fromkeys(values) if value)


def _type(item: ElementSet) -> ContourType:
    written = "".join(character for character in term(item, CONTOUR_TYPE) if character.isalpha())
    return _TYPES.get(written, ContourType.UNKNOWN)


_TYPES = {"".join(filter(str.isalpha, kind.value)): kind for kind in ContourType}


def _color(item: ElementSet) -> tuple[int, int, int] | None:
    values = numbers(raw_value(item, ROI_COLOR))
    if values.size != 3 or not np.isfinite(values).all():
        return None
    red, green, blue = (int(value) for value in values.clip(0, 255))
    return red, green, blue
