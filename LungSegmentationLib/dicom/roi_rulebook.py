"""The files of ``Resources/RoiNames`` as one table: what each word or phrase can mean.

The kinds of files are described in ``Resources/RoiNames/README.md``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from LungSegmentationLib.dicom.roi_tokens import Vocabulary, phrase
from LungSegmentationLib.errors import BadInputError, InstallationError

__all__ = ["ANY_LANGUAGE", "RuleBook", "Sense", "read_rule_book"]

SCHEMA = 1
ANY_LANGUAGE = ""
_FIRST = "exclude_first"
_SHORT_PART_ROLES = frozenset({"target", "other_target", "exclude"})
_TAIL_ROLES = frozenset({"part", "exclude", "partial", "auto", "manual", "old", "observer"})
_QUALIFIERS = (
    "neutral", "final", "auto", "manual", "old", "copy", "version", "observer", "relative_side", "minus", "joined",
    "millimetres", "doses", "thoracic",
)  # fmt: skip


class Sense(NamedTuple):
    """One meaning of a phrase: its role in a name, what it stands for, and in which language (empty: in all)."""

    role: str
    value: str
    language: str = ANY_LANGUAGE


@dataclass
class RuleBook:
    """What the rule files say.

    Attributes
    ----------
    phrases
        Words → what they can mean.
    patterns
        Kinds of exclusion and the expressions for whole names.
    exact
        Name in lower case → structure key and whose name it is.
    ambiguous
        Names that are left to a person, and why.
    says
        Kind of exclusion → how it is called.
    types
        RT ROI Interpreted Type → kind of exclusion.
    paired
        Organ → side → structure key.
    heads
        Names of targets, ours and others.
    leading
        Letters that may stand before a target's name: ``n`` in ``nGTV``.
    unclear
        Words that leave a target to a person, and why.
    stations
        Words after which a number is a lymph node station.
    """

    phrases: dict[tuple[str, ...], list[Sense]] = field(default_factory=dict)
    patterns: list[tuple[str, re.Pattern[str]]] = field(default_factory=list)
    exact: dict[str, tuple[str, str]] = field(default_factory=dict)
    ambiguous: dict[str, str] = field(default_factory=dict)
    says: dict[str, str] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    paired: dict[str, dict[str, str]] = field(default_factory=dict)
    heads: list[str] = field(default_factory=list)
    leading: set[str] = field(default_factory=set)
    unclear: dict[str, str] = field(default_factory=dict)
    stations: set[str] = field(default_factory=set)

    def add(self, names: Iterable[str], role: str, value: str, language: str = ANY_LANGUAGE) -> None:
        """Give each of the names one more meaning."""
        for name in names:
            words = phrase(name)
            if not words:
                raise ValueError(f"“{name}” holds no word")
            sense = Sense(role, value, language)
            senses = self.phrases.setdefault(words, [])
            if sense not in senses:
                senses.append(sense)

    @cached_property
    def longest_phrase(self) -> int:
        """Number of words of the longest phrase."""
        return max(map(len, self.phrases), default=1)

    def vocabulary(self) -> Vocabulary:
        """Return the words that glued names are split by."""
        words = frozenset(word for phrase_words in self.phrases for word in phrase_words)
        single = {phrase_words[0]: senses for phrase_words, senses in self.phrases.items() if len(phrase_words) == 1}
        roles = {word: {sense.role for sense in senses} for word, senses in single.items()}
        return Vocabulary(
            words=words,
            glued={glued: parts for glued, parts in self._glued_sides(single) if glued not in words},
            parts=frozenset(w for w, r in roles.items() if len(w) > 3 or (len(w) == 3 and r & _SHORT_PART_ROLES)),
            heads=tuple(self.heads),
            tails=frozenset(word for word, r in roles.items() if r & _TAIL_ROLES) | self.unclear.keys(),
            prefixes=tuple(word for word, r in roles.items() if _FIRST in r),
        )

    @staticmethod
    def _glued_sides(single: Mapping[str, list[Sense]]) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Give the words for a paired organ with a side of their language: ``lungl``, ``poumong``."""
        sides = [
            (w, s.language) for w, senses in single.items() for s in senses if s.role == "side" and s.value != "both"
        ]
        organs = [(w, s.language) for w, senses in single.items() for s in senses if s.role == "paired"]
        for organ, language in organs:
            for side, spoken in sides:
                if spoken in {ANY_LANGUAGE, language}:
                    yield organ + side, (organ, side)
                    yield side + organ, (side, organ)


