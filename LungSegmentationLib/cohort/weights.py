"""How much each label counts in the loss, from the counts of the cache: no voxel is read again."""

from __future__ import annotations

import hashlib
import math
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from LungSegmentationLib import __version__
from LungSegmentationLib.cohort.records import Record, read_record, write_record
from LungSegmentationLib.errors import BadInputError
from LungSegmentationLib.structures import label_table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from LungSegmentationLib.cohort.cache import CacheRecord
    from LungSegmentationLib.cohort.paths import CohortPaths
    from LungSegmentationLib.labels import LabelSet

__all__ = [
    "BACKGROUND",
    "ClassWeights",
    "class_weights",
    "current_class_weights",
    "frequencies",
    "read_class_weights",
    "write_class_weights",
]

BACKGROUND = "background"


class ClassWeights(Record):
    """``class_weights.json``.

    Attributes
    ----------
    method
        ``sqrt_inverse``: ``w = sqrt(total / count)``.
    normalization
        ``mean 1``: divided by the mean over the labels that have a pixel.
    cases, total
        How many cases and cached pixels were counted.
    counts
        Pixels of each label of the label map, ``background`` first, then in the order of the labels.
    weights
        One a label. A label without a pixel has 1, that of an average label: it can neither blow up the loss nor
        make it undefined.
    digest
        Of the names and fingerprints of the cases that were counted, in any order: whether others learn by now.
    """

    cure: ClassVar[str] = "Run: lungseg prepare COHORT"

    schema_version: Literal[1] = 1
    software_version: str = __version__
    method: Literal["sqrt_inverse"] = "sqrt_inverse"
    normalization: Literal["mean 1"] = "mean 1"
    cases: int
    total: int
    counts: dict[str, int]
    weights: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]]
    digest: str = ""


def class_weights(
    records: Iterable[CacheRecord], label_set: LabelSet, structures: Iterable[str] | None = None
) -> ClassWeights:
    """Work out the weights from the counts of some cases: those of the part that is learned from.

    Parameters
    ----------
    records
        Of the cases.
    label_set
        Gives labels and paint order.
    structures
        Keys that are learned; what is left out counts for what lies under it, and has no weight. Default: all.
    """
    table = label_table(label_set, structures)
    chosen = set(label_set.keys) if structures is None else {label_set[key].key for key in structures}
    counts = np.zeros(len(label_set) + 1, np.int64)
    counted = []
    for record in records:
        counted.append((record.case, record.fingerprint))
        values = np.fromiter(record.bit_counts.keys(), np.intp, len(record.bit_counts))
        np.add.at(counts, table[values], np.fromiter(record.bit_counts.values(), np.int64, len(record.bit_counts)))
    total = int(counts.sum())
    raw = [math.sqrt(total / count) if count else None for count in counts.tolist()]
    present = [weight for weight in raw if weight is not None]
    mean = sum(present) / len(present) if present else 1.0
    keys = (BACKGROUND, *label_set.keys)
    learned = [key == BACKGROUND or key in chosen for key in keys]
    return ClassWeights(
        cases=len(counted),
        total=total,
        counts={key: int(count) for key, count, wanted in zip(keys, counts, learned, strict=True) if wanted},
        weights={
            key: 1.0 if weight is None else weight / mean
            for key, weight, wanted in zip(keys, raw, learned, strict=True)
            if wanted
        },
        digest=hashlib.sha256(repr(sorted(counted)).encode("utf-8", "surrogatepass")).hexdigest(),
    )


def frequencies(
    records: Iterable[CacheRecord], structures: Sequence[str], *, everywhere: bool = False
) -> tuple[float, ...]:
    """Return which share of the pixels each structure has, as drawn, in the cases in which it was annotated.

    Parameters
    ----------
    records
        Of the cases.
    structures
        Keys.
    everywhere
        Count it as absent, not as unknown, in the other cases.

    Returns
    -------
    tuple of float
        In [0, 1], one a key; 0 for what nobody annotated.
    """
    records = tuple(records)
    shares = []
    for key in structures:
        found = pixels = 0
        for record in records:
            if everywhere or key in record.annotated:
                column = record.structures.index(key)
                found += sum(row[column] for row in record.structure_counts)
                pixels += len(record.structure_counts) * record.slice_size**2
        shares.append(found / pixels if pixels else 0.0)
    return tuple(shares)


def current_class_weights(
    paths: CohortPaths,
    records: Iterable[CacheRecord],
    label_set: LabelSet,
    structures: Iterable[str] | None = None,
    warn: Callable[[str], object] | None = None,
) -> ClassWeights:
    """Return the weights that hold for the cases that are learned from.

    Those of ``class_weights.json``, edited by hand or not, as long as these cases are the ones that it counted and no
    structure is left out that has a pixel; otherwise they are worked out from the counts of the cache, and the file
    stays as it is.

    Parameters
    ----------
    paths, records, label_set, structures
        See :func:`class_weights`.
    warn
        Is told when a file, or what was edited in it, does not count.

    Raises
    ------
    BadInputError
        If the file is needed, and missing, damaged or without the weight of a structure.
    """
    records = tuple(records)
    usual = class_weights(records, label_set)
    keys = set(label_set.keys if structures is None else (label_set[key].key for key in structures))
    if not any(usual.counts[key] for key in label_set.keys if key not in keys):
        stored = read_class_weights(paths)
        if stored.digest == usual.digest:
            return _of_structures(stored, keys, paths)
        if warn is not None:
            warn(
                f"{paths.class_weights} was worked out from other cases than the split names by now: the weights are "
                "worked out anew for this training. lungseg prepare COHORT writes them down."
            )
        return _of_structures(usual, keys, paths)
    with suppress(BadInputError):
        stored = read_class_weights(paths)
        if warn is not None and stored.digest == usual.digest and stored.weights != usual.weights:
            warn(
                f"{paths.class_weights} was edited, but holds for all structures together: for those that are learned "
                "here the weights are worked out from the counts."
            )
    return class_weights(records, label_set, keys)


def _of_structures(weights: ClassWeights, keys: set[str], paths: CohortPaths) -> ClassWeights:
    missing = sorted({BACKGROUND, *keys} - weights.weights.keys())
    if missing:
        raise BadInputError(f"{paths.class_weights} has no weight of {missing[0]}.", ClassWeights.cure)
    return weights.model_copy(
        update={
            name: {key: value for key, value in getattr(weights, name).items() if key in {BACKGROUND, *keys}}
            for name in ("counts", "weights")
        }
    )


def write_class_weights(paths: CohortPaths, weights: ClassWeights) -> None:
    """Write ``class_weights.json``."""
    write_record(weights, paths.class_weights)


def read_class_weights(paths: CohortPaths) -> ClassWeights:
    """Read ``class_weights.json``.

    Raises
    ------
    BadInputError
        If it is missing or damaged.
    """
    return read_record(ClassWeights, paths.class_weights)
