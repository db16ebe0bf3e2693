"""The scan of a synthetic patient: the grid that it is stored on, the couch, kernel, noise and padding."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from LungSegmentationLib.geometry import Grid
from LungSegmentationLib.phantom.anatomy import BACK, Anatomy
from LungSegmentationLib.phantom.options import PhantomOptions

__all__ = ["Scan", "couch_share", "draw_scan", "field_of_view", "noise_plane"]

SPACINGS = (2.5, 3.0, 3.75, 4.0, 5.0)
LARGEST_GAP = 15.0
AXES = {
    # Row and column direction in LPS of a patient who lies head first and supine.
    "axial": ((1, 0, 0), (0, 1, 0)),
    "sagittal": ((0, 1, 0), (0, 0, -1)),
    "coronal": ((1, 0, 0), (0, 0, -1)),
}
# How a scanner-fixed axis lies in the patient: sign of x, y, z by patient position.
TURNED = {"HFS": (1, 1, 1), "FFS": (-1, 1, -1), "HFP": (-1, -1, 1), "FFP": (1, -1, -1)}


@dataclass(frozen=True)
class Scan:
    """How a patient was scanned.

    Attributes
    ----------
    grid
        Where the stored voxels lie.
    kernel
        Name of the reconstruction kernel.
    blur
        Width of the noise grain in mm.
    noise
        Standard deviation of the noise in HU.
    edge
        Width over which a boundary looks blurred, in mm.
    kvp, dose
        Tube voltage in kV and tube current in mA.
    couch
        LPS y of the table's surface in mm; ``None`` without a table.
    round_view
        The image holds only a circle; outside of it lie padding values.
    """

    grid: Grid
    kernel: str
    blur: float
    noise: float
    edge: float
    kvp: int
    dose: int
    couch: float | None
    round_view: bool


def draw_scan(anatomy: Anatomy, options: PhantomOptions, rng: np.random.Generator) -> Scan:
    """Draw how a patient is scanned; the grid's numbers have no more digits than DICOM will keep."""
    rows = options.in_plane or int(rng.choice([256, 512]))
    view, extent = float(rng.uniform(0.0, 1.0)), float(rng.uniform(235, 305))
    wish, slices = int(rng.integers(0, 16)), int(rng.integers(40, 81))
    angles = np.radians(rng.uniform(6, 18, 2) * rng.choice([-1, 1], 2))
    placement = anatomy.placement

    low, high = np.array([-172.0, -125.0, -158.0]), np.array([172.0, 125.0, 122.0])
    row, column = (np.asarray(axis, float) for axis in AXES.get(options.orientation, AXES["axial"]))
    if options.orientation == "oblique":
        turn = _rotation(0, angles[0]) @ _rotation(1, angles[1])
        row, column = turn @ row, turn @ column
    signs = np.asarray(TURNED[options.position], float)
    # Only the axes of the image plane turn with the patient; the normal follows from them.
    row, column = np.round(row * signs, 12), np.round(column * signs, 12)
    normal = np.cross(row, column)

    across = int(np.argmax(np.abs(normal)))
    if across != 2:
        extent = float((high[across] - low[across]) * placement.scale[across]) * (0.82 if across == 0 else 1.0)
    if options.slices is None:
        fitting = [gap for gap in SPACINGS if 40 <= extent / gap <= 80]
        gap = fitting[wish % len(fitting)] if across == 2 else float(np.round(extent / slices, 2))
        slices = int(np.clip(round(extent / gap), 40, 80))
    else:
        slices = options.slices
        gap = float(np.clip(np.round(extent / slices, 2), 1.0, LARGEST_GAP))
    middle = _middle(anatomy, normal, slices * gap / placement.scale[across])

    if across == 2:
        wide = 2 * (202 * placement.scale[0]) + 12
        width = wide * (0.93 + 0.27 * view)
    else:
        width = 380 + 70 * view
        middle[2] += 10
    spacing = float(np.round(width / rows, 4 if rows >= 256 else 3))
    center = placement.to_patient(middle[None, :])[0]
    step = np.array([spacing, spacing, gap])
    axes = np.stack([row, column, normal], axis=1)
    start = center - axes @ (step * (np.array([rows, rows, slices]) - 1) / 2)
    grid = Grid(
        (rows, rows, slices),
        (spacing, spacing, gap),
        (float(np.round(start[0], 4)), float(np.round(start[1], 4)), float(np.round(start[2], 4))),
        tuple(float(value) + 0.0 for value in axes.ravel()),
    )
    sharp = int(rng.integers(0, 4))
    couch = float(placement.origin[1] + (-(BACK - 12) if anatomy.prone else BACK - 9) * placement.scale[1])
    return Scan(
        grid=grid,
        kernel=("B20f", "B30f", "STANDARD", "B50f")[sharp],
        blur=(1.3, 1.05, 0.95, 0.7)[sharp],
        noise=float(rng.uniform(9, 15)) * (0.8, 1.0, 1.1, 1.7)[sharp],
        edge=(1.5, 1.25, 1.15, 0.95)[sharp] * 0.6 + 0.75 * spacing,
        kvp=int(rng.choice([100, 120, 120, 140])),
        dose=int(rng.integers(80, 400)),
        couch=couch if rng.random() < 0.85 else None,
        round_view=bool(rng.random() < 0.4) and options.orientation == "axial",
    )


