"""One training step on the CPU: as ``auto`` chooses, beside plain float32 in the ordinary memory layout, in one run.

    python Testing/Benchmarks/bench_step.py [--batch 8] [--size 256] [--repeats 3] [--threads 2]
    python Testing/Benchmarks/bench_step.py --steps-curve [--steps 200] [--middle | --full]

Both sides train the same network from the same weights on the same phantom slices with the same loss and optimizer.
``float32`` is the plain way: contiguous tensors, no autocast. ``auto`` is what a training uses: channels last, and the
precision that :func:`choose_precision` takes for this CPU (bfloat16 where the hardware multiplies it). The sides take
turns, so other work on the machine hits both.

``--steps-curve`` trains both for 200 steps, and float32 twice more: with the slices in another order, and from other
random weights. The curves are within noise of each other if ``auto`` is no further from float32 than float32 is from
itself, in the nearer of the two. That is the tiny network on 64 × 64 pixels; with ``--middle`` the lite one on 128²,
batch 4 (about 7 minutes on two quiet cores); with ``--full`` the whole one at ``--size``, which takes hours there.

``--variants`` times other ways one after the other: each of the two measures alone, weights kept in bfloat16,
``torch.compile``, flushed denormal numbers.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from LungSegmentationLib.labels import load_label_set
from LungSegmentationLib.networks.config import network_preset
from LungSegmentationLib.networks.unet import build_network, count_parameters
from LungSegmentationLib.phantom import PhantomOptions, make_patient
from LungSegmentationLib.structures import label_table
from LungSegmentationLib.training.losses import LossConfig, build_loss
from LungSegmentationLib.training.memory import keep_freed_memory
from LungSegmentationLib.training.optimization import build_optimizer
from LungSegmentationLib.training.precision import Precision, choose_precision

Batch = tuple[torch.Tensor, torch.Tensor]
BAR = 2.5
WINDOW = 20


@dataclass(frozen=True)
class Way:
    """How a step is computed."""

    precision: Precision
    channels_last: bool
    fused: bool | None = None
    compile: bool = False
    half_weights: bool = False
    flush_denormals: bool = False
    keep_memory: bool = False


class Side:
    """A network with its optimizer, trained one way."""

    def __init__(self, network: nn.Module, way: Way, learning_rate: float) -> None:
        self.way = way
        layout = torch.channels_last if way.channels_last else torch.contiguous_format
        self.layout = layout
        self.network = copy.deepcopy(network).train()
        self.network.to(memory_format=layout)  # type: ignore[call-overload]  # missing in torch's annotations
        self.masters = list(self.network.parameters())
        if way.half_weights:
            self.masters = [nn.Parameter(weight.detach().clone()) for weight in self.network.parameters()]
            self.network.to(torch.bfloat16)
        self.optimizer = build_optimizer("adam", self.masters, learning_rate=learning_rate, fused=way.fused)
        self.loss = build_loss(LossConfig(), len(load_label_set()))
        self.run: Callable[[torch.Tensor], torch.Tensor] = torch.compile(self.network) if way.compile else self.network

    def step(self, batch: Batch) -> float:
        """Train on one batch and return its loss."""
        images, labels = batch
        images = images.to(memory_format=self.layout)
        torch.set_flush_denormal(self.way.flush_denormals)
        if self.way.half_weights:
            images = images.bfloat16()
        precision = self.way.precision
        with torch.autocast("cpu", precision.dtype, enabled=precision.autocast and not self.way.half_weights):
            logits = self.run(images)
        loss = self.loss(logits, labels).total
        loss.backward()
        if self.way.half_weights:
            for master, weight in zip(self.masters, self.network.parameters(), strict=True):
                master.grad = None if weight.grad is None else weight.grad.float()
        self.optimizer.step()
        if self.way.half_weights:
            with torch.no_grad():
                for master, weight in zip(self.masters, self.network.parameters(), strict=True):
                    weight.copy_(master)
                    weight.grad = None
        self.optimizer.zero_grad()
        return float(loss.detach())


def main() -> None:
    """Print seconds a step of both sides and the ratio, or their loss curves."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--network", default="standard")
    parser.add_argument("--variants", action="store_true")
    parser.add_argument("--steps-curve", action="store_true")
    parser.add_argument("--steps", type=int, default=200)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--middle", action="store_true", help="The lite network on 128² for --steps-curve.")
    which.add_argument("--full", action="store_true", help="The whole network for --steps-curve too.")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    plain = Way(choose_precision("cpu", "float32"), channels_last=False)
    chosen = choose_precision("cpu")
    auto = Way(chosen, channels_last=True, keep_memory=True)
    print(
        f"auto is {chosen.name}, channels last, freed memory kept: {chosen.reason}; {torch.get_num_threads()} threads"
    )
    if arguments.steps_curve:
        name, size, batch = ("lite", 128, 4) if arguments.middle else ("tiny", 64, 4)
        if arguments.full:
            name, size, batch = arguments.network, arguments.size, arguments.batch
        curves(plain, auto, name, size, batch, arguments.steps)
        return
    network = new_network(arguments.network)
    batch = next(batches(slices(arguments.size, 1), arguments.batch, seed=1))
    print(f"{arguments.network}: {count_parameters(network):,} parameters, batch {arguments.batch}, {arguments.size}²")
    if arguments.variants:
        variants(plain, auto, network, batch, arguments.repeats)
        return
    sides = {"float32": Side(network, plain, 1e-4), "auto": Side(network, auto, 1e-4)}
    seconds = interleaved(sides, batch, arguments.repeats)
    for name, (wall, cpu) in seconds.items():
        print(f"{name:8} {wall:7.2f} s a step, {arguments.batch / wall:6.2f} slices/s, {cpu:7.2f} s of CPU")
    ratio, cpu_ratio = (seconds["float32"][part] / seconds["auto"][part] for part in (0, 1))
    needed = "" if chosen.name == "float32" else f" (to hold: {BAR} ×: {'held' if ratio >= BAR else 'NOT HELD'})"
    print(f"ratio    {ratio:7.2f} ×{needed}, of CPU seconds {cpu_ratio:.2f} ×")


