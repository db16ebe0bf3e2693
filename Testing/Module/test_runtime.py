"""The runtime's Qt, CTK and widgets of MRML: nothing that Slicer lacks, and the behavior of what Slicer has."""

from __future__ import annotations

import json
import sys
from inspect import getattr_static
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from Runtime import api, missing, start

if missing():
    pytest.skip(missing(), allow_module_level=True)

if TYPE_CHECKING:
    from Runtime.session import Runtime

start()

import ctk  # noqa: E402  the runtime puts these in place
import qt  # noqa: E402
import slicer  # noqa: E402
from Runtime import qt_objects, scripted_module  # noqa: E402

INTROSPECTION = Path(__file__).parents[3] / "shared" / "design" / "slicer-5.8-api.json"
MODULES = {"qt": qt, "ctk": ctk, "slicer": slicer}


def modeled_classes() -> list[str]:
    return sorted(key for key in api.facts()["classes"] if hasattr(MODULES[key.split(".")[0]], key.split(".")[1]))


def public_names(cls: type) -> set[str]:
    """Names that an instance answers to, which is not all that dir() lists."""
    private = qt_objects.VIRTUAL | qt_objects.VIRTUAL_OF_LAYOUTS | qt_objects.INTERNAL | {"name", "SIGNALS"}
    return {
        name
        for name in dir(cls)
        if not name.startswith("_")
        and name not in private
        and not isinstance(getattr_static(cls, name), qt_objects.AbsentAttribute)
    }


# Held against the names of a real Slicer


def test_the_short_list_of_names_is_what_was_read_off_a_running_slicer() -> None:
    if not INTROSPECTION.is_file():
        pytest.skip(f"no introspection of Slicer at {INTROSPECTION}")
    introspection = json.loads(INTROSPECTION.read_text(encoding="utf-8"))
    assert api.condensed(introspection) == api.facts()


@pytest.mark.parametrize("key", modeled_classes())
def test_a_class_offers_no_name_that_it_lacks_in_slicer(key: str) -> None:
    module, name = key.split(".")
    known = api.offered(key)
    plain = {"exec_", "raise_", "print_", "del_"}
    assert sorted(public_names(getattr(MODULES[module], name)) - known - plain) == []


def test_every_widget_of_ctk_and_mrml_is_known_from_slicer() -> None:
    known = {key.split(".")[1] for key in api.facts()["classes"]}
    assert {name for name in vars(ctk) if name.startswith("ctk")} <= known
    assert {name for name in vars(slicer) if name.startswith(("qMRML", "qSlicer"))} <= known


@pytest.mark.parametrize(
    ("key", "instance"),
    [
        ("slicer.app", lambda: slicer.app),
        ("slicer.app.moduleManager()", slicer.app.moduleManager),
        ("slicer.app.ioManager()", slicer.app.ioManager),
    ],
)
def test_the_application_and_its_managers_offer_no_name_that_they_lack_in_slicer(key: str, instance: Any) -> None:
    subject = instance()
    private = qt_objects.VIRTUAL | qt_objects.INTERNAL | {"name", "SIGNALS"}
    answered = {name for name in dir(subject) if not name.startswith("_") and hasattr(subject, name)}
    assert sorted(answered - api.instance_names(key) - private) == []


def test_utilities_and_base_classes_offer_no_function_that_they_lack_in_slicer() -> None:
    functions = {name for name in dir(slicer.util) if callable(getattr(slicer.util, name, None))}
    own = {name for name in functions if getattr(getattr(slicer.util, name), "__module__", "") == "slicer.util"}
    assert [
        name for name in sorted(own) if not name.startswith("_") and f"slicer.util.{name}" not in api.functions()
    ] == []
    for name in slicer.ScriptedLoadableModule.__all__:
        methods = {method for method in vars(getattr(scripted_module, name)) if not method.startswith("__")}
        known = {key.split(".")[2] for key in api.functions() if key.startswith(f"ScriptedLoadableModule.{name}.")}
        assert methods <= known, name


def test_every_module_is_one_of_slicer() -> None:
    built_in = {module.name for module in vars(slicer.modules).values() if isinstance(module, SimpleNamespace)}
    assert built_in
    assert built_in <= set(api.facts()["modules"].split())


def test_the_parameter_node_wrapper_offers_nothing_that_it_lacks_in_slicer() -> None:
    offered = {name for name in vars(slicer.parameterNodeWrapper) if not name.startswith("_")}
    assert offered <= set(api.facts()["parameterNodeWrapper"].split())


def test_a_utility_takes_no_parameter_that_came_later() -> None:
    with pytest.raises(TypeError, match="in Slicer"):
        slicer.util.findChild(qt.QWidget(), "name", properties={})


def test_the_scene_has_no_packaging_and_no_main_window_as_slicer_58_without_one() -> None:
    assert not hasattr(slicer, "packaging")
    assert slicer.util.mainWindow() is None
    assert slicer.app.layoutManager() is None


