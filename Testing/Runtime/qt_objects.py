"""Gives PySide6's classes the manners of PythonQt: properties are attributes, and what Slicer lacks is absent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from inspect import getattr_static
from types import MethodType
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
    """Adapt every class of PySide6 that derives from QObject."""
    classes = [cls for cls in _classes() if issubclass(cls, QtCore.QObject)]
    properties, offered = _modeled_names(classes)
    getters = {cls: cls.__getattribute__ for cls in classes if _has_own_look_up(cls)}
    (root,) = (cls for cls in QtCore.QObject.__mro__ if cls.__module__ == "Shiboken")
    for cls in classes:
        if cls in offered:
            _hide_absent(cls, offered[cls])
        _add_properties(cls, properties.get(cls))
    QtCore.QObject.className = lambda self: self.metaObject().className()
    # PythonQt knows the object name under this name too, and slicer.util looks for it.
    QtCore.QObject.name = PropertyAttribute("objectName", None)
    for cls, getter in getters.items():
        cls.__getattribute__ = _with_connect(getter)
    # Python lets only the function of the lowest base through once the classes above have one in Python.
    for cls in classes:
        cls.__setattr__ = _refusing_unknown(root.__setattr__)


def _classes() -> Iterator[type]:
    for module in (QtCore, QtGui, QtWidgets):
        # Not vars(): PySide6 makes its classes when they are first asked for.
        yield from {value for value in (getattr(module, name) for name in dir(module)) if isinstance(value, type)}


def _modeled_names(classes: list[type]) -> tuple[dict[type, frozenset[str]], dict[type, frozenset[str]]]:
    """Return the properties and all names of classes in Slicer; a base has what any class over it has."""
    properties: dict[type, frozenset[str]] = {}
    offered: dict[type, frozenset[str]] = {}
    by_name = {cls.__name__: cls for cls in classes}
    for key in api.facts()["classes"]:
        cls = by_name.get(key.removeprefix("qt."))
        if cls is None:
            continue
        for base in cls.__mro__:
            if base in by_name.values():
                properties[base] = properties.get(base, frozenset()) | api.names(key, "properties")
                offered[base] = offered.get(base, frozenset()) | api.offered(key)
    return properties, offered


def _add_properties(cls: Any, known: frozenset[str] | None) -> None:
    meta = cls.staticMetaObject
    for index in range(meta.propertyOffset(), meta.propertyCount()):
        name = meta.property(index).name()
        if name not in _virtual(cls) and (known is None or name in known):
            setattr(cls, name, PropertyAttribute(name, cls.__dict__.get(name)))


def _hide_absent(cls: type, known: frozenset[str]) -> None:
    for name, value in list(vars(cls).items()):
        if name.startswith("_") or name in known or name in _virtual(cls) or name in INTERNAL:
            continue
        if api.RESERVED.get(name.rstrip("_")) != name:
            setattr(cls, name, AbsentAttribute(name, value))


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
        return getter(self, name)

    return look_up


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
