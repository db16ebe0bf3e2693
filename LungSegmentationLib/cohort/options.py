"""How a cohort is converted: what the user says now, and what the cohort remembers of what was said before."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from LungSegmentationLib.cohort.margins import check_margin
from LungSegmentationLib.cohort.records import ConversionSettings
from LungSegmentationLib.cohort.selection import CT_CHOICES
from LungSegmentationLib.dicom.roi_names import RoiMap
from LungSegmentationLib.errors import UsageError
from LungSegmentationLib.storage import atomic_path

if TYPE_CHECKING:
    from LungSegmentationLib.cohort.paths import CohortPaths
    from LungSegmentationLib.labels import LabelSet

__all__ = ["NO_MAP", "ConversionOptions", "describe_settings", "settle"]

NO_MAP = Path("none")
"""As ``roi_map``: use none, also if the cohort remembers one."""


@dataclass(frozen=True)
class ConversionOptions:
    """How to convert. What is ``None`` stays as it was in the cohort's last conversion.

    Attributes
    ----------
    jobs
        Processes that work side by side; 1 works in this one.
    label_set
        Name or file of the label set.
    roi_map
        A user's file of ROI names; wins over the rules. The cohort keeps a copy. :data:`NO_MAP` forgets it.
    synthetic_ptv
        mm: where no PTV was drawn, make one as this margin around the GTV. 0: make none.
    ct, rtstruct
        Which of several, see :mod:`LungSegmentationLib.cohort.selection`; at first ``all`` and ``most-structures``.
    corrections
        ``CASE/ROI=STRUCTURE`` each: the ROI of that case is this structure, or with ``ignore`` is not used. The cohort
        remembers them.
    """

    jobs: int = 1
    label_set: str = "thorax"
    roi_map: Path | None = None
    synthetic_ptv: float | None = None
    ct: str | None = None
    rtstruct: str | None = None
    corrections: tuple[str, ...] = ()

    def check(self, label_set: LabelSet) -> None:
        """Refuse what cannot be meant, before anything is read or written.

        Raises
        ------
        UsageError, BadInputError
            If an option or the file of ROI names is wrong.
        """
        if self.jobs < 1:
            raise UsageError(f"--jobs {self.jobs} cannot be meant.", "Give 1 or more.")
        if self.ct is not None and self.ct not in CT_CHOICES:
            raise UsageError(f"“{self.ct}” is no way to choose among CTs.", f"Use one of: {', '.join(CT_CHOICES)}.")
        if self.synthetic_ptv:
            check_margin(self.synthetic_ptv)
        if self.roi_map is not None and self.roi_map != NO_MAP:
            RoiMap.read(self.roi_map, label_set)


def settle(options: ConversionOptions, before: ConversionSettings, paths: CohortPaths) -> ConversionSettings:
    """Join what is asked for now with what the cohort remembers; a new file of ROI names is copied into the cohort."""
    roi_map = before.roi_map
    if options.roi_map == NO_MAP:
        roi_map = None
    elif options.roi_map is not None:
        roi_map = f"roi_map{options.roi_map.suffix.lower()}"
        copy = paths.root / roi_map
        if options.roi_map.resolve() != copy.resolve():
            with atomic_path(copy) as partial:
                shutil.copyfile(options.roi_map, partial)
    return ConversionSettings(
        roi_map=roi_map,
        synthetic_ptv=before.synthetic_ptv if options.synthetic_ptv is None else options.synthetic_ptv or None,
        ct=options.ct or before.ct,
        rtstruct=options.rtstruct or before.rtstruct,
    )


def describe_settings(settings: ConversionSettings) -> str:
    """Return in words what differs from the defaults; empty if nothing does."""
    usual = ConversionSettings()
    parts = []
    if settings.roi_map:
        parts.append(f"the ROI names of {settings.roi_map}")
    if settings.synthetic_ptv:
        parts.append(f"a synthetic PTV of {settings.synthetic_ptv:g} mm")
    parts += [
        f"--{name} {value}" for name in ("ct", "rtstruct") if (value := getattr(settings, name)) != getattr(usual, name)
    ]
    return ", ".join(parts)
