"""How much of a training's time goes into waiting for data, and how many slices a second it learns from.

Meant for a GPU: standard network, 256², batch 16; bar: less than 5 % of the time waiting. Elsewhere it runs as well,
with any network, and says what it ran on. The cache is synthetic, of full size. The time in which the training loop
waits for the next batch is an upper bound of the GPU's own waiting, as steps that are under way go on meanwhile.

    python Testing/Benchmarks/bench_waiting.py [--device cuda] [--network standard] [--steps 200]
    python Testing/Benchmarks/bench_waiting.py --tiny      # on the CPU, half a minute: does the script come to its end?
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from bench_memory import write
from training_files import LABELS, Recorder

from LungSegmentationLib.cohort.cache import open_split
from LungSegmentationLib.cohort.paths import CohortPaths
from LungSegmentationLib.training.config import TrainingConfig
from LungSegmentationLib.training.devices import choose_device, memory_mb
from LungSegmentationLib.training.segmentation import SegmentationTask
from LungSegmentationLib.training.trainer import Trainer

BAR = 0.05
WARM_UP = 10


class TimedTrainer(Trainer[Any]):
    """Counts the seconds in which it waits for batches, after the first few."""

    waited = 0.0
    steps = 0
    began = 0.0

    def _next(self, batches: Iterator[Any]) -> Any:
        if self.steps == WARM_UP:
            _finish(self.runner.device)
            self.waited, self.began = 0.0, time.perf_counter()
        start = time.perf_counter()
        batch = super()._next(batches)
        self.waited += time.perf_counter() - start
        self.steps += 1
        return batch


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Utilization(threading.Thread):
    """Reads the GPU's utilization twice a second, where nvidia-smi is there."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.values: list[float] = []
        self.done = threading.Event()

    def run(self) -> None:
        command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
        while shutil.which("nvidia-smi") and not self.done.wait(0.5):
            told = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
            self.values += [float(told[0])] if told else []


def main() -> None:
    """Train for some steps and print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--network", default="standard")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="another setting")
    parser.add_argument("--tiny", action="store_true", help="few small steps of the tiny network on the CPU")
    arguments = parser.parse_args()
    if arguments.tiny:
        arguments.device, arguments.network, arguments.batch, arguments.steps = "cpu", "tiny", 2, 10
    chosen = choose_device(arguments.device)
    print(chosen.statement)
    with tempfile.TemporaryDirectory() as folder:
        paths = CohortPaths(Path(folder) / "cohort")
        write(paths.root, 10, max(60, -(-arguments.batch * (arguments.steps + WARM_UP) // 10)))
        config = TrainingConfig.load(
            settings=[
                f"network={arguments.network}",
                f"batch_size={arguments.batch}",
                f"steps_per_epoch={arguments.steps + WARM_UP}",
                "epochs=1",
                *arguments.set,
            ]
        )
        pinned = chosen.device.type == "cuda"
        task = SegmentationTask(config, LABELS, open_split(paths, "train"), [], pinned=pinned)
        run = paths.run("bench")
        run.folder.mkdir(parents=True)
        trainer = TimedTrainer(task, config, run, device=chosen.device, precision=chosen.precision, reporter=Recorder())
        watching = Utilization()
        watching.start()
        trainer._learn_epoch()
        _finish(chosen.device)
        seconds = time.perf_counter() - trainer.began
        watching.done.set()
    learned = (trainer.steps - WARM_UP) * arguments.batch
    share = trainer.waited / seconds
    print(
        f"{arguments.network}, batch {arguments.batch}, 256², {chosen.precision.name}: {learned / seconds:.1f} slices/s"
    )
    print(f"waiting for data {share:.1%} of the time (bar {BAR:.0%}: {'held' if share < BAR else 'MISSED'})")
    print(f"memory {memory_mb(chosen.device):.0f} MB")
    if watching.values:
        print(f"utilization {sum(watching.values) / len(watching.values):.0f} %")


if __name__ == "__main__":
    main()
