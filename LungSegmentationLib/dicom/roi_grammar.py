"""What the words of one ROI name mean together.

A name is understood only as a whole: every word must be explained (structure, side, part of a target, harmless
addition), otherwise it is unknown and a person decides.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise, takewhile
from typing import NamedTuple

from LungSegmentationLib.dicom.roi_doubts import adds_to_a_number, doubt_of_number, doubt_of_signs, doubt_of_target
from LungSegmentationLib.dicom.roi_rulebook import ANY_LANGUAGE, RuleBook
from LungSegmentationLib.dicom.roi_spans import MINUS, Span, joined_words
from LungSegmentationLib.dicom.roi_tokens import Token

__all__ = ["TIER_WORDS", "Drawing", "Reading", "Tier", "ignored", "plain_name", "read_name"]


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
    conflict: bool = False

    @property
    def outcome(self) -> str:
        """The structure key, ``ignored:<kind>`` or ``unknown``."""
        return self.structure or (f"ignored:{self.exclusion}" if self.exclusion else "unknown")


def plain_name(structure: str) -> str:
    """Return a structure key as people say it: ``lung_left`` → ``left lung``."""
    side = next((side for side in ("left", "right") if structure.endswith(f"_{side}")), "")
    return f"{side} {structure.removesuffix(f'_{side}')}" if side else structure.replace("_", " ")


def ignored(book: RuleBook, kind: str, detail: str = "") -> Reading:
    """Return the reading of a name that is excluded, its reason in the words of the rules."""
    return Reading(exclusion=kind, reason=f"ignored: {book.says[kind]}{f' ({detail})' if detail else ''}")


def read_name(book: RuleBook, tokens: list[Token], raw: str) -> Reading:
    """Say what a name means.

    Parameters
    ----------
    book
        The rules.
    tokens
        The words of the name, at least one.
    raw
        The name without accents, for signs that are no words (``~``, ``%``).
    """
    return _Parse(book, joined_words(book, tokens), raw).reading()


class _Parse:
    """One name on its way from spans to a reading."""

    def __init__(self, book: RuleBook, spans: list[Span], raw: str) -> None:
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
        return ignored(self.book, kind, detail)

    def _spans_of(self, *roles: str) -> Iterator[Span]:
        return (span for span in self.spans if span.has(*roles))

    def _strong_exclusion(self) -> Reading | None:
        """Exclude what no other word can save: helpers, margins, differences, other targets."""
        if self.spans[0].has("exclude_first") and len(self.spans) > 1:
            return self.ignored("helper", f"begins with “{self.spans[0].text}”")
        other_targets = list(self._spans_of("other_target"))
        if self._is_difference([*self.targets, *other_targets, *self.organs]):
            return self.ignored("subtraction")
        kinds = {sense.value for span in self.targets for sense in span.of("target")}
        for span in self._spans_of("exclude"):
            # the phases of a treatment course have their PTVs, those of a breath have their GTVs
            if not (span.has("course") and kinds == {"ptv"}):
                return self.ignored(span.of("exclude")[0].value, f"“{span.text}”")
        if other_targets:
            return self.ignored("other_target", f"“{other_targets[0].text}”")
        return None

    def _is_difference(self, named: list[Span]) -> bool:
        if not named:
            return False
        # “sin” is left in Italian and without in Spanish: where it can be a side of this lung, it is one
        if any(span.has("minus") and not self._is_side(span) for span in self.spans):
            return True
        named = sorted(named, key=lambda span: span.at)
        for first, second in pairwise(named):
            if {first, second} <= {*self.organs}:
                continue
            between = self.spans[first.at + 1 : second.at + 1]
            # a hyphen counts before the second name and what belongs to it: “Lung-GTV”, “GTV-L Lung”, not “GTV-1 Lung”
            lead = takewhile(lambda span: span.has("side", "neutral"), reversed(between[:-1]))
            if any(MINUS & set(span.tokens[0].before) for span in (between[-1], *lead)):
                return True
        return len(named) > 1 and named[0].has("both") and not named[1].has("both", "paired", "organ", "substitute")

    def _is_side(self, span: Span) -> bool:
        languages = {sense.language for organ in self.organs for sense in organ.of("paired", "both")}
        return any(sense.language in {ANY_LANGUAGE, *languages} for sense in span.of("side"))

    def _target(self) -> Reading:
        kinds = {sense.value for span in self.targets for sense in span.of("target")}
        added = all({"+", "&"} & set(span.tokens[0].before) for span in self.targets[1:])
        if len(kinds) > 1 or not added:
            return Reading(reason=f"names {len(self.targets)} targets: {', '.join(span.text for span in self.targets)}")
        target = kinds.pop()
        head = self.targets[0]
        for span in self._spans_of("joined"):
            # “GTV T et N” may be the only drawing of the tumor: a person shall see it
            if all(other.has("target", "part", "neutral", "joined") or other.is_number for other in self.spans):
                return Reading(reason=f"may be several {target.upper()}s in one or a part of one (“{span.text}”)")
            return self.ignored("combination", f"“{span.text}”")
        if self.organs and self.organs[0].at < head.at:
            return Reading(reason=f"may be a {target.upper()} in the organ or the organ without the {target.upper()}")
        if any(span.has("millimetres") for span in self.spans):
            return self.ignored("margin", "a length")
        if any("+" in span.tokens[0].before and (span.is_number or span in self.organs) for span in self.spans):
            if self.organs:
                return self.ignored("combination", "+")
            if adds_to_a_number(self.spans):
                return Reading(reason=f"may be several {target.upper()}s in one or one with a margin (+)")
            return self.ignored("margin", "+")
        if doubt := doubt_of_target(self.book, self.spans, head, self.raw):
            return Reading(reason=doubt)
        return self._target_parts(target)

    def _target_parts(self, target: str) -> Reading:
        tier = Tier.EXACT
        group: list[str] = []
        marks = _Marks()
        dosed = any(span.has("doses") for span in self.spans)
        if target == "gtv" and "%" in self.raw:
            return self.ignored("phase", "or an isocontour, for its “%”")
        if "%" in self.raw:
            return self.ignored("dose", "%")
        for span in self.spans:
            if span in self.targets:
                continue
            if span.tokens[0].initials and not span.has("part", "partial", "doses"):
                marks.observer = span.text
            elif span.is_number:
                if marks.wants_number:
                    marks.number = int(re.split("[.,]", span.text)[0])
                    marks.wants_number = False
                elif doubt := doubt_of_number(self.book, self.spans, span, target, dosed=dosed):
                    return Reading(reason=doubt)
                else:
                    group.append(span.text.lstrip("0") or "0")
            elif (span.has("part", "partial", "doses") or (span.has("course") and target == "ptv")) and not (
                marks.wants_number and len(span.text) == 1
            ):
                group.append(span.text)
            elif span.has("other_image"):
                tier = max(tier, Tier.OTHER_IMAGE)
            elif span.has("auto", "manual"):
                marks.automatic = span.has("auto")
                marks.wants_number = marks.is_set = True
            elif span.has("observer"):
                marks.wants_number = marks.wants_name = marks.is_set = True
            elif span.has("old", "copy"):
                tier = max(tier, Tier.OLD if span.has("old") else Tier.COPY)
            elif marks.wants_name or (marks.wants_number and len(span.text) <= 2 and not span.senses):
                marks.observer, marks.wants_name, marks.wants_number = span.text, False, False
            elif span.has("side", "paired", "both"):
                group.append(span.text)
            elif not span.has("neutral", "thoracic", "final", "version"):
                return Reading(reason=f"begins as a {target.upper()}, but “{span.text}” is not understood")
        return Reading(
            target,
            reason=f"matched “{' '.join(span.text for span in self.spans)}” → {target.upper()}",
            tier=tier, group=" ".join(group), drawing=marks.drawing,
        )  # fmt: skip

    def _organ(self) -> Reading:
        structures = {sense.value for span in self.organs for sense in span.of("organ", "substitute", "paired", "both")}
        if len(structures) > 1:
            return self.ignored("combination")
        if "~" in self.raw:
            return self.ignored("partial", "“~”")
        for span in self._spans_of("joined"):
            return self.ignored("combination", f"“{span.text}”")
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
        if doubt := doubt_of_signs(self.spans, self.raw):
            return Reading(reason=doubt)
        organ = structures.pop()
        return self._organ_additions(organ) if organ not in self.book.paired else self._paired(organ)

    def _paired(self, organ: str) -> Reading:
        languages = {s.language for span in self.organs for s in span.of("paired", "both") if s.value == organ}
        sides: dict[str, set[str]] = {}
        spans: list[Span] = []
        # “Poumon G (DR)” is the left lung drawn by D. R., “Poumon (D)” the right one
        told = [span for span in self.spans if self._is_side(span) and not span.tokens[0].initials]
        one_told = any({"left", "right"} & {sense.value for sense in span.of("side")} for span in told)
        for span in self.spans:
            # “Poumon D (2)” is a copy and “Lunge rechts gesamt” the whole right lung: neither says both sides
            if (told and span.tokens[0].initials) or (one_told and span.is_total):
                continue
            fitting = {s.value: s.language for s in span.of("side") if s.language in {ANY_LANGUAGE, *languages}}
            if fitting and span not in self.organs:
                spans.append(span)
                for side, language in fitting.items():
                    sides.setdefault(side, set()).add(language)
            elif span.has("side") and not span.has("neutral") and not span.is_number:
                return Reading(reason=f"“{span.text}” is no side in the language of “{self.organs[0].text}”")
        plural = any(span.has("both") and not span.has("paired") for span in self.organs)
        if "both" in sides or {"left", "right"} <= sides.keys():
            one_sided = len(sides) == 2 and "both" in sides
            return Reading(reason="names one side and both") if one_sided else self.ignored("both_lungs")
        if plural:
            return Reading(reason="a plural with a side") if sides else self.ignored("both_lungs")
        for span in () if sides else self._spans_of("relative_side"):
            return Reading(reason=f"“{span.text}” does not say whether it is left or right")
        if not sides:
            totals = [
                span for span in self.spans if span.text.startswith(("tot", "ges", "whole", "all", "both", "comb"))
            ]
            return self.ignored("both_lungs") if totals else Reading(reason="does not say which side")
        side = next(iter(sides))
        spoken = languages & sides[side] or languages
        return self._organ_additions(self.book.paired[organ][side], spans, spoken)

    def _organ_additions(self, structure: str, sides: Iterable[Span] = (), spoken: set[str] | None = None) -> Reading:
        explained = {span.at for span in (*self.organs, *sides)}
        tier, number, drawing = Tier.EXACT, 0, _Marks()
        additions: list[str] = []
        for span in self.spans:
            if span.at in explained:
                continue
            additions.append(span.text)
            previous = self.spans[max(0, span.at - 1)]
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
            elif span.has("neutral", "version", "relative_side" if structure in self._paired_keys() else "thoracic"):
                tier = max(tier, Tier.QUALIFIED)
            elif span.has("partial_letter") and structure not in self._paired_keys():
                return self.ignored("partial", f"“{span.text}”")
            elif span.has("other_image"):
                return self.ignored("other_image", f"“{span.text}”")
            else:
                return Reading(reason=f"names the {plain_name(structure)}, but “{span.text}” is not understood")
        if drawing.is_set:
            tier = max(tier, Tier.QUALIFIED)
        return self._organ_result(structure, tier, number, drawing, additions, spoken)

    def _organ_result(
        self, structure: str, tier: int, number: int, marks: _Marks, additions: list[str], spoken: set[str] | None
    ) -> Reading:
        words = " ".join(span.text for span in self.spans if span.text not in additions)
        senses = [s for span in self.organs for s in span.of("organ", "substitute", "paired")]
        languages = spoken or {sense.language for sense in senses}
        language = min(languages, key=[s.language for s in senses].index)
        substitute = all(sense.role == "substitute" for sense in senses)
        reason = f"matched “{words}” → {plain_name(structure)} ({language})"
        if substitute:
            reason = f"{reason}, in place of the true structure"
        if additions:
            reason = f"{reason}, with “{' '.join(additions)}”"
        return Reading(structure, "", reason, tier, substitute, number, drawing=marks.drawing)

    def _paired_keys(self) -> set[str]:
        return {key for sides in self.book.paired.values() for key in sides.values()}

    def _organ_number(self, span: Span, previous: Span) -> int | Reading:
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


def _group(span: Span) -> str:
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
