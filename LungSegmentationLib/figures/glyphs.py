"""Names in any script in a picture: a font of the system that has the letters, or their numbers where none has."""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from typing import TYPE_CHECKING

from matplotlib import font_manager
from matplotlib.axis import Axis
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterable

    from matplotlib.figure import Figure

__all__ = ["FONT", "families_for", "make_legible", "shown"]

FONT = "DejaVu Sans"
"""Comes with matplotlib; has Latin, Greek, Cyrillic and more, but no Chinese, Japanese or Korean."""

_PREFERRED = (
    "Noto Sans CJK JP", "Noto Sans JP", "IPAexGothic", "IPAGothic", "Yu Gothic", "Meiryo", "MS Gothic",
    "Hiragino Sans", "Hiragino Kaku Gothic ProN", "Microsoft YaHei", "SimHei", "PingFang SC", "WenQuanYi Micro Hei",
    "Malgun Gothic", "Apple SD Gothic Neo", "NanumGothic", "Droid Sans Fallback", "Noto Sans", "Arial Unicode MS",
)  # fmt: skip
"""Looked at first; any other installed font after them, by its name."""

_NO_LETTERS = ("last resort", "emoji", "symbol")
"""Parts of the names of fonts that draw boxes or colored pictures in place of letters."""

_LAYOUT = {"\n"}

_NUMBER = "$\\mathdefault"
"""How matplotlib begins the powers of ten at an axis; no other text of ours is mathematics."""


@lru_cache
def _has(path: str, letters: frozenset[str]) -> frozenset[str]:
    """Return which letters a font has; none if it cannot be loaded."""
    try:
        font = FT2Font(path)
        return frozenset(letter for letter in letters if font.get_char_index(ord(letter)))
    except (OSError, RuntimeError, ValueError):
        return frozenset()  # a damaged or bitmap font of the system is no fault of ours


@lru_cache
def _places() -> tuple[tuple[str, str], ...]:
    """Return family and file of the installed fonts, those first that are to be tried first."""
    found: dict[str, str] = {}
    regular = sorted(
        font_manager.fontManager.ttflist, key=lambda one: (one.style != "normal", str(one.weight) != "400")
    )
    for entry in regular:
        if not any(part in entry.name.lower() for part in _NO_LETTERS):
            found.setdefault(entry.name, entry.fname)
    rank = {name: place for place, name in enumerate(_PREFERRED)}
    return tuple(sorted(found.items(), key=lambda one: (rank.get(one[0], len(rank)), one[0])))


@lru_cache
def _fallbacks(letters: frozenset[str]) -> tuple[tuple[str, ...], frozenset[str]]:
    """Return the families that hold letters together, and the letters that none holds."""
    missing = letters - _has(font_manager.findfont(FONT), letters)
    families = [FONT]
    for family, path in _places() if missing else ():
        here = _has(path, missing)
        if here:
            families.append(family)
            missing -= here
        if not missing:
            break
    return tuple(families), missing


def _letters(text: str) -> frozenset[str]:
    return frozenset(letter for letter in text if letter not in _LAYOUT and not letter.isascii())


def _is_drawn(letter: str) -> bool:
    """Whether a character can be drawn at all: half characters and control characters cannot."""
    return unicodedata.category(letter) not in {"Cs", "Cc"}


def families_for(texts: Iterable[str]) -> tuple[str, ...]:
    """Return font families that hold the letters of texts between them, :data:`FONT` first."""
    return _fallbacks(frozenset().union(*(_letters(shown(text)) for text in texts)))[0]


def shown(text: str) -> str:
    r"""Return a text as it can be drawn: a character that no installed font has as its number, ``\u65e5``.

    The number is that of Unicode, hexadecimal: two names never become the same, as they would as boxes.
    """
    drawn = frozenset(letter for letter in _letters(text) if _is_drawn(letter))
    missing = _fallbacks(drawn)[1] if drawn else frozenset[str]()
    return "".join(
        letter
        if letter in _LAYOUT or (letter not in missing and _is_drawn(letter))
        else f"\\u{ord(letter):04x}" if ord(letter) < 0x10000 else f"\\U{ord(letter):08x}"
        for letter in text
    )  # fmt: skip


def make_legible(figure: Figure) -> None:
    """Give every text of a figure the fonts that it needs, and write out what none has."""
    for axis in figure.findobj(Axis):
        texts = [label.get_text() for label in axis.get_ticklabels()]
        if any(shown(text) != text for text in texts):
            axis.set_ticks(axis.get_majorticklocs(), [shown(text) for text in texts])
    for artist in figure.findobj(Text):
        text = artist.get_text()
        if "$" in text and not text.startswith(_NUMBER):
            artist.set_parse_math(False)
        if text.isascii() and text.isprintable():
            continue
        artist.set_text(shown(text))
        artist.set_fontfamily(list(families_for([text])))
