"""Which ROI of an RTSTRUCT is taken for which structure, and why: rules, a user's map and corrections together.

Targets are united where several are drawn, organs get one ROI; of several observers' drawings one is taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal

from LungSegmentationLib.dicom.roi_grammar import TIER_WORDS, Drawing, Reading, Tier
from LungSegmentationLib.dicom.roi_map import RoiMap, resolve_structure
from LungSegmentationLib.dicom.roi_rules import RoiRules, load_roi_rules
from LungSegmentationLib.errors import BadInputError
from LungSegmentationLib.labels import LabelSet

__all__ = ["RoiAssignment", "RoiDecision", "RoiInfo", "RoiKind", "RoiMap", "RoiRules", "assign", "load_roi_rules"]

Origin = Literal["rules", "map", "correction"]

_ORIGIN_ORDER: tuple[Origin, ...] = ("correction", "map", "rules")
_TARGET_TYPES = frozenset({"GTV", "CTV", "PTV"})
_POOR_TIERS = frozenset({Tier.OTHER_IMAGE, Tier.COPY, Tier.OLD})


class RoiKind(StrEnum):
    """What became of an ROI."""

    USED = "used"
    """Its structure is this ROI."""
    UNITED = "united"
    """Its structure is the union of this ROI and others."""
    ALTERNATIVE = "alternative"
    """It names a structure that another ROI gives: a copy, an older version, another observer's drawing."""
    IGNORED = "ignored"
    """Understood, and none of our structures."""
    UNKNOWN = "unknown"
    """Not understood, or ambiguous: a person decides."""
    EMPTY = "empty"
    """Without a contour, and not ignored anyway."""


@dataclass(frozen=True)
class RoiInfo:
    """One ROI as listed in an RTSTRUCT.

    Attributes
    ----------
    number
        ROI Number (3006,0022).
    name
        ROI Name (3006,0026).
    interpreted_type
        RT ROI Interpreted Type (3006,00A4), empty if none.
    contour_count
        Number of contours that can be filled; 0 makes the ROI empty.
    volume_cc
        Volume in cm³, if known.
    """

    number: int
    name: str
    interpreted_type: str = ""
    contour_count: int = 0
    volume_cc: float | None = None


@dataclass(frozen=True)
class RoiDecision:
    """What became of one ROI.

    Attributes
    ----------
    number, name
        As in the RTSTRUCT.
    structure
        Structure key; set only where the kind is USED or UNITED.
    kind
        See :class:`RoiKind`.
    reason
        For people: ``matched “poumon g” → left lung (French)``.
    by
        Who decided: the rules, the user's map, or a correction of this case.
    """

    number: int
    name: str
    structure: str | None
    kind: RoiKind
    reason: str
    by: Origin


@dataclass(frozen=True)
class RoiAssignment:
    """What became of all ROIs of an RTSTRUCT, in its order, and what a person should look at."""

    decisions: tuple[RoiDecision, ...]
    warnings: tuple[str, ...]

    def structures(self) -> dict[str, tuple[int, ...]]:
        """Return structure key → numbers of the ROIs whose union it is."""
        numbers: dict[str, tuple[int, ...]] = {}
        for decision in self.decisions:
            if decision.structure is not None:
                numbers[decision.structure] = (*numbers.get(decision.structure, ()), decision.number)
        return numbers


@dataclass(frozen=True)
class _Candidate:
    index: int
    roi: RoiInfo
    structure: str
    by: Origin
    reading: Reading
    entry: int = 0

    @property
    def rank(self) -> tuple[object, ...]:
        """Lower is better; ends with what is unique, so that a choice never depends on chance."""
        reading = self.reading
        drawing = reading.drawing or Drawing(automatic=False, number=-1, observer="")
        return (
            self.entry, reading.substitute, reading.tier, reading.conflict, drawing, reading.number,
            -self.roi.contour_count, self.index,
        )  # fmt: skip


