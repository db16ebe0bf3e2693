"""The strip on top: is everything installed, on which device will jobs run, and in which Python."""

from __future__ import annotations

from LungSegmentationPanels.Panel import Panel


class SetupPanel(Panel):
    """Says what there is; installs only when asked."""

    name = "Setup"
