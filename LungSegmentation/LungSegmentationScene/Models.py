"""What a model file says about itself, in plain values for the window; read beside the event loop, never with torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from LungSegmentationScene.Background import BackgroundCall
from LungSegmentationScene.JobStates import startFailure


@dataclass(frozen=True)
class ModelInfo:
    """A model file, as ``lungseg info`` shows it.

    Attributes
    ----------
    path
        The file.
    name
        Name of its run, or of the file.
    structures
        Names of what it finds, in the order of the labels.
    patients, slices
        How many it learned from.
    epochs
        The epoch whose network it is.
    scores
        Dice by structure name.
    overlap
        ``exclusive`` or ``keep``.
    network
        Name of the network and millions of parameters.
    preprocessing
        Slice size in pixels, window in HU.
    trainedBy
        Version of the software.
    warnings
        What to know before it is used.
    problem, hint
        Why it cannot be used and the cure; empty if it can.
    """

    path: Path
    name: str
    structures: tuple[str, ...] = ()
    patients: int = 0
    slices: int = 0
    epochs: int = 0
    scores: dict[str, float] | None = None
    overlap: str = "exclusive"
    network: str = ""
    preprocessing: str = ""
    trainedBy: str = ""
    warnings: tuple[str, ...] = ()
    problem: str = ""
    hint: str = ""


def modelName(path: Path) -> str:
    """Return how a model is called: by its run, where it lies in one."""
    if path.parent.parent.name == "runs":
        return path.parent.name
    return path.name.removesuffix(".safetensors")


def readModel(path: Path) -> ModelInfo:
    """Read the header of a model file; milliseconds, for use beside the event loop."""
    from LungSegmentationLib.errors import LungSegError
    from LungSegmentationLib.networks.description import describe_model

    try:
        described = describe_model(path)
    except LungSegError as error:
        return ModelInfo(path, modelName(path), problem=error.message, hint=error.hint)
    card = described.card
    named = {key: card.label_set[key].name for key in card.structures}
    low, high = card.preprocessing.window
    rows, columns = card.preprocessing.size
    return ModelInfo(
        path,
        modelName(path),
        tuple(named.values()),
        card.training.patients.get("train", 0),
        card.training.slices.get("train", 0),
        card.training.best_epoch,
        {named[key]: score.dice for key, score in card.scores.items()},
        card.overlap,
        f"{card.network.name}, {described.parameters / 1e6:.1f} M",
        f"{rows} × {columns}, {low:g} … {high:g} HU",
        card.software["lungsegmentation"],
        described.warnings,
    )


class ModelReader:
    """Reads model files beside the event loop and remembers them while they do not change.

    Parameters
    ----------
    onRead
        Called with a :class:`ModelInfo` in the window's thread.
    """

    def __init__(self, onRead: Callable[[ModelInfo], None]) -> None:
        self._onRead = onRead
        self._known: dict[tuple[Path, int], ModelInfo] = {}
        self._calls: set[Path] = set()
        self._closed = False

    def close(self) -> None:
        """Tell nothing more."""
        self._closed = True

    @property
    def isReading(self) -> bool:
        """Whether an answer is still to come."""
        return bool(self._calls)

    def known(self, path: Path) -> ModelInfo | None:
        """Return what is known of a file as it is now; None if it must be read."""
        return self._known.get((path, _changed(path)))

    def read(self, path: Path) -> None:
        """Read a file, unless that is going on."""
        if path in self._calls:
            return
        self._calls.add(path)
        stamp = _changed(path)

        def done(value: object, error: Exception | None) -> None:
            self._calls.discard(path)
            info = value if error is None else _unreadable(path, error)
            self._known[path, stamp] = info
            if not self._closed:
                self._onRead(info)

        BackgroundCall(lambda: readModel(path), done)


def _unreadable(path: Path, error: Exception) -> ModelInfo:
    failure = startFailure(error)
    return ModelInfo(path, modelName(path), problem=failure.sentence, hint=failure.hint)


def _changed(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
