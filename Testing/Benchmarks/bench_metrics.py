"""Time and agreement of all scores of a case against the usual way: distance transforms and one mask a structure.

Run: ``python Testing/Benchmarks/bench_metrics.py`` with the data folder in ``LUNGSEG_TEST_DATA``. The case is LUNG1-002
filled up to 134 slices (512×512×134, 7 structures) against a moved copy of itself. Where the package
``surface-distance`` of the paper's authors can be imported, it is the other side; otherwise its definition written
down again with SciPy is.
"""

from __future__ import annotations

import itertools
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage

from LungSegmentationLib.cohort.convert import convert
from LungSegmentationLib.cohort.paths import CohortPaths
from LungSegmentationLib.evaluation.case_scores import score_case
from LungSegmentationLib.evaluation.surface_elements import surface_areas
from LungSegmentationLib.geometry import Grid
from LungSegmentationLib.labels import load_label_set
from LungSegmentationLib.structures import StructureMap

DATA = Path(os.environ.get("LUNGSEG_TEST_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
SLICES = 134
ROUNDS = 3
NAMES = ("Dice", "HD95", "mean distance", "surface Dice")
Mask = NDArray[np.bool_]
Scores = dict[str, tuple[float, ...]]


def case() -> tuple[StructureMap, Grid]:
    """Convert LUNG1-002 and repeat its last slices up to 134."""
    with tempfile.TemporaryDirectory() as folder:
        convert(DATA / "rt_lung1-002", Path(folder))
        (paths,) = CohortPaths(Path(folder)).finished_cases()
        image = sitk.ReadImage(str(paths.structures))
    bits, grid = sitk.GetArrayFromImage(image), Grid.of(image)
    bits = np.concatenate([bits, bits[-(SLICES - len(bits)) :]])
    return StructureMap(load_label_set(), bits), Grid((512, 512, SLICES), grid.spacing, grid.origin, grid.direction)


def by_scipy(reference: Mask, prediction: Mask, spacing: tuple[float, float, float]) -> tuple[float, ...]:
    """Work out distances by distance transforms of the cells that the surfaces cut, in the common bounding box."""
    box = ndimage.find_objects((reference | prediction).astype(np.uint8))[0]
    codes = []
    for mask in (reference, prediction):
        padded = np.pad(mask[box], 1)
        code = np.zeros([n - 1 for n in padded.shape], np.uint8)
        for bit, (z, y, x) in enumerate(itertools.product((0, 1), repeat=3)):
            code |= padded[z : z + code.shape[0], y : y + code.shape[1], x : x + code.shape[2]].astype(np.uint8) << bit
        codes.append(code)
    areas, cut = surface_areas(spacing), [(code > 0) & (code < 255) for code in codes]
    sides = []
    for one, other in ((0, 1), (1, 0)):
        distances = ndimage.distance_transform_edt(~cut[other], sampling=spacing[::-1])[cut[one]]
        order = np.argsort(distances)
        sides.append((distances[order], areas[codes[one][cut[one]]][order]))
    total = sum(a.sum() for _, a in sides)
    far = [d[np.searchsorted(np.cumsum(a), 0.95 * a.sum())] for d, a in sides]
    return max(far), sum(d @ a for d, a in sides) / total, sum(a[d <= 2].sum() for d, a in sides) / total


def by_authors(package: Any) -> Callable[[Mask, Mask, tuple[float, float, float]], tuple[float, ...]]:
    """Return the same by the package of the paper's authors."""

    def measure(reference: Mask, prediction: Mask, spacing: tuple[float, float, float]) -> tuple[float, ...]:
        found = package.compute_surface_distances(reference, prediction, spacing[::-1])
        areas = found["surfel_areas_gt"].sum(), found["surfel_areas_pred"].sum()
        means = package.compute_average_surface_distance(found)
        return (
            package.compute_robust_hausdorff(found, 95),
            (means[0] * areas[0] + means[1] * areas[1]) / sum(areas),
            package.compute_surface_dice_at_tolerance(found, 2),
        )

    return measure


def main() -> int:
    """Print times, their ratio, and how far the numbers differ."""
    reference, grid = case()
    prediction = StructureMap(reference.label_set, np.roll(reference.bits, (1, 4, -3), (0, 1, 2)))
    try:
        import surface_distance

        name, measure = "surface-distance", by_authors(surface_distance)
    except ImportError:
        name, measure = "SciPy", by_scipy

    def ours() -> Scores:
        scores = score_case(prediction, reference, grid, reference.label_set, exclusive=False)
        return {
            s.key: (s.dice or 0.0, s.hd95_mm or 0.0, s.mean_distance_mm or 0.0, s.surface_dice or 0.0) for s in scores
        }

    def theirs() -> Scores:
        found = {}
        for key in reference.label_set.keys:
            a, b = reference.mask(key), prediction.mask(key)
            found[key] = (2 * (a & b).sum() / (a.sum() + b.sum()), *measure(a, b, grid.spacing))
        return found

    best = {"ours": np.inf, "theirs": np.inf}
    results: dict[str, Scores] = {}
    for _ in range(ROUNDS):
        for side, run in (("theirs", theirs), ("ours", ours)):
            start = time.perf_counter()
            results[side] = run()
            best[side] = min(best[side], time.perf_counter() - start)
    print(f"512×512×{SLICES}, {len(results['ours'])} structures; Dice, HD95, mean distance, surface Dice")
    for key, values in results["ours"].items():
        print(f"  {key:<12}", "  ".join(f"{value:8.4f}" for value in values))
    for place, metric in enumerate(NAMES):
        differences = [abs(v[place] / results["theirs"][key][place] - 1) for key, v in results["ours"].items()]
        print(f"  largest relative difference of {metric}: {max(differences):.1e} (bar: 1e-3)")
    ratio = best["theirs"] / best["ours"]
    print(
        f"  LungSegmentation {best['ours']:.2f} s (bar: 5 s), {name} {best['theirs']:.2f} s: {ratio:.1f} times faster"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
