"""An ROI name as whole words: case, accents, separators, CamelCase, digits and damaged letters made alike.

Nothing here knows what a word means; the rules (``roi_rules.py``) give the vocabulary that glued words are split by.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

__all__ = ["Token", "Vocabulary", "fold", "phrase", "tokenize"]

MAX_NAME = 256
_LIGATURES = str.maketrans(
    {
        "œ": "oe",
        "Œ": "Oe",
        "æ": "ae",
        "Æ": "Ae",
        "ß": "ss",
        "ø": "o",
        "Ø": "O",
        "ł": "l",
        "Ł": "L",
        "ı": "i",
        "\ufffd": "?",
    }
)
_MOJIBAKE = re.compile("[ÃÅÂ][\x80-\xbf\u0152-\u2122]")
_PIECE = re.compile(r"(?P<word>(?:[^\W\d_]|\?(?=\?*[^\W\d_]))+)|(?P<number>\d+(?:[.,]\d+)?)")
_CAMEL = re.compile(r"(?<=[a-z?])(?=[A-Z])")
_ACRONYM = re.compile(r"(?<=[A-Z])(?=[A-Z][a-z])")
_DAMAGED = re.compile(r"\?+")
_MIN_GLUED = 3


@dataclass(frozen=True)
class Token:
    """One word or number of a name.

    Attributes
    ----------
    text
        Lower case, without accents.
    before
        The separators between the word before and this one, as written.
    bracketed
        Whether it stands in round or square brackets.
    initials
        Whether it stands alone in brackets, in two or three capitals: ``(DR)``.
    """

    text: str
    before: str = ""
    bracketed: bool = False
    initials: bool = False

    @property
    def is_number(self) -> bool:
        """Whether the token is a number, decimals included."""
        return self.text[:1].isdigit()


@dataclass(frozen=True)
class Vocabulary:
    """The words that glued names are split by.

    Attributes
    ----------
    words
        All single words of the rules.
    glued
        What is written in one piece and means several words: ``{"lungl": ("lung", "l")}``.
    parts
        Known words that a longer word may consist of: no short ones, so that ``Hartman`` holds no heart.
    heads
        Words that short endings may be glued to: ``gtv`` in ``GTVn``.
    tails
        These endings.
    prefixes
        Letters that may be glued before any known word: ``z`` in ``zptv``.
    """

    words: frozenset[str]
    glued: Mapping[str, tuple[str, ...]]
    parts: frozenset[str]
    heads: tuple[str, ...]
    tails: frozenset[str]
    prefixes: tuple[str, ...]


def fold(text: str) -> str:
    """Return the text without accents and ligatures, its case kept; UTF-8 that was read as Latin-1 is mended."""
    if _MOJIBAKE.search(text):
        for encoding in ("cp1252", "latin-1"):
            try:
                text = text.encode(encoding).decode("utf-8")
                break
            except UnicodeError:  # not what it looked like: the text stays as it is
                pass
    decomposed = unicodedata.normalize("NFKD", text.translate(_LIGATURES))
    return "".join(character for character in decomposed if not unicodedata.combining(character))


@lru_cache(maxsize=4096)
def phrase(text: str) -> tuple[str, ...]:
    """Return the words of a name in the rules; glued words are not split."""
    return tuple(match.group().casefold() for match in _PIECE.finditer(fold(text)))


def tokenize(name: str, vocabulary: Vocabulary) -> list[Token]:
    """Split an ROI name into whole words.

    A name is cut at separators, between letters and digits, at CamelCase, and where a piece as a whole consists of
    known words (``SPINALCORD``, ``LUNGL``, ``GTVn``). A word is never found inside another: ``CORD`` is not ``COR``.

    Parameters
    ----------
    name
        As in the file; only the first 256 characters are read (DICOM allows 64).
    vocabulary
        Known words.
    """
    folded = fold(name[:MAX_NAME])
    tokens: list[Token] = []
    end = 0
    depth = 0
    for match in _PIECE.finditer(folded):
        before = folded[end : match.start()]
        depth = max(0, depth + sum(before.count(c) for c in "([") - sum(before.count(c) for c in ")]"))
        end = match.end()
        alone = depth > 0 and before[-1:] in {"(", "["} and folded[end : end + 1] in {")", "]"}
        initials = (
            alone and match.group("word") is not None and match.group().isupper() and 2 <= len(match.group()) <= 3
        )
        words = (match.group(),) if match.group("number") else tuple(_split(match.group(), vocabulary))
        tokens += [
            Token(word.casefold(), before if index == 0 else "", depth > 0, initials and len(words) == 1)
            for index, word in enumerate(words)
        ]
    return tokens


def _split(word: str, vocabulary: Vocabulary) -> Iterator[str]:
    lower = word.casefold()
    if "?" in lower:
        mended = _mend(lower, vocabulary)
        if mended:
            yield mended
        else:
            for piece in _DAMAGED.split(word):
                if piece:
                    yield from _split(piece, vocabulary)
        return
    if lower in vocabulary.words:
        yield lower
        return
    if lower in vocabulary.glued:
        yield from vocabulary.glued[lower]
        return
    for border in (_CAMEL, _ACRONYM):
        pieces = border.split(word)
        # “GTVp” must not fall into “GT” and “Vp”: the acronym border counts only where it leaves known words
        if len(pieces) > 1 and (border is _CAMEL or all(_known(piece.casefold(), vocabulary) for piece in pieces)):
            for piece in pieces:
                yield from _split(piece, vocabulary)
            return
    yield from _unglue(lower, vocabulary) or (lower,)


def _known(word: str, vocabulary: Vocabulary) -> bool:
    return word in vocabulary.words or word in vocabulary.glued or bool(_unglue(word, vocabulary))


def _unglue(word: str, vocabulary: Vocabulary) -> tuple[str, ...]:
    plain = _head_and_tail(word, vocabulary) or _decompose(word, vocabulary)
    if plain:
        return plain
    for prefix in vocabulary.prefixes:
        rest = word.removeprefix(prefix)
        if rest != word and len(rest) >= _MIN_GLUED:
            inner = _head_and_tail(rest, vocabulary) or _decompose(rest, vocabulary)
            if inner:
                return (prefix, *inner)
    return ()


def _head_and_tail(word: str, vocabulary: Vocabulary) -> tuple[str, ...]:
    for head in vocabulary.heads:
        if word.startswith(head) and word[len(head) :] in vocabulary.tails:
            return (head, word[len(head) :])
    return ()


def _decompose(word: str, vocabulary: Vocabulary) -> tuple[str, ...]:
    """Return the known words that make up the whole word, the fewest; empty where it is no such sequence."""
    if len(word) > MAX_NAME // 4:
        return ()
    best: list[tuple[str, ...] | None] = [()] + [None] * len(word)
    for end in range(_MIN_GLUED, len(word) + 1):
        for start in range(end - _MIN_GLUED + 1):
            head = best[start]
            piece = word[start:end]
            if head is None or not (piece in vocabulary.parts or piece in vocabulary.glued):
                continue
            joined = (*head, *vocabulary.glued.get(piece, (piece,)))
            present = best[end]
            if present is None or len(joined) < len(present):
                best[end] = joined
    return best[-1] or ()


def _mend(word: str, vocabulary: Vocabulary) -> str | None:
    # what gets lost is an accented letter or a ligature, never an “l” or “r”: “Lung?R” is not mended
    pattern = re.compile("(?:oe|ae|ss|[aceinou])".join(re.escape(piece) for piece in _DAMAGED.split(word)))
    found = [known for known in vocabulary.words if len(known) > _MIN_GLUED and pattern.fullmatch(known)]
    longest = [known for known in found if len(known) == max(map(len, found))]
    return longest[0] if len(longest) == 1 else None
