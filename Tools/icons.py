"""Draws the pictures of the Slicer extension: python Tools/icons.py.

``LungSegmentation.png`` (extensions catalog), the module's icon and the thumbnail of the sample data. Colors come from
the label set, the thumbnail from a phantom as users get it.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch, PathPatch
from matplotlib.path import Path as Outline
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from LungSegmentationLib.labels import load_label_set  # noqa: E402 - after the path of the source tree

SIZE = 128
OVERSAMPLING = 8
GROUND = "#16242f"
AIRWAY = "#e9f1f5"
SEED = 42

# The right lung as a reader of a chest picture sees it, on the left; the other one is its mirror with a cardiac notch.
LUNG = [(45.5, 101), (34, 104), (17, 79), (13, 50), (9.5, 23), (13, 19), (22, 20), (33, 21), (43, 29), (51, 30)]
LUNG += [(54, 30), (55, 34), (55, 42), (55, 60), (56, 98), (45.5, 101)]
NOTCH = [(45.5, 101), (34, 104), (17, 79), (13, 50), (9.5, 23), (13, 19), (22, 20), (30, 21), (36, 26), (44, 27)]
NOTCH += [(37, 41), (50, 46), (54.5, 57), (55, 66), (56, 98), (45.5, 101)]

# Begin, end, and share of the width: trachea, main bronchi, their branches.
AIRWAYS = [((64, 116), (64, 84), 1.0), ((64, 85), (46, 68), 0.72), ((64, 85), (82, 68), 0.72)]
AIRWAYS += [((46, 68), (35, 64), 0.46), ((46, 68), (42, 52), 0.46), ((82, 68), (93, 64), 0.46)]


def outline(points: list[tuple[float, float]], mirrored: bool) -> Outline:
    """Return a closed curve through points of cubic Bézier segments."""
    xy = [(SIZE - x if mirrored else x, y) for x, y in points]
    codes = [Outline.MOVETO] + [Outline.CURVE4] * (len(xy) - 1)
    return Outline(xy, codes)


def lung_icon(ground: bool) -> Image.Image:
    """Return the icon: two lungs, a tumor with its margin, the airways.

    Parameters
    ----------
    ground
        Whether it stands on a dark tile (catalog) or on nothing (module list, light and dark theme).
    """
    colors = {item.key: tuple(value / 255 for value in item.color) for item in load_label_set("thorax").structures}
    figure = Figure(figsize=(SIZE / 100, SIZE / 100), dpi=100 * OVERSAMPLING)
    figure.patch.set_alpha(0)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, SIZE)
    axes.set_ylim(0, SIZE)
    axes.axis("off")
    if ground:
        axes.add_patch(FancyBboxPatch((9, 9), 110, 110, boxstyle="round,pad=7,rounding_size=24", fc=GROUND, ec="none"))
    for points, mirrored, key in ((LUNG, False, "lung_right"), (NOTCH, True, "lung_left")):
        shape = outline(points, mirrored)
        shaded = tuple(0.80 * value for value in colors[key])
        edge = tuple(0.45 * value for value in colors[key])
        axes.add_patch(PathPatch(shape, fc=shaded, ec=edge, lw=1.6, joinstyle="round"))
    dark = GROUND if ground else "#3b5566"
    for color, width in ((dark, 6.2), (AIRWAY if ground else "#8fa6b2", 3.6)):
        for (x0, y0), (x1, y1), share in AIRWAYS:
            axes.plot([x0, x1], [y0, y1], color=color, lw=width * share, solid_capstyle="round", zorder=3)
    axes.add_patch(Circle((95, 49), 12.5, fc=(*colors["ptv"], 0.45), ec=colors["ptv"], lw=2.4, zorder=4))
    axes.add_patch(Circle((95, 49), 6.6, fc=tuple(0.92 * v for v in colors["gtv"]), ec="none", zorder=5))
    return rendered(figure).resize((SIZE, SIZE), Image.Resampling.LANCZOS)


def rendered(figure: Figure) -> Image.Image:
    """Return a figure as an image with transparency."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba()))


def phantom_thumbnail(width: int = 240) -> Image.Image:
    """Return a slice of the phantom that Sample Data offers, with its structures over the CT."""
    import SimpleITK

    from LungSegmentationLib.phantom import PhantomOptions, make_phantoms

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_phantoms(folder, 1, SEED, options=PhantomOptions(in_plane=256, complete=True))
        labels = SimpleITK.ReadImage(next(folder.glob("truth/*/labels.nii.gz")))
        case = next((folder / "dicom").iterdir())
        reader = SimpleITK.ImageSeriesReader()
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(case / "CT")))
        ct = SimpleITK.GetArrayFromImage(reader.Execute()).astype(float)
        truth = SimpleITK.GetArrayFromImage(SimpleITK.Resample(labels, reader.Execute(), interpolator=1))
    z = int(np.argmax((truth == 1).sum((1, 2))))
    gray = np.clip((ct[z] + 1000) / 1400, 0, 1)
    picture = np.repeat(gray[..., None], 3, axis=2)
    for structure in load_label_set("thorax").structures:
        inside = truth[z] == structure.label
        picture[inside] = 0.45 * picture[inside] + 0.55 * np.array(structure.color) / 255
    rows = np.flatnonzero((gray > 0.5).any(1))
    picture = picture[rows[0] : rows[-1] + 1]
    image = Image.fromarray((255 * picture).astype(np.uint8))
    return image.resize((width, round(width * image.height / image.width)), Image.Resampling.LANCZOS)


def main() -> None:
    """Write all pictures."""
    mpl.rcParams["path.simplify"] = False
    catalog = lung_icon(ground=True)
    catalog.save(ROOT / "LungSegmentation.png", optimize=True)
    icons = ROOT / "LungSegmentation" / "Resources" / "Icons"
    lung_icon(ground=False).save(icons / "LungSegmentation.png", optimize=True)
    phantom_thumbnail().save(icons / "LungSegmentationPhantom.png", optimize=True)


if __name__ == "__main__":
    main()