def assign(
    rois: Sequence[RoiInfo],
    label_set: LabelSet,
    rules: RoiRules | None = None,
    roi_map: RoiMap | None = None,
    corrections: Mapping[str | int, str | None] | None = None,
) -> RoiAssignment:
    """Decide for each ROI which structure it is taken for.

    Corrections win over the map, the map over the rules. Corrected ROIs of one structure are united. Targets (GTV,
    PTV) of the map or the rules are united; of several observers' drawings of one target, one is taken: manual
    before automatic, then the lowest observer number, then the alphabet; a drawing without an observer's mark wins
    over all. Old versions, copies and drawings on other images are only used where nothing better is there. An
    organ gets one ROI: TG-263 name, plain name, name with an addition, automatic, copy, old version, in this order,
    and a substitute (spinal canal) last; then the one with more contours.

    Parameters
    ----------
    rois
        In the order of the file.
    label_set
        Structures to find. Names of structures that the rules do not know must equal key, TG-263 or display name.
    rules
        Default: those of ``Resources/RoiNames``.
    roi_map
        The user's own map.
    corrections
        ROI number, or name, → structure (key, TG-263 or display name), or ``None`` to leave the ROI out.

    Raises
    ------
    BadInputError
        If the map or a correction names a structure that the label set lacks.
    """
    rules = rules or load_roi_rules()
    warnings: list[str] = []
    corrected = _corrections(rois, label_set, corrections or {}, warnings)
    extra = _extra_names(label_set, rules)
    decisions: dict[int, RoiDecision] = {}
    candidates: list[_Candidate] = []
    empty: list[_Candidate] = []
    for index, roi in enumerate(rois):
        outcome = corrected.get(index) or _from_map(index, roi, label_set, rules, roi_map)
        outcome = outcome or _from_rules(index, roi, label_set, rules, extra, warnings)
        if isinstance(outcome, RoiDecision):
            decisions[index] = outcome
        elif roi.contour_count > 0:
            candidates.append(outcome)
        else:
            empty.append(outcome)
            reason = f"{outcome.reading.reason}, but it has no contour"
            decisions[index] = _decision(roi, RoiKind.EMPTY, reason, outcome.by)
    for structure in label_set.structures:
        competing = [candidate for candidate in candidates if candidate.structure == structure.key]
        if competing:
            is_target = structure.interpreted_type in _TARGET_TYPES
            decisions.update(_choose(competing, structure.name, is_target, warnings))
    ordered = tuple(decisions[index] for index in range(len(rois)))
    _warn_about_rest(ordered, empty, label_set, warnings)
    return RoiAssignment(ordered, tuple(dict.fromkeys(warnings)))


def _decision(roi: RoiInfo, kind: RoiKind, reason: str, by: Origin, structure: str | None = None) -> RoiDecision:
    return RoiDecision(roi.number, roi.name, structure, kind, reason, by)


def _corrections(
    rois: Sequence[RoiInfo], label_set: LabelSet, corrections: Mapping[str | int, str | None], warnings: list[str]
) -> dict[int, RoiDecision | _Candidate]:
    """Return what corrections say, by index of the ROI; a number wins over a name."""
    result: dict[int, RoiDecision | _Candidate] = {}
    for key, wanted in sorted(corrections.items(), key=lambda item: isinstance(item[0], int)):
        try:
            structure = None if wanted is None else resolve_structure(wanted, label_set)
        except BadInputError as error:
            raise BadInputError(f"The correction of “{key}”: {error.message}", error.hint) from None
        indices = [index for index, roi in enumerate(rois) if key in {roi.number, roi.name}]
        if not indices and isinstance(key, str):
            indices = [i for i, roi in enumerate(rois) if roi.name.strip().casefold() == key.strip().casefold()]
        if not indices:
            warnings.append(f"The correction of “{key}” fits no ROI here.")
        for index in indices:
            if structure is None:
                result[index] = _decision(
                    rois[index], RoiKind.IGNORED, "ignored: left out by a correction", "correction"
                )
            else:
                name = label_set[structure].name
                reading = Reading(structure, reason=f"corrected by hand → {name}")
                result[index] = _Candidate(index, rois[index], structure, "correction", reading)
    return result


