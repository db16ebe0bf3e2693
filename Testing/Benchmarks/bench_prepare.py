"""Time to prepare a patient, against slice-by-slice scikit-image with float32 NIfTI output, on LUNG1-001.

Run: ``python Testing/Benchmarks/bench_prepare.py`` with the data folder in ``LUNGSEG_TEST_DATA``. Both sides begin with
the converted case and end with files on the disk; they run in turn and each one's best time counts. On a machine that
does other work, too, the processor's seconds tell more than the wall's.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from skimage.transform import resize

from LungSegmentationLib.cohort.cache import cached_cases, open_case
from LungSegmentationLib.cohort.convert import convert
from LungSegmentationLib.cohort.paths import CasePaths, CohortPaths
from LungSegmentationLib.cohort.prepare import prepare

DATA = Path(os.environ.get("LUNGSEG_TEST_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
ROUNDS = 5
SIZE = 256
ENDINGS = (".nii.gz", ".nii")
SOURCE_SLICES = 57148


def scikit_image(case: CasePaths, out: Path, ending: str) -> np.ndarray:
    """Window, normalize and resize slice by slice, write NIfTI; returns the resized slices in HU."""
    ct = sitk.GetArrayFromImage(sitk.ReadImage(str(case.ct))).astype(np.float32)
    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(case.labels)))
    clipped = np.clip(ct, -1000, 400)
    mean, std = clipped.mean(), clipped.std()
    scores = (clipped - mean) / (std + 1e-8)
    images = np.stack([resize(z, (SIZE, SIZE), order=1, preserve_range=True, anti_aliasing=True) for z in scores])
    maps = np.stack(
        [resize(z, (SIZE, SIZE), order=0, preserve_range=True, anti_aliasing=False).astype(np.uint8) for z in labels]
    )
    sitk.WriteImage(sitk.GetImageFromArray(images.astype(np.float32)), str(out / f"image{ending}"))
    sitk.WriteImage(sitk.GetImageFromArray(maps), str(out / f"labels{ending}"))
    return images * (std + 1e-8) + mean


def main() -> int:
    """Print both sides, the ratio, the size and the difference."""
    with tempfile.TemporaryDirectory() as folder:
        cohort, out = Path(folder) / "cohort", Path(folder) / "out"
        out.mkdir()
        convert(DATA / "rt_lung1-001", cohort)
        paths = CohortPaths(cohort)
        (case,) = paths.finished_cases()
        best = dict.fromkeys(("ours", *ENDINGS), (np.inf, np.inf))
        theirs = np.empty(0)

        def timed(side: str, run: Callable[[], Any]) -> Any:
            wall, processor = time.perf_counter(), time.process_time()
            result = run()
            now = time.perf_counter() - wall, time.process_time() - processor
            best[side] = min(best[side][0], now[0]), min(best[side][1], now[1])
            return result

        for _ in range(ROUNDS):
            for ending in ENDINGS:
                theirs = timed(ending, lambda ending=ending: scikit_image(case, out, ending))
            shutil.rmtree(paths.cache, ignore_errors=True)
            timed("ours", lambda: prepare(cohort))
        (name,) = cached_cases(paths)
        cached = open_case(paths, name)
        size = sum(file.stat().st_size for file in paths.cached(name).all)
        ours = np.clip(np.asarray(cached.ct, np.float64), -1000, 400)
        print(f"{name}: {len(cached)} slices to {SIZE} × {SIZE}, from the case's files to prepared files")
        print("                          seconds   processor   KB a slice   times slower (bar: 5)")
        for side, (wall, processor) in best.items():
            stored = size if side == "ours" else sum(file.stat().st_size for file in out.glob(f"*{side}"))
            ratios = wall / best["ours"][0], processor / best["ours"][1]
            title = "LungSegmentation" if side == "ours" else f"scikit-image, {side}"
            slower = "" if side == "ours" else f"{ratios[0]:8.1f}, by processor {ratios[1]:.1f}"
            print(f"  {title:<22} {wall:8.2f} {processor:11.2f} {stored / len(cached) / 1000:12.1f}   {slower}")
        print(f"  {SOURCE_SLICES} slices would take {size / len(cached) * SOURCE_SLICES / 1e9:.2f} GB (bar: 11.5)")
        print(f"  mean difference of the CT {np.abs(ours - theirs).mean():.2f} HU (bar: 8)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
