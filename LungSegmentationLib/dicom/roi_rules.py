"""What one ROI name means: the rules of ``Resources/RoiNames`` applied to one name.

The rules are data. A name is understood only as a whole: every word must be explained (structure, side, part of a
target, harmless addition), otherwise it is unknown and a person decides.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from LungSegmentationLib.dicom.roi_tokens import Token, Vocabulary, fold, phrase, tokenize
from LungSegmentationLib.errors import BadInputError, InstallationError
from LungSegmentationLib.resources import resource_path

__all__ = ["Drawing", "Reading", "RoiRules", "Tier", "load_roi_rules"]

SCHEMA = 1
_MINUS = frozenset("-−–—\\")
_ANY = ""


class Tier:
    """How well a name says its structure; lower is better."""

    STANDARD = 0
    EXACT = 1
    FINAL = 2
    QUALIFIED = 3
    AUTOMATIC = 4
    OTHER_IMAGE = 5
    COPY = 6
    OLD = 7


TIER_WORDS = {
    Tier.STANDARD: "TG-263 name",
    Tier.EXACT: "plain name",
    Tier.FINAL: "name marked as final",
    Tier.QUALIFIED: "name with an addition",
    Tier.AUTOMATIC: "drawn by a program",
    Tier.OTHER_IMAGE: "drawn on another image",
    Tier.COPY: "a copy",
    Tier.OLD: "an older version",
}


class Drawing(NamedTuple):
    """Whose drawing of a target it is; sorts manual before automatic, then by observer."""

    automatic: bool
    number: int
    observer: str


@dataclass(frozen=True)
class Reading:
    """What the rules make of one name.

    Attributes
    ----------
    structure
        Structure key, or ``None``.
    exclusion
        Kind of exclusion (``margin``, ``helper`` …), empty if none. Neither structure nor exclusion: unknown.
    reason
        A phrase for people.
    tier
        One of :class:`Tier`.
    substitute
        Whether the name is that of a structure which is only used for want of the true one (spinal canal).
    number
        Copy number, or minus the version number: lower is better. 0 if none.
    group
        Which of several targets of the same structure: ``p 1`` of ``GTVp1``.
    drawing
        Set where the name tells an observer or a method.
    is_target
        Whether several ROIs of this structure are united.
    conflict
        Whether the RT ROI Interpreted Type says otherwise.
    """

    structure: str | None = None
    exclusion: str = ""
    reason: str = ""
    tier: int = Tier.EXACT
    substitute: bool = False
    number: int = 0
    group: str = ""
    drawing: Drawing | None = None
    is_target: bool = False
    conflict: bool = False

    @property
    def outcome(self) -> str:
        """The structure key, ``ignored:<kind>`` or ``unknown``."""
        return self.structure or (f"ignored:{self.exclusion}" if self.exclusion else "unknown")


class _Sense(NamedTuple):
    role: str
    value: str
    language: str = _ANY


@dataclass(frozen=True)
class _Span:
    words: tuple[str, ...]
    senses: tuple[_Sense, ...]
    tokens: tuple[Token, ...]

    @property
    def text(self) -> str:
        return " ".join(self.words)

    @property
    def is_number(self) -> bool:
        return len(self.words) == 1 and self.tokens[0].is_number

    def of(self, *roles: str) -> list[_Sense]:
        return [sense for sense in self.senses if sense.role in roles]

    def has(self, *roles: str) -> bool:
        return any(sense.role in roles for sense in self.senses)


@dataclass
class _Book:
    """The rules while they are read."""

    phrases: dict[tuple[str, ...], list[_Sense]] = field(default_factory=dict)
    patterns: list[tuple[str, re.Pattern[str]]] = field(default_factory=list)
    exact: dict[str, tuple[str, str]] = field(default_factory=dict)
    ambiguous: dict[str, str] = field(default_factory=dict)
    says: dict[str, str] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    paired: dict[str, dict[str, str]] = field(default_factory=dict)
    glued: dict[str, tuple[str, ...]] = field(default_factory=dict)
    heads: list[str] = field(default_factory=list)
    targets: set[str] = field(default_factory=set)

    def add(self, names: Iterable[str], role: str, value: str, language: str = _ANY) -> None:
        for name in names:
            words = phrase(name)
            if not words:
                raise ValueError(f"“{name}” holds no word")
            sense = _Sense(role, value, language)
            senses = self.phrases.setdefault(words, [])
            if sense not in senses:
                senses.append(sense)


def _read_language(book: _Book, content: Mapping[str, Any]) -> None:
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
        for entry_organ in content["paired"].values():
            for word in (w for name in entry_organ["names"] if len(w := phrase(name)) == 1):
                for mark in (phrase(name) for name in (*entry["words"], *entry["short"])):
                    if side != "both" and len(mark) == 1:
                        book.glued.setdefault("".join(word + mark), word + mark)
                        book.glued.setdefault("".join(mark + word), mark + word)
    book.add(content["articles"], "neutral", "article")


def _read_targets(book: _Book, content: Mapping[str, Any]) -> None:
    for target, names in content["targets"].items():
        book.add(names, "target", target)
        book.heads += names
        book.targets.add(target)
    book.add(content["other_targets"], "other_target", "other_target")
    book.add(content["parts"], "part", "part")
    book.add(content["other_images"], "other_image", "other_image")


def _read_qualifiers(book: _Book, content: Mapping[str, Any]) -> None:
    for role in ("neutral", "final", "auto", "manual", "old", "copy", "version", "observer", "relative_side", "minus",
                 "joined", "millimetres", "doses"):  # fmt: skip
        book.add(content[role], role, role)
    for name, reason in content["ambiguous"].items():
        book.ambiguous[" ".join(phrase(name))] = reason


def _read_exclusions(book: _Book, content: Mapping[str, Any]) -> None:
    for kind, entry in content["kinds"].items():
        book.says[kind] = entry["say"]
        book.add(entry.get("words", ()), "exclude", kind)
        book.add(entry.get("first", ()), "exclude_first", kind)
        book.patterns += [(kind, re.compile(pattern)) for pattern in entry.get("patterns", ())]
    book.add(content["partial_words"], "partial", "partial")
    book.add(content["partial_letters"], "partial_letter", "partial")
    book.types.update(content["types"])


def _read_anatomy(book: _Book, content: Mapping[str, Any]) -> None:
    for kind, names in content["groups"].items():
        book.add(names, "anatomy", kind)
    for kind, patterns in content["patterns"].items():
        book.patterns += [(kind, re.compile(pattern)) for pattern in patterns]


def _read_exact(book: _Book, content: Mapping[str, Any]) -> None:
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


class RoiRules:
    """The rules for ROI names, as read from a folder of JSON files.

    Parameters
    ----------
    folder
        Files of the kinds ``exact``, ``language``, ``targets``, ``qualifiers``, ``exclusions`` and ``anatomy``.

    Raises
    ------
    BadInputError
        If a file is no rule file.
    InstallationError
        If the folder holds none.
    """

    def __init__(self, folder: Path) -> None:
        files = sorted(folder.glob("*.json"))
        if not files:
            raise InstallationError(f"The folder {folder} holds no ROI name rules. Install LungSegmentation again.")
        book = _Book()
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
        self._book = book
        self._longest = max(map(len, book.phrases), default=1)
        words = frozenset(word for words in book.phrases for word in words)
        tails = frozenset(words[0] for words, senses in book.phrases.items() if len(words) == 1 and _is_tail(senses))
        first = [w[0] for w, senses in book.phrases.items() if any(s.role == "exclude_first" for s in senses)]
        self._vocabulary = Vocabulary(
            words=words,
            glued={glued: parts for glued, parts in book.glued.items() if glued not in words},
            heads=tuple(book.heads),
            tails=tails,
            prefixes=tuple(sorted(first, key=len)),
        )

    @property
    def structures(self) -> frozenset[str]:
        """Keys of the structures that the rules know."""
        senses = (sense for senses in self._book.phrases.values() for sense in senses)
        single = {sense.value for sense in senses if sense.role in {"organ", "target"}}
        return frozenset(single | {key for sides in self._book.paired.values() for key in sides.values()})

    def normalized(self, name: str) -> str:
        """Return the name as the words that the rules see: ``"LUNG_LT"`` → ``"lung lt"``."""
        return " ".join(token.text for token in tokenize(name, self._vocabulary))

    def classify(self, name: str, interpreted_type: str = "") -> Reading:
        """Say what one ROI name means.

        Parameters
        ----------
        name
            ROI Name (3006,0026).
        interpreted_type
            RT ROI Interpreted Type (3006,00A4). ``EXTERNAL``, ``BOLUS``, ``MARKER`` … exclude. ``AVOIDANCE`` does
            not: planning systems give it to ordinary organs. Another target type than the name's lowers the rank.
            A type never gives an unknown name a meaning: breasts are found with the type ``GTV``.
        """
        reading = self._by_name(name)
        kind = self._book.types.get(interpreted_type.strip().upper().replace(" ", "_"), "")
        declared = interpreted_type.strip().upper()
        if kind and not reading.exclusion:
            return Reading(exclusion=kind, reason=f"ignored: its type is {declared} ({self._book.says[kind]})")
        if reading.structure is None:
            if not reading.exclusion and declared in {"GTV", "PTV", "CTV"}:
                return replace(reading, reason=f"{reading.reason}; its type {declared} alone is no proof")
            return reading
        if declared in {"GTV", "PTV", "CTV"} and declared.casefold() != reading.structure:
            return replace(reading, conflict=True, reason=f"{reading.reason}, although its type is {declared}")
        return reading

    def _by_name(self, name: str) -> Reading:
        raw = fold(name).strip()
        tokens = tokenize(name, self._vocabulary)
        if not tokens:
            return Reading(reason="the name holds no word")
        joined = " ".join(token.text for token in tokens)
        structure, says = self._book.exact.get(raw.casefold(), ("", ""))
        if structure:
            return Reading(
                structure, reason=f"matched “{name.strip()}” → {_plain(structure)} ({says})",
                tier=Tier.STANDARD, is_target=structure in self._book.targets,
            )  # fmt: skip
        if joined in self._book.ambiguous:
            return Reading(reason=self._book.ambiguous[joined])
        for kind, pattern in self._book.patterns:
            if pattern.search(joined) or pattern.search(raw.casefold()):
                return _ignored(self._book, kind)
        return _Parse(self._book, self._spans(tokens), raw).reading()

    def _spans(self, tokens: list[Token]) -> list[_Span]:
        spans: list[_Span] = []
        at = 0
        while at < len(tokens):
            words: tuple[str, ...] = ()
            for length in range(min(self._longest, len(tokens) - at), 0, -1):
                words = tuple(token.text for token in tokens[at : at + length])
                if words in self._book.phrases:
                    break
            senses = tuple(self._book.phrases.get(words, ()))
            spans.append(_Span(words, senses, tuple(tokens[at : at + len(words)])))
            at += len(words)
        return spans


def _is_tail(senses: Iterable[_Sense]) -> bool:
    return any(sense.role in {"part", "exclude", "partial", "auto", "manual", "old", "observer"} for sense in senses)


def _plain(structure: str) -> str:
    side = next((side for side in ("left", "right") if structure.endswith(f"_{side}")), "")
    return f"{side} {structure.removesuffix(f'_{side}')}" if side else structure.replace("_", " ")


def _ignored(book: _Book, kind: str, detail: str = "") -> Reading:
    return Reading(exclusion=kind, reason=f"ignored: {book.says[kind]}{f' ({detail})' if detail else ''}")


class _Parse:
    """One name on its way from spans to a reading."""

    def __init__(self, book: _Book, spans: list[_Span], raw: str) -> None:
        self.book = book
        self.spans = spans
        self.raw = raw
        self.targets = [span for span in spans if span.has("target")]
        self.organs = [span for span in spans if span.has("organ", "substitute", "paired", "both")]

    def reading(self) -> Reading:
        return (
            self._strong_exclusion()
            or (self._target() if self.targets else None)
            or (self._organ() if self.organs else None)
            or self._rest()
        )

    def ignored(self, kind: str, detail: str = "") -> Reading:
        return _ignored(self.book, kind, detail)

    def _spans_of(self, *roles: str) -> Iterator[_Span]:
        return (span for span in self.spans if span.has(*roles))

    def _strong_exclusion(self) -> Reading | None:
        """Exclude what no other word can save: helpers, margins, differences, other targets."""
        if self.spans[0].has("exclude_first") and len(self.spans) > 1:
            return self.ignored("helper", f"begins with “{self.spans[0].text}”")
        other_targets = list(self._spans_of("other_target"))
        if self._is_difference([*self.targets, *other_targets], self.organs):
            return self.ignored("subtraction")
        for span in self._spans_of("exclude"):
            return self.ignored(span.of("exclude")[0].value, f"“{span.text}”")
        if other_targets:
            return self.ignored("other_target", f"“{other_targets[0].text}”")
        return None

    def _is_difference(self, targets: list[_Span], organs: list[_Span]) -> bool:
        if not targets or len(targets) + len(organs) < 2:
            return False
        named = sorted([*targets, *organs], key=self.spans.index)
        if any(span.has("minus") and not span.has("side") for span in self.spans):
            return True
        for first, second in zip(named, named[1:], strict=False):
            between = self.spans[self.spans.index(first) + 1 : self.spans.index(second) + 1]
            # a hyphen counts where it stands directly before the second name or before its side: “Lung-GTV”, “GTV-L Lung”
            lead = [between[-1], *(span for span in reversed(between[:-1]) if span.has("side") and second in organs)]
            if any(_MINUS & set(span.tokens[0].before) for span in lead):
                return True
        return named[0].has("both") and named[0] in organs

    def _target(self) -> Reading:
        kinds = {sense.value for span in self.targets for sense in span.of("target")}
        if len(kinds) > 1 or len(self.targets) > 1:
            return Reading(reason=f"names {len(self.targets)} targets: {', '.join(span.text for span in self.targets)}")
        target = kinds.pop()
        head = self.targets[0]
        if self.spans.index(head) and self.organs and self.spans.index(self.organs[0]) < self.spans.index(head):
            return Reading(reason=f"may be a {target.upper()} in the organ or the organ without the {target.upper()}")
        for span in self._spans_of("joined"):
            return self.ignored("combination", f"“{span.text}”")
        if any("+" in span.tokens[0].before and (span.is_number or span in self.organs) for span in self.spans):
            return self.ignored("margin" if not self.organs else "combination", "+")
        if any(span.has("millimetres") for span in self.spans):
            return self.ignored("margin", "a length")
        return self._target_parts(target, head)

    def _target_parts(self, target: str, head: _Span) -> Reading:
        tier = Tier.EXACT
        group: list[str] = []
        marks = _Marks()
        dosed = any(span.has("doses") for span in self.spans)
        if target == "gtv" and "%" in self.raw:
            return self.ignored("phase", "%")
        if "%" in self.raw:
            return self.ignored("dose", "%")
        for span in self.spans:
            if span is head:
                continue
            if span.tokens[0].initials and not span.has("part", "partial", "doses"):
                marks.observer = span.text
            elif span.is_number:
                if marks.wants_number:
                    marks.number = int(re.split("[.,]", span.text)[0])
                    marks.wants_number = False
                elif target == "gtv" and not dosed and re.fullmatch(r"\d0", span.text):
                    return Reading(reason=f"“{span.text}” may be a breathing phase or a dose")
                else:
                    group.append(span.text.lstrip("0") or "0")
            elif span.has("part", "partial", "doses") and not (marks.wants_number and len(span.text) == 1):
                group.append(span.text)
            elif span.has("auto", "manual"):
                marks.automatic = span.has("auto")
                marks.wants_number = marks.is_set = True
            elif span.has("observer"):
                marks.wants_number = marks.wants_name = marks.is_set = True
            elif span.has("other_image"):
                tier = max(tier, Tier.OTHER_IMAGE)
            elif span.has("old", "copy"):
                tier = max(tier, Tier.OLD if span.has("old") else Tier.COPY)
            elif marks.wants_name or (marks.wants_number and len(span.text) <= 2 and not span.senses):
                marks.observer, marks.wants_name, marks.wants_number = span.text, False, False
            elif span.has("side", "paired", "both"):
                group.append(span.text)
            elif not span.has("neutral", "final", "version"):
                return Reading(reason=f"begins as a {target.upper()}, but “{span.text}” is not understood")
        return Reading(
            target,
            reason=f"matched “{' '.join(span.text for span in self.spans)}” → {target.upper()}",
            tier=tier, group=" ".join(group), drawing=marks.drawing, is_target=True,
        )  # fmt: skip

    def _organ(self) -> Reading:
        structures = {sense.value for span in self.organs for sense in span.of("organ", "substitute", "paired", "both")}
        if len(structures) > 1:
            return self.ignored("combination")
        if "~" in self.raw:
            return self.ignored("partial", "“~”")
        for span in self._spans_of("anatomy"):
            if not span.has("side", "neutral", "organ", "paired", "partial"):
                return self.ignored(_group(span), f"“{span.text}”")
        for span in self._spans_of("partial"):
            if not span.has("side", "neutral"):
                return self.ignored("partial", f"“{span.text}”")
        if any(span.has("millimetres") for span in self.spans):
            return self.ignored("margin", "a length")
        if any(span.has("doses") for span in self.spans) or "%" in self.raw:
            return self.ignored("dose")
        for span in self._spans_of("joined"):
            return self.ignored("combination", f"“{span.text}”")
        organ = structures.pop()
        return self._organ_additions(organ) if organ not in self.book.paired else self._paired(organ)

    def _paired(self, organ: str) -> Reading:
        languages = {s.language for span in self.organs for s in span.of("paired", "both") if s.value == organ}
        sides: dict[str, set[str]] = {}
        spans: list[_Span] = []
        for span in self.spans:
            fitting = {s.value: s.language for s in span.of("side") if s.language in {_ANY, *languages}}
            if fitting and span not in self.organs:
                spans.append(span)
                for side, language in fitting.items():
                    sides.setdefault(side, set()).add(language)
            elif span.has("side") and not span.has("neutral"):
                return Reading(reason=f"“{span.text}” is no side in the language of “{self.organs[0].text}”")
        plural = any(span.has("both") and not span.has("paired") for span in self.organs)
        if "both" in sides or {"left", "right"} <= sides.keys():
            one_sided = len(sides) == 2 and "both" in sides
            return Reading(reason="names one side and both") if one_sided else self.ignored("both_lungs")
        if plural:
            return Reading(reason="a plural with a side") if sides else self.ignored("both_lungs")
        for span in self._spans_of("relative_side"):
            return Reading(reason=f"“{span.text}” does not say whether it is left or right")
        if not sides:
            totals = [
                span for span in self.spans if span.text.startswith(("tot", "ges", "whole", "all", "both", "comb"))
            ]
            return self.ignored("both_lungs") if totals else Reading(reason="does not say which side")
        side = next(iter(sides))
        spoken = languages & sides[side] or languages
        return self._organ_additions(self.book.paired[organ][side], spans, spoken)

    def _organ_additions(self, structure: str, sides: Iterable[_Span] = (), spoken: set[str] | None = None) -> Reading:
        explained = {id(span) for span in (*self.organs, *sides)}
        tier, number, drawing = Tier.EXACT, 0, _Marks()
        additions: list[str] = []
        for span in self.spans:
            if id(span) in explained:
                continue
            additions.append(span.text)
            previous = self.spans[max(0, self.spans.index(span) - 1)]
            if span.is_number:
                reading = self._organ_number(span, previous)
                if isinstance(reading, Reading):
                    return reading
                number = reading
                if drawing.wants_number:
                    drawing.number, drawing.wants_number = number, False
                else:
                    tier = max(tier, Tier.COPY)
            elif span.tokens[0].initials and not span.has("old", "auto", "neutral", "copy"):
                drawing.is_set, drawing.observer = True, span.text
            elif span.has("old", "copy"):
                tier = max(tier, Tier.OLD if span.has("old") else Tier.COPY)
            elif span.has("auto"):
                tier, drawing.automatic = max(tier, Tier.AUTOMATIC), True
            elif span.has("observer"):
                drawing.is_set = drawing.wants_number = drawing.wants_name = True
            elif drawing.wants_name:
                drawing.observer, drawing.wants_name = span.text, False
            elif span.has("final", "manual"):
                tier = max(tier, Tier.FINAL)
            elif span.has("neutral", "version"):
                tier = max(tier, Tier.QUALIFIED)
            elif span.has("partial_letter") and structure not in self._paired_keys():
                return self.ignored("partial", f"“{span.text}”")
            elif span.has("other_image"):
                return self.ignored("other_image", f"“{span.text}”")
            else:
                return Reading(reason=f"names the {_plain(structure)}, but “{span.text}” is not understood")
        if drawing.is_set:
            tier = max(tier, Tier.QUALIFIED)
        return self._organ_result(structure, tier, number, drawing, additions, spoken)

    def _organ_result(
        self, structure: str, tier: int, number: int, marks: _Marks, additions: list[str], spoken: set[str] | None
    ) -> Reading:
        words = " ".join(span.text for span in self.spans if span.text not in additions)
        senses = [s for span in self.organs for s in span.of("organ", "substitute", "paired")]
        languages = spoken or {sense.language for sense in senses}
        language = sorted(languages, key=list(dict.fromkeys(s.language for s in senses)).index)[0]
        substitute = all(sense.role == "substitute" for sense in senses)
        reason = f"matched “{words}” → {_plain(structure)} ({language})"
        if substitute:
            reason = f"{reason}, in place of the true structure"
        if additions:
            reason = f"{reason}, with “{' '.join(additions)}”"
        return Reading(structure, "", reason, tier, substitute, number, drawing=marks.drawing)

    def _paired_keys(self) -> set[str]:
        return {key for sides in self.book.paired.values() for key in sides.values()}

    def _organ_number(self, span: _Span, previous: _Span) -> int | Reading:
        """Return a copy number (a version counts backwards), or why the number is none."""
        text, before = span.text, span.tokens[0].before
        if "+" in before:
            return self.ignored("margin", f"“+{text}”")
        if previous.has("version"):
            value = float(text.replace(",", "."))
            return -int(value) if value < 5 else self.ignored("dose", f"“{previous.text}{text}”")
        if re.fullmatch(r"0\d|0[.,]\d+", text):
            return self.ignored("margin", f"“{text}”")
        if text in {"1", "2"} or (span.tokens[0].bracketed and len(text) <= 2) or previous.has("observer", "copy"):
            return int(text) if text.isdecimal() else 0
        return Reading(reason=f"the number {text} may be a copy, a margin or a dose")

    def _rest(self) -> Reading:
        for span in self._spans_of("anatomy"):
            return self.ignored(_group(span), f"“{span.text}”")
        for span in self._spans_of("partial"):
            if len(span.text) == 3 and len(self.spans) == 1:
                return self.ignored("partial", f"“{span.text}”")
        return Reading(reason=f"“{' '.join(span.text for span in self.spans)}” is in none of the rules")


def _group(span: _Span) -> str:
    return span.of("anatomy")[0].value


@dataclass
class _Marks:
    """What tells whose drawing it is, while a name is read."""

    is_set: bool = False
    automatic: bool = False
    number: int = 0
    observer: str = ""
    wants_number: bool = False
    wants_name: bool = False

    @property
    def drawing(self) -> Drawing | None:
        if self.is_set or self.observer:
            return Drawing(self.automatic, self.number, self.observer)
        return None


@lru_cache(maxsize=4)
def load_roi_rules(folder: Path | None = None) -> RoiRules:
    """Return the rules of ``Resources/RoiNames``, or of another folder; read once."""
    return RoiRules(folder or resource_path("RoiNames"))
