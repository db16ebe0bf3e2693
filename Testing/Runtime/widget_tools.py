"""Helps to write widgets of CTK and MRML in Python: real Qt properties, made in one line."""

from __future__ import annotations

from typing import Any

from PySide6 import QtCore

from .ui_loader import CUSTOM


def stored(kind: Any, name: str, default: Any, changed: str = "") -> QtCore.Property:
    """Return a property that keeps its value in the widget.

    Parameters
    ----------
    kind : type or str
        Type of the property, as Qt names it where it is text.
    name : str
        Name of the property; its value lives in the attribute ``_name``.
    default : object
        Value before it is set.
    changed : str, optional
        Method of the widget that is called after a change.
    """
    attribute = f"_{name}"

    def read(self: Any) -> Any:
        return getattr(self, attribute, default)

    def write(self: Any, value: Any) -> None:
        if value == read(self):
            return
        setattr(self, attribute, value)
        if changed:
            getattr(self, changed)()

    return QtCore.Property(kind, read, write)


def forwarded(kind: Any, name: str, inner: str, inner_name: str = "") -> QtCore.Property:
    """Return a property that is one of a widget inside this one."""

    def read(self: Any) -> Any:
        return getattr(getattr(self, inner), inner_name or name)

    def write(self: Any, value: Any) -> None:
        setattr(getattr(self, inner), inner_name or name, value)

    return QtCore.Property(kind, read, write)


def widget_of(module: Any) -> Any:
    """Return a decorator that makes a class known to a module and to the loader of ``.ui`` files."""

    def register(cls: type) -> type:
        CUSTOM[cls.__name__] = cls
        setattr(module, cls.__name__, cls)
        return cls

    return register
