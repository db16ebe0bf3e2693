"""A synthetic chest: where its organs lie, as smooth functions of space that vary with the seed.

Lengths and positions are those of a standard patient in :mod:`.shapes`; proportions follow adult anatomy (trachea
9 mm and aorta 13 mm in radius, heart 12 × 9 × 10 cm, cord 13 × 11 mm, right lung larger than left).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from LungSegmentationLib.phantom.shapes import (
    Blob,
    Capsule,
    Ellipsoid,
    Field,
    Points,
    Shape,
    chain,
    smooth_max,
    smooth_min,
    squircle,
)

__all__ = ["Anatomy", "Placement", "draw_anatomy"]

Vector = tuple[float, float, float]

# Body and chest cavity at heights z: half width and half depth of the body, then of the cavity, and its center in y.
HEIGHTS = (-220.0, -120.0, -60.0, 0.0, 50.0, 90.0, 112.0, 135.0, 160.0, 220.0)
BODY_WIDTH = (160.0, 163.0, 167.0, 172.0, 182.0, 197.0, 200.0, 150.0, 82.0, 68.0)
BODY_DEPTH = (121.0, 122.0, 121.0, 119.0, 115.0, 106.0, 99.0, 86.0, 72.0, 68.0)
CAVITY_WIDTH = (124.0, 127.0, 126.0, 119.0, 101.0, 79.0, 60.0, 40.0, 30.0, 25.0)
CAVITY_DEPTH = (90.0, 90.0, 89.0, 84.0, 73.0, 57.0, 44.0, 30.0, 22.0, 20.0)
CAVITY_CENTER = (0.0, 0.0, 0.0, 3.0, 11.0, 22.0, 29.0, 32.0, 32.0, 32.0)
SPINE_CENTER = (48.0, 54.0, 58.0, 60.0, 60.0, 57.0, 54.0, 45.0, 34.0, 26.0)
BACK = 125.0

VERTEBRA_PITCH = 23.0
RIB_PITCH = 26.0
RIB_SLOPE = 0.5
FAR = 60.0


@dataclass(frozen=True)
class Placement:
    """How the standard patient becomes this one: scaled, bent along z, and put somewhere in the scanner (LPS, mm)."""

    scale: Vector
    origin: Vector
    bend: tuple[float, float]
    wavelength: float
    phase: float

    def to_patient(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Map standard points (n, 3) to LPS in mm."""
        result: NDArray[np.float64] = points * np.asarray(self.scale) + np.asarray(self.origin)
        wave = np.sin(points[:, 2] / self.wavelength + self.phase)
        result[:, 0] += self.bend[0] * wave
        result[:, 1] += self.bend[1] * wave
        return result

    def to_standard(self, x: NDArray[np.float64], y: NDArray[np.float64], z: NDArray[np.float64]) -> Points:
        """Map LPS coordinates in mm, which broadcast, to standard points."""
        height = (z - self.origin[2]) / self.scale[2]
        wave = np.sin(height / self.wavelength + self.phase)
        return Points(
            ((x - self.origin[0] - self.bend[0] * wave) / self.scale[0]).astype(np.float32),
            ((y - self.origin[1] - self.bend[1] * wave) / self.scale[1]).astype(np.float32),
            height.astype(np.float32),
        )

    @property
    def mean_scale(self) -> float:
        """Millimeters of the patient per millimeter of the standard."""
        x, y, z = self.scale
        return float(np.cbrt(x * y * z))


