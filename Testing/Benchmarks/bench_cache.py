"""Slices a second from the cache, against reading both NIfTI volumes for each slice, on LUNG1-001.

Run: ``python Testing/Benchmarks/bench_cache.py`` with the data folder in ``LUNGSEG_TEST_DATA``. Both sides end with a
normalized float32 slice and its label map; augmentation is left aside. Files are in the system's memory on both sides.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from LungSegmentationLib.cohort.cache import cached_cases, open_case
from LungSegmentationLib.cohort.convert import convert
from LungSegmentationLib.cohort.paths import CohortPaths
from LungSegmentationLib.cohort.prepare import prepare
from LungSegmentationLib.cohort.statistics import cohort_statistics
from LungSegmentationLib.labels import load_label_set
from LungSegmentationLib.structures import label_table

DATA = Path(os.environ.get("LUNGSEG_TEST_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
CACHED_SLICES, VOLUME_SLICES = 4000, 6


def rate(fetch: Callable[[int], object], slices: int, total: int) -> float:
    """Return slices a second over so many random slices."""
    wanted = np.random.default_rng(0).integers(0, total, slices).tolist()
    fetch(wanted[0])
    start = time.perf_counter()
    for z in wanted:
        fetch(z)
    return slices / (time.perf_counter() - start)


def main() -> int:
    """Print both rates and the ratios."""
    with tempfile.TemporaryDirectory() as folder:
        cohort = Path(folder) / "cohort"
        convert(DATA / "rt_lung1-001", cohort)
        prepare(cohort)
        paths = CohortPaths(cohort)
        (name,) = cached_cases(paths)
        case = open_case(paths, name)
        files, record = paths.case(name), case.record
        table = label_table(load_label_set())
        low, high = record.window
        shift, factor = np.float32(record.mean), np.float32(1 / (record.std + 1e-8))

        def from_volumes(z: int) -> tuple[np.ndarray, np.ndarray]:
            ct = sitk.GetArrayFromImage(sitk.ReadImage(str(files.ct)))[z]
            labels = sitk.GetArrayFromImage(sitk.ReadImage(str(files.labels)))[z]
            return (np.clip(ct, low, high).astype(np.float32) - shift) * factor, labels

        def raw(z: int) -> tuple[np.ndarray, np.ndarray]:
            return np.array(case.ct[z]), np.array(case.structures[z])

        def normalized(z: int) -> tuple[np.ndarray, np.ndarray]:
            ct = np.clip(case.ct[z], int(low), int(high)).astype(np.float32)
            return (ct - shift) * factor, table[case.structures[z]]

        slow = rate(from_volumes, VOLUME_SLICES, len(case))
        print(f"{name}, {len(case)} slices; slices a second")
        print(f"  both NIfTI volumes, one slice      {slow:12.2f}")
        for text, fetch in (("cache, as stored", raw), ("cache, normalized and label map", normalized)):
            fast = rate(fetch, CACHED_SLICES, len(case))
            print(f"  {text:<34} {fast:12.0f}  ratio {fast / slow:,.0f} (bar: 1,000)  {1e3 / fast:.3f} ms a slice")
        start = time.perf_counter()
        cohort_statistics(paths)
        print(f"  statistics from the records: {(time.perf_counter() - start) * 1e3:.1f} ms a case")
    return 0


if __name__ == "__main__":
    sys.exit(main())
