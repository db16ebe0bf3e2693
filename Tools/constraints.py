"""Writes the installed versions of all that the project's dependency groups need, as a tested set for pip."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

HEADER = """\
# A tested set of versions of everything that the groups {groups} bring, for pip's option -c.
# Written by "make constraints"; lower bounds without pins stand in pyproject.toml.
"""


def normalized(name: str) -> str:
    """Return a package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def closure(requirements: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """Return name and version of the requirements and of what they require, and the names not installed."""
    versions: dict[str, str] = {}
    missing: list[str] = []
    seen: set[str] = set()
    waiting = [(Requirement(text), "") for text in requirements]
    while waiting:
        requirement, extra = waiting.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = normalized(requirement.name)
        wanted = {f"{name}[{e}]" for e in requirement.extras} | {name}
        if wanted <= seen:
            continue
        seen |= wanted
        try:
            found = distribution(name)
        except PackageNotFoundError:
            missing.append(name)
            continue
        # A local part (torch's "+cpu") would exclude every other build of the same version.
        versions[name] = found.version.split("+")[0]
        for text in found.requires or []:
            waiting += [(Requirement(text), e) for e in ("", *requirement.extras)]
    return versions, sorted(missing)


def main(target: str) -> int:
    """Write the set to a file; return 1 if something of it is not installed."""
    root = Path(__file__).resolve().parents[1]
    settings = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    project = settings["project"]
    groups = {name: list(items) for name, items in project["optional-dependencies"].items() if name != "dask"}
    requirements = [*project["dependencies"], *(item for items in groups.values() for item in items)]
    versions, missing = closure([*requirements, *settings["build-system"]["requires"]])
    if missing:
        sys.stderr.write(f"Not installed, so nothing was written: {', '.join(missing)}\n")
        return 1
    lines = [f"{name}=={version}\n" for name, version in sorted(versions.items())]
    Path(target).write_text(HEADER.format(groups=", ".join(groups)) + "".join(lines), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
