"""Whether a case would come out the same: a digest of all that it is made from."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from LungSegmentationLib.cohort.selection import volume_key
from LungSegmentationLib.labels import label_set_to_dict, without_postprocessing
from LungSegmentationLib.resources import resource_path

if TYPE_CHECKING:
    from collections.abc import Mapping

    from LungSegmentationLib.cohort.paths import CohortPaths
    from LungSegmentationLib.cohort.records import ConversionSettings
    from LungSegmentationLib.cohort.selection import PlannedCase
    from LungSegmentationLib.labels import LabelSet

__all__ = ["fingerprint_of"]

CONVERSION_VERSION = 2
"""Rises when the same DICOM would give other voxels or another record: every case is then converted anew."""


def fingerprint_of(
    planned: PlannedCase,
    label_set: LabelSet,
    settings: ConversionSettings,
    corrections: Mapping[str | int, str | None],
    paths: CohortPaths,
) -> str:
    """Return a digest of files, rules, map, corrections, settings, and our version.

    CT files count by name, size and time; the RTSTRUCT and the small files by content.

    Raises
    ------
    OSError
        If a file is gone.
    """
    digest = hashlib.sha256()

    def add(*values: object) -> None:
        digest.update(repr(values).encode("utf-8", "surrogatepass"))

    add(CONVERSION_VERSION, planned.link.by, volume_key(planned.series))
    for file in sorted(planned.series.files):
        state = file.stat()
        add(file.name, state.st_size, state.st_mtime_ns)
    digest.update(planned.link.rtstruct.path.read_bytes())
    # What is mended in predictions changes no voxel of a conversion.
    add(json.dumps(label_set_to_dict(without_postprocessing(label_set)), sort_keys=True))
    for rules in sorted(resource_path("RoiNames").glob("*.json")):
        digest.update(rules.read_bytes())
    if settings.roi_map:
        digest.update((paths.root / settings.roi_map).read_bytes())
    add(sorted(corrections.items(), key=repr), settings.synthetic_ptv)
    return digest.hexdigest()
