"""The picture of a training: loss, Dice of each structure and learning rate over the epochs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from LungSegmentationLib.figures.style import save

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes

    from LungSegmentationLib.labels import LabelSet, Structure
    from LungSegmentationLib.training.history import History

__all__ = ["draw_history"]

TRAIN_COLOR = "#7a869a"
VALIDATION_COLOR = "#1f4e8c"
TEXT_COLOR = "#333333"
# Colors of the label set are made for a black CT; on white paper the light ones would not be seen.
LIGHTEST = 0.55


def draw_history(history: History, label_set: LabelSet, path: Path) -> Path:
    """Draw a run's history as PNG, whole or not at all; a tenth of a second or two.

    Parameters
    ----------
    history
        At least no epoch: an empty one gives an empty picture that says so.
    label_set
        Names and colors of the structures.
    path
        Where to.
    """
    # The place of everything is fixed: a layout that is computed takes longer than all of the drawing.
    figure = Figure(figsize=(13, 5.2))
    loss, dice = figure.subplots(1, 2, gridspec_kw={"width_ratios": [1, 1.15]})
    rate = loss.inset_axes((0, -0.42, 1, 0.24))
    figure.subplots_adjust(left=0.062, right=0.84, top=0.86, bottom=0.34, wspace=0.16)
    dice.set_position((0.475, 0.115, 0.37, 0.745))
    with mpl.rc_context({"font.size": 10, "font.family": "DejaVu Sans"}):
        for axes in (loss, dice, rate):
            _plain(axes, max(len(history), 1))
        _losses(loss, history)
        _rates(rate, history)
        _dice(dice, history, label_set)
        figure.text(0.062, 0.94, _title(history), fontsize=13, color=TEXT_COLOR, va="center")
    return save(figure, path)


def _title(history: History) -> str:
    if not len(history):
        return "No epoch is finished yet"
    last = history[-1]
    parts = [f"Epoch {last.epoch}"]
    best = next((record for record in history if record.epoch == history.best_epoch), None)
    if best is not None:
        loss = "" if best.val_loss is None else f", validation loss {best.val_loss:.4g}"
        dice = "" if best.mean_dice is None else f", mean Dice {best.mean_dice:.3f}"
        parts.append(f"best model: epoch {best.epoch}{loss}{dice}")
    if last.seconds is not None:
        parts.append(f"{_duration(history.seconds)} in all, {_duration(last.seconds)} the last epoch")
    return "   ·   ".join(parts)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


def _plain(axes: Axes, epochs: int) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.grid(visible=True, color="#e4e7ec", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=TEXT_COLOR)
    axes.xaxis.set_major_locator(
        MaxNLocator(integer=True, nbins=min(10, epochs + 1), min_n_ticks=1, steps=[1, 2, 5, 10])
    )


def _line(axes: Axes, history: History, values: list[float | None], **style: Any) -> None:
    """Draw a curve; epochs without a value are passed over, a single one is seen as a dot."""
    points = [(record.epoch, value) for record, value in zip(history, values, strict=True) if value is not None]
    if points:
        x, y = zip(*points, strict=True)
        axes.plot(x, y, marker="o" if len(points) < 2 else None, markersize=4, **style)


def _limits(axes: Axes, history: History) -> None:
    first, last = (history[0].epoch, history[-1].epoch) if len(history) else (0, 1)
    margin = max(0.5, 0.02 * (last - first))
    axes.set_xlim(first - margin, last + margin)


def _losses(axes: Axes, history: History) -> None:
    train = [record.train_loss for record in history]
    validation = [record.val_loss for record in history]
    _line(axes, history, train, color=TRAIN_COLOR, linewidth=1.6, label="training")
    _line(axes, history, validation, color=VALIDATION_COLOR, linewidth=2, label="validation")
    for record in history:
        if record.epoch == history.best_epoch and record.val_loss is not None:
            axes.plot(
                record.epoch, record.val_loss, "o", markersize=8, mfc="white", mec=VALIDATION_COLOR, mew=2, label="best"
            )
    axes.set_title("Loss", loc="left", color=TEXT_COLOR, fontsize=11)
    if axes.has_data():
        axes.legend(frameon=False, loc="lower right", bbox_to_anchor=(1.01, 0.985), ncols=3, fontsize=9)
        seen = [value for value in (*train, *validation) if value is not None]
        # One wild epoch must not press all others flat.
        if min(seen) > 0 and max(seen) > 20 * min(seen):
            axes.set_yscale("log")
    axes.tick_params(labelbottom=False)
    _limits(axes, history)


def _rates(axes: Axes, history: History) -> None:
    rates = [record.lr for record in history]
    _line(axes, history, rates, color=TEXT_COLOR, linewidth=1.4)
    if any(rates) and all(rate is None or rate > 0 for rate in rates):
        axes.set_yscale("log")
        lowest, highest = min(filter(None, rates)), max(filter(None, rates))
        axes.set_ylim(lowest / 2, highest * 2)
        axes.yaxis.set_major_locator(FixedLocator([lowest, highest] if highest > 1.6 * lowest else [highest]))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{rate:.3g}"))
        axes.yaxis.set_minor_locator(NullLocator())
    axes.set_title("Learning rate", loc="left", color=TEXT_COLOR, fontsize=10)
    axes.set_xlabel("epoch", color=TEXT_COLOR)
    _limits(axes, history)


def _dice(axes: Axes, history: History, label_set: LabelSet) -> None:
    known = {structure.key: structure for structure in label_set.structures}
    ends: list[tuple[float, str, str]] = []
    for key in history.structures:
        structure = known.get(key)
        values = [record.dice.get(key) for record in history]
        color = _readable(structure)
        _line(axes, history, values, color=color, linewidth=1.8)
        last = next((value for value in reversed(values) if value is not None), None)
        if last is not None:
            ends.append((last, structure.name if structure else key, color))
    means = [record.mean_dice for record in history]
    _line(axes, history, means, color="black", linewidth=2.2, linestyle=(0, (4, 2)))
    mean = next((value for value in reversed(means) if value is not None), None)
    if mean is not None:
        ends.append((mean, "mean", "black"))
    best = history.best_epoch
    if best is not None:
        axes.axvline(best, color=VALIDATION_COLOR, linewidth=1, alpha=0.5, linestyle=":")
    axes.set_ylim(0, 1.0)
    axes.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    axes.set_title("Dice on validation patients", loc="left", color=TEXT_COLOR, fontsize=11)
    axes.set_xlabel("epoch", color=TEXT_COLOR)
    _limits(axes, history)
    if not ends and len(history):
        axes.text(0.5, 0.5, "no validation patients", transform=axes.transAxes, ha="center", color=TEXT_COLOR)
    if len(ends) <= 16:
        _label_ends(axes, ends)


def _label_ends(axes: Axes, ends: list[tuple[float, str, str]]) -> None:
    """Write the name and the last value of each curve at its end, moved apart where curves end together."""
    ends = sorted(ends)
    gap = 0.058
    places = [value for value, _, _ in ends]
    for index in range(1, len(places)):
        places[index] = max(places[index], places[index - 1] + gap)
    excess = max(0.0, places[-1] - 1.02) if places else 0.0
    for index in reversed(range(len(places))):
        ceiling = 1.02 if index == len(places) - 1 else places[index + 1] - gap
        places[index] = min(places[index], ceiling) if excess else places[index]
    for place, (value, name, color) in zip(places, ends, strict=True):
        bold = "bold" if name == "mean" else "normal"
        axes.annotate(
            f"{value:.2f}  {name}",
            xy=(1.0, value),
            xytext=(1.045, place),
            xycoords="axes fraction",
            textcoords="axes fraction",
            va="center",
            fontsize=9.5,
            color=color,
            fontweight=bold,
            arrowprops={
                "arrowstyle": "-",
                "color": color,
                "linewidth": 0.7,
                "relpos": (0, 0.5),
                "shrinkA": 0,
                "shrinkB": 0,
            },
        )


def _readable(structure: Structure | None) -> str:
    """Return a structure's color, darkened where it is too light for a line on white."""
    if structure is None:
        return TRAIN_COLOR
    red, green, blue = (value / 255 for value in structure.color)
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    share = min(1.0, LIGHTEST / luminance) if luminance else 1.0
    return "#{:02x}{:02x}{:02x}".format(*(round(255 * share * value) for value in (red, green, blue)))
