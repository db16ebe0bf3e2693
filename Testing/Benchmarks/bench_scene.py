"""A patient and a result into the Slicer scene: our way and the obvious one, over the module's test runtime.

    python Testing/Benchmarks/bench_scene.py PATIENT [--result-of PATIENT] [--repeats N]

PATIENT is a DICOM folder with one CT and its RTSTRUCT. Measured is the wall time from the call to the nodes, the job's
start included. The obvious way of the scene's part: each ROI's mask set by ``updateSegmentBinaryLabelmapFromArray``.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "Testing")]


def best(function: Callable[[], object], repeats: int, clear: Callable[[], None]) -> float:
    """Return the shortest of several times in s."""
    times = []
    for _ in range(repeats):
        clear()
        began = time.perf_counter()
        function()
        times.append(time.perf_counter() - began)
    return min(times)


def at_once(steps: Generator) -> object:
    """Return what work in turns returns, done at a stretch."""
    value = None
    while True:
        try:
            wanted = steps.send(value)
        except StopIteration as end:
            return end.value
        value = wanted() if wanted is not None else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("patient", type=Path)
    parser.add_argument("--result-of", type=Path, help="another patient, whose structures stand for a result")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()

    import Runtime

    runtime = Runtime.start()
    runtime.load_module()
    import slicer
    from LungSegmentationScene import Import, Segmentations, Volumes

    from LungSegmentationLib.cohort.extract import extract
    from LungSegmentationLib.dicom.writers import write_seg_nrrd
    from LungSegmentationLib.geometry import Grid
    from LungSegmentationLib.labels import load_label_set
    from LungSegmentationLib.structures import StructureMap

    label_set = load_label_set()

    def clear() -> None:
        slicer.mrmlScene.Clear(False)
        runtime.process_events()

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        record = extract(arguments.patient, folder / "patient", label_set=label_set)
        whole = best(lambda: Import.importPatient(arguments.patient), arguments.repeats, clear)
        shown = sum(roi.segment is not None for roi in record.rois)
        print(
            f"{record.case}: CT of {record.geometry.size[2]} slices and {shown} segments, job included: {whole:.2f} s"
        )
        ours = best(lambda: at_once(Import.takeOver(folder / "patient")), arguments.repeats, clear)

        clear()
        imported = at_once(Import.takeOver(folder / "patient"))
        masks = {
            identifier: slicer.util.arrayFromSegmentBinaryLabelmap(
                imported.segmentationNode, identifier, imported.volumeNode
            ).copy()
            for identifier, _ in Segmentations.segments(imported.segmentationNode)
        }
        geometry = json.loads((folder / "patient" / "extract.json").read_text(encoding="utf-8"))["geometry"]

        def one_by_one() -> None:
            image = Volumes.readRawImage(folder / "patient" / "ct.nrrd", geometry)
            volume = Volumes.addRawVolume(image, geometry, "CT")
            node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
            node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
            for identifier, mask in masks.items():
                node.GetSegmentation().AddEmptySegment(identifier)
                slicer.util.updateSegmentBinaryLabelmapFromArray(mask, node, identifier, volume)
            node.GetSegmentation().CollapseBinaryLabelmaps(False)

        obvious = best(one_by_one, arguments.repeats, clear)
        print(
            f"  the scene's part of it: {ours:.2f} s; segment by segment: {obvious:.2f} s ({obvious / ours:.1f} times)"
        )

        source = arguments.result_of or arguments.patient
        record = extract(source, folder / "result", label_set=label_set)
        clear()
        imported = at_once(Import.takeOver(folder / "result"))
        masks = {
            str(roi.structure): slicer.util.arrayFromSegmentBinaryLabelmap(
                imported.segmentationNode, roi.segment, imported.volumeNode
            ).astype(bool)
            for roi in record.rois
            if roi.segment is not None
        }
        grid: Grid = record.geometry.grid
        structures = StructureMap.from_masks(label_set, masks, grid.shape)
        labels = structures.label_map()
        exclusive = StructureMap.from_label_map(label_set, labels)
        result = write_seg_nrrd(exclusive, grid, folder / "result.seg.nrrd")

        def load() -> None:
            volume = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLScalarVolumeNode")
            Segmentations.addRawSegments(Segmentations.readRawSegments(result), volume, "result")

        def keep_ct() -> None:
            for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode"):
                slicer.mrmlScene.RemoveNode(node)

        fast = best(load, arguments.repeats, keep_ct)
        from_array = best(
            lambda: Segmentations.fromArray(labels, imported.volumeNode, label_set, "array"),
            arguments.repeats,
            keep_ct,
        )
        print(
            f"result of {grid.size[2]} slices from its file: {fast:.2f} s; from an array in memory: {from_array:.2f} s"
        )


if __name__ == "__main__":
    main()