# Qt as PythonQt gives it


def test_properties_are_attributes_and_not_functions() -> None:
    button = qt.QPushButton("Apply")
    assert button.text == "Apply"
    button.text = "Cancel"
    assert button.property("text") == "Cancel"
    with pytest.raises(TypeError):
        button.text()
    assert button.size.width() > 0


def test_size_hints_are_attributes_too_although_qt_calls_them() -> None:
    section = ctk.ctkCollapsibleButton("Advanced")
    layout = qt.QVBoxLayout(section)
    label = qt.QLabel("two\nlines")
    layout.addWidget(label)
    assert section.sizeHint.height() > label.sizeHint.height() >= label.minimumSizeHint.height() > 0
    with pytest.raises(TypeError):
        label.sizeHint()


@pytest.mark.parametrize("name", ["checkStateChanged", "isTopLevel", "screen", "txet"])
def test_reading_what_slicer_lacks_raises(name: str) -> None:
    with pytest.raises(AttributeError):
        getattr(qt.QCheckBox(), name)


def test_setting_what_a_widget_lacks_or_refuses_raises() -> None:
    label = qt.QLabel()
    with pytest.raises(AttributeError, match="txet"):
        label.txet = "a"
    with pytest.raises(AttributeError, match="does not accept"):
        label.text = Path("a")


def test_a_signal_hands_over_what_its_name_says_and_the_function_takes() -> None:
    button = qt.QPushButton()
    button.checkable = True
    calls: list[tuple[Any, ...]] = []
    button.connect("clicked()", lambda: calls.append(("none",)))
    button.connect("clicked(bool)", lambda checked: calls.append(("one", checked)))
    button.connect("clicked(bool)", lambda: calls.append(("fewer",)))
    button.connect("clicked()", lambda checked=7: calls.append(("default", checked)))
    button.connect("clicked(bool)", lambda *values: calls.append(("all", *values)))
    button.click()
    assert calls == [("none",), ("one", True), ("fewer",), ("default", 7), ("all", True)]


def test_a_method_is_connected_and_disconnected_by_its_signal() -> None:
    class Receiver:
        def __init__(self) -> None:
            self.values: list[int] = []

        def take(self, value: int) -> None:
            self.values.append(value)

    spin, receiver = qt.QSpinBox(), Receiver()
    spin.connect("valueChanged(int)", receiver.take)
    spin.value = 3
    assert spin.disconnect("valueChanged(int)", receiver.take)
    assert not spin.disconnect("valueChanged(int)", receiver.take)
    spin.value = 4
    assert receiver.values == [3]


@pytest.mark.parametrize("signature", ["clickd()", "clicked(int)", "clicked", "text()"])
def test_connecting_a_signal_that_is_not_there_raises(signature: str) -> None:
    with pytest.raises(ValueError, match="signal"):
        qt.QPushButton().connect(signature, print)


def test_what_a_slot_raises_is_remembered(runtime: Runtime, capsys: pytest.CaptureFixture[str]) -> None:
    button = qt.QPushButton()
    button.connect("clicked()", lambda: 1 / 0)
    button.click()
    assert "ZeroDivisionError" in runtime.errors.pop()


def test_a_process_tells_its_output_and_its_exit_code() -> None:
    process, codes = qt.QProcess(), []
    process.connect("finished(int,QProcess::ExitStatus)", lambda code, status: codes.append(code))
    process.start(sys.executable, ["-c", "print('seen'); raise SystemExit(3)"])
    assert process.waitForFinished(20000)
    assert process.readAllStandardOutput().data().decode().split() == ["seen"]
    assert codes == [3]


def test_settings_stay_in_the_folder_of_the_runtime(runtime: Runtime) -> None:
    assert Path(qt.QSettings().fileName()).is_relative_to(runtime.folder)
    assert Path(slicer.app.userSettings().fileName()).is_relative_to(runtime.folder)
    assert Path(slicer.app.temporaryPath).is_relative_to(runtime.folder)


# Widgets of CTK and MRML


def test_a_collapsible_button_hides_what_is_in_it_and_no_more() -> None:
    section = ctk.ctkCollapsibleButton("Advanced")
    layout = qt.QVBoxLayout(section)
    shown, hidden = qt.QLabel("shown"), qt.QLabel("hidden")
    layout.addWidget(shown)
    layout.addWidget(hidden)
    hidden.visible = False
    states: list[bool] = []
    section.connect("contentsCollapsed(bool)", states.append)
    section.show()
    section.collapsed = True
    assert not shown.visible
    section.collapsed = False
    assert shown.visible
    assert not hidden.visible
    section.click()
    assert section.collapsed
    assert states == [True, False, True]


