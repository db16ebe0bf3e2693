"""Reference and prediction as surfaces to turn with the mouse: one HTML file that needs no network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from LungSegmentationLib.geometry import Grid
from LungSegmentationLib.storage import write_text

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from LungSegmentationLib.labels import LabelSet
    from LungSegmentationLib.structures import Mask

__all__ = ["Mesh", "structure_mesh", "write_meshes"]

FAR_MM = 10.0
"""Distance that the color scale ends at."""

_ACROSS = 28.0
"""Steps across a structure of the same volume as a cube: enough to see its shape, few enough for a browser."""

_OPACITY = {"GTV": 1.0}
"""By RT ROI interpreted type: what lies innermost is drawn densest."""

_OTHERS_OPACITY = 0.35

_SYNC = """
const plot = document.getElementById('{plot_id}');
let busy = false;
plot.on('plotly_relayout', change => {
  if (busy) return;
  const camera = change['scene.camera'] || change['scene2.camera'];
  if (!camera) return;
  const other = change['scene.camera'] ? 'scene2.camera' : 'scene.camera';
  busy = true;
  Plotly.relayout(plot, {[other]: camera}).then(() => { busy = false; });
});
"""


@dataclass(frozen=True)
class Mesh:
    """A closed surface.

    Attributes
    ----------
    vertices
        float32 (n, 3), LPS, mm.
    faces
        Indices of triangles, (m, 3).
    """

    vertices: NDArray[np.float32]
    faces: NDArray[Any]


def structure_mesh(mask: Mask, grid: Grid) -> Mesh | None:
    """Return a smoothed surface of a mask, to look at and not to measure; None for an empty mask.

    Parameters
    ----------
    mask
        bool (z, y, x).
    grid
        Where it lies.
    """
    from scipy import ndimage
    from skimage.measure import marching_cubes

    boxes = ndimage.find_objects(mask.astype(np.uint8))
    if not boxes:
        return None
    box = boxes[0]
    part = mask[box].astype(np.float32)
    step_mm = max((part.sum() * grid.voxel_volume * 1000.0) ** (1 / 3) / _ACROSS, *grid.spacing)
    factors = np.array([max(round(step_mm / s), 1) for s in reversed(grid.spacing)])
    padding = [(2 * f, 2 * f + (-n) % f) for n, f in zip(part.shape, factors, strict=True)]
    padded = np.pad(part, padding)
    shape = [part for n, f in zip(padded.shape, factors, strict=True) for part in (n // f, f)]
    coarse = ndimage.gaussian_filter(padded.reshape(shape).mean(axis=(1, 3, 5)), 0.6)
    # What is thinner than a step fades below one half and would vanish.
    level = min(0.5, float(coarse.max()) / 2)
    vertices, faces, _, _ = marching_cubes(coarse, level)
    starts = np.array([one.start for one in box]) - 2 * factors
    index = vertices * factors + (factors - 1) / 2 + starts
    kind = np.uint16 if len(vertices) < 65536 else np.uint32
    return Mesh(grid.to_physical(index[:, ::-1]).astype(np.float32), faces.astype(kind))


def write_meshes(
    case: str,
    reference: Mapping[str, Mesh],
    prediction: Mapping[str, Mesh],
    label_set: LabelSet,
    path: Path,
) -> Path:
    """Write ``3d_<case>.html``: reference left, prediction right, turned together.

    The prediction can be colored by its distance to the reference. The file holds the program that draws it (about
    5 MB) and works offline.

    Parameters
    ----------
    case
        Its name, for the title.
    reference, prediction
        Structure key → surface.
    label_set
        Names and colors.
    path
        HTML file.
    """
    import plotly.graph_objects as go

    figure = go.Figure()
    flat: list[Any] = []
    for side, (meshes, scene) in enumerate(((reference, "scene"), (prediction, "scene2"))):
        # A browser lays what comes later over what comes first: so what lies within others comes last.
        for key in label_set.paint_order:
            if key not in meshes:
                continue
            structure = label_set[key]
            color = "rgb({}, {}, {})".format(*structure.color)
            both = key in reference and key in prediction
            mesh = meshes[key]
            x, y, z = mesh.vertices.T
            i, j, k = mesh.faces.T
            only = "" if both else " (reference only)" if side == 0 else " (prediction only)"
            options: dict[str, Any] = {}
            if side == 1:
                distances = _distances(mesh, reference.get(key))
                flat.append([[0, color], [1, color]])
                options = {
                    "intensity": distances,
                    "cmin": 0,
                    "cmax": FAR_MM,
                    "colorscale": flat[-1],
                    "showscale": False,
                    "colorbar": {"title": {"text": "mm"}, "len": 0.6, "x": 1.0},
                    "customdata": distances,
                    "hovertemplate": "%{customdata:.1f} mm<extra>" + structure.name + "</extra>",
                }
            figure.add_trace(
                go.Mesh3d(
                    x=x, y=y, z=z, i=i, j=j, k=k, scene=scene, name=structure.name + only, color=color,
                    opacity=_OPACITY.get(structure.interpreted_type, _OTHERS_OPACITY),
                    legendgroup=key, legendrank=structure.label, showlegend=side == 0 or not both,
                    hoverinfo="name" if side == 0 else None, flatshading=False,
                    lighting={"ambient": 0.55, "diffuse": 0.7, "specular": 0.15}, **options,
                )
            )  # fmt: skip
    traces = [place for place, trace in enumerate(figure.data) if trace.scene == "scene2"]
    _lay_out(figure, case, traces, flat, _ranges([*reference.values(), *prediction.values()]))
    html = figure.to_html(
        include_plotlyjs=True,
        full_html=True,
        post_script=_SYNC,
        config={"displaylogo": False},
        default_height="94vh",
    )
    title = f"<title>{_escaped(case)}: reference and prediction</title>"
    write_text(path, html.replace("<head>", f"<head>{title}", 1))
    return path


def _distances(mesh: Mesh, reference: Mesh | None) -> NDArray[np.float32]:
    """Return the distance of each vertex to the reference's vertices, mm; far where there is no reference."""
    from scipy.spatial import cKDTree

    if reference is None:
        return np.full(len(mesh.vertices), FAR_MM, np.float32)
    return np.asarray(cKDTree(reference.vertices).query(mesh.vertices)[0], np.float32)


