"""Patients, results and label maps in the scene: right voxels, right place, right names, and nothing left half done."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import unittest
from pathlib import Path

import numpy as np
import slicer
import vtk
from ModuleTestCase import ROOT, ModuleTestCase, jobPython

REAL_DATA = Path(os.environ.get("LUNGSEG_TEST_DATA", ROOT.parent / "shared" / "data"))


def atOnce(steps):
    """Return what a generator for ``InTurns`` returns, without turns and threads."""
    value = None
    while True:
        try:
            wanted = steps.send(value)
        except StopIteration as end:
            return end.value
        value = wanted() if wanted is not None else None


def extract(dicom: Path, out: Path, *options: str) -> Path:
    """Run ``lungseg extract`` and return its folder."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"}
    command = [jobPython(), "-m", "LungSegmentationLib", "extract", str(dicom), str(out), *options]
    subprocess.run(command, check=True, capture_output=True, env=environment, timeout=300)
    return out


def read(file: Path) -> np.ndarray:
    """Return the voxels of a file (z, y, x), by SimpleITK."""
    import SimpleITK as sitk

    return sitk.GetArrayFromImage(sitk.ReadImage(str(file)))


def segmentMask(node, segmentId: str, volume) -> np.ndarray:
    """Return a segment on the grid of a volume, by Slicer's own resampling."""
    return slicer.util.arrayFromSegmentBinaryLabelmap(node, segmentId, volume).astype(bool)


