"""Writing the label map of LUNG1-002: RTSTRUCT against rt-utils, DICOM SEG and seg.nrrd beside it.

Run: ``python Testing/Benchmarks/bench_writers.py`` with the data folder in ``LUNGSEG_TEST_DATA``. Each RTSTRUCT is read
back by plastimatch, where it is installed, else by the library. "volume" is what the contours enclose, slice by slice,
against the voxels that they were made from.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from rt_utils import RTStructBuilder

from LungSegmentationLib.dicom.contours import rasterize
from LungSegmentationLib.dicom.ct import CTVolume, read_ct
from LungSegmentationLib.dicom.rtstruct import read_rtstruct
from LungSegmentationLib.dicom.scan import scan
from LungSegmentationLib.dicom.writers import source_of, write_rtstruct, write_seg, write_seg_nrrd
from LungSegmentationLib.labels import load_label_set
from LungSegmentationLib.structures import StructureMap

DATA = Path(os.environ.get("LUNGSEG_TEST_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
ROIS = {
    "GTV-1": "gtv",
    "PTV-1": "ptv",
    "Heart": "heart",
    "Esophagus": "esophagus",
    "Spinal cord": "spinal_cord",
    "Lung R": "lung_right",
    "Lung L": "lung_left",
}


def read_back(path: Path, folder: Path, ct: CTVolume, out: Path) -> dict[str, np.ndarray]:
    """Return masks by ROI name."""
    if shutil.which("plastimatch") is None:
        return {roi.name: rasterize(roi.contours, ct.grid).full(ct.grid.shape) for roi in read_rtstruct(path).rois}
    command = ["plastimatch", "convert", "--input", str(path), "--referenced-ct", str(folder)]
    command += ["--output-prefix", str(out), "--prefix-format", "nrrd"]
    subprocess.run(command, check=True, capture_output=True)
    return {file.stem: sitk.GetArrayFromImage(sitk.ReadImage(str(file))) > 0 for file in out.iterdir()}


def enclosed(path: Path, step: float) -> dict[str, tuple[int, int, float]]:
    """Return contours, points and the volume in mm³ that they enclose of each ROI."""
    found = {}
    for roi in read_rtstruct(path).rois:
        volume = 0.0
        for contour in roi.contours:
            x, y = contour.points[:, :2].T
            volume += abs(float(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1)))) / 2 * step
        found[roi.name] = len(roi.contours), sum(len(contour.points) for contour in roi.contours), volume
    return found


def main() -> None:
    series = scan(DATA / "rt_lung1-002").patients[0].studies[0].series[0]
    ct = read_ct(series)
    masks = {
        ROIS[roi.name]: rasterize(roi.contours, ct.grid).full(ct.grid.shape)
        for roi in read_rtstruct(DATA / "rt_lung1-002" / "1.dcm").rois
        if roi.name in ROIS
    }
    label_set = load_label_set("thorax")
    drawn = StructureMap.from_masks(label_set, masks, ct.grid.shape)
    structures = StructureMap.from_label_map(label_set, drawn.label_map())
    with tempfile.TemporaryDirectory() as place:
        out = Path(place)
        folder = out / "ct"
        folder.mkdir()
        for file in series.files:
            shutil.copy(file, folder)

        start = time.perf_counter()
        write_rtstruct(structures, source_of(read_ct(series), series), out / "ours.dcm")
        seconds = {"ours": time.perf_counter() - start}
        for name, pin_holes in (("rt-utils", False), ("rt-utils with pin holes", True)):
            start = time.perf_counter()
            theirs = RTStructBuilder.create_new(str(folder))
            for structure in label_set.structures:
                mask = np.moveaxis(structures.mask(structure.key), 0, -1)
                color = list(structure.color)
                theirs.add_roi(mask=mask, name=structure.tg263, color=color, use_pin_hole=pin_holes)
            theirs.save(str(out / f"{name}.dcm"))
            seconds[name] = time.perf_counter() - start

        for name, taken in seconds.items():
            path = out / f"{name}.dcm"
            back, shape = read_back(path, folder, ct, out / name), enclosed(path, ct.grid.spacing[2])
            size = path.stat().st_size / 1e6
            print(f"{name}: {taken:.2f} s, {size:.1f} MB, {sum(points for _, points, _ in shape.values())} points")
            for structure in label_set.structures:
                mask, found = structures.mask(structure.key), back[structure.tg263]
                dice = 2 * np.count_nonzero(mask & found) / (np.count_nonzero(mask) + np.count_nonzero(found))
                contours, points, volume = shape[structure.tg263]
                voxels = np.count_nonzero(mask) * ct.grid.voxel_volume * 1000
                print(
                    f"  {structure.tg263:10} Dice {dice:.4f}  volume {100 * (volume / voxels - 1):+6.2f} %"
                    f"  {contours:4} contours {points:6} points"
                )
        print(f"time rt-utils / ours: {seconds['rt-utils'] / seconds['ours']:.1f}")

        for kind, result in (("label map", structures), ("as drawn", drawn)):
            start = time.perf_counter()
            write_seg(result, source_of(ct, series), out / "seg.dcm")
            middle = time.perf_counter()
            write_seg_nrrd(result, ct.grid, out / "a.seg.nrrd")
            end = time.perf_counter()
            sizes = [(out / name).stat().st_size / 1e6 for name in ("seg.dcm", "a.seg.nrrd")]
            print(f"{kind}: DICOM SEG {middle - start:.2f} s, {sizes[0]:.1f} MB")
            print(f"{kind}: seg.nrrd {end - middle:.2f} s, {sizes[1]:.1f} MB")


if __name__ == "__main__":
    main()
