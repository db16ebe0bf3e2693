"""Gives PySide6's classes the manners of PythonQt: properties are attributes, and what Slicer lacks is absent."""

from __future__ import annotations

import dis
import sys
from collections.abc import Callable, Iterator
from inspect import getattr_static
from types import FrameType, MethodType
from typing import Any

from PySide6 import QtCore, QtGui, QtWidgets

from . import api, qt_signals

# C++ calls these through the Python object, so their look-up must never fail or answer with a value.
VIRTUAL = frozenset(
    api.words("""
    closeEditor commitData connectNotify currentChanged dataChanged disconnectNotify editorDestroyed hasHeightForWidth
    heightForWidth horizontalScrollbarAction horizontalScrollbarValueChanged initStyleOptionForIndex initViewItemOption
    itemDelegateForIndex menuInAction minimumSizeHint rowsAboutToBeRemoved rowsInserted sectionsAboutToBeRemoved
    sectionsInserted selectionChanged sizeHint skipData staticMetaObject updateEditorData updateEditorGeometries
    updateGeometries verticalScrollbarAction verticalScrollbarValueChanged
    """)
)
VIRTUAL_OF_LAYOUTS = frozenset({"minimumSize", "maximumSize", "spacing", "setSpacing", "geometry", "sizeConstraint"})
# Shiboken reaches for them itself.
INTERNAL = frozenset({"emit", "receivers"})

# Virtual functions and properties at the same time.
SIZE_HINTS = frozenset({"sizeHint", "minimumSizeHint"})

_absent_names: set[str] = set()


class PropertyAttribute:
    """A Q_PROPERTY read and set as an attribute; on the class, what stood there before."""

    def __init__(self, name: str, original: Any) -> None:
        self.name = name
        self.original = original

    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is None:
            return self if self.original is None else self.original.__get__(None, owner)
        return instance.property(self.name)

    def __set__(self, instance: Any, value: Any) -> None:
        if not instance.setProperty(self.name, value):
            raise AttributeError(
                f"Property '{self.name}' of {instance.metaObject().className()} does not accept {value!r}"
            )


class AbsentAttribute:
    """A name that PySide6 has and Slicer's Qt has not."""

    def __init__(self, name: str, original: Any) -> None:
        self.name = name
        self.original = original

    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is None:
            return self.original.__get__(None, owner) if hasattr(self.original, "__get__") else self.original
        raise AttributeError(f"{owner.__name__} has no attribute '{self.name}' in Slicer")


def adapt_all() -> None:
    """Adapt every class of PySide6 that derives from QObject, and hide what any class lacks in Slicer."""
    classes = list(_classes())
    objects = [cls for cls in classes if issubclass(cls, QtCore.QObject)]
    getters = {cls: cls.__getattribute__ for cls in objects if _has_own_look_up(cls)}
    (root,) = (cls for cls in QtCore.QObject.__mro__ if cls.__module__ == "Shiboken")
    known_properties = _known_properties(objects)
    for cls in objects:
        _add_properties(cls, known_properties.get(cls))
    # A class comes before those that derive from it, which may have again what it lacks.
    for cls in sorted(classes, key=lambda item: len(item.__mro__)):
        if f"qt.{cls.__name__}" in api.facts()["classes"]:
            _hide_absent(cls, api.offered(f"qt.{cls.__name__}"))
    QtCore.QObject.className = lambda self: self.metaObject().className()
    # PythonQt knows the object name under this name too, and slicer.util looks for it.
    QtCore.QObject.name = PropertyAttribute("objectName", None)
    QtCore.QObject.findChildren = _without_name(QtCore.QObject.findChildren)
    for cls, getter in getters.items():
        cls.__getattribute__ = _with_connect(getter)
    # Python lets only the function of the lowest base through once the classes above have one in Python.
    for cls in objects:
        cls.__setattr__ = _refusing_unknown(root.__setattr__)


