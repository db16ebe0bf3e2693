"""Time from RTSTRUCT file to voxels, against scikit-image on LUNG1-002 and against rt-utils on LUNG1-001.

Run: ``python Testing/Benchmarks/bench_masks.py`` with the data folder in ``LUNGSEG_TEST_DATA``. Each side is run
several times in turn and its best time counts.
"""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
from rt_utils import RTStructBuilder
from skimage.draw import polygon2mask

from LungSegmentationLib.dicom.contours import rasterize
from LungSegmentationLib.dicom.rtstruct import read_rtstruct
from LungSegmentationLib.geometry import Grid

DATA = Path(os.environ.get("LUNGSEG_TEST_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
STRUCTURES = ("GTV-1", "PTV-1", "Heart", "Esophagus", "Spinal cord", "Lung R", "Lung L")
TAGS = ("Modality", "ImagePositionPatient", "PixelSpacing", "Rows", "Columns")
ROUNDS = 3


def grid_of(folder: Path) -> Grid:
    """Read an axial CT's grid from its headers."""
    headers = [pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(TAGS)) for path in folder.iterdir()]
    slices = [header for header in headers if header.get("Modality") == "CT"]
    positions = np.array(
        sorted(([float(v) for v in header.ImagePositionPatient] for header in slices), key=lambda p: p[2])
    )
    row, column = (float(value) for value in slices[0].PixelSpacing)
    step = float(positions[-1, 2] - positions[0, 2]) / (len(slices) - 1)
    size = int(slices[0].Columns), int(slices[0].Rows), len(slices)
    return Grid(size, (column, row, step), tuple(positions[0].tolist()), (1.0, 0, 0, 0, 1, 0, 0, 0, 1))


def ours(path: Path, grid: Grid | Path, names: tuple[str, ...]) -> dict[str, int]:
    """Count voxels with the library; a folder as grid is read within."""
    grid = grid_of(grid) if isinstance(grid, Path) else grid
    rois = read_rtstruct(path).rois
    return {roi.name: rasterize(roi.contours, grid).voxel_count for roi in rois if roi.name in names}


def scikit_image(path: Path, grid: Grid, names: tuple[str, ...]) -> dict[str, int]:
    """Count voxels with pydicom's values and polygon2mask in each contour's bounding box."""
    dataset = pydicom.dcmread(path)
    numbers = {int(item.ROINumber): str(item.ROIName) for item in dataset.StructureSetROISequence}
    counts = {}
    for roi in dataset.ROIContourSequence:
        name = numbers[int(roi.ReferencedROINumber)]
        if name not in names:
            continue
        mask = np.zeros(grid.shape, bool)
        for contour in roi.ContourSequence:
            points = grid.to_index(np.array(contour.ContourData, float).reshape(-1, 3))
            low = np.floor(points[:, :2].min(0)).astype(int).clip(0)
            high = np.ceil(points[:, :2].max(0)).astype(int) + 1
            local = polygon2mask(tuple((high - low)[::-1]), (points[:, :2] - low)[:, ::-1])
            mask[round(points[0, 2]), low[1] : high[1], low[0] : high[0]] |= local
        counts[name] = int(mask.sum())
    return counts


def rt_utils(path: Path, folder: Path, names: tuple[str, ...]) -> dict[str, int]:
    """Count voxels with rt-utils: load the series and the RTSTRUCT, then the masks."""
    structures = RTStructBuilder.create_from(dicom_series_path=str(folder), rt_struct_path=str(path))
    return {
        name: int(structures.get_roi_mask_by_name(name).sum()) for name in structures.get_roi_names() if name in names
    }


def compare(
    title: str, other_name: str, mine: Callable[[], dict[str, int]], other: Callable[[], dict[str, int]]
) -> float:
    """Run both sides in turn, print counts, times and the ratio."""
    best = {"mine": np.inf, "other": np.inf}
    counts: dict[str, dict[str, int]] = {}
    for _ in range(ROUNDS):
        for side, run in (("other", other), ("mine", mine)):
            start = time.perf_counter()
            counts[side] = run()
            best[side] = min(best[side], time.perf_counter() - start)
    print(title)
    for name, count in counts["mine"].items():
        print(f"  {name:<14} {count:>8} voxels, {other_name} {counts['other'].get(name, 0):>8}")
    ratio = best["other"] / best["mine"]
    print(f"  LungSegmentation {best['mine']:.3f} s, {other_name} {best['other']:.3f} s: {ratio:.1f} times faster\n")
    return ratio


def main() -> int:
    """Print both comparisons."""
    warnings.filterwarnings("ignore")
    second = DATA / "rt_lung1-002"
    path, grid = second / "1.dcm", grid_of(second)
    compare(
        "LUNG1-002, 7 structures, file to voxels (bar: 8)",
        "scikit-image",
        lambda: ours(path, grid, STRUCTURES),
        lambda: scikit_image(path, grid, STRUCTURES),
    )
    first = DATA / "rt_lung1-001"
    drawn = next((first / "mask_rtstruct").iterdir())
    names = tuple(roi.name for roi in read_rtstruct(drawn, with_contours=False).rois)
    compare(
        "LUNG1-001, 4 ROIs, CT headers and RTSTRUCT to voxels (bar: 5)",
        "rt-utils",
        lambda: ours(drawn, first / "image", names),
        lambda: rt_utils(drawn, first / "image", names),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
