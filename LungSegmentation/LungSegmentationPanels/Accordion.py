"""The module's column: the set-up strip, and below it the panels, of which one is open and each is made when opened."""

from __future__ import annotations

import importlib
import logging

import ctk
import qt
from slicer.i18n import tr as _

logger = logging.getLogger("LungSegmentation")

PANELS = ("Import", "Preview", "Training", "Inference", "Evaluation")


class Accordion:
    """Headings of all panels; opening one closes the others.

    Object names: ``moduleColumn``, ``setupStrip``, and a heading ``importSection`` … ``evaluationSection`` each.

    Parameters
    ----------
    logic
        The module's logic, handed to the panels.
    """

    def __init__(self, logic) -> None:
        self.logic = logic
        self.entered = False
        self.parameters = None
        self.panels: dict[str, object] = {}
        self.sections: dict[str, object] = {}
        self.widget = qt.QWidget()
        self.widget.objectName = "moduleColumn"
        self.layout = qt.QVBoxLayout(self.widget)
        self.layout.setContentsMargins(0, 0, 0, 0)

        from LungSegmentationPanels.SetupPanel import SetupPanel

        self.setupPanel = SetupPanel(logic)
        self.setupPanel.onReport = self._onReport
        self.layout.addWidget(self.setupPanel.widget)
        for name, (title, toolTip) in zip(PANELS, panelTitles(), strict=True):
            section = ctk.ctkCollapsibleButton()
            section.objectName = f"{name.lower()}Section"
            section.text = title
            section.toolTip = toolTip
            section.collapsedHeight = 0
            section.collapsed = True
            # As a button, it would never be narrower than what its panel would like to have.
            section.setSizePolicy(qt.QSizePolicy.Preferred, qt.QSizePolicy.Preferred)
            qt.QVBoxLayout(section)
            section.connect("contentsCollapsed(bool)", lambda collapsed, name=name: self._onCollapsed(name, collapsed))
            self.layout.addWidget(section)
            self.sections[name] = section
        # Room that is left over stands at the end, and not between the rows.
        self.layout.addStretch(1)

    @property
    def openName(self) -> str | None:
        """Name of the open panel, None while all are closed."""
        return next((name for name, section in self.sections.items() if not section.collapsed), None)

    def open(self, name: str) -> object:
        """Open a panel and return it; the others close."""
        self.sections[name].collapsed = False
        return self.panels.get(name)

    def enter(self) -> None:
        """The module is opened."""
        self.entered = True
        self.setupPanel.enter()
        if self.openName is None:
            self.openStored()
        elif self.openName in self.panels:
            self.panels[self.openName].enter()

    def exit(self) -> None:
        """Another module is opened."""
        self.entered = False
        self.setupPanel.exit()
        if self.openName in self.panels:
            self.panels[self.openName].exit()

    def cleanup(self) -> None:
        """Let go of scene and jobs."""
        for panel in [self.setupPanel, *self.panels.values()]:
            panel.cleanup()

    def setParameterNode(self, parameters) -> None:
        """Show these parameters in all panels that were opened; None when the scene closes."""
        self.parameters = parameters
        for panel in self.panels.values():
            panel.setParameterNode(parameters)
        if parameters is not None and self.entered:
            self.openStored()

    def openStored(self) -> None:
        """Open the panel that the parameters name."""
        name = self.parameters.openPanel if self.parameters is not None else PANELS[0]
        if name in self.sections and self.openName != name:
            self.open(name)

    def _onCollapsed(self, name: str, collapsed: bool) -> None:
        if collapsed:
            if name in self.panels:
                self.panels[name].exit()
            return
        for other, section in self.sections.items():
            if other != name and not section.collapsed:
                section.collapsed = True
        panel = self._made(name)
        if panel is not None:
            # Of a column that was never shown, but drawn for a picture, the section leaves a new panel hidden.
            panel.widget.visible = True
        if self.parameters is not None and self.parameters.openPanel != name:
            self.parameters.openPanel = name
        if panel is not None and self.entered:
            panel.enter()

    def _onReport(self, report) -> None:
        for panel in self.panels.values():
            panel.setReport(report)

    def _made(self, name: str):
        """Return a panel; the first time make it."""
        if name in self.panels:
            return self.panels[name]
        layout = self.sections[name].layout()
        try:
            module = importlib.import_module(f"LungSegmentationPanels.{name}Panel")
            panel = getattr(module, f"{name}Panel")(self.logic)
        except Exception as error:  # a panel that cannot be made must not take the others with it
            logger.exception("the panel %s could not be made.", name)
            if layout.count() == 0:
                label = qt.QLabel(_("This panel could not be opened: {error}").format(error=error))
                label.wordWrap = True
                label.objectName = f"{name.lower()}BrokenLabel"
                layout.addWidget(label)
            return None
        layout.addWidget(panel.widget)
        layout.addStretch(1)
        self.panels[name] = panel
        panel.openPanel = self.open
        panel.setReport(self.setupPanel.report)
        if self.parameters is not None:
            panel.setParameterNode(self.parameters)
        return panel


def panelTitles() -> list[tuple[str, str]]:
    """Return heading and tooltip of each panel, translated."""
    return [
        (_("Import"), _("Choose DICOM patients, see and correct what each ROI was taken for, load or convert them")),
        (_("Preview"), _("Look at a CT with its structures, slice by slice, and check them")),
        (_("Training"), _("Train a network on a converted cohort in the background")),
        (_("Inference"), _("Segment a CT with a trained model")),
        (_("Evaluation"), _("Compare two segmentations by numbers")),
    ]