def _from_map(
    index: int, roi: RoiInfo, label_set: LabelSet, rules: RoiRules, roi_map: RoiMap | None
) -> RoiDecision | _Candidate | None:
    entry = roi_map.find(roi.name) if roi_map else None
    if roi_map is None or entry is None:
        return None
    structure = roi_map.structure(entry, label_set)
    if structure is None:
        return _decision(roi, RoiKind.IGNORED, f"ignored: the ROI map says so (“{entry.name}”)", "map")
    # what the rules know of copies and old versions still ranks the ROIs that one pattern finds
    reading = rules.classify(roi.name)
    reading = reading if reading.structure == structure else Reading(structure, tier=Tier.QUALIFIED)
    reading = replace(reading, reason=f"the ROI map's “{entry.name}” → {label_set[structure].name}")
    return _Candidate(index, roi, structure, "map", reading, entry=roi_map.entries.index(entry))


def _extra_names(label_set: LabelSet, rules: RoiRules) -> dict[str, str]:
    known = rules.structures
    return {
        rules.normalized(name): structure.key
        for structure in label_set.structures
        if structure.key not in known
        for name in (structure.key, structure.tg263, structure.name)
    }


def _from_rules(
    index: int, roi: RoiInfo, label_set: LabelSet, rules: RoiRules, extra: Mapping[str, str], warnings: list[str]
) -> RoiDecision | _Candidate:
    direct = extra.get(rules.normalized(roi.name)) if extra else None
    if direct:
        reading = Reading(direct, reason=f"matched “{roi.name}” → {label_set[direct].name} (label set)")
        return _Candidate(index, roi, direct, "rules", reading)
    reading = rules.classify(roi.name, roi.interpreted_type)
    if reading.structure is None:
        if reading.exclusion:
            by_name = rules.classify(roi.name)
            if by_name.structure in label_set:
                warnings.append(f"“{roi.name}” names a structure, but is {reading.reason}.")
            return _decision(roi, RoiKind.IGNORED, reading.reason, "rules")
        kind = RoiKind.UNKNOWN if roi.contour_count > 0 else RoiKind.EMPTY
        return _decision(roi, kind, reading.reason, "rules")
    if reading.structure not in label_set:
        reason = f"ignored: {reading.structure} is not in the label set {label_set.name}"
        return _decision(roi, RoiKind.IGNORED, reason, "rules")
    if reading.conflict:
        warnings.append(f"“{roi.name}” has the type {roi.interpreted_type}: its name was believed, please look.")
    return _Candidate(index, roi, reading.structure, "rules", reading)


def _choose(competing: list[_Candidate], name: str, is_target: bool, warnings: list[str]) -> dict[int, RoiDecision]:
    """Choose among the ROIs of one structure."""
    best_origin = min((candidate.by for candidate in competing), key=_ORIGIN_ORDER.index)
    heard = [candidate for candidate in competing if candidate.by == best_origin]
    overruled = [candidate for candidate in competing if candidate.by != best_origin]
    decisions = {c.index: _lost(c, f"the {best_origin} names another ROI") for c in overruled}
    lost: dict[int, RoiDecision] = {}
    if best_origin == "correction":
        chosen = heard
    elif is_target:
        chosen, lost = _choose_targets(heard, name, warnings)
    else:
        chosen, lost = _choose_organ(heard, name, warnings)
    decisions.update(lost)
    names = _list(candidate.roi.name for candidate in chosen)
    for candidate in chosen:
        if len(chosen) == 1:
            decisions[candidate.index] = _decision(
                candidate.roi, RoiKind.USED, candidate.reading.reason, candidate.by, candidate.structure
            )
        else:
            others = _list(other.roi.name for other in chosen if other is not candidate)
            reason = f"{candidate.reading.reason}, united with {others}"
            decisions[candidate.index] = _decision(
                candidate.roi, RoiKind.UNITED, reason, candidate.by, candidate.structure
            )
    doubtful = [candidate for candidate in chosen if candidate.reading.tier in _POOR_TIERS]
    if doubtful:
        words = ", ".join(dict.fromkeys(TIER_WORDS[candidate.reading.tier] for candidate in doubtful))
        listed = _list(candidate.roi.name for candidate in doubtful)
        warnings.append(f"The {name} has nothing better than {listed} ({words}).")
    if len(chosen) > 1:
        warnings.append(f"The {name} is the union of {len(chosen)} ROIs: {names}.")
    return decisions


def _lost(candidate: _Candidate, why: str) -> RoiDecision:
    return _decision(candidate.roi, RoiKind.ALTERNATIVE, f"{candidate.reading.reason}; not used: {why}", candidate.by)


