"""Where a training or a prediction runs and with which numbers: what there is, what was asked for, what is chosen.

Importing this module needs no PyTorch, so that what is missing can be said in a sentence.
"""

from __future__ import annotations

import errno
import platform
import re
import shutil
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from LungSegmentationLib.errors import InstallationError, UsageError
from LungSegmentationLib.training.precision import (
    Precision,
    choose_precision,
    device_name,
    import_torch,
)

if TYPE_CHECKING:
    from types import ModuleType

    import torch

__all__ = [
    "ChosenDevice",
    "DeviceDescription",
    "DeviceReport",
    "Precision",
    "choose_device",
    "choose_precision",
    "describe_devices",
    "is_out_of_memory",
    "memory_mb",
]

MEBIBYTE = 2**20


@dataclass(frozen=True)
class ChosenDevice:
    """The device of a job, with what a person wants to know before it starts.

    Attributes
    ----------
    device
        For ``.to(device)``; a GPU with its index.
    name
        What its maker calls it.
    memory_total_mb, memory_free_mb
        MiB; of the GPU, or of the machine. ``None`` if unknown.
    torch_build
        Version of PyTorch with its build, for example ``2.13.0+cpu``.
    precision
        What it will compute with.
    statement
        One sentence: where and how the job will run.
    warning
        What should be said loudly; empty if all is well.
    """

    device: torch.device
    name: str
    memory_total_mb: int | None
    memory_free_mb: int | None
    torch_build: str
    precision: Precision
    statement: str
    warning: str = ""


@dataclass(frozen=True)
class DeviceDescription:
    """One device, as ``lungseg devices`` shows it; memory in MiB."""

    device: str
    name: str
    memory_total_mb: int | None
    memory_free_mb: int | None
    precision: str
    reason: str
    chosen: bool
    problem: str = ""


@dataclass(frozen=True)
class DeviceReport:
    """All devices.

    Attributes
    ----------
    torch_build
        ``None`` where PyTorch is missing or broken.
    devices
        Best first; the last one is the CPU.
    problem
        What is wrong and how it is cured; empty if nothing is.
    """

    torch_build: str | None
    devices: tuple[DeviceDescription, ...]
    problem: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self) | {"devices": [asdict(device) for device in self.devices]}


def choose_device(name: str = "auto", precision: str = "auto") -> ChosenDevice:
    """Return the device to run on.

    Parameters
    ----------
    name
        ``auto`` takes the best GPU that works (most memory), the CPU where there is none, with a warning.
        ``cuda``, ``cuda:1``, ``mps`` and ``cpu`` are taken at their word.
    precision
        ``auto``, ``float32``, ``bfloat16`` or ``float16``: see :func:`choose_precision`.

    Raises
    ------
    UsageError
        If there is no such device here, or it does not work, or cannot compute with this precision. A GPU asked for
        never becomes the CPU.
    InstallationError
        If PyTorch is missing or cannot be loaded.
    """
    torch = import_torch()
    wanted = name.strip().casefold()
    if not re.fullmatch(r"auto|cpu|mps(:0)?|cuda(:\d{1,3})?", wanted):
        raise UsageError(f"“{name}” is no device.", f"Choose auto or one of: {', '.join(_available())}.")
    warning = ""
    if wanted == "auto":
        device, warning = _best()
    else:
        device = _demanded(wanted)
    chosen = choose_precision(device, precision)
    title, total, free = _title(device), *_memory(device)
    amount = f", {_gigabytes(free)} of {_gigabytes(total)} free" if free is not None and total is not None else ""
    build = _build(torch)
    where = f"{device_name(device)} ({title}{amount})"
    statement = f"Will run on {where} in {chosen.name}: {chosen.reason}. PyTorch {build}."
    return ChosenDevice(device, title, total, free, build, chosen, statement, warning)


def describe_devices() -> DeviceReport:
    """Return all devices of this machine, each with its memory and the precision that would be used.

    It never raises for a missing, broken or unsuitable PyTorch: the report says so.
    """
    try:
        torch = import_torch()
    except InstallationError as error:
        return DeviceReport(None, (), str(error))
    best, warning = _best()
    devices = []
    for name in _available():
        device = torch.device(name)
        precision = choose_precision(device)
        total, free = _memory(device)
        devices.append(
            DeviceDescription(
                device=name,
                name=_title(device),
                memory_total_mb=total,
                memory_free_mb=free,
                precision=precision.name,
                reason=precision.reason,
                chosen=device == best,
                problem=_fault(device),
            )
        )
    return DeviceReport(_build(torch), tuple(devices), warning)


def memory_mb(device: torch.device | str) -> float:
    """Return the memory of this job in MiB: the peak that tensors took on a GPU, else what the process holds now."""
    torch = import_torch()
    where = torch.device(device)
    if where.type == "cuda":
        return float(torch.cuda.max_memory_allocated(where)) / MEBIBYTE
    if where.type == "mps":
        return float(torch.mps.driver_allocated_memory()) / MEBIBYTE
    return float(psutil.Process().memory_info().rss) / MEBIBYTE


