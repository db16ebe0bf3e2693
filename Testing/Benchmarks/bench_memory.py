"""Peak memory of a training on a cohort of 200 cases against one of 10; the bar is 300 MB between them.

The caches are synthetic arrays of full size (256² slices). Each training runs in its own process; a thread reads the
resident memory of that process all the time, so pages of files that are mapped into it count too.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "Testing" / "Lib")]
BAR_MB = 300


def write(root: Path, cases: int, slices: int) -> None:
    """Write a cohort whose cases share one pair of arrays, linked, so that 200 of them fit on a disk."""
    import numpy as np
    from training_files import patient, write_cohort

    train, val = [f"case{number:03d}" for number in range(cases)], [f"val{number:02d}" for number in range(cases // 10)]
    paths = write_cohort(root, train[:1], val[:1], slices=2, size=16)
    from training_files import write_case

    from LungSegmentationLib.cohort.cache import CacheRecord
    from LungSegmentationLib.cohort.records import CohortRecord, read_record, write_record
    from LungSegmentationLib.cohort.splits import Split, write_splits

    ct, masks = patient(0, slices, 256)
    write_case(paths, train[0], ct, masks)
    record = read_record(CacheRecord, paths.cached(train[0]).record)
    write_record(read_record(CohortRecord, paths.cohort).model_copy(update={"slice_size": 256}), paths.cohort)
    for name in (*train[1:], *val):
        files = paths.cached(name)
        # Own inodes: pages of one file that is mapped many times would be counted once.
        np.save(files.ct, ct)
        np.save(files.structures, np.load(paths.cached(train[0]).structures))
        write_record(record.model_copy(update={"case": name, "patient_id": name, "fingerprint": name}), files.record)
    write_splits(paths, Split(tuple(train), tuple(val), ()))


def train(root: Path, steps: int) -> None:
    """Train and print the peak of the resident memory in MiB, and how many slices were read."""
    import psutil
    import torch
    from training_files import Recorder

    from LungSegmentationLib.training.command import plan_training
    from LungSegmentationLib.training.command import train as train_as_planned

    torch.set_num_threads(1)
    process, peak, done = psutil.Process(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.01):
            peak = max(peak, process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    settings = (
        "network.name=small",
        "network.widths=[2,2]",
        "epochs=1",
        f"steps_per_epoch={steps}",
        "batch_size=32",
        "device=cpu",
        "augmentation=none",
    )
    train_as_planned(plan_training(root, "bench", settings=settings), Recorder())
    done.set()
    watcher.join()
    print(peak / 2**20)


def main() -> None:
    """Measure both and print the difference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slices", type=int, default=60, help="Slices a case.")
    parser.add_argument("--steps", type=int, default=120, help="Steps of 32 slices.")
    parser.add_argument("--train", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.train:
        train(arguments.train, arguments.steps)
        return
    peaks = {}
    for cases in (10, 200):
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder) / "cohort"
            write(root, cases, arguments.slices)
            size = sum(file.stat().st_size for file in (root / "cache").iterdir()) / 2**20
            command = [sys.executable, __file__, "--train", str(root), "--steps", str(arguments.steps)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            peaks[cases] = float(done.stdout.split()[-1])
            print(f"{cases:4d} cases, cache {size:7.0f} MB: peak {peaks[cases]:6.0f} MB", flush=True)
    more = peaks[200] - peaks[10]
    print(
        f"200 cases take {more:+.0f} MB more than 10; the bar is {BAR_MB} MB: {'held' if more <= BAR_MB else 'MISSED'}"
    )


if __name__ == "__main__":
    main()
