"""A user's own word on ROI names: a file that maps names and patterns to structures and wins over the rules."""

from __future__ import annotations

import csv
import io
import json
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from LungSegmentationLib.errors import BadInputError
from LungSegmentationLib.labels import LabelSet

__all__ = ["RoiMap", "RoiMapEntry", "resolve_structure"]

MAX_FILE_BYTES = 4 << 20
IGNORE_WORDS = frozenset({"", "ignore", "ignored", "none", "null", "-"})
_EXAMPLE = (
    'Write {"Lung left final": "lung_left", "Heart*": "heart", "GTV_old": "ignore"}, or a CSV with name,structure.'
)


def resolve_structure(name: str, label_set: LabelSet) -> str | None:
    """Return the key of a structure given by key, TG-263 name or display name in any case.

    Raises
    ------
    BadInputError
        If the label set has no such structure.
    """
    wanted = _same(name)
    for structure in label_set.structures:
        if wanted in {_same(structure.key), _same(structure.tg263), _same(structure.name)}:
            return structure.key
    if wanted in IGNORE_WORDS:
        return None
    raise BadInputError(
        f"“{name}” is no structure of the label set {label_set.name}.",
        f"Use one of: {', '.join(label_set.keys)}; or “ignore”.",
    )


def _same(text: str) -> str:
    return unicodedata.normalize("NFC", text).strip().casefold()


@dataclass(frozen=True)
class RoiMapEntry:
    """One line of a map.

    Attributes
    ----------
    name
        ROI name, or a pattern with ``*``, ``?`` and ``[…]``.
    structure
        As the user wrote it; ``None`` to ignore the ROI.
    place
        Where it stands (``line 3``, ``entry 3``), for messages.
    """

    name: str
    structure: str | None
    place: str


def _fits(entry: RoiMapEntry, same: str) -> bool:
    return fnmatchcase(same, _same(entry.name))


@dataclass(frozen=True)
class RoiMap:
    """Names and patterns → structures, in the order of the file.

    An exact name wins over a name in other case, that over a pattern; among patterns the first wins.
    """

    entries: tuple[RoiMapEntry, ...]
    source: str = "the ROI map"

    @classmethod
    def read(cls, path: str | Path, label_set: LabelSet | None = None) -> RoiMap:
        """Read a JSON object, or a CSV with the columns name and structure.

        Parameters
        ----------
        path
            The file; its ending does not matter: JSON begins with a brace.
        label_set
            If given, every structure is checked now and not when it is first used.

        Raises
        ------
        BadInputError
            If the file cannot be read or an entry makes no sense; names the file and the entry.
        """
        path = Path(path)
        try:
            if path.stat().st_size > MAX_FILE_BYTES:
                raise BadInputError(f"{path} is larger than 4 MB and no ROI map.", _EXAMPLE)
            text = path.read_bytes().decode("utf-8-sig")
        except OSError as error:
            raise BadInputError(f"The ROI map {path} cannot be read: {error.strerror}.") from error
        except UnicodeDecodeError as error:
            raise BadInputError(
                f"The ROI map {path} is no UTF-8 text.", "Save it as “CSV UTF-8” or as JSON."
            ) from error
        if not text.strip():
            raise BadInputError(f"The ROI map {path} is empty.", _EXAMPLE)
        pairs = _json_entries(text, path) if text.lstrip()[0] in '{["' else _csv_entries(text, path)
        roi_map = cls(tuple(_unique(pairs, path)), str(path))
        if label_set is not None:
            for entry in roi_map.entries:
                roi_map.structure(entry, label_set)
        return roi_map

    def find(self, name: str) -> RoiMapEntry | None:
        """Return the entry for an ROI name, or ``None``."""
        for entry in self.entries:
            if entry.name == name:
                return entry
        same = _same(name)
        for entry in self.entries:
            if _same(entry.name) == same:
                return entry
        for entry in self.entries:
            if _fits(entry, same):
                return entry
        return None

    def unmatched(self, names: Iterable[str]) -> tuple[str, ...]:
        """Return the names and patterns of the map that fit none of the ROI names of a whole input.

        Each may be a misspelling, which would otherwise do nothing without a word. An entry that fits a name counts
        as matched, even where another entry wins.

        Parameters
        ----------
        names
            ROI names of all RTSTRUCTs that the map is used for.

        Returns
        -------
        tuple of str
            As written in the map, in its order.
        """
        given = {_same(name) for name in names}
        return tuple(
            entry.name
            for entry in self.entries
            if _same(entry.name) not in given and not any(_fits(entry, name) for name in given)
        )

    def structure(self, entry: RoiMapEntry, label_set: LabelSet) -> str | None:
        """Return the structure key of an entry, ``None`` to ignore."""
        try:
            return None if entry.structure is None else resolve_structure(entry.structure, label_set)
        except BadInputError as error:
            raise BadInputError(f"{self.source}, {entry.place} (“{entry.name}”): {error.message}", error.hint) from None


def _json_entries(text: str, path: Path) -> Iterator[RoiMapEntry]:
    def keep_pairs(pairs: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
        return pairs

    try:
        content = json.loads(text, object_pairs_hook=keep_pairs)
    except json.JSONDecodeError as error:
        raise BadInputError(f"{path}, line {error.lineno}: this is no JSON ({error.msg}).", _EXAMPLE) from error
    except RecursionError:
        raise BadInputError(f"{path} is nested too deeply to be an ROI map.", _EXAMPLE) from None
    if not isinstance(content, list) or not all(isinstance(item, tuple) for item in content):
        raise BadInputError(f"{path} is JSON, but no object of names and structures.", _EXAMPLE)
    for number, (name, structure) in enumerate(content, start=1):
        if structure is not None and not isinstance(structure, str):
            raise BadInputError(
                f"{path}, entry {number} (“{name}”): {json.dumps(structure)[:60]} is no structure.",
                "Write a structure's name in quotes, or null to ignore the ROI.",
            )
        yield RoiMapEntry(name, structure, f"entry {number}")


def _csv_entries(text: str, path: Path) -> Iterator[RoiMapEntry]:
    first = text.lstrip().splitlines()[0]
    delimiter = max(",;\t", key=first.count)
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        for row in reader:
            cells = [cell.strip() for cell in row]
            while len(cells) > 2 and not cells[-1]:
                cells.pop()
            heading = reader.line_num == 1 and [cell.casefold() for cell in cells] == ["name", "structure"]
            if not any(cells) or heading:
                continue
            if len(cells) != 2:
                raise BadInputError(
                    f"{path}, line {reader.line_num}: {len(cells)} columns instead of 2.",
                    "Write name,structure on each line; put a name with a comma in quotes.",
                )
            yield RoiMapEntry(cells[0], cells[1], f"line {reader.line_num}")
    except csv.Error as error:
        raise BadInputError(f"{path}, line {reader.line_num}: this is no CSV ({error}).", _EXAMPLE) from error


def _unique(entries: Iterator[RoiMapEntry], path: Path) -> Iterator[RoiMapEntry]:
    seen: dict[str, RoiMapEntry] = {}
    for entry in entries:
        if not entry.name.strip():
            raise BadInputError(f"{path}, {entry.place}: the ROI name is empty.", "Write the name as in the RTSTRUCT.")
        earlier = seen.setdefault(entry.name, entry)
        if earlier is not entry:
            if earlier.structure != entry.structure:
                raise BadInputError(
                    f"{path}, {entry.place}: “{entry.name}” already stands at {earlier.place} with another structure.",
                    "Keep one of the two.",
                )
        else:
            yield entry
