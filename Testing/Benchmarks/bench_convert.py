"""Whole conversion of LUNG1-002 against the obvious way, side by side in one run, with the peak memory of ours.

The obvious way: pydicom slice by slice, rt-utils for the masks, a label map painted in the same order, and
``SimpleITK.WriteImage`` with compression. Ours: ``lungseg convert`` with everything that it does besides (scan,
structures without loss, records, table). Both run in a fresh process, imports included; bar: 4 times, 1.2 GB.

    python Testing/Benchmarks/bench_convert.py [--repeats 3]
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
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
    series.mkdir()
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
    for array, name in ((hu, "ct"), (labels, "labels")):
        image = sitk.GetImageFromArray(array)
        row, column = (float(v) for v in slices[0].PixelSpacing)
        step = float(slices[1].ImagePositionPatient[2]) - float(slices[0].ImagePositionPatient[2])
        image.SetSpacing((column, row, step))
        image.SetOrigin([float(v) for v in slices[0].ImagePositionPatient])
        sitk.WriteImage(image, str(out / f"{name}.nii.gz"), useCompression=True)


def _timed(arguments: list[str]) -> tuple[float, float]:
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if status:
        raise SystemExit(f"{arguments} ended with status {status}")
    return seconds, usage.ru_maxrss / 1024


def main() -> None:
    """Run both and print seconds, ratio and memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--obvious", nargs=2, type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.obvious:
        obvious_way(*arguments.obvious)
        return
    if not DATA.is_dir():
        raise SystemExit(f"no test data at {DATA}: set LUNGSEG_TEST_DATA")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    theirs, ours, memory = [], [], []
    os.environ["PYTHONPATH"] = str(ROOT)
    for number in range(arguments.repeats):
        with tempfile.TemporaryDirectory() as folder:
            slow, _ = _timed([__file__, "--obvious", str(DATA), folder])
        with tempfile.TemporaryDirectory() as folder:
            fast, peak = _timed(["-m", "LungSegmentationLib", "convert", str(DATA), folder])
        theirs.append(slow)
        ours.append(fast)
        memory.append(peak)
        print(f"run {number + 1}: obvious way {slow:.2f} s, lungseg convert {fast:.2f} s, ratio {slow / fast:.1f}")
    ratio = statistics.median(a / b for a, b in zip(theirs, ours, strict=True))
    print(f"median: obvious way {statistics.median(theirs):.2f} s, lungseg convert {statistics.median(ours):.2f} s")
    print(f"ratio {ratio:.1f} (bar 4), peak memory of lungseg convert {max(memory):.0f} MB (bar 1200)")


if __name__ == "__main__":
    main()
