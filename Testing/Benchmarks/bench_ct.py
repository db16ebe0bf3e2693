"""Read the CT of LUNG1-002 against pydicom's slice loop and SimpleITK's series reader; prints times, ratios, memory.

Usage: python Testing/Benchmarks/bench_ct.py
"""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from pydicom import dcmread

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from LungSegmentationLib.dicom.ct import read_ct  # noqa: E402


def by_pydicom(files: list[Path]) -> np.ndarray:
    slices = sorted((dcmread(file) for file in files), key=lambda one: float(one.ImagePositionPatient[2]))
    planes = [
        one.pixel_array.astype(np.float32) * float(one.RescaleSlope) + float(one.RescaleIntercept) for one in slices
    ]
    return np.stack(planes).astype(np.int16)


def by_simpleitk(files: list[Path]) -> np.ndarray:
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames([str(file) for file in files])
    return sitk.GetArrayFromImage(reader.Execute())


def best(work: Callable[[], object], times: int = 3) -> float:
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def main() -> None:
    data = Path(os.environ.get("LUNGSEG_TEST_DATA", ROOT.parent / "shared" / "data"))
    folder = data / "rt_lung1-002"
    files = [Path(file) for file in sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder))]
    ours = best(lambda: read_ct(files))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    pydicom, simpleitk = best(lambda: by_pydicom(files)), best(lambda: by_simpleitk(files))
    same = np.array_equal(sitk.GetArrayFromImage(read_ct(files).image), np.maximum(by_pydicom(files), -1024))
    print(f"{len(files)} slices of 512 × 512; equal voxels: {same}")
    print(f"read_ct:             {ours:.3f} s, {peak:.0f} MB at the peak (whole process)")
    print(f"pydicom slice loop:  {pydicom:.3f} s, {pydicom / ours:.1f} × as long")
    print(f"SimpleITK series:    {simpleitk:.3f} s, {simpleitk / ours:.1f} × as long")


if __name__ == "__main__":
    main()