@dataclass(frozen=True)
class Anatomy:
    """The organs of one patient as solids; see :func:`draw_anatomy`."""

    placement: Placement
    prone: bool
    corner: float
    fat: float
    front_fat: float
    breasts: tuple[Ellipsoid, ...]
    arms: tuple[Capsule, ...]
    arm_bones: tuple[Capsule, ...]
    shoulder_bones: tuple[Shape, ...]
    core: tuple[float, float, float]
    septum: float
    dome_right: Vector
    dome_left: Vector
    apex: tuple[float, float]
    chambers: tuple[Ellipsoid, ...]
    blood_pools: tuple[Ellipsoid, ...]
    arteries: tuple[Capsule, ...]
    veins: tuple[Capsule, ...]
    airways: tuple[Capsule, ...]
    esophagus: tuple[Capsule, ...]
    esophagus_air: tuple[Capsule, ...]
    cord_radii: tuple[float, float]
    tumors: tuple[Blob, ...]
    ptv_margin: float
    spleen: Ellipsoid
    stomach: Ellipsoid
    stomach_air: Ellipsoid
    contrast: bool
    lung_hu: float
    vertebra_phase: float
    rib_phase: float

    def body(self, points: Points) -> Field:
        """Skin surface, arms and breasts apart."""
        distance = squircle(points.x, points.y, _profile(points, BODY_WIDTH), _profile(points, BODY_DEPTH), self.corner)
        flat: Field = -points.y - (BACK - 14) if self.prone else points.y - (BACK - 11)
        return smooth_max(distance, np.broadcast_to(flat, distance.shape), 18)

    def cavity(self, points: Points) -> Field:
        """Inside of the ribs, from neck to belly."""
        y = points.y - _profile(points, CAVITY_CENTER)
        return squircle(points.x, y, _profile(points, CAVITY_WIDTH), _profile(points, CAVITY_DEPTH), 1.7)

    def spine_center(self, points: Points) -> Field:
        """Where the middle of the vertebral bodies lies in y."""
        return _profile(points, SPINE_CENTER)

    def vertebra(self, points: Points) -> Field:
        """Vertebral bodies and disks, a column with a waist at half height."""
        turn = 2 * np.pi / VERTEBRA_PITCH
        radius = 18.5 + 1.3 * np.cos(points.z * turn + self.vertebra_phase)
        x, y = points.x, (points.y - self.spine_center(points)) * 1.2
        result: Field = np.sqrt(x * x + y * y) - radius
        return result

    def disk(self, points: Points) -> Field:
        """Level of a disk: negative between two vertebral bodies."""
        turn = 2 * np.pi / VERTEBRA_PITCH
        result: Field = (0.80 - np.cos(points.z * turn + self.vertebra_phase)) * np.float32(8.0)
        return result

    def canal(self, points: Points, grow: float = 0.0) -> Field:
        """Spinal canal, enlarged by ``grow`` mm."""
        return _ellipse(points.x, points.y - self.spine_center(points) - 24.5, 11.0 + grow, 9.0 + grow)

    def cord(self, points: Points, grow: float = 0.0) -> Field:
        """Spinal cord, enlarged by ``grow`` mm."""
        a, b = self.cord_radii
        return _ellipse(points.x, points.y - self.spine_center(points) - 24.0, a + grow, b + grow)

    def arches(self, points: Points) -> Field:
        """Vertebral arches with spinous and transverse processes."""
        turn = 2 * np.pi / VERTEBRA_PITCH
        level = np.cos(points.z * turn + self.vertebra_phase + 0.9).astype(np.float32)
        y = points.y - self.spine_center(points)
        ring = np.maximum(self.canal(points, 4.5 + 0.8 * float(np.mean(level))), -self.canal(points))
        spinous = np.maximum(np.abs(points.x) - (2.6 + 0.8 * level), np.abs(y - 40) - 10)
        side = np.abs(y - 23 - 0.22 * np.abs(points.x)) - 4
        transverse = np.maximum(np.maximum(side, np.abs(points.x) - 36), -6.0 * (level - 0.15))
        wings = np.maximum(transverse, 13 - np.abs(points.x))
        result: Field = np.minimum(np.minimum(ring, spinous), wings)
        return result

    def ribs(self, points: Points, cavity: Field) -> Field:
        """Ribs: bands of the chest wall that run down from back to front."""
        level = (points.z - RIB_SLOPE * points.y) * (1 / RIB_PITCH) + self.rib_phase
        band = np.abs(level - np.round(level)) * np.float32(RIB_PITCH * 0.9) - 5.2
        result = smooth_max(np.abs(cavity - 6.5) - 4.2, np.broadcast_to(band, cavity.shape), 3)
        gap = 21 - np.abs(points.x)
        low = np.maximum(-175 - points.z, points.z - 112)
        rounded: Field = np.maximum(np.maximum(result, gap), low)
        return rounded

    def sternum(self, points: Points) -> Field:
        """Breastbone in front of the cavity."""
        front = _profile(points, CAVITY_CENTER) - _profile(points, CAVITY_DEPTH) - 5.0
        half = 15 + 5 * np.clip((points.z - 30) * (1 / 30), 0, 1)
        across = (np.abs(points.x) - half).astype(np.float32, copy=False)
        depth = (np.abs(points.y - front) - 5.0).astype(np.float32, copy=False)
        plate = smooth_max(across, depth, 4)
        result: Field = np.maximum(plate, np.abs(points.z) - 78)
        return result

    def mediastinum(self, points: Points) -> Field:
        """The middle of the chest without heart and vessels: what both lungs leave free."""
        a, b, center = self.core
        lower = np.clip(points.z * (-1 / 60), 0, 1)
        upper = np.clip((points.z - 30) * (1 / 60), 0, 1)
        y = points.y - (center + 10 * lower + 4 * upper)
        column = squircle(points.x - 2, y, (a - 7 * lower + 5 * upper), (b - 8 * lower - 4 * upper), 1.8)
        # In front the lungs come close to each other, less so above, where the large veins lie.
        wide = 4.0 + 12.0 * np.clip((points.z - 20) * (1 / 70), 0, 1)
        septum = np.maximum(np.abs(points.x - self.septum) - wide, points.y - center)
        return smooth_min(column, np.broadcast_to(septum.astype(np.float32, copy=False), column.shape), 14)

    def dome(self, points: Points, left: bool) -> Field:
        """Height of a half of the diaphragm minus z: negative above it."""
        own = _vault(points, self.dome_left if left else self.dome_right, (74.0, 100.0), 46.0)
        middle = _vault(points, (self.septum + 6, -30.0, self.dome_right[2] - 22), (60.0, 95.0), 30.0)
        return smooth_max(own, middle, 12) * np.float32(0.75)

    def lung(self, points: Points, cavity: Field, solid: Field, left: bool) -> Field:
        """One lung: what cavity, diaphragm and the solid organs leave of its half of the chest."""
        tip = 34.0 if left else -34.0
        away = (points.x - tip) ** 2 + (points.y - 32) ** 2
        top: Field = (points.z - self.apex[1 if left else 0] + 0.013 * away / (1 + away * (1 / 4500))) * np.float32(0.7)
        floor = np.maximum(self.dome(points, left), top)
        result = smooth_max(smooth_max(cavity + 1.5, -solid, 5), np.broadcast_to(floor, cavity.shape), 5)
        side = (self.septum - points.x) if left else (points.x - self.septum)
        halved: Field = np.maximum(result, side)
        return halved

    def lung_at(self, points: Points, left: bool) -> Field:
        """One lung at a few points anywhere; slices are done faster by :func:`.organs.find_organs`."""
        solid = np.minimum(self.mediastinum(points), self.vertebra(points) - 2.5)
        for shapes in (self.chambers, self.arteries, self.veins, self.airways, self.esophagus):
            for shape in shapes:
                solid = np.minimum(solid, shape.distance(points) - 1.5)
        return self.lung(points, self.cavity(points), solid, left)


