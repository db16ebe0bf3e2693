"""What a physician drew in a synthetic patient, and how the ROIs are called."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from LungSegmentationLib.phantom.options import PhantomOptions

__all__ = ["PlannedRoi", "drawn_structures", "plan_rois"]

Color = tuple[int, int, int]

NAMES: dict[str, tuple[dict[str, str], ...]] = {
    "english": (
        {"ptv": "PTV", "lung_right": "Lung R", "lung_left": "Lung L", "heart": "Heart", "esophagus": "Esophagus",
         "spinal_cord": "Spinal cord"},
        {"ptv": "PTV-1", "lung_right": "Lung-Right", "lung_left": "Lung-Left", "heart": "HEART",
         "esophagus": "Oesophagus", "spinal_cord": "Spinal-Cord"},
        {"ptv": "PTV 66Gy", "lung_right": "RIGHT LUNG", "lung_left": "LEFT LUNG", "heart": "heart",
         "esophagus": "ESOPHAGUS", "spinal_cord": "SPINAL CORD"},
    ),
    "tg263": (
        {"ptv": "PTV_6000", "lung_right": "Lung_R", "lung_left": "Lung_L", "heart": "Heart",
         "esophagus": "Esophagus", "spinal_cord": "SpinalCord"},
    ),
    "french": (
        {"ptv": "PTV", "lung_right": "Poumon D", "lung_left": "Poumon G", "heart": "Coeur", "esophagus": "Oesophage",
         "spinal_cord": "Moelle"},
        {"ptv": "PTV 66", "lung_right": "Poumon droit", "lung_left": "Poumon gauche", "heart": "Cœur",
         "esophagus": "Œsophage", "spinal_cord": "Moelle épinière"},
        {"ptv": "PTV_T", "lung_right": "POUMON DROIT", "lung_left": "POUMON GAUCHE", "heart": "COEUR",
         "esophagus": "OESOPHAGE", "spinal_cord": "Canal médullaire"},
    ),
}  # fmt: skip
TARGETS: dict[str, tuple[tuple[str, ...], ...]] = {
    "english": (("GTV-1", "GTV-2", "GTV-3"), ("GTV T", "GTV N1", "GTV N2")),
    "tg263": (("GTVp", "GTVn1", "GTVn2"),),
    "french": (("GTV", "GTV_N1", "GTV_N2"), ("GTV_T", "GTV_N", "GTV_N2")),
}
# ROIs that are none of ours: field, its name by language, and its RT ROI Interpreted Type.
EXTRAS: tuple[tuple[str, dict[str, str], str, float], ...] = (
    ("ctv", {"english": "CTV-1", "tg263": "CTVp", "french": "CTV"}, "CTV", 0.6),
    ("body", {"english": "Patient", "tg263": "BODY", "french": "Contour externe"}, "EXTERNAL", 0.7),
    ("cord_prv", {"english": "PRV cord 5mm", "tg263": "SpinalCord_PRV05", "french": "PRV moelle"}, "AVOIDANCE", 0.4),
    ("isocenter", {"english": "Isocenter 6", "tg263": "ISO_1", "french": "Isocentre"}, "ISOCENTER", 0.5),
    ("ring", {"english": "z_ring", "tg263": "zRing_2cm", "french": "z_anneau"}, "CONTROL", 0.35),
    ("lungs_less_gtv", {"english": "Lungs-GTV", "tg263": "Lungs-GTV", "french": "Poumons-GTV"}, "ORGAN", 0.35),
    ("airways", {"english": "Trachea", "tg263": "Trachea", "french": "Trachée"}, "ORGAN", 0.3),
    ("nothing", {"english": "Contour 12", "tg263": "zEmpty", "french": "Structure vide"}, "", 0.2),
)
COLORS: tuple[Color, ...] = (
    (250, 10, 10), (255, 128, 0), (0, 200, 255), (90, 160, 255), (255, 0, 200), (240, 220, 40), (40, 220, 40),
    (160, 90, 30), (128, 128, 128), (200, 120, 255), (0, 128, 128), (128, 128, 0), (70, 70, 200), (255, 180, 190),
)  # fmt: skip


@dataclass(frozen=True)
class PlannedRoi:
    """A ROI before its contours.

    Attributes
    ----------
    number, name
        ROI Number and ROI Name.
    field
        Which boundary it follows.
    key
        Structure of the label set, ``None`` if it is none of them.
    interpreted_type
        RT ROI Interpreted Type.
    color
        ROI Display Color.
    """

    number: int
    name: str
    field: str
    key: str | None
    interpreted_type: str
    color: Color


def drawn_structures(seed: int, index: int, options: PhantomOptions) -> tuple[str, ...]:
    """Return the structures that are drawn in patient ``index``.

    They are spread evenly over the patients of a seed: among n patients each is drawn in n times its fraction of
    them, give or take one. A cohort of a dozen thus has its three or four hearts, whatever the seed.
    """
    drawn = []
    starts: dict[str, float] = {}
    rng = np.random.default_rng([seed, 77])
    for key, fraction in options.drawn_fractions.items():
        # Lungs come in pairs; the rest is independent.
        start = starts.setdefault("lungs" if key.startswith("lung") else key, float(rng.random()))
        if int(np.floor((index + 1) * fraction + start + 1e-9)) > int(np.floor(index * fraction + start + 1e-9)):
            drawn.append(key)
    return tuple(drawn)


def plan_rois(rng: np.random.Generator, drawn: tuple[str, ...], tumors: int) -> tuple[PlannedRoi, ...]:
    """Choose language, names, numbers, colors and the ROIs that are none of ours."""
    language = ("english", "tg263", "french")[int(rng.choice(3, p=[0.4, 0.25, 0.35]))]
    names = NAMES[language][int(rng.integers(len(NAMES[language])))]
    targets = TARGETS[language][int(rng.integers(len(TARGETS[language])))]
    one_target = bool(rng.random() < 0.35)
    rows: list[tuple[str, str, str | None, str]] = []
    for key in drawn:
        if key != "gtv":
            rows.append((names[key], key, key, "PTV" if key == "ptv" else "ORGAN"))
        elif one_target:
            rows.append((targets[0], "gtv", "gtv", "GTV"))
        else:
            rows += [(targets[number], f"gtv_{number}", "gtv", "GTV") for number in range(tumors)]
    wanted = rng.random(len(EXTRAS))
    rows += [
        (words[language], field, None, kind)
        for (field, words, kind, chance), luck in zip(EXTRAS, wanted, strict=True)
        if luck < chance
    ]
    order = rng.permutation(len(rows))
    numbers = np.sort(rng.choice(np.arange(1, 90), len(rows), replace=False))
    planned = []
    for place, chosen in enumerate(order):
        name, field, key, kind = rows[chosen]
        planned.append(PlannedRoi(int(numbers[place]), name, field, key, kind, COLORS[place % len(COLORS)]))
    return tuple(planned)
