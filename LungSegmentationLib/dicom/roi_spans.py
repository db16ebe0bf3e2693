"""The words of one ROI name, joined to the longest phrases that the rules know."""

from __future__ import annotations

from dataclasses import dataclass

from LungSegmentationLib.dicom.roi_rulebook import RuleBook, Sense
from LungSegmentationLib.dicom.roi_tokens import Token

__all__ = ["MINUS", "Span", "joined_words"]

MINUS = frozenset("-−–—\\")


@dataclass(frozen=True)
class Span:
    """A phrase of the rules in a name, or a word that they do not know.

    Attributes
    ----------
    at
        Index among the spans of the name.
    words, tokens
        What it consists of.
    senses
        What it can mean; empty if unknown.
    """

    at: int
    words: tuple[str, ...]
    senses: tuple[Sense, ...]
    tokens: tuple[Token, ...]

    @property
    def text(self) -> str:
        """The words with spaces."""
        return " ".join(self.words)

    @property
    def is_number(self) -> bool:
        """Whether it is one number."""
        return len(self.words) == 1 and self.tokens[0].is_number

    @property
    def is_total(self) -> bool:
        """Whether it says both sides, or else a copy (“2”) or all of one (“gesamt”)."""
        return {s.value for s in self.of("side")} == {"both"} and (self.is_number or self.has("neutral"))

    def of(self, *roles: str) -> list[Sense]:
        """Return the senses with one of these roles."""
        return [sense for sense in self.senses if sense.role in roles]

    def has(self, *roles: str) -> bool:
        """Whether one of its senses has one of these roles."""
        return any(sense.role in roles for sense in self.senses)


def joined_words(book: RuleBook, tokens: list[Token]) -> list[Span]:
    """Join the words to the longest phrases of the rules."""
    spans: list[Span] = []
    at = 0
    while at < len(tokens):
        words: tuple[str, ...] = ()
        for length in range(min(book.longest_phrase, len(tokens) - at), 0, -1):
            words = tuple(token.text for token in tokens[at : at + length])
            if words in book.phrases:
                break
        spans.append(Span(len(spans), words, tuple(book.phrases.get(words, ())), tuple(tokens[at : at + len(words)])))
        at += len(words)
    return spans
