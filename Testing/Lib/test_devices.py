"""Devices: what is asked for is taken or refused in a sentence, what is chosen is said, memory faults are known."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from LungSegmentationLib.errors import UsageError
from LungSegmentationLib.training import devices, precision
from LungSegmentationLib.training.devices import (
    choose_device,
    choose_precision,
    describe_devices,
    is_out_of_memory,
    memory_mb,
)

ROOT = Path(__file__).resolve().parents[2]
WITHOUT_TORCH = "import sys; sys.modules['torch'] = None; "


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(devices.shutil, "which", lambda _: None)


class Gpus:
    """A machine with GPUs of invented kinds, as PyTorch would show them; computing on them goes to the CPU."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *kinds: tuple[str, tuple[int, int], int]) -> None:
        self.broken: set[int] = set()
        number = lambda device: torch.device(device).index or 0  # noqa: E731
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(kinds))
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: kinds[number(device)][0])
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: kinds[number(device)][1])
        monkeypatch.setattr(
            torch.cuda,
            "get_device_properties",
            lambda device: SimpleNamespace(total_memory=kinds[number(device)][2] * 2**20),
        )
        monkeypatch.setattr(
            torch.cuda,
            "mem_get_info",
            lambda device: (kinds[number(device)][2] * 2**19, kinds[number(device)][2] * 2**20),
        )
        ones = torch.ones

        def compute(*shape, device=None, **options):
            if device is not None and torch.device(device).type == "cuda":
                if number(device) in self.broken:
                    raise RuntimeError("CUDA error: no kernel image is available for execution on the device\nmore")
                device = "cpu"
            return ones(*shape, device=device, **options)

        monkeypatch.setattr(torch, "ones", compute)


def test_the_cpu_is_taken_when_it_is_asked_for_and_nothing_is_warned_of() -> None:
    chosen = choose_device("cpu")
    assert chosen.device == torch.device("cpu")
    assert chosen.warning == ""
    assert chosen.memory_total_mb == psutil.virtual_memory().total // 2**20
    assert chosen.torch_build.startswith(torch.__version__.partition("+")[0])
    assert "the CPU" in chosen.statement
    assert chosen.precision.name in chosen.statement


@pytest.mark.usefixtures("no_gpu")
def test_auto_without_a_gpu_is_the_cpu_and_says_so_loudly() -> None:
    chosen = choose_device("auto")
    assert chosen.device.type == "cpu"
    assert "No GPU was found" in chosen.warning


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:1", "mps", "CUDA"])
def test_a_gpu_that_is_not_there_is_refused_and_never_becomes_the_cpu(name: str) -> None:
    with pytest.raises(UsageError, match=r"There is no device .* sees cpu"):
        choose_device(name)


@pytest.mark.parametrize("name", ["gpu", "", "cuda:x", "cuda:-1", "cpu:0:1", "auto auto", "日本"])
def test_a_name_that_is_no_device_is_refused_with_those_that_are(name: str) -> None:
    with pytest.raises(UsageError, match=r"is no device\. Choose auto or one of: .*cpu"):
        choose_device(name)


@pytest.mark.usefixtures("no_gpu")
def test_an_nvidia_driver_without_a_cuda_build_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices.shutil, "which", lambda _: "nvidia-smi")
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "install the CUDA build" in choose_device("auto").warning
    with pytest.raises(UsageError, match="install the CUDA build"):
        choose_device("cuda")


def test_auto_takes_the_gpu_with_most_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    Gpus(monkeypatch, ("Quadro P400", (6, 1), 2048), ("A 40", (8, 6), 46068), ("T4", (7, 5), 15360))
    chosen = choose_device()
    assert (chosen.device, chosen.name, chosen.precision.name) == (torch.device("cuda:1"), "A 40", "bfloat16")
    assert (chosen.memory_total_mb, chosen.memory_free_mb, chosen.warning) == (46068, 23034, "")
    assert choose_device("cuda").device == torch.device("cuda:0")
    assert choose_device("cuda:2").name == "T4"
    with pytest.raises(UsageError, match=r"no device cuda:3 .*sees cuda:0, cuda:1, cuda:2, cpu"):
        choose_device("cuda:3")


def test_a_gpu_that_cannot_compute_is_passed_over_by_auto_and_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = Gpus(monkeypatch, ("old", (3, 5), 24000), ("new", (9, 0), 8000))
    gpus.broken = {0}
    assert choose_device().device == torch.device("cuda:1")
    with pytest.raises(UsageError, match="cuda:0 does not work: CUDA error: no kernel image"):
        choose_device("cuda:0")
    gpus.broken = {0, 1}
    alone = choose_device()
    assert alone.device.type == "cpu"
    assert "cuda:0 does not work" in alone.warning
    report = describe_devices()
    assert [device.device for device in report.devices] == ["cuda:0", "cuda:1", "cpu"]
    assert [bool(device.problem) for device in report.devices] == [True, True, False]
    assert [device.chosen for device in report.devices] == [False, False, True]


