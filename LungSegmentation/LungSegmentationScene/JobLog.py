"""What a job printed, as people read it: its events in words, everything else as it is."""

from __future__ import annotations


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
    if event.event == "started":
        return [f"{when}  {event.command}, process {event.pid}, version {event.software_version}"]
    if event.event == "warning":
        subject = f"{event.subject}: " if event.subject else ""
        return [f"{when}  Warning: {subject}{event.message}"]
    if event.event == "log":
        return [f"{when}  {event.message}"]
    if event.event == "epoch":
        dice = "–" if event.mean_dice is None else f"{event.mean_dice:.3f}"
        loss = "–" if event.train_loss is None else f"{event.train_loss:.3f}"
        return [f"{when}  epoch {event.epoch}/{event.epochs}: loss {loss}, mean Dice {dice}"]
    if event.event == "result":
        return [f"{when}  {name}: {path}" for name, path in event.paths.items()]
    if event.event == "failed":
        trace = event.traceback.rstrip().splitlines() if event.traceback else []
        return [*trace, f"{when}  Error: {event.message}", *([event.hint] if event.hint else [])]
    if event.event == "cancelled":
        return [f"{when}  {event.message or 'Cancelled.'}"]
    if event.event == "finished":
        return [f"{when}  Ended with exit code {event.exit_code}."]
    return []
