"""Which Dice is expected of a structure: read from ``Resources/ExpectedScores``, one file a label set."""

from __future__ import annotations

from dataclasses import dataclass

from LungSegmentationLib.errors import BadInputError, InstallationError
from LungSegmentationLib.labels import LabelSet
from LungSegmentationLib.resources import resource_path
from LungSegmentationLib.storage import read_json

__all__ = ["ExpectedScores", "expected_scores"]

SCHEMA = 1


@dataclass(frozen=True)
class ExpectedScores:
    """Ranges of the mean Dice.

    Attributes
    ----------
    source
        Where the ranges come from, in a sentence.
    dice
        Lowest and highest expected mean Dice, for the structures of which something is expected.
    """

    source: str
    dice: dict[str, tuple[float, float]]

    def verdict(self, key: str, dice: float | None) -> str:
        """Return where a mean Dice lies: ``below``, ``within`` or ``above``; empty where nothing is expected."""
        if key not in self.dice or dice is None:
            return ""
        low, high = self.dice[key]
        # As shown to people: 0.8996 is 0.900 and within a range that begins there.
        shown = round(dice, 3)
        return "below" if shown < low else "above" if shown > high else "within"


def expected_scores(label_set: LabelSet) -> ExpectedScores:
    """Return what is expected of a label set's structures; empty for a set of which nothing is said.

    Raises
    ------
    BadInputError
        If the file contradicts itself or the label set.
    """
    try:
        path = resource_path("ExpectedScores", f"{label_set.name}.json")
    except InstallationError:
        return ExpectedScores("", {})
    content = read_json(path, "table of expected scores")
    try:
        if content["schema"] != SCHEMA:
            raise ValueError(f"schema {content['schema']} is not {SCHEMA}")
        ranges = {label_set[key].key: (float(low), float(high)) for key, (low, high) in content["dice"].items()}
        if any(not 0.0 <= low <= high <= 1.0 for low, high in ranges.values()):
            raise ValueError("a range is not within 0 to 1")
        return ExpectedScores(str(content["source"]), ranges)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadInputError(f"{path} holds no expected scores: {error}.", "Install LungSegmentation again.") from error
