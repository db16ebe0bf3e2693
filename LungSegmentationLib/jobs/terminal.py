"""Progress for people: bars with the time left on standard error, warnings above them, a table of Dice per epoch.

Where standard error is no terminal, plain lines take the place of the bars.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TextIO

from LungSegmentationLib.jobs.messages import (
    END_EVENTS,
    Cancelled,
    Epoch,
    Event,
    Failed,
    Finished,
    Log,
    Progress,
    Result,
    Started,
    Warning_,
)
from LungSegmentationLib.jobs.reporter import Clock, EmittingReporter

if TYPE_CHECKING:
    from rich.progress import TaskID

PLAIN_LINE_EVERY_S = 10.0
"""How often a stage says how far it is where there is no terminal."""

_LEVELS = ("debug", "info", "warning", "error")


class RichReporter(EmittingReporter):
    """Shows events to a person.

    Parameters
    ----------
    stream
        Where to write; None means standard error.
    verbose
        Whether ``log`` events of all levels are shown; else only warnings and errors.
    cancelled
        Asked by :meth:`check_cancelled`; for example ``StopRequest.requested``.
    clock
        Seconds for rates.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        *,
        verbose: bool = False,
        cancelled: Callable[[], bool] | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        super().__init__(cancelled, clock)
        self._verbose = verbose
        self._lock = threading.RLock()
        output = stream if stream is not None else sys.stderr
        self._screen: _Screen | _PlainLines = _PlainLines(output, clock)
        if output is not None and output.isatty():
            self._screen = _Screen(output)

    def emit(self, event: Event) -> None:
        """Show the event."""
        with self._lock:
            if isinstance(event, Progress):
                self._screen.progress(event)
            elif isinstance(event, Epoch):
                self._screen.epoch(event)
            else:
                if isinstance(event, END_EVENTS):
                    self._screen.stop()
                for text, style in self._sentences(event):
                    self._screen.say(text, style)

    def close(self) -> None:
        """Take the bars off the screen's control; the cursor comes back."""
        with self._lock:
            self._screen.stop()

    def _sentences(self, event: Event) -> Iterable[tuple[str, str]]:
        if isinstance(event, Warning_):
            yield f"Warning: {event.subject + ': ' if event.subject else ''}{event.message}", "yellow"
        elif isinstance(event, Log):
            if self._verbose or event.level not in _LEVELS[:2]:
                yield event.message, "red" if event.level == "error" else "dim"
        elif isinstance(event, Result):
            for name, path in event.paths.items():
                yield f"{name}: {path}", "green"
        elif isinstance(event, Failed):
            if event.traceback:
                yield event.traceback.rstrip(), "dim"
            yield f"Error: {event.message}", "bold red"
            if event.hint:
                yield event.hint, "red"
        elif isinstance(event, Cancelled):
            yield event.message or "Stopped as asked.", "yellow"
        elif isinstance(event, Finished):
            if event.exit_code == 0 and event.seconds is not None:
                yield f"Done in {duration(event.seconds)}.", "green"
        elif isinstance(event, Started) and self._verbose:
            yield f"{event.command}, process {event.pid}", "dim"