def new_network(name: str, seed: int = 42) -> nn.Module:
    """Return a network with the same random weights for the same seed."""
    torch.manual_seed(seed)
    return build_network(network_preset(name))


def slices(size: int, patients: int) -> Batch:
    """Return slices of phantoms as they would come from the cache: z-scored, with label maps."""
    images, labels = [], []
    for index in range(patients):
        patient = make_patient(7, index, PhantomOptions(in_plane=256, slices=40, complete=True))
        hu = torch.from_numpy(np.clip(patient.ct, -1000, 400).astype(np.float32))[:, None]
        hu = (hu - hu.mean()) / (hu.std() + 1e-8)
        table = torch.from_numpy(label_table(patient.structures.label_set))
        found = table[torch.from_numpy(patient.structures.bits).long()]
        images.append(nn.functional.interpolate(hu, (size, size), mode="bilinear", antialias=True))
        labels.append(nn.functional.interpolate(found[:, None].float(), (size, size), mode="nearest-exact")[:, 0])
    return torch.cat(images), torch.cat(labels).to(torch.uint8)


def batches(data: Batch, size: int, seed: int) -> Iterator[Batch]:
    """Draw batches without end, whole epochs in random order."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(data[0]), generator=generator)
        for start in range(0, len(order) - size + 1, size):
            chosen = order[start : start + size]
            yield data[0][chosen], data[1][chosen]


def interleaved(sides: dict[str, Side], batch: Batch, repeats: int) -> dict[str, tuple[float, float]]:
    """Return the median seconds of a step by the clock and of the CPU.

    The sides take turns, each for two steps of which the first is not counted: memory is kept or not for the whole
    process, and the first step after a change of that still pays for it.
    """
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, side in sides.items():
            keep_freed_memory(side.way.keep_memory)
            side.step(batch)
            wall, cpu = time.perf_counter(), time.process_time()
            side.step(batch)
            seconds[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    keep_freed_memory(False)
    medians = {name: np.median(values, axis=0) for name, values in seconds.items()}
    return {name: (float(values[0]), float(values[1])) for name, values in medians.items()}


def variants(plain: Way, auto: Way, network: nn.Module, batch: Batch, repeats: int) -> None:
    """Time each way alone, with CPU seconds beside: those suffer less from other work on the machine."""
    ways = {
        "float32": plain,
        "float32, channels last": replace(plain, channels_last=True),
        "autocast, contiguous": replace(auto, channels_last=False),
        "auto": auto,
        "auto, freed memory not kept": replace(auto, keep_memory=False),
        "auto, optimizer not fused": replace(auto, fused=False),
        "auto, denormals flushed": replace(auto, flush_denormals=True),
        "weights in bfloat16": replace(auto, half_weights=True),
        "auto, compiled": replace(auto, compile=True),
    }
    for name, way in ways.items():
        keep_freed_memory(way.keep_memory)
        side = Side(network, way, 1e-4)
        first = time.perf_counter()
        side.step(batch)
        first = time.perf_counter() - first
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(repeats):
            side.step(batch)
        wall, cpu = (time.perf_counter() - wall) / repeats, (time.process_time() - cpu) / repeats
        print(f"{name:26} {wall:7.2f} s a step, {cpu:7.2f} s of CPU, first step {first:6.1f} s", flush=True)
        torch.set_flush_denormal(False)


def curves(plain: Way, auto: Way, name: str, size: int, batch: int, steps: int) -> None:
    """Train four times and compare the loss curves, each averaged over windows of steps."""
    data = slices(size, 3)
    network, other = new_network(name), new_network(name, 43)
    print(f"{name}, {size}², batch {batch}, {steps} steps, loss averaged over {WINDOW}")
    runs = {
        "float32": (network, plain, 1),
        "auto": (network, auto, 1),
        "float32, other order": (network, plain, 2),
        "float32, other start": (other, plain, 1),
    }
    seen = {}
    for title, (start, way, seed) in runs.items():
        side, source = Side(start, way, 1e-3), batches(data, batch, seed)
        began = time.perf_counter()
        losses = np.array([side.step(next(source)) for _ in range(steps)])
        seen[title] = losses[: steps // WINDOW * WINDOW].reshape(-1, WINDOW).mean(axis=1)
        values = " ".join(f"{value:.4f}" for value in seen[title])
        print(f"{title:21} {values}   {(time.perf_counter() - began) / steps:.3f} s a step", flush=True)
    distance = {title: np.abs(curve - seen["float32"]).mean() for title, curve in seen.items()}
    noise = min(distance["float32, other order"], distance["float32, other start"])
    print("mean distance from float32: " + ", ".join(f"{title} {value:.4f}" for title, value in distance.items()))
    print("within noise" if distance["auto"] <= noise else "NOT WITHIN NOISE")


if __name__ == "__main__":
    main()
