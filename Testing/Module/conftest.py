"""The runtime, for tests of the module; where it cannot start, they skip and say why."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from Runtime import missing, start

if TYPE_CHECKING:
    from Runtime.session import Runtime


@pytest.fixture(scope="session")
def started() -> Runtime:
    """The runtime of this process."""
    reason = missing()
    if reason:
        pytest.skip(reason)
    return start()


@pytest.fixture
def runtime(started: Runtime) -> Iterator[Runtime]:
    """The runtime with an empty scene; at the end, nothing may have failed behind Qt's back."""
    started.clear()
    yield started
    errors = list(started.errors)
    started.clear()
    assert not errors, "\n".join(errors)
