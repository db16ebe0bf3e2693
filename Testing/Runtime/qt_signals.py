"""``object.connect("signal(types)", function)`` as in PythonQt."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import FunctionType, MethodType
from typing import Any
from weakref import WeakKeyDictionary

from PySide6 import QtCore

_SIGNATURE = re.compile(r"(?P<name>\w+)\s*\((?P<types>.*)\)")
_VARIABLE_ARGUMENTS = 0x04

_original_connect = QtCore.QObject.connect
_original_disconnect = QtCore.QObject.disconnect
_connections: WeakKeyDictionary[QtCore.QObject, list[tuple[str, Any, Any]]] = WeakKeyDictionary()


def connect(sender: Any, *arguments: Any) -> Any:
    """Connect a signal, named with its types, to a function.

    The function is given as many arguments as the string names, or fewer where it takes fewer.

    Raises
    ------
    ValueError
        If the sender has no such signal. (Slicer prints this and returns false.)
    """
    if not (len(arguments) == 2 and isinstance(arguments[0], str) and not arguments[0].startswith("2")):
        return _original_connect(*_with_sender(sender, arguments))
    signature, function = arguments
    name, types = split(sender, signature)
    slot = _trimmed(function, len(types))
    if _declared(sender, name):
        getattr(sender, name).connect(slot)
    else:
        _original_connect(sender, "2" + normalized(signature), slot)
    _connections.setdefault(sender, []).append((normalized(signature), function, slot))
    return True


def disconnect(sender: Any, *arguments: Any) -> Any:
    """Undo ``connect`` of the same signal and function; return whether there was such a connection."""
    if not (len(arguments) == 2 and isinstance(arguments[0], str) and not arguments[0].startswith("2")):
        return _original_disconnect(*_with_sender(sender, arguments))
    signature, function = arguments
    name, _ = split(sender, signature)
    for entry in _connections.get(sender, []):
        if entry[0] == normalized(signature) and entry[1] == function:
            if _declared(sender, name):
                getattr(sender, name).disconnect(entry[2])
            else:
                _original_disconnect(sender, "2" + normalized(signature), entry[2])
            _connections[sender].remove(entry)
            return True
    return False


def split(sender: Any, signature: str) -> tuple[str, list[str]]:
    """Return name and types of a sender's signal; refuse what the sender has not."""
    match = _SIGNATURE.fullmatch(signature.strip())
    class_name = sender.metaObject().className()
    if match is None:
        raise ValueError(f"“{signature}” does not name a signal with its types, as in “clicked(bool)”")
    name = match["name"]
    known = _signatures(sender, name)
    if normalized(signature) not in known:
        raise ValueError(f"{class_name} has no signal {signature}; known: {', '.join(sorted(known)) or 'none'}")
    return name, [part for part in match["types"].split(",") if part.strip()]


def normalized(signature: str) -> str:
    """Return a signature as Qt compares it."""
    return bytes(QtCore.QMetaObject.normalizedSignature(signature.strip()).data()).decode()


def _signatures(sender: Any, name: str) -> set[str]:
    declared = _declared(sender, name)
    if declared:
        return {f"{name}({types})" for types in declared}
    if not hasattr(sender, name):
        return set()
    meta = sender.metaObject()
    methods = (meta.method(index) for index in range(meta.methodCount()))
    return {
        bytes(method.methodSignature().data()).decode()
        for method in methods
        if method.methodType() == QtCore.QMetaMethod.MethodType.Signal and method.name() == name.encode()
    }


def _declared(sender: Any, name: str) -> tuple[str, ...]:
    # Classes of the runtime say the C++ types of their signals, as Python's own have none.
    for cls in type(sender).__mro__:
        declared = cls.__dict__.get("SIGNALS", {})
        if name in declared:
            return declared[name]
    return ()


def _trimmed(function: Callable[..., Any], count: int) -> Callable[..., Any]:
    taken = min(count, _taken(function, count))

    def slot(*values: Any) -> None:
        function(*values[:taken])

    return slot


def _taken(function: Any, count: int) -> int:
    inner = function.__func__ if isinstance(function, MethodType) else function
    if not isinstance(inner, FunctionType) or inner.__code__.co_flags & _VARIABLE_ARGUMENTS:
        return count
    return inner.__code__.co_argcount - isinstance(function, MethodType)


def _with_sender(sender: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    # Signal objects come through here with the sender as first of their arguments.
    return arguments if len(arguments) > 2 and isinstance(arguments[0], QtCore.QObject) else (sender, *arguments)
