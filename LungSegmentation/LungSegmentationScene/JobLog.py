"""What a job printed, as people read it: its events in words, everything else as it is."""

from __future__ import annotations

from slicer.i18n import tr as _


def readableLog(data: bytes) -> str:
    """Return a log without JSON: warnings, messages, results and failures as lines; progress is left out.

    Parameters
    ----------
    data
        The end of the log; bytes that are no UTF-8 are replaced, and a first line that is cut is left out.
    """
    from LungSegmentationLib.jobs.messages import parse_event

    lines = []
    for line in data.decode("utf-8", errors="replace").splitlines():
        if not line.startswith('{"v":'):
            lines.append(line)
            continue
        event = parse_event(line)
        if event is not None:
            lines += _words(event)
    return "\n".join(lines)


def _words(event) -> list[str]:
    when = event.time.astimezone().strftime("%H:%M:%S")
    return [f"{when}  {line}" if number == 0 else line for number, line in enumerate(_said(event))]


def _said(event) -> list[str]:
    if event.event == "started":
        said = _("{command}, process {pid}, version {version}")
        return [said.format(command=event.command, pid=event.pid, version=event.software_version)]
    if event.event == "warning":
        subject = f"{event.subject}: " if event.subject else ""
        return [_("Warning: {text}").format(text=subject + event.message)]
    if event.event == "log":
        return [event.message]
    if event.event == "epoch":
        said = _("epoch {epoch} of {epochs}: loss {loss}, mean Dice {dice}")
        loss, dice = _number(event.train_loss), _number(event.mean_dice)
        return [said.format(epoch=event.epoch, epochs=event.epochs, loss=loss, dice=dice)]
    if event.event == "result":
        return [f"{name}: {path}" for name, path in event.paths.items()]
    if event.event == "failed":
        trace = event.traceback.rstrip().splitlines() if event.traceback else []
        return [_("Error: {text}").format(text=event.message), *([event.hint] if event.hint else []), *trace]
    if event.event == "cancelled":
        return [event.message or _("Cancelled.")]
    if event.event == "finished":
        return [_("Ended with exit code {code}.").format(code=event.exit_code)]
    return []


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