class _PlainLines:
    """One line now and then, for logs and pipes."""

    def __init__(self, output: TextIO | None, clock: Clock) -> None:
        self._output = output
        self._clock = clock
        self._said: dict[str, tuple[float, int]] = {}

    def progress(self, event: Progress) -> None:
        now = self._clock()
        said_at, said_done = self._said.get(event.stage, (None, None))
        complete = event.total is not None and event.done >= event.total
        if said_at is not None and now - said_at < PLAIN_LINE_EVERY_S and not (complete and said_done != event.done):
            return
        self._said[event.stage] = (now, event.done)
        left = f", {duration(event.eta_s)} left" if event.eta_s and not complete else ""
        of = "" if event.total is None else f"/{event.total}"
        self.say(f"{event.stage}: {event.done}{of}{left}{' ' + event.message if event.message else ''}")

    def epoch(self, event: Epoch) -> None:
        self.say(epoch_line(event))
        dice = ", ".join(f"{name} {number(value)}" for name, value in event.dice.items())
        if dice:
            self.say(f"  Dice: {dice}")

    def say(self, text: str, style: str = "") -> None:  # noqa: ARG002 - same call as on a screen
        if self._output is None:
            return
        encoding = getattr(self._output, "encoding", None) or "utf-8"
        try:
            self._output.write(text.encode(encoding, "replace").decode(encoding) + "\n")
            self._output.flush()
        except (OSError, ValueError):  # the reader went away; the work matters more than the words about it
            self._output = None

    def stop(self) -> None:
        """Nothing is held."""


class _Screen:
    """Bars, drawn by rich, with the latest table of Dice above them."""

    def __init__(self, output: TextIO) -> None:
        from rich.console import Console, RenderableType
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bars

        screen = self

        class BarsWithTable(Bars):
            """Bars below the table of Dice."""

            def get_renderables(self) -> Iterable[RenderableType]:
                """Return what is drawn, from top to bottom."""
                if screen._table is not None:
                    yield screen._table
                yield self.make_tasks_table(self.tasks)

        self._table: RenderableType | None = None
        self._tasks: dict[str, TaskID] = {}
        self._running = False
        self._bars = BarsWithTable(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}", markup=False),
            TextColumn("{task.fields[message]}", markup=False, style="dim"),
            console=Console(file=output, highlight=False),
        )

    def progress(self, event: Progress) -> None:
        if not self._running:
            self._bars.start()
            self._running = True
        left = f"{duration(event.eta_s)} left" if event.eta_s else ""
        task = self._tasks.get(event.stage)
        if task is None:
            self._tasks[event.stage] = self._bars.add_task(
                event.stage, total=event.total, completed=event.done, left=left, message=event.message
            )
            return
        if event.done < self._bars.tasks[self._bars.task_ids.index(task)].completed:
            self._bars.reset(task, total=event.total, completed=event.done, left=left, message=event.message)
        else:
            self._bars.update(task, total=event.total, completed=event.done, left=left, message=event.message)

    def epoch(self, event: Epoch) -> None:
        from rich.table import Table

        self.say(epoch_line(event))
        if event.dice:
            table = Table(title=f"Dice, epoch {event.epoch}", title_justify="left")
            table.add_column("structure")
            table.add_column("Dice", justify="right")
            for name, value in event.dice.items():
                table.add_row(name, number(value))
            table.add_row("mean", number(event.mean_dice), style="bold")
            self._table = table
            self._bars.refresh()

    def say(self, text: str, style: str = "") -> None:
        from rich.text import Text

        self._bars.console.print(Text(text, style=style), soft_wrap=True)

    def stop(self) -> None:
        if self._running:
            self._bars.stop()
            self._running = False
            self._tasks.clear()
            for task in self._bars.task_ids:
                self._bars.remove_task(task)


def epoch_line(event: Epoch) -> str:
    """Return one line that says how an epoch went."""
    parts = [
        f"epoch {event.epoch}/{event.epochs}",
        f"loss {number(event.train_loss)} (val {number(event.val_loss)})",
        f"Dice {number(event.mean_dice)} (best {number(event.best_mean_dice)})",
    ]
    if event.lr is not None:
        parts.append(f"lr {event.lr:.2g}")
    if event.seconds is not None:
        parts.append(duration(event.seconds))
    return "  ".join(parts)


def number(value: float | None) -> str:
    """Return a loss or a Dice with three decimals, or a dash for one that is not there."""
    return "–" if value is None else f"{value:.3f}"


def duration(seconds: float) -> str:
    """Return a length of time as a person says it: ``40 s``, ``3 min 20 s``, ``2 h 05 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