def test_children_are_not_found_by_their_name_as_pythonqt_does_not_descend_to_them() -> None:
    parent = qt.QWidget()
    child = qt.QPushButton(parent)
    child.objectName = "child"
    assert parent.findChildren(qt.QWidget) == [child]
    assert parent.findChild(qt.QWidget, "child") is child
    with pytest.raises(TypeError, match="PythonQt"):
        parent.findChildren(qt.QWidget, "child")


def test_a_path_line_edit_tells_each_new_path_once_and_that_it_was_cleared_by_another_signal(tmp_path: Path) -> None:
    edit = ctk.ctkPathLineEdit()
    edit.filters = ctk.ctkPathLineEdit.Dirs
    paths: list[str] = []
    valid: list[bool] = []
    edit.connect("currentPathChanged(QString)", paths.append)
    edit.connect("validInputChanged(bool)", valid.append)
    edit.currentPath = str(tmp_path)
    edit.currentPath = str(tmp_path)
    edit.currentPath = str(tmp_path / "not there")
    edit.currentPath = ""
    assert paths == [str(tmp_path), str(tmp_path / "not there")]
    assert valid == [True, False]


def test_a_slider_and_its_spin_box_agree() -> None:
    slider = ctk.ctkSliderWidget()
    slider.minimum, slider.maximum, slider.singleStep = -1.0, 1.0, 0.01
    values: list[float] = []
    slider.connect("valueChanged(double)", values.append)
    slider.value = 0.25
    slider.value = 4.0
    assert (values, slider.value) == ([0.25, 1.0], 1.0)


def test_a_node_selector_follows_the_scene(runtime: Runtime) -> None:
    selector = slicer.qMRMLNodeComboBox()
    selector.nodeTypes = ["vtkMRMLScalarVolumeNode"]
    selector.noneEnabled = True
    selector.setMRMLScene(slicer.mrmlScene)
    chosen: list[Any] = []
    selector.connect("currentNodeChanged(vtkMRMLNode*)", chosen.append)
    assert selector.currentNode() is None
    volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "CT")
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "not a volume")
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "a volume of labels")
    assert selector.nodeCount() == 2
    selector.setCurrentNode(volume)
    assert selector.currentNodeID == volume.GetID()
    slicer.mrmlScene.RemoveNode(volume)
    assert chosen == [volume, None]


def test_a_node_selector_without_none_takes_the_first_node_and_keeps_to_its_filters(runtime: Runtime) -> None:
    hidden = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "hidden")
    hidden.SetHideFromEditors(True)
    other = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "CT")
    marked = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "marked")
    marked.SetAttribute("Purpose", "training")
    selector = slicer.qMRMLNodeComboBox()
    selector.nodeTypes = ["vtkMRMLScalarVolumeNode"]
    selector.setMRMLScene(slicer.mrmlScene)
    assert selector.currentNode() is other
    selector.addAttribute("vtkMRMLScalarVolumeNode", "Purpose", "training")
    assert selector.currentNode() is marked


def test_a_widget_that_is_gone_no_longer_follows_the_scene(runtime: Runtime) -> None:
    selector = slicer.qMRMLNodeComboBox()
    selector.nodeTypes = ["vtkMRMLScalarVolumeNode"]
    selector.setMRMLScene(slicer.mrmlScene)
    selector.deleteLater()
    runtime.process_events()
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "CT")
    assert runtime.errors == []


UI = """<ui version="4.0"><widget class="qMRMLWidget" name="Top"><layout class="QVBoxLayout" name="rows">
<item><widget class="{cls}" name="selector"><property name="{property}"><bool>true</bool></property></widget></item>
</layout></widget><connections><connection><sender>Top</sender><signal>mrmlSceneChanged(vtkMRMLScene*)</signal>
<receiver>selector</receiver><slot>{slot}(vtkMRMLScene*)</slot></connection></connections></ui>"""


def load_ui(folder: Path, **changes: str) -> Any:
    words = {"cls": "qMRMLNodeComboBox", "property": "noneEnabled", "slot": "setMRMLScene"} | changes
    path = folder / "Panel.ui"
    path.write_text(UI.format(**words), encoding="utf-8")
    return slicer.util.loadUI(str(path))


def test_a_ui_file_gives_the_scene_to_the_widgets_in_it(runtime: Runtime, tmp_path: Path) -> None:
    widget = load_ui(tmp_path)
    widget.setMRMLScene(slicer.mrmlScene)
    selector = slicer.util.childWidgetVariables(widget).selector
    assert selector.noneEnabled
    assert selector.mrmlScene() is slicer.mrmlScene


@pytest.mark.parametrize(
    "change", [{"cls": "qMRMLTeapot"}, {"cls": "QCalendarWidget"}, {"property": "noneEnable"}, {"slot": "setScene"}]
)
def test_a_ui_file_with_a_name_that_is_not_there_is_refused(tmp_path: Path, change: dict[str, str]) -> None:
    with pytest.raises((ValueError, AttributeError)):
        load_ui(tmp_path, **change)
