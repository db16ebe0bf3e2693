"""A user's corrections: which structure an ROI of one RTSTRUCT is, whatever the rules say.

They are kept by the RTSTRUCT's SOP Instance UID, not by the case's name, so that they can be made before the cohort is
converted and still hold when folders are renamed.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from LungSegmentationLib.errors import BadInputError, UsageError
from LungSegmentationLib.storage import read_json, write_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from LungSegmentationLib.cohort.paths import CohortPaths
    from LungSegmentationLib.cohort.selection import Plan
    from LungSegmentationLib.dicom.series import RTStructFile
    from LungSegmentationLib.labels import LabelSet

__all__ = ["IGNORE", "RoiCorrections", "apply_corrections", "rtstruct_key"]

SCHEMA = 1

IGNORE = "ignore"
"""What a correction says of an ROI that is not to be used."""


def rtstruct_key(file: RTStructFile) -> str:
    """Return what corrections of an RTSTRUCT are kept by: its SOP Instance UID, or its content where it has none."""
    return file.sop_instance_uid or f"sha256:{hashlib.sha256(file.path.read_bytes()).hexdigest()}"


class RoiCorrections:
    """The corrections of a cohort (``roi_corrections.json``).

    Parameters
    ----------
    by_rtstruct
        RTSTRUCT SOP Instance UID → ROI name → structure key, or ``None`` for an ROI that is not to be used.
    """

    def __init__(self, by_rtstruct: Mapping[str, Mapping[str, str | None]] | None = None) -> None:
        self._by_rtstruct = {uid: dict(rois) for uid, rois in (by_rtstruct or {}).items()}

    @classmethod
    def read(cls, paths: CohortPaths) -> RoiCorrections:
        """Read those of a cohort; a cohort without any gives an empty set.

        Raises
        ------
        BadInputError
            If the file is damaged.
        """
        if not paths.corrections.is_file():
            return cls()
        content = read_json(paths.corrections, "file of corrections")
        try:
            if content["schema_version"] != SCHEMA:
                raise ValueError(f"schema {content['schema_version']}")
            return cls({uid: dict(entry["rois"]) for uid, entry in content["rtstructs"].items()})
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BadInputError(f"{paths.corrections} is damaged ({error}).", "Mend or remove it.") from error

    def of(self, rtstruct_uid: str) -> dict[str | int, str | None]:
        """Return ROI name → structure key (or ``None``: not to be used) for one RTSTRUCT."""
        return dict(self._by_rtstruct.get(rtstruct_uid, {}).items())

    def all(self) -> dict[str, dict[str, str | None]]:
        """Return all of them: RTSTRUCT → ROI name → structure key."""
        return {uid: dict(rois) for uid, rois in self._by_rtstruct.items() if rois}

    def set(self, rtstruct_uid: str, roi_name: str, structure: str | None) -> None:
        """Remember that an ROI is this structure, or (``None``) is not to be used."""
        self._by_rtstruct.setdefault(rtstruct_uid, {})[roi_name] = structure

    def forget(self, rtstruct_uid: str, roi_name: str) -> None:
        """Leave the ROI to the rules again."""
        self._by_rtstruct.get(rtstruct_uid, {}).pop(roi_name, None)

    def write(self, paths: CohortPaths) -> None:
        """Write them into the cohort."""
        content = {
            "schema_version": SCHEMA,
            "rtstructs": {uid: {"rois": rois} for uid, rois in sorted(self._by_rtstruct.items()) if rois},
        }
        write_json(paths.corrections, content)


def apply_corrections(corrections: RoiCorrections, wanted: Sequence[str], plan: Plan, label_set: LabelSet) -> None:
    """Add corrections that are written ``CASE/ROI=STRUCTURE``, or ``=ignore`` for an ROI that is not to be used.

    Raises
    ------
    UsageError
        If one is no correction, or names a case, an ROI or a structure that is not there.
    """
    by_name = {planned.name: planned for planned in plan.cases}
    for text in wanted:
        place, equals, structure = text.rpartition("=")
        case, slash, roi = place.partition("/")
        if not (equals and slash and case and roi):
            raise UsageError(f"“{text}” is no correction.", "Write it as CASE/ROI=STRUCTURE, for example P1/I1=gtv.")
        if case not in by_name:
            raise UsageError(f"There is no case “{case}”.", f"There are {', '.join(list(by_name)[:8])}.")
        file = by_name[case].link.rtstruct
        if roi not in file.roi_names:
            raise UsageError(f"{case} has no ROI “{roi}”.", f"It has {', '.join(file.roi_names)}.")
        if structure != IGNORE and structure not in label_set:
            raise UsageError(
                f"“{structure}” is no structure of the label set {label_set.name}.",
                f"Use {IGNORE} or one of {', '.join(label_set.keys)}.",
            )
        corrections.set(rtstruct_key(file), roi, None if structure == IGNORE else structure)
