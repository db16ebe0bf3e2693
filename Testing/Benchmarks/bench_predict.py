"""Segmenting LUNG1-001 with the untrained 31M network on the CPU: `Predictor` against the ordinary loop over slices.

The loop, as tutorials have it: the whole CT as float32, windowed and normalized; for each slice `skimage` resizes to
256², the network sees it alone in float32, softmax and argmax, the mask of each class as float32 is resized back by
`skimage` into one volume a class, and the label map is made of those. Both sides begin with HU, a network and their
libraries in memory and end with the label map. They take turns in processes of their own, so that the peak memory is
each one's. Seconds of the processor tell more than the wall's where the machine does other work, too.

    python Testing/Benchmarks/bench_predict.py [--repeats 2] [--threads 2] [--only 24]
    python Testing/Benchmarks/bench_predict.py --slices 1000 [--network tiny]

The second way measures the peak memory of one prediction of 512 × 512 × 1000 voxels (LUNG1-001 again and again; bar
3 GB), with everything that is on by default. There the network runs, but seven soft disks are taken for its answer:
an untrained one would give noise, with thousands of pieces to mend. Bars of the first: 4 times, 2.0 GB. Needs the data
folder in ``LUNGSEG_TEST_DATA``. With work beside, threads wait for each other and the processor's seconds count that:
then ``--threads 1`` is the fairer comparison.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from LungSegmentationLib.dicom.ct import read_ct
from LungSegmentationLib.dicom.scan import scan
from LungSegmentationLib.geometry import Grid

DATA = Path(os.environ.get("LUNGSEG_TEST_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
SIZE = 256
WINDOW = (-1000.0, 400.0)
BAR, MEMORY_BAR_GB, LONG_BAR_GB = 4.0, 2.0, 3.0


def write_model(path: Path, network: str) -> None:
    """Write an untrained model of the whole label set."""
    import torch

    from LungSegmentationLib.labels import load_label_set
    from LungSegmentationLib.networks.card import ModelCard, Preprocessing, TrainingSummary, software_versions
    from LungSegmentationLib.networks.config import network_preset
    from LungSegmentationLib.networks.model_file import save_model
    from LungSegmentationLib.networks.unet import build_network, count_parameters

    torch.manual_seed(0)
    labels = load_label_set()
    config = network_preset(network, out_channels=len(labels) + 1)
    built = build_network(config)
    card = ModelCard(
        created=datetime.now(UTC),
        label_set=labels,
        structures=labels.keys,
        overlap="exclusive",
        preprocessing=Preprocessing(
            size=(SIZE, SIZE), window=WINDOW, normalization="zscore", field_of_view="full", neighbors=0
        ),
        network=config,
        training=TrainingSummary(epochs=0, best_epoch=0, patients={}, slices={}),
        software=software_versions(),
        data_fingerprint="0" * 64,
    )
    save_model(path, built, card)
    print(f"{network}: {count_parameters(built):,} parameters")


def read(slices: int | None) -> tuple[np.ndarray, Grid]:
    """Return HU of LUNG1-001, some slices from its middle, or more than it has by repeating them."""
    (series,) = (series for patient in scan(DATA / "rt_lung1-001").patients for series in patient.series)
    ct = read_ct(series)
    grid = ct.grid
    if slices is None:
        return sitk.GetArrayFromImage(ct.image), grid
    available = sitk.GetArrayViewFromImage(ct.image)
    start = max(0, (len(available) - slices) // 2)
    array = np.empty((slices, *available.shape[1:]), np.int16)
    for z in range(slices):
        array[z] = available[(start + z) % len(available)]
    return array, Grid((grid.size[0], grid.size[1], slices), grid.spacing, grid.origin, grid.direction)


def loop(model: Path, ct: np.ndarray) -> np.ndarray:
    """Segment slice by slice; returns the label map."""
    import torch
    from skimage.transform import resize

    from LungSegmentationLib.networks.model_file import load_model

    network, card = load_model(model)
    yield_start()
    classes = card.network.out_channels
    volume = np.clip(ct.astype(np.float32), *WINDOW)
    volume = (volume - volume.mean()) / (volume.std() + 1e-8)
    masks = np.zeros((classes, *ct.shape), np.float32)
    for z, image in enumerate(volume):
        small = resize(image, (SIZE, SIZE), order=1, preserve_range=True, anti_aliasing=True).astype(np.float32)
        with torch.no_grad():
            probabilities = torch.softmax(network(torch.from_numpy(small)[None, None]), dim=1)
        labels = probabilities.argmax(1)[0].numpy()
        for label in range(classes):
            mask = (labels == label).astype(np.float32)
            masks[label, z] = resize(mask, image.shape, order=1, preserve_range=True, anti_aliasing=False)
    result = np.zeros(ct.shape, np.uint8)
    for label in range(1, classes):
        result[masks[label] > 0.5] = label
    return result


def disks(model: Path) -> Any:
    """Return a model that runs the network and answers with soft disks, two of the size of lungs."""
    import torch

    from LungSegmentationLib.inference.forward import Model, load

    loaded = load(model, torch.device("cpu"), torch.bfloat16)
    rows, columns = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    places = ((110, 80, 8), (110, 80, 14), (120, 80, 40), (120, 175, 40), (135, 130, 25), (150, 128, 5), (165, 128, 5))
    scores = [torch.zeros(SIZE, SIZE)]
    for row, column, radius in places:
        scores.append(radius - torch.sqrt((rows - row) ** 2.0 + (columns - column) ** 2.0))
    answer = torch.stack(scores)

    def network(images: torch.Tensor, /) -> torch.Tensor:
        loaded.network(images)
        return answer.expand(len(images), *answer.shape)

    return Model(network, loaded.card, model.name)


def ours(model: Path, ct: np.ndarray, grid: Grid, *, shapes: bool = False) -> np.ndarray:
    """Segment with the predictor as users get it; returns the label map."""
    import scipy.ndimage
    import scipy.sparse.csgraph  # noqa: F401  (imported where they are needed; the loop has imported its libraries, too)

    from LungSegmentationLib.inference.options import PredictionOptions
    from LungSegmentationLib.inference.predictor import Predictor

    options = PredictionOptions(device="cpu")
    predictor = Predictor(networks=[disks(model)], options=options) if shapes else Predictor(model, options)
    print(predictor.device.statement, file=sys.stderr)
    yield_start()
    return predictor.predict((ct, grid)).label_map()


_STARTED: dict[str, float] = {}


def yield_start() -> None:
    """Begin to measure."""
    _STARTED.update(wall=time.perf_counter(), processor=time.process_time())


def measure(side: str, model: Path, slices: int | None, threads: int) -> None:
    """Run one side in this process and print what it took."""
    import torch

    torch.set_num_threads(threads)
    ct, grid = read(slices)
    labels = loop(model, ct) if side == "loop" else ours(model, ct, grid, shapes=side == "shapes")
    wall, processor = time.perf_counter() - _STARTED["wall"], time.process_time() - _STARTED["processor"]
    # Kilobytes on Linux.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    voxels = np.bincount(labels.ravel(), minlength=8).tolist()
    print(json.dumps({"wall": wall, "processor": processor, "peak_gb": peak, "slices": len(ct), "voxels": voxels}))


def started(side: str, model: Path, slices: int | None, threads: int) -> dict[str, Any]:
    """Run one side in a process of its own."""
    command = [sys.executable, __file__, "--side", side, "--model", str(model), "--threads", str(threads)]
    command += [] if slices is None else ["--only", str(slices)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> int:
    """Print both sides and the ratio, or the memory of a long CT."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--network", default=None, help="standard (default), or tiny for --slices")
    parser.add_argument("--only", type=int, help="compare on so many slices from the middle")
    parser.add_argument("--slices", type=int, help="measure only the memory of a CT of so many slices")
    parser.add_argument("--side", choices=["loop", "ours", "shapes"], help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not DATA.is_dir():
        raise SystemExit(f"no test data at {DATA}: set LUNGSEG_TEST_DATA")
    if arguments.side:
        measure(arguments.side, arguments.model, arguments.only, arguments.threads)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "untrained.safetensors"
        write_model(model, arguments.network or ("tiny" if arguments.slices else "standard"))
        if arguments.slices:
            found = started("shapes", model, arguments.slices, arguments.threads)
            held = "held" if found["peak_gb"] <= LONG_BAR_GB else "MISSED"
            print(f"512 × 512 × {arguments.slices}: peak {found['peak_gb']:.2f} GB (bar {LONG_BAR_GB}: {held})")
            print(f"{found['wall']:.1f} s, {found['processor']:.1f} s of the processor")
            return 0
        best: dict[str, dict[str, Any]] = {}
        for _ in range(arguments.repeats):
            for side in ("loop", "ours"):
                found = started(side, model, arguments.only, arguments.threads)
                kept = best.setdefault(side, found)
                kept.update({name: min(kept[name], found[name]) for name in ("wall", "processor")})
                kept["peak_gb"] = max(kept["peak_gb"], found["peak_gb"])
    print(f"LUNG1-001, {best['ours']['slices']} slices, {arguments.threads} threads, best of {arguments.repeats}")
    print("                       seconds   processor   ms a slice   peak GB")
    for side, title in (("loop", "loop over slices"), ("ours", "LungSegmentation")):
        row = best[side]
        milliseconds = 1000 * row["wall"] / row["slices"]
        print(f"  {title:<20} {row['wall']:8.1f} {row['processor']:11.1f} {milliseconds:12.0f} {row['peak_gb']:9.2f}")
    ratio, by_processor = (best["loop"][name] / best["ours"][name] for name in ("wall", "processor"))
    held = "held" if ratio >= BAR and best["ours"]["peak_gb"] <= MEMORY_BAR_GB else "MISSED"
    bars = f"bars: {BAR:g} times, {MEMORY_BAR_GB} GB: {held}"
    print(f"  {ratio:.2f} times as fast, by processor {by_processor:.2f} ({bars})")
    print(f"  voxels a label: loop {best['loop']['voxels']}, LungSegmentation {best['ours']['voxels']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
