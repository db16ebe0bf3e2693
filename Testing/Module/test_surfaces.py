"""Surfaces for the 3D views against solids whose volume and place are known."""

from __future__ import annotations

import unittest

import numpy as np
import slicer
import vtk
from ModuleTestCase import ModuleTestCase
from vtk.util.numpy_support import vtk_to_numpy


def signedVolume(surface) -> float:
    """Return the volume inside a closed surface, cc; negative where its triangles look inward."""
    points = vtk_to_numpy(surface.GetPoints().GetData()).astype(float)
    corners = points[vtk_to_numpy(surface.GetPolys().GetConnectivityArray()).reshape(-1, 3)]
    return float(np.einsum("ij,ij->", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])) / 6000.0)


class SurfacesTest(ModuleTestCase):
    def surfaces(self, labels: np.ndarray, toRas: np.ndarray | None = None) -> dict:
        """Return the surfaces of labels on a grid, by the keys of the structures."""
        from LungSegmentationScene import Segmentations, Surfaces

        from LungSegmentationLib.labels import load_label_set

        volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "CT")
        slicer.util.updateVolumeFromArray(volume, labels.astype(np.int16))
        matrix = vtk.vtkMatrix4x4()
        for row, values in enumerate(np.diag([1.5, 1.5, 3.0, 1.0]) if toRas is None else toRas):
            for column, value in enumerate(values):
                matrix.SetElement(row, column, float(value))
        volume.SetIJKToRASMatrix(matrix)
        labelSet = load_label_set()
        node = Segmentations.fromArray(labels, volume, labelSet, "drawn")
        made = []
        Surfaces.makeSurfaces(node, lambda _done, _total: None, lambda *ended: made.append(ended))
        self.waitUntil(lambda: made)
        surfaces, error = made[0]
        self.assertIsNone(error)
        names = {structure.name: structure.key for structure in labelSet.structures}
        return {names[segment.GetName()]: surface for segment, surface in surfaces}

    @staticmethod
    def ball(shape=(30, 80, 90), center=(15.2, 38.0, 47.0), radius=24.0, spacing=(3.0, 1.5, 1.5)) -> np.ndarray:
        grid = np.meshgrid(*(np.arange(size, dtype=float) for size in shape), indexing="ij")
        distance = sum(((axis - mid) * step) ** 2 for axis, mid, step in zip(grid, center, spacing, strict=True))
        return (distance <= radius**2).astype(np.uint8)

    def test_a_ball_has_its_volume_and_lies_in_its_place(self) -> None:
        surface = self.surfaces(self.ball())["gtv"]
        self.assertAlmostEqual(signedVolume(surface), 4 / 3 * np.pi * 2.4**3, delta=1.5)
        bounds = surface.GetBounds()
        for axis, (middle, step) in enumerate(((47.0, 1.5), (38.0, 1.5), (15.2, 3.0))):
            self.assertAlmostEqual(bounds[2 * axis], middle * step - 24, delta=step)
            self.assertAlmostEqual(bounds[2 * axis + 1], middle * step + 24, delta=step)

    def test_normals_look_outward_also_on_a_mirrored_and_turned_grid(self) -> None:
        angle = np.deg2rad(20)
        turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
        for signs in ((1, 1, 1), (-1, 1, 1), (-1, -1, 1), (-1, -1, -1)):
            with self.subTest(signs):
                matrix = np.eye(4)
                matrix[:3, :3] = turn * [1.5, 1.5, 3.0] * signs
                matrix[:3, 3] = (10.0, -20.0, 30.0)
                surface = self.surfaces(self.ball(), matrix)["gtv"]
                self.assertAlmostEqual(signedVolume(surface), 4 / 3 * np.pi * 2.4**3, delta=1.5)
                points = vtk_to_numpy(surface.GetPoints().GetData())
                normals = vtk_to_numpy(surface.GetPointData().GetNormals())
                middle = (matrix @ [47.0, 38.0, 15.2, 1.0])[:3]
                outward = np.einsum("ij,ij->i", normals, points - middle) / np.linalg.norm(points - middle, axis=1)
                self.assertGreater(float(outward.min()), 0.5)

    def test_a_large_structure_is_made_coarser_and_keeps_its_place(self) -> None:
        from unittest import mock

        from LungSegmentationScene import Surfaces

        fine = self.surfaces(self.ball())["gtv"]
        with mock.patch.object(Surfaces, "MOST_VOXELS", 5000):
            coarse = self.surfaces(self.ball())["gtv"]
        self.assertLess(coarse.GetNumberOfPoints(), fine.GetNumberOfPoints() / 2)
        self.assertAlmostEqual(signedVolume(coarse), signedVolume(fine), delta=2.0)
        for one, other in zip(coarse.GetBounds(), fine.GetBounds(), strict=True):
            self.assertAlmostEqual(one, other, delta=2.5)

    def test_a_stray_voxel_a_thin_plate_and_a_neighbor_in_the_same_layer_are_all_there(self) -> None:
        labels = 5 * self.ball()
        labels[27, 5, 80] = 5  # far off the heart
        labels[2, 60:70, 10:30] = 1
        found = self.surfaces(labels)
        self.assertGreater(found["heart"].GetBounds()[1], 78 * 1.5)
        plate = found["gtv"]
        self.assertAlmostEqual(signedVolume(plate), 10 * 20 * 6.75 / 1000, delta=0.35)
        self.assertAlmostEqual(float(np.mean(plate.GetBounds()[4:])), 6.0, places=3)

    def test_an_empty_segment_has_an_empty_surface(self) -> None:
        from LungSegmentationScene import Segmentations, Surfaces

        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
        node.GetSegmentation().AddEmptySegment("heart", "heart")
        made = []
        Surfaces.makeSurfaces(node, lambda _done, _total: None, lambda *ended: made.append(ended))
        self.waitUntil(lambda: made)
        ((_segment, surface),) = made[0][0]
        self.assertEqual(surface.GetNumberOfPoints(), 0)
        self.assertEqual(len(Segmentations.segments(node)), 1)


if __name__ == "__main__":
    unittest.main()
