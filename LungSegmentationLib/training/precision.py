"""The numbers that a network computes with, chosen by what the hardware multiplies fast; and PyTorch, if it is there.

Importing this module needs no PyTorch, so that what is missing can be said in a sentence.
"""

from __future__ import annotations

import importlib
import platform
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from LungSegmentationLib.errors import InstallationError, UsageError

if TYPE_CHECKING:
    from types import ModuleType

    import torch

__all__ = ["Precision", "PrecisionName", "choose_precision", "cpu_bfloat16", "device_name", "import_torch"]

PrecisionName = Literal["float32", "bfloat16", "float16"]

INSTALL_HINT = "Install it: pip install torch safetensors (in Slicer: the PyTorch extension)."
REPAIR_HINT = "Install it again: pip install --force-reinstall torch"


@dataclass(frozen=True)
class Precision:
    """Numbers that a network computes with; its weights, their gradients and the loss stay float32.

    Attributes
    ----------
    name
        ``float32``, ``bfloat16`` or ``float16``.
    autocast
        Whether the forward pass runs under ``torch.autocast`` with this type.
    scaler
        Whether the loss is scaled (``torch.amp.GradScaler``), because small gradients would become 0.
    reason
        Why, as the end of a sentence.
    """

    name: PrecisionName
    autocast: bool
    scaler: bool
    reason: str

    @property
    def dtype(self) -> torch.dtype:
        """The type as torch's own."""
        return cast("torch.dtype", getattr(import_torch(), self.name))


def choose_precision(device: torch.device | str, wanted: str = "auto") -> Precision:
    """Return what a device should compute with.

    Parameters
    ----------
    device
        Where.
    wanted
        ``auto``: bfloat16 where the hardware has it (CUDA compute capability 8.0 and above; CPUs with AMX-BF16 or
        AVX512-BF16), float16 with a scaled loss on GPUs with tensor cores before that (7.0 and above), float32
        otherwise. Others are taken at their word, also where they are slow.

    Raises
    ------
    UsageError
        If the device cannot compute so, or there is no such precision.

    Notes
    -----
    GPUs of the GTX 16 series say 7.5, but have no tensor cores; MPS stays with float32, because its support of half
    precision depends on the version of macOS. Source: NVIDIA CUDA C++ Programming Guide, compute capabilities.
    """
    where = import_torch().device(device)
    if wanted not in {"auto", "float32", "bfloat16", "float16"}:
        raise UsageError(f"“{wanted}” is no precision.", "Choose auto, float32, bfloat16 or float16.")
    best, reason = _best_precision(where)
    if wanted == "auto":
        name = best
    else:
        name = cast("PrecisionName", wanted)
        reason = "as asked for" + ("" if name in {best, "float32"} else f", although {reason}")
    if name == "float16" and where.type != "cuda":
        raise UsageError(f"{device_name(where)} cannot train in float16.", f"Choose {best} or auto.")
    return Precision(name, autocast=name != "float32", scaler=name == "float16", reason=reason)


def import_torch() -> ModuleType:
    """Return PyTorch; a half-installed one is seen.

    Raises
    ------
    InstallationError
        If it is missing, incomplete or cannot be loaded.
    """
    try:
        module = importlib.import_module("torch")
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise InstallationError(f"PyTorch is incomplete: {error.name} is missing.", REPAIR_HINT) from error
        raise InstallationError("PyTorch is not installed.", INSTALL_HINT) from error
    except (ImportError, OSError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InstallationError(f"PyTorch cannot be loaded: {first}.", REPAIR_HINT) from error
    if not hasattr(module, "device"):
        # The folder is there and empty: Python then imports it as a namespace.
        raise InstallationError("PyTorch is incomplete.", REPAIR_HINT)
    return module


def device_name(device: torch.device) -> str:
    """Return what a device is called in a sentence."""
    return "the CPU" if device.type == "cpu" else str(device)


@cache
def cpu_bfloat16() -> str:
    """Return the name of the instructions by which this CPU multiplies bfloat16, or an empty text."""
    flags = _cpu_flags()
    if "amx_bf16" in flags:
        return "AMX-BF16"
    if "avx512_bf16" in flags:
        return "AVX512-BF16"
    return ""


def _cpu_flags() -> frozenset[str]:
    """Return the CPU's features as Linux spells them, from PyTorch where it knows, else from the system."""
    cpu = import_torch().cpu
    found: set[str] = set()
    capabilities = getattr(cpu, "get_capabilities", None)
    if capabilities is not None:
        found |= {name for name, value in capabilities().items() if value is True}
    # Older versions have these, which are not promised.
    bfloat16 = getattr(cpu, "_is_avx512_bf16_supported", None)
    if bfloat16 is not None and bfloat16():
        found.add("avx512_bf16")
    if not found and platform.system() == "Linux":
        found |= _linux_flags(Path("/proc/cpuinfo"))
    return frozenset(found)


def _linux_flags(path: Path) -> set[str]:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return set()
    line = re.search(r"^flags\s*:(.*)$", text, re.MULTILINE)
    return set(line[1].split()) if line else set()


def _best_precision(device: torch.device) -> tuple[PrecisionName, str]:
    if device.type == "cuda":
        return _best_cuda_precision(device)
    if device.type == "mps":
        return "float32", "half precision depends on the version of macOS"
    instructions = cpu_bfloat16()
    if instructions:
        return "bfloat16", f"the CPU has {instructions}"
    return "float32", "the CPU has neither AMX-BF16 nor AVX512-BF16"


def _best_cuda_precision(device: torch.device) -> tuple[PrecisionName, str]:
    torch = import_torch()
    if torch.version.hip:
        if torch.cuda.is_bf16_supported():
            return "bfloat16", "the GPU has bfloat16"
        return "float32", "the GPU has no bfloat16"
    capability = torch.cuda.get_device_capability(device)
    spelled = f"the GPU has compute capability {capability[0]}.{capability[1]}"
    if capability >= (8, 0):
        return "bfloat16", spelled
    if re.search(r"\bGTX 16\d\d", torch.cuda.get_device_name(device)):
        return "float32", f"{spelled}, but no tensor cores"
    if capability >= (7, 0):
        return "float16", f"{spelled}: tensor cores without bfloat16"
    return "float32", f"{spelled}: no tensor cores"
