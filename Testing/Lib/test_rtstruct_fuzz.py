"""Two thousand broken RTSTRUCTs: read, or refused with our own error, within bounds of time and memory."""

from __future__ import annotations

import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian
from rtstruct_files import contour_item, save, square, structure_set

MUTATIONS = 2000
SECONDS = 300
MEMORY = 512 << 20
ROOT = Path(__file__).resolve().parents[2]


def flip(content: bytearray, draw: random.Random) -> bytearray:
    for _ in range(draw.choice([1, 1, 2, 8, 64])):
        content[draw.randrange(len(content))] = draw.randrange(256)
    return content


def truncate(content: bytearray, draw: random.Random) -> bytearray:
    return content[: draw.randrange(len(content))]


def change_length(content: bytearray, draw: random.Random) -> bytearray:
    at = draw.choice(_elements(content)) + draw.choice([4, 6, 8])
    length = draw.choice([0, 1, 2, 0xFFFFFFFF, 0xFFFFFFFE, 0x7FFFFFFF, draw.randrange(1 << 32), draw.randrange(256)])
    content[at : at + 4] = length.to_bytes(4, "little")
    return content


def delete(content: bytearray, draw: random.Random) -> bytearray:
    begin, end = _piece(content, draw)
    del content[begin:end]
    return content


def duplicate(content: bytearray, draw: random.Random) -> bytearray:
    begin, end = _piece(content, draw)
    content[end:end] = content[begin:end] * draw.choice([1, 1, 50])
    return content


def change_numbers(content: bytearray, draw: random.Random) -> bytearray:
    places = [at for at, byte in enumerate(content) if byte in b"0123456789.\\-"]
    for _ in range(draw.choice([1, 5, 20])):
        content[draw.choice(places)] = draw.choice(b"0123456789.\\-+eE nif")
    return content


MUTATORS: list[Callable[[bytearray, random.Random], bytearray]] = [
    *(flip, truncate, change_length, delete, duplicate, change_numbers)
]


def _elements(content: bytearray) -> list[int]:
    """Return where elements and items seem to begin."""
    starts = (b"\x06\x30", b"\xfe\xff", b"\x08\x00")
    return [at for at in range(132, len(content) - 12) if content[at : at + 2] in starts] or [132]


def _piece(content: bytearray, draw: random.Random) -> tuple[int, int]:
    begin, end = sorted(draw.choices(_elements(content), k=2))
    return begin, min(end, begin + 4000)


def sources(folder: Path) -> list[bytes]:
    """Return small intact files of each way to write one."""
    rois = {
        "GTV-1": [contour_item(square(z), images=[f"1.2.9.{z}"]) for z in (0, 3, 6)],
        "Poumon é": [contour_item(square(0, 4), "CLOSEDPLANAR_XOR"), contour_item(square(0, 2)[:1], "POINT")],
    }
    files = []
    for undefined_length in (False, True):
        dataset = structure_set(rois)
        for element in dataset.iterall():
            if element.VR == "SQ":
                element.is_undefined_length = undefined_length
        files += [save(dataset, folder / "x", explicit=explicit).read_bytes() for explicit in (True, False)]
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(folder / "x", enforce_file_format=True)
    return [*files, (folder / "x").read_bytes()]


def main(seed: int, count: int) -> None:
    """Read and draw mutated files; any error but our own ends the process with its traceback."""
    from LungSegmentationLib.dicom.contours import rasterize
    from LungSegmentationLib.dicom.rtstruct import read_rtstruct
    from LungSegmentationLib.errors import LungSegError
    from LungSegmentationLib.geometry import Grid

    warnings.filterwarnings("ignore")
    draw = random.Random(seed)
    grid = Grid((64, 64, 8), (1.0, 1.0, 3.0), (-20.0, -20.0, -3.0), tuple(np.eye(3).ravel().tolist()))
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mutation.dcm"
        originals = sources(Path(folder))
        for number in range(count):
            content = bytearray(draw.choice(originals))
            for _ in range(draw.choice([1, 1, 1, 2, 5])):
                if len(content) > 300:
                    content = draw.choice(MUTATORS)(content, draw)
            path.write_bytes(content)
            try:
                read_rtstruct(path, with_contours=False)
                for roi in read_rtstruct(path).rois:
                    mask = rasterize(roi.contours, grid)
                    mask.report.warnings(roi.name)
                    assert mask.voxel_count <= 64 * 64 * 8
                outcomes["read"] += 1
            except LungSegError as error:
                named = str(path) in str(error) and bool(error.message)
                outcomes["unnamed"] += not named
                outcomes[type(error).__name__] += 1
            except BaseException:  # also running out of memory: says which mutation it was, and is raised on
                print(f"mutation {number} of seed {seed}", file=sys.stderr)
                raise
    print(json.dumps({"outcomes": outcomes, "peak": _peak_memory()}))


def _peak_memory() -> int:
    status = Path("/proc/self/status")
    if status.is_file():
        # Not ru_maxrss: on Linux a child begins with that of the process that started it.
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@pytest.mark.skipif(sys.platform == "win32", reason="resource limits are a thing of POSIX systems")
def test_mutated_files_are_read_or_refused_within_bounds() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1", "PYTHONUTF8": "1"}
    child = subprocess.run(
        [sys.executable, __file__, "20260", str(MUTATIONS)],
        env=environment, capture_output=True, text=True, timeout=SECONDS, check=False,
    )  # fmt: skip
    assert child.returncode == 0, child.stderr[-3000:]
    result = json.loads(child.stdout.splitlines()[-1])
    assert result["outcomes"].pop("unnamed") == 0, "each refusal names the file"
    assert sum(result["outcomes"].values()) == MUTATIONS
    assert result["outcomes"]["read"] > MUTATIONS // 10
    assert result["peak"] < MEMORY


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
