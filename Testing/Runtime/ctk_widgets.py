"""The module ``ctk``: the widgets of CTK that the extension uses, with their behavior."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from PySide6 import QtCore, QtGui, QtWidgets

from .widget_tools import forwarded, stored, widget_of

Signal = QtCore.Signal

HISTORY = 5

ctk = ModuleType("ctk", "Widgets of the Common Toolkit")


@widget_of(ctk)
class ctkCollapsibleButton(QtWidgets.QAbstractButton):
    """A section with a header; a click on it hides and shows what is below."""

    contentsCollapsed = Signal(bool)
    SIGNALS = {"contentsCollapsed": ("bool",)}

    def __init__(self, *arguments: Any) -> None:
        super().__init__(next((item for item in arguments if isinstance(item, QtWidgets.QWidget)), None))
        self._hidden_by_collapse: list[QtWidgets.QWidget] = []
        self._collapsed = False
        self.setCheckable(True)
        self.setChecked(True)
        self.setSizePolicy(QtWidgets.QSizePolicy.Policy.Minimum, QtWidgets.QSizePolicy.Policy.Preferred)
        self.setContentsMargins(0, self._header_height(), 0, 0)
        self.toggled.connect(self._follow_check)
        texts = [item for item in arguments if isinstance(item, str)]
        if texts:
            self.setText(texts[0])

    flat = stored(bool, "flat", False, "update")
    collapsedHeight = stored(int, "collapsedHeight", 10, "_arrange")
    contentsLineWidth = stored(int, "contentsLineWidth", 1)

    def _read_collapsed(self) -> bool:
        return self._collapsed

    def _write_collapsed(self, value: bool) -> None:
        if value == self._collapsed:
            return
        self._collapsed = bool(value)
        self.setChecked(not value)
        self._arrange()
        self.contentsCollapsed.emit(self._collapsed)

    collapsed = QtCore.Property(bool, _read_collapsed, _write_collapsed)

    def _follow_check(self, checked: bool) -> None:
        self._write_collapsed(not checked)

    def _arrange(self) -> None:
        children = [child for child in self.children() if isinstance(child, QtWidgets.QWidget)]
        if self._collapsed:
            shown = [child for child in children if not child.isHidden()]
            self._hidden_by_collapse += shown
            for child in shown:
                child.setVisible(False)
            self.setMaximumHeight(self._header_height() + (0 if self.flat else self.collapsedHeight))
        else:
            for child in self._hidden_by_collapse:
                child.setVisible(True)
            self._hidden_by_collapse = []
            self.setMaximumHeight(16777215)
        self.updateGeometry()
        self.update()

    def _header_height(self) -> int:
        return max(self.fontMetrics().height() + 10, 22)

    def showEvent(self, event: QtGui.QShowEvent) -> None:
        # Children that came since the section was collapsed, as those of a .ui file do.
        if self._collapsed:
            self._arrange()
        super().showEvent(event)

    def sizeHint(self) -> QtCore.QSize:
        header = QtCore.QSize(self.fontMetrics().horizontalAdvance(self.text) + 40, self._header_height())
        if self._collapsed or self.layout() is None:
            return header + QtCore.QSize(0, 0 if self.flat or not self._collapsed else self.collapsedHeight)
        return header.expandedTo(self.layout().totalSizeHint())

    def minimumSizeHint(self) -> QtCore.QSize:
        if self._collapsed or self.layout() is None:
            return QtCore.QSize(0, self.sizeHint.height())
        return self.layout().totalMinimumSize()

    def hitButton(self, position: QtCore.QPoint) -> bool:
        return position.y() < self._header_height()

    def paintEvent(self, event: QtGui.QPaintEvent) -> None:
        painter = QtWidgets.QStylePainter(self)
        option = QtWidgets.QStyleOptionButton()
        option.initFrom(self)
        option.rect = QtCore.QRect(0, 0, self.width, self._header_height())
        option.state |= QtWidgets.QStyle.StateFlag.State_Raised
        if not self.flat:
            painter.drawControl(QtWidgets.QStyle.ControlElement.CE_PushButtonBevel, option)
        arrow = QtWidgets.QStyleOption()
        arrow.initFrom(self)
        arrow.rect = QtCore.QRect(6, (self._header_height() - 10) // 2, 10, 10)
        elements = QtWidgets.QStyle.PrimitiveElement
        painter.drawPrimitive(
            elements.PE_IndicatorArrowRight if self._collapsed else elements.PE_IndicatorArrowDown, arrow
        )
        text = option.rect.adjusted(22, 0, -4, 0)
        flags = QtCore.Qt.AlignmentFlag.AlignLeft | QtCore.Qt.AlignmentFlag.AlignVCenter
        painter.drawItemText(text, int(flags), self.palette, self.enabled, self.text)


class PathWidget(QtWidgets.QWidget):
    """An editable combo box beside a button that opens a dialog."""

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._combo_box = QtWidgets.QComboBox(self)
        self._combo_box.setEditable(True)
        self._combo_box.setSizePolicy(QtWidgets.QSizePolicy.Policy.Expanding, QtWidgets.QSizePolicy.Policy.Fixed)
        self._button = QtWidgets.QToolButton(self)
        self._button.text = "…"
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._combo_box)
        layout.addWidget(self._button)


@widget_of(ctk)
class ctkPathLineEdit(PathWidget):
    """A path of a file or folder, typed or chosen, with its history."""

    currentPathChanged = Signal(str)
    validInputChanged = Signal(bool)
    SIGNALS = {"currentPathChanged": ("QString",), "validInputChanged": ("bool",)}

    Dirs, Files, Drives, NoSymLinks = 0x001, 0x002, 0x004, 0x008
    Readable, Writable, Executable, Hidden = 0x010, 0x020, 0x040, 0x100
    AllDirs, NoDot, NoDotDot, NoDotAndDotDot = 0x400, 0x2000, 0x4000, 0x6000

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._valid = False
        self._combo_box.editTextChanged.connect(self._follow_text)
        self._button.connect("clicked()", self.browse)

    filters = stored(int, "filters", AllDirs | NoDot | NoDotDot | Readable)
    nameFilters = stored("QStringList", "nameFilters", [])
    label = stored(str, "label", "")
    settingKey = stored(str, "settingKey", "", "retrieveHistory")
    showHistoryButton = stored(bool, "showHistoryButton", True)
    showBrowseButton = stored(bool, "showBrowseButton", True, "_arrange")
    minimumContentsLength = forwarded(int, "minimumContentsLength", "_combo_box")
    sizeAdjustPolicy = forwarded(int, "sizeAdjustPolicy", "_combo_box")

    def _read_path(self) -> str:
        return self._combo_box.currentText

    def setCurrentPath(self, path: str) -> None:
        self._combo_box.setEditText(path)

    currentPath = QtCore.Property(str, _read_path, setCurrentPath)

    def comboBox(self) -> QtWidgets.QComboBox:
        return self._combo_box

    def browse(self) -> None:
        dialog = QtWidgets.QFileDialog
        chosen = (
            dialog.getOpenFileName(self, self.label, self.currentPath, ";;".join(self.nameFilters))
            if self.filters & self.Files
            else dialog.getExistingDirectory(self, self.label, self.currentPath)
        )
        if chosen:
            self.setCurrentPath(chosen)
            self.addCurrentPathToHistory()

    def addCurrentPathToHistory(self) -> None:
        path = self.currentPath
        if not (self.settingKey and path):
            return
        history = [path, *(item for item in self._history() if item != path)][:HISTORY]
        QtCore.QSettings().setValue(self.settingKey, history)
        self.retrieveHistory()
        self.setCurrentPath(path)

    def retrieveHistory(self) -> None:
        path = self.currentPath
        was_blocked = self._combo_box.blockSignals(True)
        self._combo_box.clear()
        self._combo_box.addItems(self._history())
        self._combo_box.setEditText(path)
        self._combo_box.blockSignals(was_blocked)

    def _history(self) -> list[str]:
        value = QtCore.QSettings().value(self.settingKey)
        return [value] if isinstance(value, str) else list(value or [])

    def _follow_text(self, text: str) -> None:
        # Any text is valid, whether such a file exists or not; that there is none only the second signal tells.
        was_valid, self._valid = self._valid, bool(text)
        if self._valid:
            self.currentPathChanged.emit(text)
        if self._valid != was_valid:
            self.validInputChanged.emit(self._valid)

    def _arrange(self) -> None:
        self._button.setVisible(self.showBrowseButton)


@widget_of(ctk)
class ctkSliderWidget(QtWidgets.QWidget):
    """A slider beside a spin box, both with decimals."""

    valueChanged = Signal(float)
    valueIsChanging = Signal(float)
    SIGNALS = {"valueChanged": ("double",), "valueIsChanging": ("double",)}

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._slider = QtWidgets.QSlider(QtCore.Qt.Orientation.Horizontal, self)
        self._spin_box = QtWidgets.QDoubleSpinBox(self)
        self._spin_box.maximum = 100.0
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._slider, 1)
        layout.addWidget(self._spin_box)
        self._slider.valueChanged.connect(self._follow_slider)
        self._spin_box.valueChanged.connect(self._follow_spin_box)
        self._arrange()

    def _read_value(self) -> float:
        return self._spin_box.value

    def setValue(self, value: float) -> None:
        self._spin_box.value = value

    value = QtCore.Property(float, _read_value, setValue)
    prefix = forwarded(str, "prefix", "_spin_box")
    suffix = forwarded(str, "suffix", "_spin_box")
    decimals = forwarded(int, "decimals", "_spin_box")
    tracking = forwarded(bool, "tracking", "_slider")
    spinBoxVisible = stored(bool, "spinBoxVisible", True, "_arrange")

    @staticmethod
    def _ranged(name: str) -> QtCore.Property:
        def read(self: Any) -> float:
            return getattr(self._spin_box, name)

        def write(self: Any, value: float) -> None:
            setattr(self._spin_box, name, value)
            self._arrange()

        return QtCore.Property(float, read, write)

    minimum = _ranged("minimum")
    maximum = _ranged("maximum")
    singleStep = _ranged("singleStep")
    pageStep = stored(float, "pageStep", 10.0)

    def _arrange(self) -> None:
        self._spin_box.setVisible(self.spinBoxVisible)
        self._slider.blockSignals(True)
        self._slider.maximum = round((self.maximum - self.minimum) / self.singleStep)
        self._slider.value = self._steps(self.value)
        self._slider.blockSignals(False)

    def _steps(self, value: float) -> int:
        return round((value - self.minimum) / self.singleStep)

    def _follow_slider(self, steps: int) -> None:
        self._spin_box.value = self.minimum + steps * self.singleStep
        self.valueIsChanging.emit(self.value)

    def _follow_spin_box(self, value: float) -> None:
        self._slider.blockSignals(True)
        self._slider.value = self._steps(value)
        self._slider.blockSignals(False)
        self.valueChanged.emit(value)


@widget_of(ctk)
class ctkComboBox(QtWidgets.QComboBox):
    """A box to choose from that can leave the mouse wheel to what is around it."""

    NeverScroll, AlwaysScroll, ScrollWithFocus, ScrollWithNoVScrollBar = range(4)

    scrollWheelEffect = stored(int, "scrollWheelEffect", AlwaysScroll)

    def wheelEvent(self, event: QtGui.QWheelEvent) -> None:
        focused = self.scrollWheelEffect == self.ScrollWithFocus and self.hasFocus()
        if self.scrollWheelEffect == self.AlwaysScroll or focused:
            super().wheelEvent(event)
        else:
            event.ignore()


class ArrowStyle(QtWidgets.QProxyStyle):
    """Draws an arrow where the style of the application draws a check box."""

    def drawPrimitive(self, element: Any, option: Any, painter: Any, widget: Any = None) -> None:
        elements = QtWidgets.QStyle.PrimitiveElement
        if element == elements.PE_IndicatorCheckBox:
            is_open = bool(option.state & QtWidgets.QStyle.StateFlag.State_On)
            element = elements.PE_IndicatorArrowDown if is_open else elements.PE_IndicatorArrowRight
        super().drawPrimitive(element, option, painter, widget)


@widget_of(ctk)
class ctkCollapsibleGroupBox(QtWidgets.QGroupBox):
    """A group box whose arrow hides and shows what is in it."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._arrow_style = ArrowStyle()
        self.setStyle(self._arrow_style)
        self._hidden_by_collapse: list[QtWidgets.QWidget] = []
        self.setCheckable(True)
        self.toggled.connect(self._arrange)

    collapsedHeight = stored(int, "collapsedHeight", 14)

    def _read_collapsed(self) -> bool:
        return not self.checked

    def _write_collapsed(self, value: bool) -> None:
        self.checked = not value

    collapsed = QtCore.Property(bool, _read_collapsed, _write_collapsed)

    def _arrange(self, *_: bool) -> None:
        children = [child for child in self.children() if isinstance(child, QtWidgets.QWidget)]
        if self.collapsed:
            shown = [child for child in children if not child.isHidden()]
            self._hidden_by_collapse += shown
            for child in shown:
                child.setVisible(False)
            self.setMaximumHeight(self.fontMetrics().height() + self.collapsedHeight)
        else:
            for child in self._hidden_by_collapse:
                child.setVisible(True)
            self._hidden_by_collapse = []
            self.setMaximumHeight(16777215)

    def showEvent(self, event: QtGui.QShowEvent) -> None:
        self._arrange()
        super().showEvent(event)