@pytest.mark.parametrize(
    ("name", "capability", "expected", "scaler"),
    [
        ("GeForce GTX 1080", (6, 1), "float32", False),
        ("Tesla V100", (7, 0), "float16", True),
        ("GeForce RTX 2080", (7, 5), "float16", True),
        ("NVIDIA GeForce GTX 1650", (7, 5), "float32", False),
        ("A100", (8, 0), "bfloat16", False),
        ("H200", (9, 0), "bfloat16", False),
        ("B200", (10, 0), "bfloat16", False),
    ],
)
def test_precision_follows_the_generation_of_the_gpu(
    monkeypatch: pytest.MonkeyPatch, name: str, capability: tuple[int, int], expected: str, scaler: bool
) -> None:
    Gpus(monkeypatch, (name, capability, 8000))
    chosen = choose_precision("cuda:0")
    assert (chosen.name, chosen.scaler, chosen.autocast) == (expected, scaler, expected != "float32")
    assert chosen.dtype == getattr(torch, expected)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"avx2"}, "float32"),
        ({"avx512f", "avx512_bf16"}, "bfloat16"),
        ({"amx_bf16", "amx_tile"}, "bfloat16"),
        (set(), "float32"),
    ],
)
def test_precision_follows_the_instructions_of_the_cpu(
    monkeypatch: pytest.MonkeyPatch, flags: set[str], expected: str
) -> None:
    monkeypatch.setattr(precision, "_cpu_flags", lambda: frozenset(flags))
    precision.cpu_bfloat16.cache_clear()
    try:
        assert choose_precision("cpu").name == expected
        asked = choose_precision("cpu", "bfloat16")
        assert (asked.name, asked.autocast, asked.scaler) == ("bfloat16", True, False)
        assert ("although" in asked.reason) is (expected == "float32")
    finally:
        precision.cpu_bfloat16.cache_clear()


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="only Linux lists the flags of the CPU in a file")
def test_what_torch_knows_of_the_cpu_is_what_the_system_lists() -> None:
    listed = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    assert bool(precision.cpu_bfloat16()) is ("avx512_bf16" in listed or "amx_bf16" in listed)


def test_flags_are_read_from_a_file_as_linux_writes_it(tmp_path: Path) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text(
        "model name\t: X\nflags\t\t: fpu avx512_bf16 vme\nbugs\t: none\n\nflags\t\t: fpu\n", encoding="ascii"
    )
    assert precision._linux_flags(file) == {"fpu", "avx512_bf16", "vme"}
    assert precision._linux_flags(tmp_path / "missing") == set()
    file.write_bytes(b"\xff\xfe no flags here")
    assert precision._linux_flags(file) == set()


def test_float32_has_no_autocast_and_unknown_or_impossible_precisions_are_refused() -> None:
    plain = choose_precision("cpu", "float32")
    assert (plain.autocast, plain.scaler, plain.dtype) == (False, False, torch.float32)
    with pytest.raises(UsageError, match="cannot train in float16"):
        choose_device("cpu", "float16")
    with pytest.raises(UsageError, match="“half” is no precision"):
        choose_precision("cpu", "half")


def test_the_report_is_json_and_marks_what_auto_takes() -> None:
    content = json.loads(json.dumps(describe_devices().to_dict()))
    assert content["devices"][-1]["device"] == "cpu"
    assert sum(device["chosen"] for device in content["devices"]) == 1


def test_memory_of_a_cpu_job_is_that_of_the_process() -> None:
    before = memory_mb("cpu")
    held = torch.ones(64 * 2**18)
    assert memory_mb(torch.device("cpu")) - before > 40
    assert before > 50
    assert held.sum() == 64 * 2**18


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB (GPU 0; 7.79 GiB total capacity)"),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError("MPS backend out of memory (MPS allocated: 8.83 GB, other allocations: 384.00 KB)"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:83] data. DefaultCPUAllocator: not enough memory: you tried to"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
)
def test_errors_for_lack_of_memory_are_known(error: Exception) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied (3x4 and 5x6)"),
        RuntimeError("CUDA error: device-side assert triggered"),
        ValueError("out of memory"),
        OSError(errno.ENOSPC, "No space left on device"),
        KeyboardInterrupt(),
    ],
)
def test_other_errors_are_not_taken_for_lack_of_memory(error: BaseException) -> None:
    assert not is_out_of_memory(error)


def test_what_the_cpu_really_says_without_memory_is_known() -> None:
    with pytest.raises((RuntimeError, MemoryError)) as raised:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(raised.value)


def test_torch_says_out_of_memory_by_a_runtime_error() -> None:
    assert is_out_of_memory(torch.cuda.OutOfMemoryError("CUDA out of memory."))


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )


def test_without_torch_the_command_says_how_to_install_it_and_a_choice_is_refused() -> None:
    command = "sys.argv = ['lungseg', 'devices', '--json']; from LungSegmentationLib.cli import main; main()"
    done = run(WITHOUT_TORCH + command)
    assert done.returncode == 0, done.stderr
    content = json.loads(done.stdout)
    assert (content["torch_build"], content["devices"]) == (None, [])
    assert content["problem"].startswith("PyTorch is not installed. Install it: pip install torch")
    done = run(WITHOUT_TORCH + "from LungSegmentationLib.training.devices import choose_device; choose_device()")
    assert "InstallationError" in done.stderr


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "PyTorch is incomplete"),
        ("import absent_part_of_torch", "PyTorch is incomplete: absent_part_of_torch is missing"),
        ("raise OSError('libtorch_cpu.so: cannot open shared object file')", "PyTorch cannot be loaded: libtorch_cpu"),
    ],
)
def test_a_half_installed_torch_is_seen(tmp_path: Path, content: str | None, sentence: str) -> None:
    package = tmp_path / "torch"
    package.mkdir()
    if content is not None:
        (package / "__init__.py").write_text(content, encoding="utf-8")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        # Without the real one in sight, which would win over a folder without __init__.
        "sys.path = [p for p in sys.path if 'site-packages' not in p] + ['.']\n"
        "from LungSegmentationLib.training.precision import import_torch\n"
        "from LungSegmentationLib.errors import InstallationError\n"
        "try:\n    import_torch()\nexcept InstallationError as error:\n    print(error)\n"
    )
    done = run(code)
    assert sentence in done.stdout, done.stderr
    assert "pip install --force-reinstall torch" in done.stdout
