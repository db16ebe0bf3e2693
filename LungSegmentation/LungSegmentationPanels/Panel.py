"""What every panel has: its ``.ui``, the parameters that it shows, one line for messages, buttons with a reason."""

from __future__ import annotations

import logging
import traceback

import qt
import slicer
from LungSegmentationScene import Environment, Setup
from LungSegmentationScene.Errors import SceneError
from slicer.i18n import tr as _

from LungSegmentationPanels.Bindings import PROPERTY, Bindings
from LungSegmentationPanels.LogView import LogView

logger = logging.getLogger("LungSegmentation")

CHOICE_WIDTH = 80
"""Pixels to which a combo box can be narrowed."""


class Panel:
    """Base of the panels. A subclass names its ``.ui`` and overrides :meth:`setup` and :meth:`updateState`.

    Attributes
    ----------
    name
        "Import": file ``Resources/UI/ImportPanel.ui``, beginning of its object names.
    ui
        The widgets of the ``.ui`` by their object names.
    widget
        What the accordion shows.
    parameters
        The parameter node's wrapper; None while the scene is closed.
    report
        What the set-up strip found out; None before its check.
    bars
        Rows of the jobs that the panel starts.

    Widgets with the dynamic property ``SlicerParameterName`` show the parameter of that name, see ``Bindings.py``:
    check boxes, spin boxes, sliders, line edits, paths, node selectors, and combo boxes by the data of their items.

    Parameters
    ----------
    logic
        The module's logic.
    """

    name = ""

    def __init__(self, logic) -> None:
        self.logic = logic
        self.parameters = None
        self.report = None
        self.entered = False
        self.bars: tuple = ()
        self._bindings = None
        self._reasons: dict[str, str] = {}
        self.widget = slicer.util.loadUI(str(Environment.resourcePath("UI", f"{self.name}Panel.ui")))
        self.ui = slicer.util.childWidgetVariables(self.widget)
        message = f"{self.name[:1].lower()}{self.name[1:]}Message"
        for widget in vars(self.ui).values():
            if widget.inherits("QComboBox"):
                # Else the longest item, in large letters or another language, makes the whole column wider.
                widget.setMinimumWidth(CHOICE_WIDTH)
        self.messageLabel = qt.QLabel()
        self.messageLabel.objectName = f"{message}Label"
        self.messageLabel.wordWrap = True
        self.messageLabel.setTextInteractionFlags(qt.Qt.TextSelectableByMouse)
        self.messageLabel.visible = False
        log = LogView(message, _("What went wrong in detail, for those who can mend the program"), self._showDetails)
        self.messageLogButton, self.messageLogText = log.button, log.text
        self.messageLogButton.visible = False
        row = qt.QHBoxLayout()
        row.addWidget(self.messageLabel, 1)
        row.addWidget(self.messageLogButton)
        self.widget.layout().addLayout(row)
        self.widget.layout().addWidget(self.messageLogText)
        self.setup()

    def setup(self) -> None:
        """Fill lists and connect signals; called once, when the panel is opened for the first time."""

    def enter(self) -> None:
        """The panel becomes visible."""
        self.entered = True
        self.updateState()

    def exit(self) -> None:
        """The panel is closed, or another module is opened; jobs go on."""
        self.entered = False

    def cleanup(self) -> None:
        """Let go of the scene and of jobs, which go on, for good."""
        for bar in self.bars:
            bar.cleanup()
        self.setParameterNode(None)

    def setParameterNode(self, parameters) -> None:
        """Show these parameters from now on; without any, forget what was shown of the closed scene."""
        if self._bindings is not None:
            self._bindings.release()
            self._bindings = None
        self.parameters = parameters
        if parameters is not None:
            self._bindings = Bindings(parameters, self.boundWidgets(), self.updateState)
        self.updateState()
        if parameters is None:
            self.clearMessage()
            for bar in self.bars:
                if not bar.isRunning:
                    bar.watch(None)

    def boundWidgets(self) -> dict:
        """Return the widgets that show a parameter, by its name."""
        named = ((widget.property(PROPERTY), widget) for widget in vars(self.ui).values())
        return {str(name): widget for name, widget in named if name}

    def updateState(self) -> None:
        """Bring buttons and texts in line with the parameters; cheap, as it is called after every change."""

    def setReport(self, report) -> None:
        """Know what the set-up strip found out about the Python of the jobs; None where that is not known."""
        self.report = report
        self.updateState()

    # What a user is told

    def showDevice(self, label, wanted: str | None) -> None:
        """Say before the start where a job will run; red where the device that is wanted cannot be used."""
        text, wrong = Setup.runText(self.report, wanted) if wanted is not None else ("", False)
        label.text = text
        label.styleSheet = f"color: {errorColor(self.widget)}" if wrong else ""
        label.visible = bool(text)

    def say(self, text: str) -> None:
        """Show a sentence at the end of the panel; an empty one hides the line."""
        self.messageLabel.styleSheet = ""
        self.messageLabel.text = text
        self.messageLabel.visible = bool(text)
        self.messageLogButton.visible = False
        self.messageLogButton.checked = False

    def complain(self, sentence: str, hint: str = "") -> None:
        """Show what is wrong in red, with the cure after it."""
        self.say(f"{sentence} {hint}".strip())
        self.messageLabel.styleSheet = f"color: {errorColor(self.widget)}"

    def complainOfFault(self, error: Exception, what: str) -> None:
        """Show an error that was not foreseen: what could not be done in red, where the fault lies behind a click.

        Errors in a user's words are shown as they are.
        """
        if isinstance(error, SceneError):
            self.complain(error.sentence, error.hint)
            return
        logger.error("%s", what, exc_info=error)
        self.complain(f"{what} {error}.".replace("..", "."))
        self.messageLogText.setPlainText("".join(traceback.format_exception(error)))
        self.messageLogButton.visible = True

    def _showDetails(self, shown: bool) -> None:
        self.messageLogText.visible = shown

    def clearMessage(self) -> None:
        """Hide the line for messages."""
        self.say("")

    def allow(self, button, reason: str | None = None) -> None:
        """Enable a button; with a reason disable it, and show the reason where its tooltip is."""
        toolTip = self._reasons.setdefault(button.objectName, button.toolTip)
        button.enabled = not reason
        button.toolTip = reason or toolTip


def isDark(widget) -> bool:
    """Whether a widget stands on a dark ground."""
    return widget.palette.color(qt.QPalette.Window).lightness() < 128


def errorColor(widget) -> str:
    """Return a red that can be read on the widget's ground."""
    return "#ff8a80" if isDark(widget) else "#b3261e"
