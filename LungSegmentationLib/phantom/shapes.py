"""Solids given by signed distances (negative inside), and the operations that join them.

All shapes live in the coordinates of a standard patient: millimeters, x to the left, y to the back, z to the head,
zero in x and y near the middle of the chest and in z at the carina. :mod:`.anatomy` maps them into a patient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Blob", "Capsule", "Ellipsoid", "Field", "Points", "Shape", "chain", "smooth_max", "smooth_min", "squircle"]

Field = NDArray[np.float32]
Vector = tuple[float, float, float]


@dataclass(frozen=True)
class Points:
    """Coordinates of points as three arrays that broadcast against each other."""

    x: Field
    y: Field
    z: Field

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Shape of the broadcast coordinates."""
        return np.broadcast_shapes(self.x.shape, self.y.shape, self.z.shape)

    @classmethod
    def of(cls, points: NDArray[np.float64]) -> Points:
        """Return points (n, 3) as columns of shape (n, 1)."""
        columns = points.astype(np.float32).T[:, :, None]
        return cls(columns[0], columns[1], columns[2])

    def window(self, rows: slice, columns: slice) -> Points:
        """Cut a rectangle out of a plane of points."""
        return Points(*(_cut(values, rows, columns) for values in (self.x, self.y, self.z)))


def _cut(values: Field, rows: slice, columns: slice) -> Field:
    return values[rows if values.shape[0] > 1 else slice(None), columns if values.shape[1] > 1 else slice(None)]


class Shape(Protocol):
    """A solid with a bounding box."""

    @property
    def box(self) -> tuple[Vector, Vector]:
        """Lowest and highest corner."""
        ...

    def distance(self, points: Points) -> Field:
        """Signed distance in mm, negative inside; exact near the surface, a bound elsewhere."""
        ...


@dataclass(frozen=True)
class Ellipsoid:
    """An ellipsoid, turned about the z axis by ``angle`` (radians, from x towards y)."""

    center: Vector
    radii: Vector
    angle: float = 0.0

    @cached_property
    def box(self) -> tuple[Vector, Vector]:
        """Lowest and highest corner."""
        across = max(self.radii[:2]) if self.angle else None
        reach = (across or self.radii[0], across or self.radii[1], self.radii[2])
        return _box((self.center,), reach)

    def distance(self, points: Points) -> Field:
        """Signed distance in mm, first order in the distance from the surface."""
        x, y, z = points.x - self.center[0], points.y - self.center[1], points.z - self.center[2]
        if self.angle:
            cosine, sine = float(np.cos(self.angle)), float(np.sin(self.angle))
            x, y = x * cosine + y * sine, y * cosine - x * sine
        a, b, c = self.radii
        x, y, z = x * (1 / a), y * (1 / b), z * (1 / c)
        level = np.sqrt(x * x + y * y + z * z) + np.float32(1e-6)
        x, y, z = x * (1 / a), y * (1 / b), z * (1 / c)
        slope = np.sqrt(x * x + y * y + z * z) + np.float32(1e-6 / min(self.radii))
        result: Field = level * (level - 1) / slope
        return result


@dataclass(frozen=True)
class Capsule:
    """A piece of a tube between two balls of given radii; ``flat`` > 1 squeezes it in y."""

    start: Vector
    end: Vector
    start_radius: float
    end_radius: float
    flat: float = 1.0

    @cached_property
    def box(self) -> tuple[Vector, Vector]:
        """Lowest and highest corner."""
        radius = max(self.start_radius, self.end_radius)
        return _box((self.start, self.end), (radius, radius, radius))

    def distance(self, points: Points) -> Field:
        """Signed distance in mm."""
        ax, ay, az = self.start
        bx, by, bz = self.end[0] - ax, (self.end[1] - ay) * self.flat, self.end[2] - az
        x, y, z = points.x - ax, (points.y - ay) * self.flat, points.z - az
        length = bx * bx + by * by + bz * bz
        along = np.clip((x * bx + y * by + z * bz) * (1 / max(length, 1e-9)), 0, 1)
        x, y, z = x - along * bx, y - along * by, z - along * bz
        result: Field = np.sqrt(x * x + y * y + z * z)
        result -= self.start_radius + along * (self.end_radius - self.start_radius)
        return result


@dataclass(frozen=True)
class Blob:
    """An irregular ball: its radius swells and shrinks by a few plane waves (direction, phase, amplitude)."""

    center: Vector
    radius: float
    stretch: Vector
    waves: tuple[tuple[Vector, float, float], ...]

    @cached_property
    def box(self) -> tuple[Vector, Vector]:
        """Lowest and highest corner."""
        swell = self.radius * (1 + sum(abs(amplitude) for _, _, amplitude in self.waves))
        return _box((self.center,), tuple(swell * factor for factor in self.stretch))

    def distance(self, points: Points) -> Field:
        """Signed distance in mm, first order in the distance from the surface."""
        x, y, z = (
            (values - center) * (1 / (self.radius * factor))
            for values, center, factor in zip((points.x, points.y, points.z), self.center, self.stretch, strict=True)
        )
        result: Field = np.sqrt(x * x + y * y + z * z) - 1
        for (wx, wy, wz), phase, amplitude in self.waves:
            result -= amplitude * np.sin(x * wx + y * wy + z * wz + phase)
        return result * (self.radius * min(self.stretch))


def chain(points: Sequence[Vector], radii: Sequence[float], flat: float = 1.0) -> tuple[Capsule, ...]:
    """Return the pieces of a tube through these points."""
    return tuple(
        Capsule(start, end, first, second, flat)
        for start, end, first, second in zip(points[:-1], points[1:], radii[:-1], radii[1:], strict=True)
    )


def squircle(x: Field, y: Field, a: Field, b: Field, corner: float) -> Field:
    """Distance along the ray from the center to a rounded rectangle of half axes a and b.

    ``corner`` is 2 for an ellipse and goes down to 0 for a box with round corners (x⁴ + y⁴ = 1).
    """
    u, v = (x / a) ** 2, (y / b) ** 2
    level = np.sqrt(np.sqrt(u * u + v * v + corner * u * v)) + np.float32(1e-6)
    length = np.sqrt(x * x + y * y) + np.float32(1e-6) * np.minimum(a, b)
    result: Field = length * (1 - 1 / level)
    return result


def smooth_min(first: Field, second: Field, width: float) -> Field:
    """Join two solids; the seam is filled over ``width`` mm."""
    share = np.clip(0.5 + (second - first) * (0.5 / width), 0, 1)
    result: Field = second + (first - second) * share - width * share * (1 - share)
    return result


def smooth_max(first: Field, second: Field, width: float) -> Field:
    """Intersect two solids; the edge is rounded over ``width`` mm."""
    return -smooth_min(-first, -second, width)


def _box(points: Sequence[Vector], reach: Sequence[float]) -> tuple[Vector, Vector]:
    stacked = np.asarray(points, float)
    low, high = stacked.min(axis=0) - reach, stacked.max(axis=0) + reach
    return (float(low[0]), float(low[1]), float(low[2])), (float(high[0]), float(high[1]), float(high[2]))