def _profile(points: Points, values: tuple[float, ...]) -> Field:
    return np.interp(points.z, HEIGHTS, values).astype(np.float32)


def _vault(points: Points, top: Vector, half: tuple[float, float], fall: float) -> Field:
    """Height above a point of a vault that falls by ``fall`` mm at its half axes, and steeper beyond."""
    square = ((points.x - top[0]) * (1 / half[0])) ** 2 + ((points.y - top[1]) * (1 / half[1])) ** 2
    height = top[2] - fall * square * (0.4 + 0.6 * np.minimum(square, 2.0)) - points.z
    return height.astype(np.float32, copy=False)


def _ellipse(x: Field, y: Field, a: float, b: float) -> Field:
    level = np.sqrt((x * (1 / a)) ** 2 + (y * (1 / b)) ** 2)
    result: Field = (level - 1) * np.float32(2 * a * b / (a + b))
    return result


def draw_anatomy(rng: np.random.Generator, *, prone: bool = False) -> Anatomy:
    """Draw the anatomy of a patient who has no tumor yet.

    Parameters
    ----------
    rng
        The only source of variation.
    prone
        The patient lies on the chest: that side is flattened instead of the back.
    """

    def vary(value: float, by: float) -> float:
        return float(value + by * np.clip(rng.standard_normal(), -2, 2))

    placement = Placement(
        scale=(vary(1.0, 0.05), vary(1.0, 0.05), vary(1.0, 0.06)),
        origin=(vary(0, 12), vary(-120, 60), vary(-400, 250)),
        bend=(vary(0, 2.0), vary(0, 2.5)),
        wavelength=float(rng.uniform(60, 110)),
        phase=float(rng.uniform(0, 2 * np.pi)),
    )
    heart_center = (vary(24, 5), vary(-28, 4), vary(-64, 6))
    size = vary(1.05, 0.06)
    turn = float(np.radians(vary(-32, 6)))
    atria = (vary(-2, 3), vary(-4, 2.5), heart_center[2] + vary(17, 3))
    chambers = (
        Ellipsoid(heart_center, (62 * size, 43 * size, 47 * size), turn),
        Ellipsoid(atria, (42 * size, 27 * size, 33 * size)),
    )
    pools = (
        Ellipsoid((heart_center[0] + 12, heart_center[1] + 6, heart_center[2] - 2), (30 * size, 15, 26 * size), turn),
        Ellipsoid((heart_center[0] - 14, heart_center[1] - 14, heart_center[2]), (22, 14, 24 * size), turn),
        Ellipsoid((atria[0] + 8, atria[1] + 4, atria[2]), (26, 15, 22)),
        Ellipsoid((atria[0] - 24, atria[1] - 6, atria[2] - 4), (13, 14, 22)),
    )
    aorta, pulmonary = vary(13, 1.3), vary(12, 1.2)
    arteries = (
        *chain(
            ((2, -20, -38), (-8, -24, -10), (-12, -22, 16), (-9, -14, 36)), (aorta + 3, aorta + 3, aorta + 2, aorta)
        ),
        *chain(((-9, -14, 36), (4, 2, 45), (17, 22, 42), (25, 32, 25), (27, 37, 0)), (aorta,) * 4 + (aorta - 1,)),
        *chain(
            ((27, 37, 0), (26, 42, -60), (20, 38, -110), (6, 26, -230)), (aorta - 1, aorta - 1, aorta - 2, aorta - 3)
        ),
        *chain(((-8, -8, 46), (-18, -4, 80), (-28, 4, 120)), (6.5, 6, 5)),
        *chain(((6, 4, 50), (16, 6, 85), (24, 16, 170)), (4.5, 4, 3.5)),
        *chain(((16, 18, 46), (26, 18, 80), (44, 20, 108)), (5.5, 5, 4.5)),
        *chain(((20, -40, -40), (16, -30, -16), (10, -6, -10)), (pulmonary + 1, pulmonary + 1, pulmonary)),
        *chain(((10, -6, -10), (-14, 2, -15), (-34, 10, -20)), (pulmonary, pulmonary - 2, 7)),
        *chain(((10, -6, -10), (30, 10, -6), (42, 22, -12)), (pulmonary, pulmonary - 2, 7)),
    )
    veins = (
        *chain(((-28, -2, -40), (-30, -8, 0), (-29, -10, 45)), (9, 9, 8)),
        *chain(((-29, -10, 45), (-30, -6, 75), (-38, 4, 120)), (7, 6.5, 6)),
        *chain(((-28, -12, 48), (0, -26, 60), (28, -16, 78), (40, 2, 115)), (5.5, 6, 6, 5.5)),
        *chain(((-26, 2, -80), (-26, 8, -115), (-22, 16, -230)), (11, 12, 12)),
        *chain(((-20, 8, -42), (-40, 16, -44)), (6.5, 5)),
        *chain(((22, 12, -38), (42, 22, -38)), (6.5, 5)),
        *chain(((-9, 40, 10), (-9, 40, -80)), (3.5, 3.5)),
    )
    windpipe = vary(9, 0.8)
    carina = (vary(-1, 1.5), 15.0, 0.0)
    airways = (
        *chain(((0, 6, 220), (0, 6, 140), (carina[0] + 1, 13, 60), carina), (windpipe,) * 4),
        *chain((carina, (-20, 18, -14), (-38, 22, -24), (-48, 26, -42)), (windpipe - 2, 7, 6, 4)),
        *chain(((-26, 19, -16), (-46, 16, 6)), (5, 3.5)),
        *chain((carina, (22, 18, -18), (42, 23, -34), (50, 29, -52)), (windpipe - 2.5, 6, 5.5, 3.5)),
        *chain(((36, 21, -28), (52, 12, -14)), (4.5, 3)),
    )
    path = [
        (2.0, 27.0, 150.0),
        (4.0, 33.0, 105.0),
        (6.0, 34.5, 60.0),
        (6.0, 34.5, 15.0),
        (3.0, 34.0, -25.0),
        (3.0, 33.5, -65.0),
        (9.0, 27.0, -100.0),
        (26.0, 10.0, -128.0),
    ]
    path = [(vary(x, 1.6), y + float(rng.uniform(-1, 1)), z) for x, y, z in path]
    width = vary(9.0, 0.8)
    esophagus = chain(path, [width * factor for factor in (0.85, 0.9, 0.95, 1, 1, 1.05, 1.1, 1.2)], flat=1.3)
    air = [piece for piece in esophagus if rng.random() < 0.35]
    esophagus_air = tuple(Capsule(p.start, p.end, 2.6, 2.6, 1.5) for p in air)
    side = (-1, 1)
    return Anatomy(
        placement=placement,
        prone=prone,
        corner=float(rng.uniform(0.7, 1.5)),
        fat=float(rng.uniform(7, 24)),
        front_fat=float(rng.uniform(0, 10)),
        breasts=tuple(Ellipsoid((s * vary(78, 5), -100, -50), (50, vary(34, 5), 52)) for s in side)
        if rng.random() < 0.45
        else (),
        **_arms(rng, vary),
        core=(vary(29, 2.5), vary(42, 3), vary(14, 2.5)),
        septum=vary(3, 2),
        dome_right=(vary(-66, 4), vary(-4, 6), vary(-88, 9)),
        dome_left=(vary(68, 4), vary(0, 6), vary(-104, 9)),
        apex=(vary(106, 4), vary(108, 4)),
        chambers=chambers,
        blood_pools=pools,
        arteries=arteries,
        veins=veins,
        airways=airways,
        esophagus=esophagus,
        esophagus_air=esophagus_air,
        cord_radii=(vary(6.9, 0.4), vary(5.8, 0.3)),
        tumors=(),
        ptv_margin=float(rng.uniform(5, 15)),
        spleen=Ellipsoid((vary(92, 4), 38, vary(-150, 6)), (32, 42, 44)),
        stomach=Ellipsoid((vary(52, 5), -18, -158), (44, 40, 46)),
        stomach_air=Ellipsoid((54, 18 if prone else -34, -145), (28, 16, 30)),
        contrast=bool(rng.random() < 0.25),
        lung_hu=vary(-845, 22),
        vertebra_phase=float(rng.uniform(0, 2 * np.pi)),
        rib_phase=float(rng.uniform(0, 1)),
    )


def _arms(rng: np.random.Generator, vary: Any) -> dict[str, Any]:
    down = rng.random() < 0.25
    arms: list[Capsule] = []
    bones: list[Capsule] = []
    shoulders: list[Shape] = []
    for s in (-1, 1):
        head = (s * 168.0, 14.0, 112.0)
        end = (s * vary(218, 4), 22.0, -230.0) if down else (s * vary(196, 8), vary(-12, 10), 250.0)
        arms += chain((head, end), (42, 40))
        bones += chain((head, end), (20, 11))
        shoulders += chain(((s * 20, -52, 82), (s * 80, -42, 104), (s * 150, 2, 118)), (7, 5, 6))
        shoulders.append(Ellipsoid((s * 118.0, 82.0, 46.0), (38, 3.6, 62), s * -0.62))
        shoulders += chain(((s * 104, 84, 92), (s * 150, 40, 112)), (5, 7))
    return {"arms": tuple(arms), "arm_bones": tuple(bones), "shoulder_bones": tuple(shoulders)}