def _read_language(book: RuleBook, content: Mapping[str, Any]) -> None:
    language = content["language"]
    for structure, entry in content["organs"].items():
        book.add(entry["names"], "organ", structure, language)
        book.add(entry.get("substitutes", ()), "substitute", structure, language)
    for organ, entry in content["paired"].items():
        book.add(entry["names"], "paired", organ, language)
        book.add(entry["both"], "both", organ, language)
    for side, entry in content["sides"].items():
        book.add(entry["words"], "side", side)
        book.add(entry["short"], "side", side, language)
    book.add(content["articles"], "neutral", "article")


def _read_targets(book: RuleBook, content: Mapping[str, Any]) -> None:
    for target, names in content["targets"].items():
        book.add(names, "target", target)
        book.heads += [name for name in names if " " not in name]
    book.add(content["other_targets"], "other_target", "other_target")
    book.heads += [name for name in content["other_targets"] if " " not in name]
    book.add(content["parts"], "part", "part")
    book.add(content["other_images"], "other_image", "other_image")
    book.add(content["courses"], "course", "course")
    book.leading.update(content["leading"])
    book.unclear.update(content["unclear"])
    book.stations.update(content["stations"])


def _read_qualifiers(book: RuleBook, content: Mapping[str, Any]) -> None:
    for role in _QUALIFIERS:
        book.add(content[role], role, role)
    for name, reason in content["ambiguous"].items():
        book.ambiguous[" ".join(phrase(name))] = reason


def _read_exclusions(book: RuleBook, content: Mapping[str, Any]) -> None:
    for kind, entry in content["kinds"].items():
        book.says[kind] = entry["say"]
        book.add(entry.get("words", ()), "exclude", kind)
        book.add(entry.get("first", ()), _FIRST, kind)
        book.patterns += [(kind, re.compile(pattern)) for pattern in entry.get("patterns", ())]
    book.add(content["partial_words"], "partial", "partial")
    book.add(content["partial_letters"], "partial_letter", "partial")
    book.types.update(content["types"])


def _read_anatomy(book: RuleBook, content: Mapping[str, Any]) -> None:
    for kind, names in content["groups"].items():
        book.add(names, "anatomy", kind)
    for kind, patterns in content["patterns"].items():
        book.patterns += [(kind, re.compile(pattern)) for pattern in patterns]


def _read_exact(book: RuleBook, content: Mapping[str, Any]) -> None:
    for name, structure in content["names"].items():
        book.exact[name.casefold()] = (structure, content["language"])
    for organ, sides in content["paired"].items():
        book.paired[organ] = dict(sides)


_READERS = {
    "language": _read_language,
    "targets": _read_targets,
    "qualifiers": _read_qualifiers,
    "exclusions": _read_exclusions,
    "anatomy": _read_anatomy,
    "exact": _read_exact,
}


def read_rule_book(folder: Path) -> RuleBook:
    """Read all rule files of a folder.

    Raises
    ------
    BadInputError
        If a file is no rule file.
    InstallationError
        If the folder holds none.
    """
    files = sorted(folder.glob("*.json"))
    if not files:
        raise InstallationError(f"The folder {folder} holds no ROI name rules. Install LungSegmentation again.")
    book = RuleBook()
    for file in files:
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            if content["schema"] != SCHEMA:
                raise ValueError(f"schema {content['schema']} is not {SCHEMA}")
            _READERS[content["kind"]](book, content)
        except OSError as error:
            raise BadInputError(f"{file} cannot be read: {error.strerror}.") from error
        except (ValueError, KeyError, TypeError, AttributeError, re.error) as error:
            raise BadInputError(
                f"{file} is no file of ROI name rules: {error!r}.", "Compare it with RoiNames/en.json."
            ) from error
    return book
