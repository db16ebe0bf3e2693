"""The table of ids, names, colors and codes: read from ``Resources/LabelSets`` and from nowhere else."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

from LungSegmentationLib.errors import BadInputError, UsageError
from LungSegmentationLib.resources import resource_path

__all__ = [
    "Code",
    "LabelSet",
    "Postprocessing",
    "Structure",
    "label_set_from_dict",
    "label_set_to_dict",
    "load_label_set",
    "without_postprocessing",
]

Color = tuple[int, int, int]

SCHEMA = 1


@dataclass(frozen=True)
class Code:
    """A coded concept: code value, coding scheme (``SCT``, ``DCM``) and meaning."""

    value: str
    scheme: str
    meaning: str


@dataclass(frozen=True)
class Postprocessing:
    """What is mended in a predicted structure; the defaults mend nothing.

    Attributes
    ----------
    components
        How many connected pieces are kept: ``all``, ``largest``, or a number of the largest.
    min_cc
        Pieces smaller than this are removed, also the largest, cm³.
    fill_holes
        ``volume``: what is enclosed in three dimensions; ``slices``: also what is enclosed in an axial slice;
        ``none``.
    max_hole_cc
        Holes larger than this are left, cm³: they are rather something that was not named than a mistake.
    side
        Half of the patient that it lies in: pieces that clearly lie in the other half become the mirror partner's.
    """

    components: Literal["all", "largest"] | int = "all"
    min_cc: float = 0.0
    fill_holes: Literal["none", "volume", "slices"] = "none"
    max_hole_cc: float = 1.0
    side: Literal["right", "left"] | None = None

    @property
    def most_pieces(self) -> int | None:
        """Number of pieces that are kept at most; None for all."""
        if self.components == "all":
            return None
        return 1 if self.components == "largest" else int(self.components)


@dataclass(frozen=True)
class Structure:
    """One of the things segmented.

    Attributes
    ----------
    label
        Integer in a label map, 1 or more.
    key
        Name in files, commands and settings (``lung_right``).
    name
        Name that people read (``right lung``).
    tg263
        Name after AAPM TG-263 (``Lung_R``).
    color
        Red, green, blue, 0–255.
    category, type, modifier
        Codes of the segmented property, as in DICOM PS3.3 C.8.20.4.
    interpreted_type
        RT ROI Interpreted Type (DICOM PS3.3 C.8.8.8): ``GTV``, ``PTV``, ``ORGAN``.
    mirror
        Key of the structure that this one becomes when left and right are exchanged; ``None`` if itself.
    postprocessing
        What is mended in a prediction; ``None`` if the label set says nothing. No part of what the structure is:
        sets that differ in it only are equal, so a cohort or a model made before it was changed still fits.
    """

    label: int
    key: str
    name: str
    tg263: str
    color: Color
    category: Code
    type: Code
    modifier: Code | None
    interpreted_type: str
    mirror: str | None
    postprocessing: Postprocessing | None = field(default=None, compare=False)


@dataclass(frozen=True)
class LabelSet:
    """The structures of a task, in the order of their labels.

    Attributes
    ----------
    name, title
        File name without ending, and a line for people.
    exclusive
        Whether a label map (one structure a voxel) is a fair picture of the set.
    structures
        Ordered by label; labels are 1 … n without a gap, 0 is background.
    paint_order
        Keys from the first painted to the last: where structures overlap, the last wins.
    background_color
        Red, green, blue, 0–255.
    """

    name: str
    title: str
    exclusive: bool
    structures: tuple[Structure, ...]
    paint_order: tuple[str, ...]
    background_color: Color = (0, 0, 0)

    def __len__(self) -> int:
        return len(self.structures)

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """Keys in the order of the labels."""
        return tuple(structure.key for structure in self.structures)

    @cached_property
    def _by_key(self) -> dict[str, Structure]:
        return {structure.key: structure for structure in self.structures}

    def __getitem__(self, key: str) -> Structure:
        try:
            return self._by_key[key]
        except KeyError:
            raise BadInputError(
                f"“{key}” is no structure of the label set {self.name}.", f"It has: {', '.join(self.keys)}."
            ) from None

    def chosen(self, keys: Iterable[str], option: str) -> tuple[str, ...]:
        """Return the keys that a user gave with an option, each once.

        Raises
        ------
        UsageError
            If one is not in the set.
        """
        keys = tuple(dict.fromkeys(keys))
        unknown = [key for key in keys if key not in self]
        if unknown:
            raise UsageError(
                f"{option}: “{unknown[0]}” is not in the label set {self.name}.", f"It has: {', '.join(self.keys)}."
            )
        return keys

    def __contains__(self, key: object) -> bool:
        return key in self._by_key

    def by_label(self, label: int) -> Structure:
        """Return the structure with this label (1 … n)."""
        if not 1 <= label <= len(self.structures):
            raise BadInputError(
                f"Label {label} is not in the label set {self.name}.", f"It has the labels 1 to {len(self)}."
            )
        return self.structures[label - 1]

    def mirrored(self, key: str) -> Structure:
        """Return what a structure becomes when left and right are exchanged (a right lung, a left one)."""
        structure = self[key]
        return self[structure.mirror] if structure.mirror else structure


def load_label_set(name_or_file: str | Path = "thorax") -> LabelSet:
    """Read a label set by its name in ``Resources/LabelSets``, or from a file.

    Raises
    ------
    UsageError
        If there is none of that name.
    BadInputError
        If the file is missing or contradicts itself.
    """
    path = Path(name_or_file)
    if path.suffix != ".json":
        path = resource_path("LabelSets") / f"{name_or_file}.json"
        if not path.exists():
            shipped = ", ".join(sorted(p.stem for p in resource_path("LabelSets").glob("*.json")))
            raise UsageError(
                f"There is no label set “{name_or_file}”.",
                f"Choose one of: {shipped}, or give the path of a .json file.",
            )
    try:
        status = path.stat()
    except OSError as error:
        raise BadInputError(f"{path} cannot be read: {error.strerror}.") from error
    return _read(path, status.st_mtime_ns, status.st_size)


def label_set_to_dict(label_set: LabelSet) -> dict[str, Any]:
    """Return the whole label set as plain JSON values, for files that carry their own."""
    return {
        "schema": SCHEMA,
        "name": label_set.name,
        "title": label_set.title,
        "exclusive": label_set.exclusive,
        "background": {"name": "background", "color": list(label_set.background_color)},
        "structures": [_structure_to_dict(structure) for structure in label_set.structures],
        "paint_order": list(label_set.paint_order),
    }


def without_postprocessing(label_set: LabelSet) -> LabelSet:
    """Return the label set as far as it says what the structures are."""
    return replace(
        label_set, structures=tuple(replace(structure, postprocessing=None) for structure in label_set.structures)
    )


def label_set_from_dict(content: dict[str, Any], source: str | Path) -> LabelSet:
    """Read a label set from plain JSON values.

    Parameters
    ----------
    content
        What :func:`label_set_to_dict` returns or a file of ``Resources/LabelSets`` holds.
    source
        File that it comes from, for messages.

    Raises
    ------
    BadInputError
        If it is no label set or contradicts itself.
    """
    try:
        label_set = _parse(content)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInputError(
            f"{source} holds no label set: {type(error).__name__} {error}.", "Compare it with LabelSets/thorax.json."
        ) from error
    _check(label_set, source)
    return label_set


@lru_cache(maxsize=8)
def _read(path: Path, _modified: int, _size: int) -> LabelSet:
    """Read a file once for each state of it."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInputError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"{path} is no JSON file: {error}.", "Compare it with LabelSets/thorax.json.") from error
    return label_set_from_dict(content, path)


