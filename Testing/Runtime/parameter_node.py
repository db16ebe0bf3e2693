"""``slicer.parameterNodeWrapper``: a class whose typed attributes live in a parameter node of the scene."""

from __future__ import annotations

import enum
import pathlib
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import ModuleType
from typing import Annotated, Any

import slicer


@dataclass(frozen=True)
class Default:
    """The value of a parameter that was never set."""

    value: Any


@dataclass(frozen=True)
class Minimum:
    """The least value that a parameter takes."""

    minimum: float

    def validate(self, value: Any) -> None:
        if value < self.minimum:
            raise ValueError(f"Value must be at least {self.minimum}, not {value}")


@dataclass(frozen=True)
class Maximum:
    """The greatest value that a parameter takes."""

    maximum: float

    def validate(self, value: Any) -> None:
        if value > self.maximum:
            raise ValueError(f"Value must be at most {self.maximum}, not {value}")


@dataclass(frozen=True)
class WithinRange:
    """The least and the greatest value that a parameter takes."""

    minimum: float
    maximum: float

    def validate(self, value: Any) -> None:
        if not self.minimum <= value <= self.maximum:
            raise ValueError(f"Value must be within [{self.minimum}, {self.maximum}], not {value}")


class Choice:
    """The values among which a parameter chooses."""

    def __init__(self, choices: Iterable[Any]) -> None:
        self.choices = list(choices)

    def validate(self, value: Any) -> None:
        if value not in self.choices:
            raise ValueError(f"Value must be one of {self.choices}, not {value!r}")


@dataclass(frozen=True)
class Decimals:
    """How many decimals a widget shows."""

    value: int


@dataclass(frozen=True)
class SingleStep:
    """By how much one click changes a widget."""

    value: float


class Parameter:
    """One typed attribute: how its value is written to the node and read back."""

    def __init__(self, name: str, annotation: Any, default: Any) -> None:
        self.name = name
        self.kind = annotation
        self.annotations: tuple[Any, ...] = ()
        if typing.get_origin(annotation) is Annotated:
            self.kind, *extra = typing.get_args(annotation)
            self.annotations = tuple(extra)
        self.node_classes = _node_classes(self.kind)
        if not (
            self.node_classes
            or self.kind in (bool, int, float, str)
            or issubclass(self.kind, (enum.Enum, pathlib.PurePath))
        ):
            raise TypeError(f"the runtime does not model parameters of type {self.kind}")
        self.default = self._default(default)

    def _default(self, given: Any) -> Any:
        stated = [item.value for item in self.annotations if isinstance(item, Default)]
        if given is not None or stated:
            return given if given is not None else stated[0]
        if self.node_classes:
            return None
        for item in self.annotations:
            if isinstance(item, Choice):
                return item.choices[0]
        return next(iter(self.kind)) if issubclass(self.kind, enum.Enum) else self.kind()

    def is_in(self, node: Any) -> bool:
        if self.node_classes:
            return bool(node.GetNodeReferenceID(self.name))
        return node.HasParameter(self.name) if hasattr(node, "HasParameter") else self.name in node.GetParameterNames()

    def read(self, node: Any) -> Any:
        if self.node_classes:
            return node.GetNodeReference(self.name)
        if not self.is_in(node):
            return self.default
        text = node.GetParameter(self.name)
        if self.kind is bool:
            return text == "True"
        return self.kind[text] if issubclass(self.kind, enum.Enum) else self.kind(text)

    def write(self, node: Any, value: Any) -> None:
        self.validate(value)
        if self.node_classes:
            node.SetNodeReferenceID(self.name, value.GetID() if value is not None else None)
        else:
            node.SetParameter(self.name, value.name if isinstance(value, enum.Enum) else str(value))

    def validate(self, value: Any) -> None:
        if self.node_classes:
            if value is not None and not isinstance(value, self.node_classes):
                raise TypeError(f"{self.name}: expected {self.node_classes}, not {type(value)}")
            return
        fits = isinstance(value, self.kind) or (self.kind is float and isinstance(value, int))
        if not fits or (isinstance(value, bool) and self.kind is not bool):
            raise TypeError(f"{self.name}: expected {self.kind}, not {type(value)}")
        for item in self.annotations:
            if hasattr(item, "validate"):
                item.validate(value)


def parameterNodeWrapper(cls: type) -> type:
    """Return a class that reads and writes the attributes of ``cls`` in a parameter node."""
    parameters = {
        name: Parameter(name, annotation, getattr(cls, name, None))
        for name, annotation in typing.get_type_hints(cls, include_extras=True).items()
    }
    for name, parameter in parameters.items():
        setattr(cls, name, _attribute(parameter))
    cls._parameters = parameters
    for name, function in _METHODS.items():
        setattr(cls, name, function)
    return cls


def _attribute(parameter: Parameter) -> property:
    def read(self: Any) -> Any:
        return parameter.read(self.parameterNode)

    def write(self: Any, value: Any) -> None:
        parameter.write(self.parameterNode, value)

    return property(read, write)


def _init(self: Any, parameterNode: Any) -> None:
    object.__setattr__(self, "parameterNode", parameterNode)
    with slicer.util.NodeModify(parameterNode):
        for parameter in self._parameters.values():
            if parameter.default is not None and not parameter.is_in(parameterNode):
                parameter.write(parameterNode, parameter.default)


def _set(self: Any, name: str, value: Any) -> None:
    if name not in self._parameters:
        raise AttributeError(f"{type(self).__name__} has no parameter {name}")
    object.__setattr__(self, name, value)


def _default(self: Any, name: str) -> Default:
    return Default(self._parameters[name].default)


def _on_node(name: str) -> Callable[..., Any]:
    def call(self: Any, *arguments: Any) -> Any:
        return getattr(self.parameterNode, name)(*arguments)

    return call


_METHODS: dict[str, Any] = {
    "__init__": _init,
    "__setattr__": _set,
    "default": _default,
    **{name: _on_node(name) for name in ("AddObserver", "RemoveObserver", "StartModify", "EndModify", "Modified")},
}


def _node_classes(kind: Any) -> tuple[type, ...]:
    options = [item for item in typing.get_args(kind) if item is not type(None)] or [kind]
    if not all(isinstance(item, type) and issubclass(item, slicer.vtkMRMLNode) for item in options):
        return ()
    if len(options) > 1 and type(None) not in typing.get_args(kind):
        raise TypeError(f"Slicer cannot write None, the value before a choice, to a parameter of type {kind}")
    return tuple(options)


def build() -> ModuleType:
    """Return the module ``slicer.parameterNodeWrapper``."""
    module = ModuleType("slicer.parameterNodeWrapper", "Typed parameters in the scene")
    for item in (parameterNodeWrapper, Default, Minimum, Maximum, WithinRange, Choice, Decimals, SingleStep):
        setattr(module, item.__name__, item)
    return module
