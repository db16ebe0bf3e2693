"""Choices and sentences of the import panel."""

from __future__ import annotations

from slicer.i18n import tr as _


def ctChoices() -> list[tuple[str, str]]:
    """Return which CT of several is taken: text, and value of ``--ct``."""
    return [
        (_("As before, at first all of them"), ""),
        (_("All of them"), "all"),
        (_("The one with most slices"), "most-slices"),
        (_("The newest"), "newest"),
    ]


def rtstructChoices() -> list[tuple[str, str]]:
    """Return which RTSTRUCT of several is taken: text, and value of ``--rtstruct``."""
    return [
        (_("As before, at first most structures"), ""),
        (_("The one with most structures"), "most-structures"),
        (_("The newest"), "newest"),
        (_("The oldest"), "oldest"),
    ]


def conversionText(summary: dict) -> str:
    """Return what a conversion did, from its counts."""
    parts = [
        (_("{count} converted"), summary.get("converted", 0)),
        (_("{count} kept unchanged"), summary.get("kept", 0)),
        (_("{count} failed"), summary.get("failed", 0)),
        (_("{count} left out"), summary.get("skipped", 0)),
    ]
    text = ", ".join(form.format(count=count) for form, count in parts if count)
    return _("The cohort is ready: {what}.").format(what=text or _("nothing to do"))
