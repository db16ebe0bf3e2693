"""What the jobs need, what a Python has of it, and the sentences that say so."""

from __future__ import annotations

import importlib.util
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from slicer.i18n import tr as _

from LungSegmentationScene import ChildProcess, Environment
from LungSegmentationScene.PythonProbe import MARK, numbers

REQUIREMENTS_FILE = "requirements.txt"
WINDOW_PACKAGES = ("psutil", "pydantic")
"""What the window itself needs in Slicer's Python, also when jobs run in another one: they are small."""

SLICERS_OWN = "SimpleITK"
"""Built into Slicer in a special way: replacing it would break other modules, so it is never installed there."""

MINIMUM_PYTHON = "3.11"
NAMED_PACKAGES = 4
"""Up to so many packages are named in the one line of the strip."""

PROBE_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Requirement:
    """One package.

    Attributes
    ----------
    name, minimum
        As pip knows it, and the lowest version that will do.
    megabytes
        Size of the download, smallest and largest.
    """

    name: str
    minimum: str
    megabytes: tuple[int, int]

    def __str__(self) -> str:
        return f"{self.name}>={self.minimum}" if self.minimum else self.name


@dataclass(frozen=True)
class Device:
    """Where a network could run.

    Attributes
    ----------
    key
        As the jobs know it: ``cpu``, ``cuda:0``, ``mps``.
    name
        As its maker calls it.
    memoryMb
        How much memory it has; None where that is not known.
    problem
        Why it cannot be used; empty where it can.
    """

    key: str
    name: str
    memoryMb: int | None = None
    problem: str = ""


@dataclass(frozen=True)
class PythonReport:
    """What a Python has.

    Attributes
    ----------
    python
        The program; None for Slicer's own.
    version, executable
        As it says itself; empty where it did not run.
    missing, broken
        Packages that are absent or too old, and those that are there but do not work.
    torchBuild, device, deviceName, memoryMb, deviceWarning
        What jobs will run on; empty and None where that is not known.
    devices
        All that there are.
    problem, hint
        Why this Python cannot be used at all, and the cure; empty where it can.
    details
        What went wrong in detail, for the log.
    """

    python: Path | None
    version: str = ""
    executable: str = ""
    missing: tuple[Requirement, ...] = ()
    broken: tuple[Requirement, ...] = ()
    torchBuild: str = ""
    device: str = ""
    deviceName: str = ""
    memoryMb: int | None = None
    deviceWarning: str = ""
    problem: str = ""
    hint: str = ""
    details: str = ""
    windowMissing: tuple[Requirement, ...] = field(default=())
    devices: tuple[Device, ...] = ()

    @property
    def isReady(self) -> bool:
        """Whether jobs can run."""
        return not (self.problem or self.toInstall)

    @property
    def toInstall(self) -> tuple[Requirement, ...]:
        """Everything that the Install button would install, each package once."""
        found = {requirement.name: requirement for requirement in (*self.broken, *self.missing, *self.windowMissing)}
        return tuple(found.values())


def readRequirements(file: Path | None = None) -> tuple[Requirement, ...]:
    """Return the packages of ``Resources/requirements.txt``."""
    text = (file or Environment.resourcePath(REQUIREMENTS_FILE)).read_text(encoding="utf-8")
    found = []
    for line in text.splitlines():
        match = re.match(r"([\w.-]+)(?:>=([\d.]+))?\s+#\s*(\d+)(?:–(\d+))?", line)
        if match:
            low = int(match[3])
            found.append(Requirement(match[1], match[2] or "", (low, int(match[4] or low))))
    return tuple(found)


def sizeText(requirements: tuple[Requirement, ...]) -> str:
    """Return how much will be loaded: "about 340 MB", "0.3 to 3.2 GB"."""
    low, high = (sum(requirement.megabytes[end] for requirement in requirements) for end in (0, 1))
    if low == high or high < 1000:
        return _("about {size} MB").format(size=high)
    return _("{low:.1f} to {high:.1f} GB").format(low=low / 1000, high=high / 1000)


def windowMissing() -> tuple[Requirement, ...]:
    """Return what the window lacks in Slicer's own Python; looks for files and imports nothing."""
    importlib.invalidate_caches()
    return tuple(
        requirement
        for requirement in readRequirements()
        if requirement.name in WINDOW_PACKAGES and importlib.util.find_spec(requirement.name) is None
    )


def startProbe(
    python: Path | None,
    onReport: Callable[[PythonReport], None],
    startProcess: Callable = ChildProcess.ChildProcess,
) -> object | None:
    """Ask a Python what it has; ``onReport`` is called once, later or at once.

    Parameters
    ----------
    python
        The program, or the folder of a virtual environment; None for Slicer's own.
    onReport
        Gets the report.
    startProcess
        Called as :class:`~LungSegmentationScene.ChildProcess.ChildProcess`.

    Returns
    -------
    object or None
        The process; None where the path is no program, which the report says.
    """
    program = Environment.ownPython() if python is None else Environment.programOf(python)
    if python is not None and (not program.is_file() or not os.access(program, os.X_OK)):
        what = _("does not exist") if not program.exists() else _("is no program")
        onReport(
            PythonReport(
                python,
                problem=_("{path} {what}.").format(path=program, what=what),
                hint=_("Choose the Python of a virtual environment, or leave the path empty for Slicer's own."),
            )
        )
        return None
    requirements = readRequirements()
    command = [
        program,
        Path(__file__).with_name("PythonProbe.py"),
        Environment.libraryFolder(),
        *map(str, requirements),
    ]
    return startProcess(
        command,
        Environment.foreignEnvironment(python),
        lambda code, output: onReport(readReport(python, code, output, requirements)),
        None,
        PROBE_TIMEOUT_S,
    )