# What the allocators say: CUDA, MPS and the CPU of the different systems, then the libraries that allocate by
# themselves. None of them has an own exception type in all versions of PyTorch.
_OUT_OF_MEMORY = re.compile(
    r"out of memory|can't allocate memory|cannot allocate memory|not enough memory|failed to allocate memory"
    r"|alloc_cpu|(?:CUBLAS|CUDNN|CUSOLVER|CUSPARSE)_STATUS_ALLOC_FAILED|out_of_memory",
    re.IGNORECASE,
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there is not enough memory, of the GPU or of the machine."""
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and bool(_OUT_OF_MEMORY.search(str(error)))


def _build(torch: ModuleType) -> str:
    version = str(torch.__version__)
    cuda, hip = torch.version.cuda, torch.version.hip
    if "+" in version:
        return version
    if cuda:
        return f"{version} (CUDA {cuda})"
    return f"{version} (ROCm {hip})" if hip else f"{version} (CPU)"


def _available() -> list[str]:
    """Return the names of the devices that PyTorch sees, GPUs first."""
    torch = import_torch()
    gpus = [f"cuda:{index}" for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    if _has_mps():
        gpus.append("mps")
    return [*gpus, "cpu"]


def _has_mps() -> bool:
    mps = getattr(import_torch().backends, "mps", None)
    return mps is not None and bool(mps.is_available())


def _demanded(wanted: str) -> torch.device:
    pytorch = import_torch()
    available = _available()
    name = {"mps:0": "mps", "cuda": "cuda:0"}.get(wanted, wanted)
    if name not in available:
        raise UsageError(
            f"There is no device {wanted} here: PyTorch {_build(pytorch)} sees {', '.join(available)}.",
            _why_no_gpu() or "Choose one of these, or auto.",
        )
    device: torch.device = pytorch.device(name)
    if fault := _fault(device):
        raise UsageError(f"{device_name(device)} does not work: {fault}.", "Choose another device, or update PyTorch.")
    return device


def _best() -> tuple[torch.device, str]:
    """Return the best device that works, and what must be said about it."""
    pytorch = import_torch()
    gpus: list[torch.device] = [pytorch.device(name) for name in _available()[:-1]]
    # Of equal GPUs the first. Memory in use is not asked for: that would take some hundred MB on each of them.
    gpus.sort(key=lambda gpu: -(_total_memory(gpu) or 0))
    faults = []
    for gpu in gpus:
        fault = _fault(gpu)
        if not fault:
            return gpu, ""
        faults.append(f"{device_name(gpu)} does not work: {fault}.")
    found = " ".join(faults) or "No GPU was found."
    return pytorch.device("cpu"), f"{found} {_why_no_gpu()} It will run on the CPU, which is slow.".replace("  ", " ")


def _why_no_gpu() -> str:
    torch = import_torch()
    if torch.version.cuda or torch.version.hip or shutil.which("nvidia-smi") is None or _has_mps():
        return ""
    return (
        f"This machine has an NVIDIA driver, but PyTorch {_build(torch)} is built without CUDA: "
        "install the CUDA build (https://pytorch.org/get-started)."
    )


def _fault(device: torch.device) -> str:
    """Compute something small; a GPU that PyTorch sees may be too old for it, or its driver broken."""
    if device.type == "cpu":
        return ""
    torch = import_torch()
    try:
        result = float(torch.ones(4, device=device).sum())
    except (RuntimeError, AssertionError) as error:
        if is_out_of_memory(error):
            return "its memory is used up by other programs"
        return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
    return "" if result == 4 else f"the sum of four ones is {result} there"


def _total_memory(device: torch.device) -> int | None:
    if device.type != "cuda":
        return None
    return int(import_torch().cuda.get_device_properties(device).total_memory)


def _memory(device: torch.device) -> tuple[int | None, int | None]:
    """Return total and free memory in MiB."""
    if device.type == "cuda":
        try:
            free, total = import_torch().cuda.mem_get_info(device)
        except RuntimeError:
            # A GPU without a byte left cannot even say so.
            total, free = _total_memory(device) or 0, 0
    elif device.type == "mps":
        # The memory is the machine's; what the GPU may use of it is less.
        total, free = int(import_torch().mps.recommended_max_memory()), psutil.virtual_memory().available
    else:
        machine = psutil.virtual_memory()
        total, free = machine.total, machine.available
    return total // MEBIBYTE, min(free, total) // MEBIBYTE


def _title(device: torch.device) -> str:
    if device.type == "cuda":
        return str(import_torch().cuda.get_device_name(device))
    if device.type == "mps":
        return "Apple GPU"
    return f"{_cpu_name()}, {psutil.cpu_count(logical=False) or psutil.cpu_count() or 1} cores"


@cache
def _cpu_name() -> str:
    if platform.system() == "Linux":
        try:
            text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        except OSError:
            text = ""
        if line := re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE):
            return line[1].strip()
    return platform.processor() or platform.machine() or "CPU"


def _gigabytes(mebibytes: int) -> str:
    return f"{mebibytes / 1024:.1f} GB"
