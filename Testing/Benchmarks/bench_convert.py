"""Whole conversion of LUNG1-002 against the obvious way, side by side in one run, with the peak memory of ours.

The obvious way: pydicom slice by slice, rt-utils for the masks, label maps painted in the same order, and
``SimpleITK.WriteImage`` with compression for the same three volumes. Ours: ``convert`` with all that it does besides
(scan, two fsyncs, record, table). Each side runs in processes of its own, in turn; a second call in the same process
counts, so that neither imports nor the first touch of the files do. Bar: 4 times, 1.2 GB.

    python Testing/Benchmarks/bench_convert.py [--repeats 5]
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("LUNGSEG_TEST_DATA", ROOT.parent / "shared" / "data")) / "rt_lung1-002"

ROIS = ["Lung R", "Lung L", "Heart", "PTV-1", "Esophagus", "Spinal cord", "GTV-1"]
LABELS = [3, 4, 5, 2, 6, 7, 1]


def obvious_way(folder: Path, out: Path) -> None:
    """Convert as most scripts do."""
    import numpy as np
    import pydicom
    import SimpleITK as sitk
    from rt_utils import RTStructBuilder

    series = out / "series"
    series.mkdir(parents=True)
    slices, rtstruct = [], None
    for file in sorted(folder.iterdir()):
        dataset = pydicom.dcmread(file)
        if dataset.Modality == "CT":
            slices.append(dataset)
            # rt-utils wants the CT alone in a folder.
            (series / file.name).symlink_to(file.resolve())
        elif dataset.Modality == "RTSTRUCT":
            rtstruct = file
    slices.sort(key=lambda dataset: float(dataset.ImagePositionPatient[2]))
    hu = np.stack(
        [d.pixel_array * float(d.RescaleSlope) + float(d.RescaleIntercept) for d in slices],
    ).astype(np.int16)
    structures = RTStructBuilder.create_from(str(series), str(rtstruct))
    labels = np.zeros(hu.shape, np.uint8)
    for roi, label in zip(ROIS, LABELS, strict=True):
        labels[np.moveaxis(structures.get_roi_mask_by_name(roi), 2, 0)] = label
    bits = np.where(labels > 0, 1 << (labels - 1), 0).astype(np.uint8)
    for array, name in ((hu, "ct"), (labels, "labels"), (bits, "structures")):
        image = sitk.GetImageFromArray(array)
        row, column = (float(v) for v in slices[0].PixelSpacing)
        step = float(slices[1].ImagePositionPatient[2]) - float(slices[0].ImagePositionPatient[2])
        image.SetSpacing((column, row, step))
        image.SetOrigin([float(v) for v in slices[0].ImagePositionPatient])
        sitk.WriteImage(image, str(out / f"{name}.nii.gz"), useCompression=True)


def our_way(folder: Path, out: Path) -> None:
    """Convert as ``lungseg convert`` does."""
    from LungSegmentationLib.cohort.convert import convert

    convert(folder, out)


def _child(way: str) -> None:
    work = {"obvious": obvious_way, "ours": our_way}[way]
    with tempfile.TemporaryDirectory() as folder:
        work(DATA, Path(folder) / "warm")
        start = time.perf_counter()
        work(DATA, Path(folder) / "timed")
        print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def _timed(way: str) -> tuple[float, float]:
    done = subprocess.run([sys.executable, __file__, "--child", way], capture_output=True, text=True, check=True)
    seconds, megabytes = done.stdout.split()[-2:]
    return float(seconds), float(megabytes)


def main() -> None:
    """Run both in turn and print seconds, ratio and memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--child", choices=["obvious", "ours"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not DATA.is_dir():
        raise SystemExit(f"no test data at {DATA}: set LUNGSEG_TEST_DATA")
    if arguments.child:
        _child(arguments.child)
        return
    os.environ["PYTHONPATH"] = str(ROOT)
    theirs, ours = [], []
    for number in range(arguments.repeats):
        theirs.append(_timed("obvious"))
        ours.append(_timed("ours"))
        slow, fast = theirs[-1][0], ours[-1][0]
        print(f"run {number + 1}: obvious way {slow:.2f} s, ours {fast:.2f} s, ratio {slow / fast:.1f}")
    slow, fast = (min(seconds for seconds, _ in side) for side in (theirs, ours))
    peaks = [max(megabytes for _, megabytes in side) for side in (theirs, ours)]
    print(f"best: obvious way {slow:.2f} s, ours {fast:.2f} s, ratio {slow / fast:.1f} (bar 4)")
    print(f"peak memory: obvious way {peaks[0]:.0f} MB, ours {peaks[1]:.0f} MB (bar 1200)")


if __name__ == "__main__":
    main()