def readReport(python: Path | None, code: int, output: str, requirements: tuple[Requirement, ...]) -> PythonReport:
    """Return what a probe found out.

    Parameters
    ----------
    python
        Who was asked; None for Slicer's own.
    code, output
        How the probe ended and what it printed.
    requirements
        What it was asked for.
    """
    name = str(python) if python is not None else _("Slicer's Python")
    line = next((line for line in reversed(output.splitlines()) if line.startswith(MARK)), None)
    if line is None:
        if code == ChildProcess.TIMED_OUT:
            problem = _("{name} gave no answer within {s:.0f} s.").format(name=name, s=PROBE_TIMEOUT_S)
        else:
            problem = _("{name} could not be asked what it has.").format(name=name)
        hint = _("Choose the program “python” of a virtual environment with Python 3.11 or later.")
        return PythonReport(python, problem=problem, hint=hint if python is not None else "", details=output[-4000:])
    found = json.loads(line[len(MARK) :])
    if numbers(found["version"]) < numbers(MINIMUM_PYTHON):
        return PythonReport(
            python,
            version=found["version"],
            executable=found["executable"],
            problem=_("{name} is Python {version}; {minimum} or later is needed.").format(
                name=name, version=found["version"], minimum=MINIMUM_PYTHON
            ),
            hint=_("Choose another Python, or leave the path empty for Slicer's own."),
        )
    wanted = {requirement.name: requirement for requirement in requirements}
    if python is None:
        # Not ours to mend: a Slicer without its SimpleITK is broken.
        wanted.pop(SLICERS_OWN, None)
        found["packages"] = [entry for entry in found["packages"] if entry["name"] in wanted]
    states = {entry["name"]: entry["state"] for entry in found["packages"]}
    report = found.get("devices") or {}
    chosen = next((device for device in report.get("devices", []) if device["chosen"]), {})
    return PythonReport(
        python,
        version=found["version"],
        executable=found["executable"],
        missing=tuple(wanted[name] for name, state in states.items() if state in ("missing", "old")),
        broken=tuple(wanted[name] for name, state in states.items() if state == "broken"),
        torchBuild=report.get("torch_build") or (found.get("torch") or {}).get("version") or "",
        device=chosen.get("device", ""),
        deviceName=chosen.get("name", ""),
        memoryMb=chosen.get("memory_total_mb"),
        deviceWarning=report.get("problem", ""),
        details=(found.get("torch") or {}).get("problem", ""),
        windowMissing=windowMissing(),
        devices=tuple(
            Device(one["device"], one.get("name", ""), one.get("memory_total_mb"), one.get("problem") or "")
            for one in report.get("devices", [])
        ),
    )


def headline(report: PythonReport) -> str:
    """Return the one line that the strip shows."""
    if report.problem:
        return report.problem
    if report.broken and any(requirement.name == "torch" for requirement in report.broken):
        return _("PyTorch is only half installed and must be repaired.")
    if report.toInstall:
        if len(report.toInstall) > NAMED_PACKAGES:
            return _("{count} packages are not installed yet.").format(count=len(report.toInstall))
        names = ", ".join(requirement.name for requirement in report.toInstall)
        return _("Not installed yet: {names}.").format(names=names)
    memory = _(", {gb:.0f} GB").format(gb=report.memoryMb / 1024) if report.memoryMb else ""
    return _("Ready. Jobs run on {device}{memory}.").format(device=deviceTitle(report), memory=memory)


def deviceTitle(report: PythonReport) -> str:
    """Return what people call the device: "the CPU", "NVIDIA H200"."""
    if report.device == "cpu":
        return _("the CPU")
    return report.deviceName or report.device


def runText(report: PythonReport | None, wanted: str) -> tuple[str, bool]:
    """Return on which device a job will run, and whether that is wrong; nothing while it is not known.

    Parameters
    ----------
    report
        What the check found; None before.
    wanted
        The setting: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
    """
    if report is None or not report.isReady or not report.device:
        return "", False
    asked = report.device if wanted == "auto" else wanted
    found = next((one for one in report.devices if one.key == asked or one.key.split(":")[0] == asked), None)
    if found is None or found.problem:
        told = _("There is no device “{device}” that can be used.").format(device=wanted)
        reason = f" {found.problem}" if found is not None else ""
        return f"{told}{reason} " + _("Choose another one under “Advanced”."), True
    if found.key == "cpu":
        if wanted == "auto":
            return _("Will run on the CPU, which is slow: no GPU can be used."), False
        return _("Will run on the CPU."), False
    memory = _(", {gb:.0f} GB").format(gb=found.memoryMb / 1024) if found.memoryMb else ""
    return _("Will run on {device}{memory}.").format(device=found.name or found.key, memory=memory), False