def _structure_to_dict(structure: Structure) -> dict[str, Any]:
    values = asdict(structure) | {"color": list(structure.color)}
    if structure.postprocessing is None:
        # Sets written before there was such a thing stay as they are.
        del values["postprocessing"]
    return values


def _parse(content: dict[str, Any]) -> LabelSet:
    if content["schema"] != SCHEMA:
        raise ValueError(f"schema {content['schema']} is not {SCHEMA}")
    structures = [
        Structure(
            label=_whole(item["label"]),
            key=_text(item["key"]),
            name=item["name"],
            tg263=item["tg263"],
            color=_color(item["color"]),
            category=Code(**item["category"]),
            type=Code(**item["type"]),
            modifier=Code(**item["modifier"]) if item.get("modifier") else None,
            interpreted_type=item["interpreted_type"],
            mirror=_text(item["mirror"]) if item.get("mirror") else None,
            postprocessing=_postprocessing(item),
        )
        for item in content["structures"]
    ]
    structures.sort(key=lambda structure: structure.label)
    return LabelSet(
        name=content["name"],
        title=content["title"],
        exclusive=bool(content["exclusive"]),
        structures=tuple(structures),
        paint_order=tuple(_text(key) for key in content["paint_order"]),
        background_color=_color(content["background"]["color"]),
    )


