"""``slicer.util``: that of slicer-core, which is of a later Slicer, with the functions and parameters of 5.8 alone."""

from __future__ import annotations

import functools
import inspect
import logging
import re
from collections.abc import Callable
from types import FunctionType, ModuleType
from typing import Any

import slicer

from . import api

logger = logging.getLogger(__name__)

_PARAMETER = re.compile(r"(?:^\(|, )(\*{0,2}\w+)")


def adapt(install: Callable[[Any], None]) -> None:
    """Limit ``slicer.util`` to what Slicer 5.8 has.

    Parameters
    ----------
    install : callable
        What stands for ``pip_install``.
    """
    util = slicer.util
    for key, signature in api.functions().items():
        name = key.removeprefix("slicer.util.")
        function = vars(util).get(name)
        if isinstance(function, FunctionType):
            _limit(util, name, function, _PARAMETER.findall(signature))
    util.pip_install = install
    util.delayDisplay = _delay_display
    util.__class__ = KnownUtilities


class KnownUtilities(ModuleType):
    """A module that denies functions which came after Slicer 5.8."""

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        own = callable(value) and getattr(value, "__module__", "") == "slicer.util"
        if own and not name.startswith("_") and f"slicer.util.{name}" not in api.functions():
            raise AttributeError(f"slicer.util has no function {name} in Slicer")
        return value


def _limit(util: Any, name: str, function: FunctionType, known: list[str]) -> None:
    extra = set(inspect.signature(function).parameters) - {item.lstrip("*") for item in known}
    if not extra or any(item.startswith("**") for item in known):
        return

    @functools.wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        if len(arguments) > len(known) or not named.keys() <= set(known):
            raise TypeError(f"slicer.util.{name} takes no more than {', '.join(known)} in Slicer")
        return function(*arguments, **named)

    setattr(util, name, call)


def _delay_display(message: str, autoCloseMsec: int = 1000, parent: Any = None, **_: Any) -> None:
    logger.info(message)
    slicer.app.processEvents()
