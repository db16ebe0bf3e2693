"""A text behind a click: what a job says in detail, or where a fault lay."""

from __future__ import annotations

import qt
from slicer.i18n import tr as _

LOG_HEIGHT = 140


class LogView:
    """A button “Log” and the text that it shows; where they stand is up to who has them.

    Object names begin with the given one: ``…LogButton``, ``…LogText``.

    Parameters
    ----------
    name
        Beginning of the object names.
    toolTip
        Of the button.
    onToggled
        Called with whether the text is shown now.
    """

    def __init__(self, name: str, toolTip: str, onToggled) -> None:
        self.button = qt.QToolButton()
        self.button.text = _("Log")
        self.button.objectName = f"{name}LogButton"
        self.button.checkable = True
        self.button.toolTip = toolTip
        self.text = qt.QPlainTextEdit()
        self.text.objectName = f"{name}LogText"
        self.text.toolTip = toolTip
        self.text.readOnly = True
        self.text.setFixedHeight(LOG_HEIGHT)
        self.text.visible = False
        self.button.connect("toggled(bool)", onToggled)