def _postprocessing(item: dict[str, Any]) -> Postprocessing | None:
    if item.get("postprocessing") is None:
        return None
    key, content = item["key"], item["postprocessing"]
    known = [one.name for one in fields(Postprocessing)]
    if not isinstance(content, dict):
        raise TypeError(f"the postprocessing of {key} is no object with {', '.join(known)}")
    if unknown := sorted(set(content) - set(known)):
        raise ValueError(
            f"the postprocessing of {key} has the unknown entry {unknown[0]}; known are {', '.join(known)}"
        )
    found = Postprocessing(**content)
    count = found.components
    if not (count in ("all", "largest") if isinstance(count, str) else _is_whole(count) and count > 0):
        raise ValueError(f"the postprocessing of {key} keeps {count!r} components, not all, largest or a number")
    sizes: dict[str, Any] = {"smallest size": found.min_cc, "largest hole": found.max_hole_cc}
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int | float) or not (math.isfinite(size) and size >= 0):
            raise ValueError(f"the postprocessing of {key} has the {name} {size!r}, which is no volume in cm³")
    if found.fill_holes not in ("none", "volume", "slices"):
        raise ValueError(f"the postprocessing of {key} fills {found.fill_holes!r}, not none, volume or slices")
    if found.side not in (None, "right", "left"):
        raise ValueError(f"the postprocessing of {key} has the side {found.side!r}, not right or left")
    return found


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError(f"{value!r} is no name")
    return value


def _whole(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{value!r} is no whole number")
    return value


def _color(values: list[int]) -> Color:
    red, green, blue = (_whole(value) for value in values)
    if not all(0 <= value <= 255 for value in (red, green, blue)):
        raise ValueError(f"color {values} is outside 0–255")
    return red, green, blue


def _check(label_set: LabelSet, path: str | Path) -> None:
    labels = [structure.label for structure in label_set.structures]
    if labels != list(range(1, len(labels) + 1)):
        raise BadInputError(f"{path} has the labels {labels}.", "Number them 1, 2, 3 … without a gap.")
    if len(set(label_set.keys)) != len(labels):
        raise BadInputError(f"{path} names a structure twice.", "Give each its own key.")
    if sorted(label_set.paint_order) != sorted(label_set.keys):
        raise BadInputError(f"{path}: the paint order does not name each structure once.")
    for structure in label_set.structures:
        if structure.mirror and structure.mirror not in label_set:
            raise BadInputError(f"{path}: {structure.key} mirrors {structure.mirror}, which is not in the set.")
        if structure.mirror and label_set[structure.mirror].mirror != structure.key:
            raise BadInputError(f"{path}: {structure.key} mirrors {structure.mirror}, but not the other way round.")
        _check_side(label_set, structure, path)


def _check_side(label_set: LabelSet, structure: Structure, path: str | Path) -> None:
    side = structure.postprocessing.side if structure.postprocessing else None
    if side is None:
        return
    partner = label_set.mirrored(structure.key)
    opposite = partner.postprocessing.side if partner.postprocessing else None
    if partner is structure or opposite != {"right": "left", "left": "right"}[side]:
        raise BadInputError(
            f"{path}: {structure.key} has the side {side} in its postprocessing, but no mirror partner with the other.",
            "Name the mirror partner, and give both their sides or none.",
        )