def _middle(anatomy: Anatomy, normal: NDArray[np.float64], length: float) -> NDArray[np.float64]:
    """Return the middle of the scan in the standard patient; a short scan goes to the tumor and the heart."""
    middle = np.array([0.0, 4.0, -18.0])
    tumor = anatomy.tumors[0]
    seen = (np.asarray(tumor.center) - middle) @ normal
    wanted = float(seen + (np.asarray(anatomy.chambers[0].center) - middle) @ normal) / 2
    room = max(length / 2 - 0.6 * tumor.radius, 0.0)
    wanted = float(np.clip(wanted, seen - room, seen + room))
    chest = 235.0 if np.argmax(np.abs(normal)) == 2 else 200.0
    slack = max(chest - length, 0.0) / 2
    return middle + float(np.clip(wanted, -slack, slack)) * normal


def _rotation(axis: int, angle: float) -> NDArray[np.float64]:
    first, second = [other for other in range(3) if other != axis]
    matrix = np.eye(3)
    matrix[first, first] = matrix[second, second] = np.cos(angle)
    matrix[first, second], matrix[second, first] = -np.sin(angle), np.sin(angle)
    return matrix


def couch_share(
    scan: Scan, coordinates: tuple[NDArray[np.float64], ...], anatomy: Anatomy
) -> NDArray[np.float32] | None:
    """HU above air of the table on a slice, shape that broadcasts to (rows, columns); ``None`` without a table."""
    if scan.couch is None:
        return None
    x, y, _ = coordinates
    sign = -1.0 if anatomy.prone else 1.0
    x = x - anatomy.placement.origin[0]
    depth = sign * (y - scan.couch)
    sheet = np.clip(1.5 - np.abs(depth - 10) / scan.edge, 0, 1) + np.clip(1.5 - np.abs(depth - 34) / scan.edge, 0, 1)
    foam = np.clip(depth - 10, 0, 1) * np.clip(34 - depth, 0, 1)
    flat = np.clip((215 - np.abs(x)) / scan.edge, 0, 1) * (480 * sheet + 55 * foam)
    cradle = np.abs(np.sqrt(x * x + (depth + 260) ** 2) - 335) - 3
    shell = np.clip(0.5 - cradle / scan.edge, 0, 1) * (depth > 30) * 850
    result: NDArray[np.float32] = np.maximum(flat, shell).astype(np.float32)
    return result


def noise_plane(scan: Scan, rng: np.random.Generator) -> NDArray[np.float32]:
    """Correlated noise of a slice in HU, shape (rows, columns)."""
    from scipy.ndimage import gaussian_filter

    sigma = scan.blur / scan.grid.spacing[0]
    white = rng.standard_normal(scan.grid.shape[1:], dtype=np.float32)
    if sigma < 0.25:
        return white * np.float32(scan.noise)
    grain: NDArray[np.float32] = gaussian_filter(white, sigma, mode="wrap", truncate=2.5)
    grain *= np.float32(scan.noise / float(grain.std()))
    return grain


def field_of_view(grid: Grid) -> NDArray[np.bool_]:
    """Pixels of a slice outside the circle that a scanner reconstructs, shape (rows, columns)."""
    columns, rows = (np.arange(count) - (count - 1) / 2 for count in grid.size[:2])
    return np.asarray(np.hypot(columns[None, :] / grid.size[0], rows[:, None] / grid.size[1]) > 0.5, bool)