def _without_name(original: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
    def find(self: Any, kind: type, name: str = "") -> list[Any]:
        if name:
            raise TypeError("PythonQt looks for a name only below children that have it: compare the names of all")
        return original(self, kind)

    return find


def _classes() -> Iterator[type]:
    for module in (QtCore, QtGui, QtWidgets):
        # Not vars(): PySide6 makes its classes when they are first asked for.
        yield from {value for value in (getattr(module, name) for name in dir(module)) if isinstance(value, type)}


def _known_properties(objects: list[type]) -> dict[type, frozenset[str]]:
    """Return the properties of classes in Slicer; a base has what any class over it has."""
    known: dict[type, frozenset[str]] = {}
    by_name = {f"qt.{cls.__name__}": cls for cls in objects}
    for key in by_name.keys() & api.facts()["classes"].keys():
        for base in by_name[key].__mro__:
            known[base] = known.get(base, frozenset()) | api.names(key, "properties")
    return known


def _add_properties(cls: Any, known: frozenset[str] | None) -> None:
    meta = cls.staticMetaObject
    for index in range(meta.propertyOffset(), meta.propertyCount()):
        name = meta.property(index).name()
        if name not in _virtual(cls) and (known is None or name in known):
            setattr(cls, name, PropertyAttribute(name, cls.__dict__.get(name)))


def _hide_absent(cls: type, known: frozenset[str]) -> None:
    for name in dir(cls):
        value = getattr_static(cls, name)
        if name.startswith("_") or name in known or name in _virtual(cls) or name in INTERNAL:
            continue
        if api.RESERVED.get(name.rstrip("_")) != name and not isinstance(value, AbsentAttribute):
            setattr(cls, name, AbsentAttribute(name, value))
            _absent_names.add(name)


def _virtual(cls: type) -> frozenset[str]:
    return VIRTUAL | VIRTUAL_OF_LAYOUTS if issubclass(cls, QtWidgets.QLayout) else VIRTUAL


def _has_own_look_up(cls: type) -> bool:
    # Classes with several bases bring their own function; calling QObject's on them ends the process.
    return "__getattribute__" in cls.__dict__ or len(cls.__bases__) > 1 or cls is QtCore.QObject


def _with_connect(getter: Callable[[Any, str], Any]) -> Callable[[Any, str], Any]:
    def look_up(self: Any, name: str) -> Any:
        if name == "connect":
            return MethodType(qt_signals.connect, self)
        if name == "disconnect":
            return MethodType(qt_signals.disconnect, self)
        if name in SIZE_HINTS and _loads_attribute(sys._getframe(1)):
            return self.property(name)
        if name in _absent_names:
            # What is not found on the class, PySide6 would look for among Qt's own signals.
            hidden = getattr_static(type(self), name, None)
            if isinstance(hidden, AbsentAttribute):
                return hidden.__get__(self, type(self))
        return getter(self, name)

    return look_up


def _loads_attribute(frame: FrameType) -> bool:
    # Shiboken looks a virtual function up by the same way whenever C++ calls it, and must find a function then. The
    # Python below it stands at a call at that moment; only a program that reads the attribute stands at its loading.
    operation = dis.opname[frame.f_code.co_code[frame.f_lasti]]
    return operation in {"LOAD_ATTR", "LOAD_METHOD"}


def _refusing_unknown(setter: Callable[[Any, str, Any], None]) -> Callable[[Any, str, Any], None]:
    def set_attribute(self: Any, name: str, value: Any) -> None:
        cls = type(self)
        if cls.__module__.startswith("PySide6.") and not hasattr(cls, name):
            raise AttributeError(f"{cls.__name__} has no attribute '{name}' that could be set")
        prop = getattr_static(cls, name, None)
        if isinstance(prop, QtCore.Property):
            # PySide6 finds these in the function that this one replaces.
            if prop.fset is None:
                raise AttributeError(f"Property '{name}' of {cls.__name__} is read-only")
            prop.fset(self, value)
        else:
            setter(self, name, value)

    return set_attribute
