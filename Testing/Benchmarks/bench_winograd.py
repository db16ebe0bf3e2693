"""Convolutions by Winograd's minimal filtering against PyTorch's own: time and error of layers, and of whole CTs.

    python Testing/Benchmarks/bench_winograd.py [--threads 2]
    python Testing/Benchmarks/bench_winograd.py --model MODEL --ct CT [--ct CT …] [--everywhere]

The first way takes the inner layers of the 31M network with four slices of 256², side by side, and says where
`inference/winograd.py` uses it; errors are root mean squares against float32, relative to that of the result. The
second segments CTs (a DICOM folder or a volume file) with a trained model three times: in float32 with plain
convolutions, in bfloat16 with plain ones, and in bfloat16 as users get it; it counts how many voxels differ from
float32. ``--everywhere`` takes the shorter way in every layer, also where it would be slower: for small networks, whose
layers are too narrow for it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from LungSegmentationLib.inference import forward
from LungSegmentationLib.inference.options import PredictionOptions
from LungSegmentationLib.inference.predictor import Predictor
from LungSegmentationLib.inference.sources import find_inputs
from LungSegmentationLib.inference.winograd import WinogradConvolution, is_faster
from LungSegmentationLib.training.memory import keep_freed_memory

LAYERS = (
    (64, 64, 256),
    (64, 128, 128),
    (128, 128, 128),
    (128, 256, 64),
    (256, 256, 64),
    (512, 256, 64),
    (256, 512, 32),
    (512, 512, 32),
    (1024, 512, 32),
    (512, 1024, 16),
    (1024, 1024, 16),
)
SLICES = 4


def best(run: Callable[[], Tensor], repeats: int = 5) -> float:
    """Return the milliseconds of the fastest of some runs."""
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return 1000 * min(times)


def layers() -> None:
    """Print a line for each layer and number type."""
    device = torch.device("cpu")
    print("type        in   out  pixels    plain  Winograd  ratio     error: plain  Winograd   used")
    for dtype in (torch.bfloat16, torch.float32):
        for channels, outputs, size in LAYERS:
            torch.manual_seed(0)
            convolution = nn.Conv2d(channels, outputs, 3, padding=1)
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
            x = torch.randn(SLICES, channels, size, size).relu().to(dtype).to(memory_format=torch.channels_last)
            exact = convolution.double()(x.double())
            convolution.float()
            used = is_faster(convolution, device, dtype)
            short = WinogradConvolution(convolution).to(dtype)
            plain = convolution.to(dtype).to(memory_format=torch.channels_last)

            def error(result: Tensor, exact: Tensor = exact) -> float:
                return float(((result.double() - exact).square().mean() / exact.square().mean()).sqrt())

            sides = [(best(lambda side=side, x=x: side(x)), error(side(x))) for side in (plain, short)]
            (one, first), (two, second) = sides
            name = str(dtype).removeprefix("torch.")
            print(
                f"{name:<9} {channels:4} {outputs:5} {size:5}²  {one:7.1f} {two:9.1f} {one / two:6.2f}"
                f"     {first:12.1e} {second:9.1e}   {'yes' if used else 'no'}"
            )


def whole(model: Path, inputs: list[Path], *, everywhere: bool) -> None:
    """Print how many voxels differ from float32, and each structure's Dice with it."""
    chosen = forward.is_faster

    def short(convolution: nn.Conv2d, device: torch.device, dtype: torch.dtype) -> bool:
        return WinogradConvolution.can_be(convolution) if everywhere else chosen(convolution, device, dtype)

    ways: list[tuple[str, str, Callable[[nn.Conv2d, torch.device, torch.dtype], bool]]] = [
        ("float32, plain", "float32", lambda *_: False),
        ("bfloat16, plain", "bfloat16", lambda *_: False),
        ("bfloat16, Winograd", "bfloat16", short),
        ("float32, Winograd", "float32", short),
    ]
    for path in inputs:
        for case in find_inputs(path).cases:
            loaded = case.load()
            truth: np.ndarray | None = None
            for title, precision, rule in ways:
                forward.is_faster = rule
                options = PredictionOptions(device="cpu", precision=precision, postprocess=False, contours=False)
                predictor = Predictor(model, options)
                labels = predictor.predict((loaded.ct, loaded.grid)).label_map()
                if truth is None:
                    truth = labels
                    print(f"{case.name}: {np.count_nonzero(truth):,} voxels of structures in float32, plain")
                    continue
                differ = np.count_nonzero(labels != truth)
                scores = []
                for key in predictor.keys:
                    number = predictor.cards[0].label_set[key].label
                    one, two = truth == number, labels == number
                    total = one.sum() + two.sum()
                    scores.append(f"{key} {2 * np.count_nonzero(one & two) / total if total else 1.0:.5f}")
                print(f"  {title:<19} {differ:7,} voxels differ; Dice {', '.join(scores)}")
    forward.is_faster = chosen


def main() -> int:
    """Print the layers, or whole CTs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--ct", type=Path, action="append", default=[])
    parser.add_argument("--everywhere", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    with torch.inference_mode():
        if arguments.model:
            whole(arguments.model, arguments.ct, everywhere=arguments.everywhere)
        else:
            layers()
    return 0


if __name__ == "__main__":
    sys.exit(main())