def _ranges(meshes: list[Mesh]) -> list[list[float]]:
    """Return the ends of x, y and z in mm: the same in both views, so that one size is one size."""
    if not meshes:
        return [[0.0, 1.0]] * 3
    low = np.min([mesh.vertices.min(axis=0) for mesh in meshes], axis=0)
    high = np.max([mesh.vertices.max(axis=0) for mesh in meshes], axis=0)
    return [[float(a) - 1, float(b) + 1] for a, b in zip(low, high, strict=True)]


def _lay_out(figure: Any, case: str, traces: list[int], flat: list[Any], ranges: list[list[float]]) -> None:
    width = 0.49
    # LPS seen from the front: the patient's head up, the right side on the left.
    camera = {"eye": {"x": 0.0, "y": -1.9, "z": 0.25}, "up": {"x": 0, "y": 0, "z": 1}}
    axes = {
        name: {"visible": False, "showspikes": False, "range": limits}
        for name, limits in zip(("xaxis", "yaxis", "zaxis"), ranges, strict=True)
    }
    scene = {**axes, "aspectmode": "data", "camera": camera}
    place = {"xref": "paper", "yref": "paper", "y": 1, "yanchor": "top", "showarrow": False, "font": {"size": 16}}
    sides = [{**place, "text": "reference", "x": width / 2}, {**place, "text": "prediction", "x": 1 - width / 2}]
    figure.update_layout(
        title={"text": _escaped(case), "x": 0.5},
        annotations=sides,
        scene={**scene, "domain": {"x": [0, width], "y": [0, 1]}},
        scene2={**scene, "domain": {"x": [1 - width, 1], "y": [0, 1]}},
        legend={"orientation": "h", "x": 0.5, "xanchor": "center", "y": 0, "yanchor": "bottom"},
        margin={"l": 0, "r": 0, "t": 90, "b": 0},
        font={"family": "system-ui, sans-serif"},
    )
    if not traces:
        return
    # The scale in mm is shown once, however many structures use it.
    scale = [place == traces[0] for place in traces]
    dense = [figure.data[place].opacity for place in traces]
    buttons = [
        {"label": "by structure", "method": "restyle",
         "args": [{"colorscale": flat, "showscale": [False] * len(traces), "opacity": dense}, traces]},
        {"label": "by distance to the reference", "method": "restyle",
         "args": [{"colorscale": [_distance_colors()] * len(traces), "showscale": scale, "opacity": 0.75}, traces]},
    ]  # fmt: skip
    menu = {"type": "buttons", "direction": "right", "x": 0.5, "xanchor": "center", "y": 1.0, "yanchor": "bottom"}
    figure.update_layout(updatemenus=[{**menu, "buttons": buttons, "showactive": True}])


def _distance_colors() -> list[list[Any]]:
    return [[0.0, "#2c7bb6"], [0.2, "#abd9e9"], [0.4, "#ffffbf"], [0.7, "#fdae61"], [1.0, "#d7191c"]]


def _escaped(text: str) -> str:
    from html import escape

    # Plotly reads tags, and MathJax reads dollars, in titles.
    return escape(text).replace("$", "&#36;")