class SceneTest(ModuleTestCase):
    def setUp(self) -> None:
        super().setUp()
        from LungSegmentationLib.labels import load_label_set

        self.labelSet = load_label_set()

    def patientFolder(self, index: int = 0) -> Path:
        return sorted(self.phantom().iterdir())[index]

    def loaded(self, *options: str):
        """Return a phantom in the scene, without a job."""
        from LungSegmentationScene import Import

        return atOnce(Import.takeOver(extract(self.patientFolder(), self.folder / "extracted", *options)))

    def smallLabels(self, name: str = "labels", shape: tuple = (6, 20, 30)) -> tuple:
        """Return a volume of 2 × 3 × 4 mm voxels and a label map node on its grid, with a box of label 1."""
        volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "small CT")
        slicer.util.updateVolumeFromArray(volume, np.full(shape, -500, np.int16))
        labels = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", name)
        array = np.zeros(shape, np.uint8)
        array[2:4, 5:10, 4:12] = 1
        slicer.util.updateVolumeFromArray(labels, array)
        for node in (volume, labels):
            node.SetSpacing(2.0, 3.0, 4.0)
            node.SetOrigin(10.0, -20.0, 30.0)
            node.CreateDefaultDisplayNodes()
        return volume, labels

    # A patient

    def test_a_phantom_has_the_voxels_of_its_truth(self) -> None:
        folder = self.patientFolder()
        volume, segmentation = self.logic.importPatient(folder)
        truth = self.phantom().parent / "truth" / folder.name
        bits = read(truth / "structures.nii.gz")
        self.assertEqual(slicer.util.arrayFromVolume(volume).shape, bits.shape)
        ids = list(segmentation.GetSegmentation().GetSegmentIDs())
        self.assertIn("lung_left", ids)
        for structure in self.labelSet.structures:
            if structure.key in ids:
                expected = (bits >> (structure.label - 1) & 1).astype(bool)
                self.assertTrue(expected.any())
                shown = segmentMask(segmentation, structure.key, volume)
                self.assertTrue(np.array_equal(shown, expected), structure.key)

    def test_the_ct_has_the_hu_and_the_place_of_its_files(self) -> None:
        import SimpleITK as sitk

        volume, _segmentation = self.logic.importPatient(self.patientFolder())
        files = slicer.util.arrayFromVolume(volume)
        reader = sitk.ImageSeriesReader()
        folder = Path(volume.GetAttribute("LungSegmentation.DicomFolder"))
        series = volume.GetAttribute("LungSegmentation.SeriesInstanceUID")
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder), series))
        image = reader.Execute()
        # Padding outside of the scanner's circle is air for us.
        expected = np.maximum(sitk.GetArrayFromImage(image), -1024)
        self.assertTrue(np.array_equal(files, expected))
        matrix = vtk.vtkMatrix4x4()
        volume.GetIJKToRASMatrix(matrix)
        for index in ((0, 0, 0), (3, 5, 7)):
            ras = matrix.MultiplyPoint((*map(float, index), 1.0))[:3]
            lps = image.TransformIndexToPhysicalPoint(index)
            self.assertTrue(np.allclose((-ras[0], -ras[1], ras[2]), lps, atol=1e-3))

    def test_segments_have_names_colors_and_terminology_that_nobody_made_up(self) -> None:
        from LungSegmentationScene import Segmentations, Terminology

        imported = self.loaded()
        for segmentId, segment in Segmentations.segments(imported.segmentationNode):
            structure = self.labelSet[segmentId]
            self.assertEqual(segment.GetName(), structure.name)
            self.assertTrue(np.allclose(np.array(segment.GetColor()) * 255, structure.color, atol=0.5))
            self.assertFalse(segment.GetColorAutoGenerated())
            self.assertFalse(segment.GetNameAutoGenerated())
            self.assertIn(structure.type.value, Terminology.tagOf(segment, "TerminologyEntry"))
            self.assertEqual(Terminology.structureKey(segmentId, segment, self.labelSet), structure.key)

    def test_reference_geometry_is_that_of_the_ct(self) -> None:
        imported = self.loaded()
        text = imported.segmentationNode.GetSegmentation().GetConversionParameter("Reference image geometry")
        dimensions = imported.volumeNode.GetImageData().GetDimensions()
        self.assertEqual([int(v) for v in text.split(";")[16:22]], [v for n in dimensions for v in (0, n - 1)])
        role = slicer.vtkMRMLSegmentationNode.GetReferenceImageGeometryReferenceRole()
        self.assertIs(imported.segmentationNode.GetNodeReference(role), imported.volumeNode)

    def test_ct_and_structures_stand_under_patient_and_study(self) -> None:
        from LungSegmentationScene import Hierarchy, Import

        folder = extract(self.patientFolder(), self.folder / "extracted")
        first, second = (atOnce(Import.takeOver(folder)) for _time in range(2))
        tree = Hierarchy.hierarchy()
        studies = {
            tree.GetItemParent(Hierarchy.itemOf(node))
            for one in (first, second)
            for node in (one.volumeNode, one.segmentationNode)
        }
        self.assertEqual(len(studies), 1, "the same patient twice is one patient and one study")
        (study,) = studies
        self.assertEqual(tree.GetItemLevel(study), "Study")
        patient = tree.GetItemParent(study)
        self.assertEqual(tree.GetItemLevel(patient), "Patient")
        self.assertEqual(tree.GetItemName(patient), self.patientFolder().name)
        record = json.loads((folder / "extract.json").read_text(encoding="utf-8"))
        self.assertEqual(tree.GetItemUID(Hierarchy.itemOf(first.volumeNode), "DICOM"), record["series_uid"])
        self.assertEqual(Hierarchy.patientOf(first.segmentationNode), record["patient_id"])
        self.assertEqual(first.volumeNode.GetAttribute("DICOM.instanceUIDs").split(), record["sop_instance_uids"])

    def test_the_source_of_a_ct_is_found_while_it_is_there(self) -> None:
        from LungSegmentationScene import Volumes

        source = self.folder / "DICOM é"
        shutil.copytree(self.patientFolder(), source)
        volume, _segmentation = self.logic.importPatient(source)
        self.assertTrue(Volumes.sourceFolder(volume).is_relative_to(source.resolve()))
        self.assertTrue(Volumes.sourceSeries(volume))
        shutil.rmtree(source)
        self.assertIsNone(Volumes.sourceFolder(volume))

    def test_unmapped_rois_come_on_request(self) -> None:
        _volume, without = self.logic.importPatient(self.patientFolder())
        _volume, everything = self.logic.importPatient(self.patientFolder(), allRois=True)
        fewer, more = (set(node.GetSegmentation().GetSegmentIDs()) for node in (without, everything))
        self.assertTrue(fewer < more)
        self.assertTrue(all(one.startswith("roi_") for one in more - fewer))

    def test_a_saved_scene_needs_no_temporary_file(self) -> None:
        imported = self.loaded()
        shutil.rmtree(self.folder / "extracted")
        self.assertIsNone(imported.volumeNode.GetStorageNode())
        self.assertIsNone(imported.segmentationNode.GetStorageNode())
        hu = slicer.util.arrayFromVolume(imported.volumeNode).copy()
        lung = segmentMask(imported.segmentationNode, "lung_left", imported.volumeNode)
        file = self.folder / "scène.mrb"
        self.assertTrue(slicer.util.saveScene(str(file)))
        slicer.mrmlScene.Clear(False)
        slicer.util.loadScene(str(file))
        volume = slicer.util.getNode(imported.case + " CT")
        segmentation = slicer.util.getNode(imported.case + " structures")
        self.assertTrue(np.array_equal(slicer.util.arrayFromVolume(volume), hu))
        self.assertTrue(np.array_equal(segmentMask(segmentation, "lung_left", volume), lung))
        self.assertEqual(
            segmentation.GetSegmentation().GetSegment("lung_left").GetName(), self.labelSet["lung_left"].name
        )
        self.assertTrue(volume.GetAttribute("LungSegmentation.SeriesInstanceUID"))

    def test_our_reader_of_segments_and_slicers_own_agree(self) -> None:
        from LungSegmentationScene import Import, Segmentations, Terminology, VolumeFiles

        folder = extract(self.patientFolder(), self.folder / "extracted", "--all-rois")
        ours = atOnce(Import.takeOver(folder)).segmentationNode
        theirs = slicer.util.loadSegmentation(str(folder / "structures.seg.nrrd"))
        layers = [node.GetSegmentation().GetNumberOfLayers() for node in (ours, theirs)]
        self.assertEqual(layers[0], layers[1])
        self.assertGreater(layers[0], 1)
        for (segmentId, one), (otherId, other) in zip(
            Segmentations.segments(ours), Segmentations.segments(theirs), strict=True
        ):
            self.assertEqual(segmentId, otherId)
            self.assertEqual(one.GetName(), other.GetName())
            self.assertEqual(one.GetColor(), other.GetColor())
            self.assertEqual(one.GetLabelValue(), other.GetLabelValue())
            for tag in ("TerminologyEntry", "TG263"):
                self.assertEqual(Terminology.tagOf(one, tag), Terminology.tagOf(other, tag))
            images = [Segmentations.binaryLabelmap(node, segmentId) for node in (ours, theirs)]
            places = [Segmentations.lattice(image) for image in images]
            self.assertTrue(np.allclose(places[0].toRas, places[1].toRas, atol=1e-6))
            # Ours is cut to what is drawn, theirs has the extent of the file.
            mine, whole = (Segmentations.labelArray(image) for image in images)
            self.assertLessEqual(mine.size, whole.size)
            self.assertTrue(np.array_equal(VolumeFiles.pasted(mine, places[0], places[1], np.uint8), whole))
            self.assertTrue(mine.any())

    def test_a_compressed_file_is_read_as_the_plain_one_and_refused_where_it_is_damaged(self) -> None:
        from LungSegmentationScene import Segmentations
        from LungSegmentationScene.Errors import SceneError

        self.loaded()
        plain = self.folder / "extracted" / "structures.seg.nrrd"
        head, _blank, voxels = plain.read_bytes().partition(b"\n\n")
        head = head.replace(b"encoding: raw", b"encoding: gzip") + b"\n\n"
        content = head + gzip.compress(voxels)
        file = self.folder / "compressed.seg.nrrd"
        file.write_bytes(content)
        one, other = Segmentations.readRawSegments(plain), Segmentations.readRawSegments(file)
        self.assertEqual(one.segments, other.segments)
        for (values, first), (same, place) in zip(one.layers, other.layers, strict=True):
            self.assertEqual(first, place)
            self.assertTrue(np.array_equal(values, same))
        for damaged in (content[:-1000], head + voxels, head, head + gzip.compress(voxels[:-1])):
            file.write_bytes(damaged)
            with self.assertRaises(SceneError):
                Segmentations.readRawSegments(file)

    def test_damaged_files_leave_nothing_in_the_scene(self) -> None:
        from LungSegmentationScene import Import
        from LungSegmentationScene.Errors import SceneError

        whole = extract(self.patientFolder(), self.folder / "whole")
        for name, damage in (
            ("ct.nrrd", lambda content: content[: len(content) // 2]),
            ("ct.nrrd", lambda content: content.replace(b"type: short", b"type: float")),
            ("structures.seg.nrrd", lambda _content: b"no image"),
            ("extract.json", lambda content: content[:100]),
        ):
            broken = self.folder / "broken"
            shutil.copytree(whole, broken)
            (broken / name).write_bytes(damage((broken / name).read_bytes()))
            before = slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLDisplayableNode")
            with self.assertRaises(SceneError):
                atOnce(Import.takeOver(broken))
            self.assertEqual(slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLDisplayableNode"), before, name)
            shutil.rmtree(broken)

    def test_what_is_left_undone_leaves_nothing_in_the_scene(self) -> None:
        from LungSegmentationScene import Import

        folder = extract(self.patientFolder(), self.folder / "extracted")
        before = slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLDisplayableNode")
        for turns in range(1, 4):
            steps = Import.takeOver(folder)
            value = None
            for _turn in range(turns):
                wanted = steps.send(value)
                value = wanted() if wanted is not None else None
            steps.close()
            self.assertEqual(slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLDisplayableNode"), before, turns)

    def test_a_scene_that_is_closed_while_a_patient_comes_in_stays_empty(self) -> None:
        from LungSegmentationScene import Import
        from LungSegmentationScene.Errors import SceneError

        steps = Import.takeOver(extract(self.patientFolder(), self.folder / "extracted"))
        value = None
        while not slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode"):
            wanted = steps.send(value)
            value = wanted() if wanted is not None else None
        slicer.mrmlScene.Clear(False)
        before = slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLDisplayableNode")
        with self.assertRaisesRegex(SceneError, "was closed"):
            steps.send(value)
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLDisplayableNode"), before)
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode"), 0)

    def test_what_cannot_be_imported_is_said_in_a_sentence(self) -> None:
        from LungSegmentationScene.Errors import SceneError

        with self.assertRaises(SceneError) as caught:
            self.logic.importPatient(self.folder / "nowhere")
        self.assertIn("no such folder", caught.exception.sentence)
        self.assertTrue(caught.exception.hint)
        with self.assertRaises(SceneError) as caught:
            self.logic.importPatient(self.phantom())
        self.assertIn("2 cases", caught.exception.sentence)

    def test_lung1_002_has_the_voxels_of_the_independent_program(self) -> None:
        source = REAL_DATA / "rt_lung1-002"
        if not source.is_dir():
            self.skipTest(f"no test data at {REAL_DATA}: set LUNGSEG_TEST_DATA")
        volume, segmentation = self.logic.importPatient(source)
        self.assertEqual(slicer.util.arrayFromVolume(volume).shape, (111, 512, 512))
        # Counted by plastimatch; ours differ by voxels exactly on an edge.
        expected = {"gtv": 125204, "ptv": 347392, "heart": 373247, "esophagus": 19236, "spinal_cord": 22216}
        expected |= {"lung_right": 658479, "lung_left": 686334}
        self.assertEqual(set(segmentation.GetSegmentation().GetSegmentIDs()), set(expected))
        for key, count in expected.items():
            found = int(segmentMask(segmentation, key, volume).sum())
            self.assertAlmostEqual(found, count, delta=0.002 * count, msg=key)

    def test_a_patient_whose_contours_cover_nothing_has_empty_segments(self) -> None:
        source = REAL_DATA / "tricky" / "rtstruct"
        if not source.is_dir():
            self.skipTest(f"no test data at {REAL_DATA}: set LUNGSEG_TEST_DATA")
        volume, segmentation = self.logic.importPatient(source, case="123456")
        self.assertEqual(volume.GetImageData().GetDimensions()[2], 1)
        found = self.measured(segmentation, volume)
        self.assertEqual({one.voxels for one in found.values()}, {0})

    # Label maps, arrays, results

    def test_a_label_map_becomes_segments_with_the_names_of_a_label_set(self) -> None:
        from LungSegmentationScene import Segmentations

        _volume, labels = self.smallLabels()
        node = Segmentations.fromLabelMap(labels, self.labelSet)
        ((segmentId, segment),) = Segmentations.segments(node)
        self.assertEqual(segment.GetName(), self.labelSet.structures[0].name)
        self.assertTrue(np.array_equal(segmentMask(node, segmentId, labels), slicer.util.arrayFromVolume(labels) == 1))

    def test_an_array_becomes_a_segmentation_on_the_cts_grid(self) -> None:
        from LungSegmentationScene import Segmentations

        volume, labels = self.smallLabels()
        array = slicer.util.arrayFromVolume(labels).copy()
        array[0, 0, 0] = 5
        before = slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLLabelMapVolumeNode")
        node = Segmentations.fromArray(array, volume, self.labelSet, "result")
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLLabelMapVolumeNode"), before)
        self.assertEqual(node.GetName(), "result")
        names = {segment.GetName(): segmentId for segmentId, segment in Segmentations.segments(node)}
        for label in (1, 5):
            segmentId = names[self.labelSet.by_label(label).name]
            self.assertTrue(np.array_equal(segmentMask(node, segmentId, volume), array == label))

    def test_a_result_file_stands_beside_its_ct(self) -> None:
        from LungSegmentationScene import Hierarchy, Segmentations

        imported = self.loaded()
        file = self.folder / "extracted" / "structures.seg.nrrd"
        node = Segmentations.addRawSegments(Segmentations.readRawSegments(file), imported.volumeNode, "result 結果")
        tree = Hierarchy.hierarchy()
        parents = [tree.GetItemParent(Hierarchy.itemOf(one)) for one in (node, imported.volumeNode)]
        self.assertEqual(parents[0], parents[1])
        self.assertEqual(node.GetName(), "result 結果")

    # Views

    def test_the_center_of_a_structure_lies_in_it_also_if_it_is_a_ring(self) -> None:
        from LungSegmentationScene import Segmentations, Views

        volume, labels = self.smallLabels()
        array = np.zeros((6, 20, 30), np.uint8)
        array[3, 5:15, 5:25] = 1
        array[3, 7:13, 7:23] = 0
        slicer.util.updateVolumeFromArray(labels, array)
        node = Segmentations.fromLabelMap(labels, self.labelSet)
        ((segmentId, _segment),) = Segmentations.segments(node)
        ras = Views.center(node, segmentId)
        matrix = vtk.vtkMatrix4x4()
        volume.GetRASToIJKMatrix(matrix)
        i, j, k = (round(value) for value in matrix.MultiplyPoint((*ras, 1.0))[:3])
        self.assertEqual(array[k, j, i], 1)
        self.assertIsNone(Views.center(node, segmentId) if array.sum() == 0 else None)

    def test_steps_lead_over_the_slices_with_visible_structures_only(self) -> None:
        from LungSegmentationScene import Segmentations, Views

        _volume, labels = self.smallLabels()
        array = np.zeros((6, 20, 30), np.uint8)
        array[1, 5, 5] = 1
        array[4, 5, 5] = 2
        slicer.util.updateVolumeFromArray(labels, array)
        node = Segmentations.fromLabelMap(labels, self.labelSet)
        # Slices lie at 30 + 4 k mm.
        self.assertEqual(Views.labelledOffsets(node), [34.0, 46.0])
        sliceNode = self.sliceNode()
        sliceNode.SetSliceOffset(30.0)
        offsets = Views.labelledOffsets(node)
        self.assertEqual(Views.stepToLabelled(offsets, forward=True), 34.0)
        self.assertEqual(Views.stepToLabelled(offsets, forward=True), 46.0)
        self.assertIsNone(Views.stepToLabelled(offsets, forward=True))
        self.assertEqual(Views.stepToLabelled(offsets, forward=False), 34.0)
        self.assertAlmostEqual(sliceNode.GetSliceOffset(), 34.0)
        first = Segmentations.segments(node)[0][0]
        Views.setVisible(node, first, visible=False)
        self.assertEqual(Views.labelledOffsets(node), [46.0])

    def test_painting_and_windows(self) -> None:
        from LungSegmentationScene import Segmentations, Views, Volumes

        volume, labels = self.smallLabels()
        node = Segmentations.fromLabelMap(labels, self.labelSet)
        Views.paint(node, 0.3, fill=True, outline=False)
        display = node.GetDisplayNode()
        self.assertAlmostEqual(display.GetOpacity2DFill(), 0.3)
        self.assertEqual((display.GetVisibility2DFill(), display.GetVisibility2DOutline()), (True, False))
        Volumes.showWindow(volume, -1000.0, 400.0)
        self.assertEqual(Volumes.shownWindow(volume), (-1000.0, 400.0))

    # Numbers

    def measured(self, node, volume) -> dict:
        from LungSegmentationScene import Measurements

        return {one.segmentId: one for one in Measurements.measure(node, volume, self.labelSet) if one is not None}

    def test_volumes_and_mean_hu_are_those_of_numpy(self) -> None:
        imported = self.loaded("--all-rois")
        hu = slicer.util.arrayFromVolume(imported.volumeNode)
        cc = float(np.prod(imported.volumeNode.GetSpacing())) / 1000
        found = self.measured(imported.segmentationNode, imported.volumeNode)
        self.assertEqual(set(found), set(imported.segmentationNode.GetSegmentation().GetSegmentIDs()))
        for segmentId, one in found.items():
            mask = segmentMask(imported.segmentationNode, segmentId, imported.volumeNode)
            self.assertEqual(one.voxels, mask.sum())
            self.assertAlmostEqual(one.volumeCc, mask.sum() * cc, places=6)
            self.assertAlmostEqual(one.meanHu, hu[mask].mean(), places=6)
            self.assertAlmostEqual(sum(one.piecesCc), one.volumeCc, places=6)

    def test_pieces_empty_structures_and_exchanged_lungs_are_noticed(self) -> None:
        from LungSegmentationScene import Measurements, Segmentations

        volume, labels = self.smallLabels()
        right, left = self.labelSet["lung_right"].label, self.labelSet["lung_left"].label
        array = np.zeros((6, 20, 30), np.uint8)
        # The small grid has no rotation: i runs to the right of the patient.
        array[1:4, 5:15, 2:10] = right
        array[1:4, 5:15, 20:28] = left
        array[2, 2:4, 12:14] = left
        slicer.util.updateVolumeFromArray(labels, array)
        node = Segmentations.fromLabelMap(labels, self.labelSet)
        node.GetSegmentation().AddEmptySegment("heart", self.labelSet["heart"].name)
        found = self.measured(node, volume)
        names = {one.name: one for one in found.values()}
        self.assertEqual([round(v, 3) for v in names["left lung"].piecesCc], [5.76, 0.096])
        sentences = Measurements.checks(list(found.values()), self.labelSet)
        self.assertEqual(len(sentences), 3)
        self.assertIn("heart", sentences[0])
        self.assertIn("0.10 cc", sentences[1])
        self.assertIn("exchanged", sentences[2])

    def test_on_another_grid_there_is_no_mean_hu(self) -> None:
        imported = self.loaded()
        volume, _labels = self.smallLabels()
        found = self.measured(imported.segmentationNode, volume)
        self.assertTrue(all(one.meanHu is None and one.volumeCc > 0 for one in found.values()))

    def test_a_picture_shows_the_patients_right_on_the_left(self) -> None:
        from LungSegmentationScene import Pictures, Segmentations

        volume, labels = self.smallLabels(shape=(6, 40, 60))
        array = np.zeros((6, 40, 60), np.uint8)
        array[3, 5:15, 30:55] = self.labelSet["gtv"].label  # at the patient's right, as i runs there, and at the back
        slicer.util.updateVolumeFromArray(labels, array)
        node = Segmentations.fromLabelMap(labels, self.labelSet)
        file = self.folder / "image é.png"
        Pictures.savePicture(file, volume, node, 0.5)
        reader = vtk.vtkPNGReader()
        reader.SetFileName(str(file))
        reader.Update()
        image = reader.GetOutput()
        width, height, _depth = image.GetDimensions()
        from vtk.util.numpy_support import vtk_to_numpy

        pixels = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(height, width, 3)[::-1]
        labelled = pixels[Pictures.LINE : Pictures.LINE + Pictures.HEIGHT, Pictures.HEIGHT + Pictures.GAP :][
            :, : Pictures.HEIGHT
        ]
        red = np.argwhere((labelled == self.labelSet["gtv"].color).all(axis=2))
        self.assertTrue(len(red))
        self.assertLess(red[:, 1].mean(), Pictures.HEIGHT / 2)
        self.assertGreater(red[:, 0].mean(), Pictures.HEIGHT / 2)


if __name__ == "__main__":
    unittest.main()
