"""What one ROI name means, after the rules of ``Resources/RoiNames``: the entry to one name at a time."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from LungSegmentationLib.dicom.roi_grammar import Reading, Tier, ignored, plain_name, read_name
from LungSegmentationLib.dicom.roi_rulebook import read_rule_book
from LungSegmentationLib.dicom.roi_tokens import MAX_NAME, fold, tokenize
from LungSegmentationLib.resources import resource_path

__all__ = ["Reading", "RoiRules", "load_roi_rules"]

_AROUND = " \t\r\n\0'\"“”‘’"
_TARGET_TYPES = frozenset({"GTV", "CTV", "PTV"})


def _cure(declared: str) -> str:
    ours = declared != "CTV"
    return f": if it is the {declared}, say so in a ROI map (--roi-map) or by a correction" if ours else ""


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
        self._book = read_rule_book(folder)
        self._vocabulary = self._book.vocabulary()

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
        declared = interpreted_type.strip().upper().replace(" ", "_")
        kind = self._book.types.get(declared, "")
        if kind and not reading.exclusion:
            return Reading(exclusion=kind, reason=f"ignored: its type is {declared} ({self._book.says[kind]})")
        if declared in _TARGET_TYPES:
            if reading.structure is None and not reading.exclusion:
                reason = f"{reading.reason}; its type {declared} alone is no proof{_cure(declared)}"
                return replace(reading, reason=reason)
            if reading.structure is not None and declared.casefold() != reading.structure:
                return replace(reading, conflict=True, reason=f"{reading.reason}, although its type is {declared}")
        return reading

    def _by_name(self, name: str) -> Reading:
        raw = fold(name[:MAX_NAME]).strip(_AROUND)
        tokens = tokenize(name, self._vocabulary)
        if not tokens:
            return Reading(reason="the name holds no word")
        structure, says = self._book.exact.get(raw.casefold(), ("", ""))
        if structure:
            reason = f"matched “{name.strip()}” → {plain_name(structure)} ({says})"
            return Reading(structure, reason=reason, tier=Tier.STANDARD)
        joined = " ".join(token.text for token in tokens)
        if joined in self._book.ambiguous:
            return Reading(reason=self._book.ambiguous[joined])
        for kind, pattern in self._book.patterns:
            if pattern.search(joined) or pattern.search(raw.casefold()):
                return ignored(self._book, kind)
        return read_name(self._book, tokens, raw)


@lru_cache(maxsize=4)
def load_roi_rules(folder: Path | None = None) -> RoiRules:
    """Return the rules of ``Resources/RoiNames``, or of another folder; read once."""
    return RoiRules(folder or resource_path("RoiNames"))
