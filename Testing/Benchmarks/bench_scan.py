"""Scan a tree of 20,000 CT files, against reading each header with pydicom; prints both, the ratio and the memory.

Usage: python Testing/Benchmarks/bench_scan.py [number of files]
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from pydicom import dcmread

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "Testing/Lib")]

from ct_files import write_slice  # noqa: E402

from LungSegmentationLib.dicom.scan import scan  # noqa: E402

SLICES = 100


def make_tree(folder: Path, count: int) -> None:
    """Write series of 100 slices by patching one file: patient, series, instance and position."""
    template = write_slice(
        folder / "template", np.zeros((16, 16), np.int16), PatientID="P00000", SeriesInstanceUID="1.2.00000",
        StudyInstanceUID="1.3.00000", SOPInstanceUID="1.4.00000.000", ImagePositionPatient=["0", "0", "00000"],
    )  # fmt: skip
    whole = template.read_bytes()
    template.unlink()
    for number in range(count):
        series, place = divmod(number, SLICES)
        data = whole.replace(b"P00000", b"P%05d" % series)
        for old, new in ((b"1.2.00000", b"1.2.%05d"), (b"1.3.00000", b"1.3.%05d"), (b"1.4.00000", b"1.4.%05d")):
            data = data.replace(old, new % (series + 10_000))
        data = data.replace(b".000\0", b".%03d\0" % (place + 100)).replace(b"0\\0\\00000", b"0\\0\\%05d" % (3 * place))
        target = folder / f"{series:05d}"
        target.mkdir(exist_ok=True)
        (target / f"{place:03d}").write_bytes(data)


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_tree(folder, count)
        before = peak_mb()
        start = time.perf_counter()
        result = scan(folder)
        ours = time.perf_counter() - start
        memory = peak_mb() - before
        slices = sum(series.slice_count for patient in result.patients for series in patient.series)
        start = time.perf_counter()
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                header = dcmread(path, stop_before_pixels=True)
                _ = header.SeriesInstanceUID, header.ImagePositionPatient, header.ImageOrientationPatient
        plain = time.perf_counter() - start
    print(f"scan:         {count} files in {ours:6.2f} s = {count / ours:6.0f} files/s, +{memory:.0f} MB at the peak")
    print(f"              {len(result.patients)} patients, {slices} slices, {len(result.unreadable)} unreadable")
    print(f"pydicom loop: {count} files in {plain:6.2f} s = {count / plain:6.0f} files/s, headers only, no grouping")
    print(f"ratio: {plain / ours:.2f}")


if __name__ == "__main__":
    main()
