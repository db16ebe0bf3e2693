"""Stands for the user before dialogs: they are recorded, and answered only as a test announced."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import slicer
from PySide6 import QtWidgets


@dataclass
class Dialogs:
    """What was asked, and what will be answered.

    Attributes
    ----------
    asked : list of str
        Text of each dialog that came up, oldest first.
    """

    asked: list[str] = field(default_factory=list)
    _answers: deque[Any] = field(default_factory=deque)

    def expect(self, answer: Any) -> None:
        """Announce the answer to the next dialog: a button or a path."""
        self._answers.append(answer)

    def clear(self) -> None:
        """Forget what was asked and announced."""
        self.asked.clear()
        self._answers.clear()

    def _ask(self, text: str) -> Any:
        self.asked.append(text)
        if not self._answers:
            raise AssertionError(f"a dialog that nobody answers would stop Slicer here: {text}")
        return self._answers.popleft()

    def install(self) -> None:
        """Put this in the place of Slicer's and Qt's dialogs."""
        slicer.util.messageBox = lambda text, parent=None, **_: self._ask(text)
        for name in ("getOpenFileName", "getSaveFileName", "getExistingDirectory", "getOpenFileNames"):
            setattr(QtWidgets.QFileDialog, name, staticmethod(self._asking(name)))
        for name in ("question", "information", "warning", "critical"):
            setattr(QtWidgets.QMessageBox, name, staticmethod(self._asking(name)))

    def _asking(self, name: str) -> Any:
        def ask(parent: Any = None, caption: str = "", *arguments: Any) -> Any:
            return self._ask(caption or name)

        return ask