def _choose_organ(
    heard: list[_Candidate], name: str, warnings: list[str]
) -> tuple[list[_Candidate], dict[int, RoiDecision]]:
    ranked = sorted(heard, key=lambda candidate: candidate.rank)
    best = ranked[0]
    lost = {}
    for candidate in ranked[1:]:
        why = _why(best, candidate)
        lost[candidate.index] = _lost(candidate, f"“{best.roi.name}” ranks higher ({why})")
    if best.reading.substitute:
        warnings.append(f"The {name} is “{best.roi.name}”, a substitute that is larger than the true structure.")
    if lost:
        others = _list(candidate.roi.name for candidate in ranked[1:])
        warnings.append(f"{len(ranked)} ROIs name the {name}: “{best.roi.name}” is used, not {others}.")
    return [best], lost


def _why(best: _Candidate, other: _Candidate) -> str:
    if best.entry != other.entry:
        return "it stands earlier in the map"
    if best.reading.substitute != other.reading.substitute:
        return "the other is a substitute"
    if best.reading.tier != other.reading.tier:
        return f"{TIER_WORDS[best.reading.tier]} before {TIER_WORDS[other.reading.tier]}"
    if best.reading.conflict != other.reading.conflict:
        return "the other's type contradicts its name"
    if best.reading.drawing != other.reading.drawing:
        return "another observer's drawing"
    if best.reading.number != other.reading.number:
        return "an earlier copy or a later version"
    if best.roi.contour_count != other.roi.contour_count:
        return f"{best.roi.contour_count} contours against {other.roi.contour_count}"
    return "it comes first in the file"


def _choose_targets(
    heard: list[_Candidate], name: str, warnings: list[str]
) -> tuple[list[_Candidate], dict[int, RoiDecision]]:
    lost: dict[int, RoiDecision] = {}
    tier = min(_target_tier(candidate) for candidate in heard)
    best = [candidate for candidate in heard if _target_tier(candidate) == tier]
    names = _list(candidate.roi.name for candidate in best)
    for candidate in heard:
        if _target_tier(candidate) > tier:
            why = "another observer's drawing" if candidate.reading.drawing else TIER_WORDS[candidate.reading.tier]
            lost[candidate.index] = _lost(candidate, f"{why}, and there is {names}")
    if lost:
        others = _list(decision.name for decision in lost.values())
        warnings.append(f"The {name} is {names}; not used: {others}.")
    groups: dict[str, list[_Candidate]] = {}
    for candidate in best:
        key = candidate.reading.group if candidate.reading.drawing else f"#{candidate.index}"
        groups.setdefault(key, []).append(candidate)
    chosen = []
    for group in groups.values():
        first, *rest = sorted(group, key=lambda candidate: candidate.rank)
        chosen.append(first)
        for other in rest:
            lost[other.index] = _lost(other, f"another drawing of the same target, “{first.roi.name}” is taken")
        if rest:
            warnings.append(
                f"{len(group)} drawings of one {name} ({_list(member.roi.name for member in group)}): "
                f"“{first.roi.name}” is taken (manual before automatic, then the first observer), not their union."
            )
    return sorted(chosen, key=lambda candidate: candidate.index), lost


def _target_tier(candidate: _Candidate) -> tuple[int, bool]:
    tier = candidate.reading.tier
    # only these say that a target is drawn better elsewhere; other additions tell targets apart
    graded = tier if tier in _POOR_TIERS else Tier.EXACT
    return graded, candidate.reading.drawing is not None


def _warn_about_rest(
    decisions: Iterable[RoiDecision], empty: Iterable[_Candidate], label_set: LabelSet, warnings: list[str]
) -> None:
    unknown = [decision for decision in decisions if decision.kind is RoiKind.UNKNOWN]
    if unknown:
        warnings.append(f"Not understood, not used: {_list(decision.name for decision in unknown)}.")
    given = {decision.structure for decision in decisions}
    for candidate in empty:
        if candidate.structure not in given:
            name = label_set[candidate.structure].name
            warnings.append(f"“{candidate.roi.name}” has no contour, and no other ROI is the {name}.")


def _list(names: Iterable[str]) -> str:
    quoted = [f"“{name}”" for name in names]
    shown = quoted[:12]
    rest = len(quoted) - len(shown)
    return ", ".join(shown) + (f" and {rest} more" if rest else "")
