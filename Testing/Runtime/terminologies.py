"""Short stand-ins for the terminologies of Slicer that slicer-core looks for and does not bring."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TISSUE = {"CodingSchemeDesignator": "SCT", "CodeValue": "85756007", "CodeMeaning": "Tissue"}
LUNG = {"CodingSchemeDesignator": "SCT", "CodeValue": "39607008", "CodeMeaning": "Lung"}

SEGMENTS = {
    "SlicerGeneralAnatomy": "Segmentation category and type - 3D Slicer General Anatomy list",
    "DICOM-Master": "Segmentation category and type - DICOM master list",
}
REGIONS = "Anatomic codes - DICOM master list"


def write(folder: Path) -> None:
    """Write the files under the names that the logic of terminologies reads at its start."""
    for file, name in SEGMENTS.items():
        kind = {**TISSUE, "recommendedDisplayRGBValue": [128, 174, 128]}
        category = {**TISSUE, "showAnatomy": True, "Type": [kind]}
        content = {"SegmentationCategoryTypeContextName": name, "SegmentationCodes": {"Category": [category]}}
        _write(folder / f"SegmentationCategoryTypeModifier-{file}.term.json", "segment", content)
    content = {"AnatomicContextName": REGIONS, "AnatomicCodes": {"AnatomicRegion": [LUNG]}}
    _write(folder / "AnatomicRegionAndModifier-DICOM-Master.term.json", "anatomic", content)


def _write(path: Path, kind: str, content: dict[str, Any]) -> None:
    schema = f"https://raw.githubusercontent.com/qiicr/dcmqi/master/doc/{kind}-context-schema.json#"
    path.write_text(json.dumps({"@schema": schema, **content}), encoding="utf-8")
