"""How long a result of 134 slices takes into the scene after its file is there, and a CT out of it for a job.

Run it with the Python that has slicer-core (group “module”): ``python Testing/Benchmarks/bench_result_into_scene.py``.
The other side is what a scripted module does at first: a mask a structure, each put into the segmentation by itself.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
SHAPE, SPACING = (134, 512, 512), (0.977, 0.977, 3.0)
BALLS = ((150, 40), (170, 50), (140, 110), (370, 110), (280, 70), (250, 15), (256, 20))
"""Column of the center and radius in pixels, as large as organs; the later ones lie over the earlier."""

BAR_S, REPEATS = 1.0, 5


def best(action: Callable[[], Any], after: Callable[[Any], object] = lambda _made: None) -> float:
    """Return the shortest time of an action; what cleans up after it is not counted."""
    seconds = []
    for _repeat in range(REPEATS):
        began = time.perf_counter()
        made = action()
        seconds.append(time.perf_counter() - began)
        after(made)
    return min(seconds)


def labels() -> np.ndarray:
    """Return a label map of seven balls."""
    z, y, x = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    found = np.zeros(SHAPE, np.uint8)
    for label, (column, radius) in enumerate(BALLS, 1):
        found[((z - 67) * 3.07) ** 2 + (y - 256) ** 2 + (x - column) ** 2 < radius**2] = label
    return found


def main() -> None:
    for folder in (ROOT, ROOT / "Testing", ROOT / "LungSegmentation"):
        sys.path.insert(0, str(folder))
    import Runtime

    Runtime.start()

    import slicer
    from LungSegmentationScene import Segmentations, VolumeFiles

    from LungSegmentationLib.dicom.writers.seg_nrrd import write_seg_nrrd
    from LungSegmentationLib.geometry import Grid
    from LungSegmentationLib.labels import load_label_set
    from LungSegmentationLib.structures import StructureMap

    label_set = load_label_set()
    array = labels()
    bits = np.array([0, *(1 << place for place in range(len(label_set)))], np.uint8)[array]
    grid = Grid(SHAPE[::-1], SPACING, (0.0, 0.0, 0.0), (1, 0, 0, 0, 1, 0, 0, 0, 1))
    ct = slicer.util.addVolumeFromArray(np.zeros(SHAPE, np.int16), name="CT")
    ct.SetSpacing(*SPACING)
    ct.SetIJKToRASDirections(-1, 0, 0, 0, -1, 0, 0, 0, 1)

    def one_by_one() -> Any:
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "other")
        node.SetReferenceImageGeometryParameterFromVolumeNode(ct)
        for structure in label_set.structures:
            node.GetSegmentation().AddEmptySegment(structure.key, structure.name)
            mask = (array == structure.label).astype(np.uint8)
            slicer.util.updateSegmentBinaryLabelmapFromArray(mask, node, structure.key, ct)
        return node

    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "result.seg.nrrd"
        write_seg_nrrd(StructureMap(label_set, bits), grid, file)

        def out() -> None:
            data = VolumeFiles.readVolume(ct)
            VolumeFiles.writeNrrd(Path(name) / "ct.nrrd", [data.array], data.lattice)

        remove = slicer.mrmlScene.RemoveNode
        ours = best(lambda: Segmentations.addRawSegments(Segmentations.readRawSegments(file), ct, "result"), remove)
        other = best(one_by_one, remove)
        print(f"result file into the scene   {ours:.2f} s (bar {BAR_S:.1f} s)")
        print(f"structure by structure       {other:.2f} s, ratio {other / ours:.1f}")
        print(f"CT copied for a job          {best(lambda: VolumeFiles.readVolume(ct)):.3f} s in the window's thread")
        print(f"CT copied and written        {best(out):.2f} s")


if __name__ == "__main__":
    main()
