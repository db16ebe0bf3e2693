"""Structures kept as drawn (a sigmoid each) beside exclusive ones, after equal epochs on the same phantoms.

Three phantoms are learned from with a small network, two others are scored each few epochs on the cached grid (128²).
``keep`` begins at the frequency of each structure and divides each cross-entropy by the entropy of that; the other rows
take off one or both of these. The last row is what it was before there were any.

    python Testing/Benchmarks/bench_overlap.py [--epochs 18] [--folder DIR] [--way "keep"]
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path
from unittest.mock import patch

from training_runs import run_training, table

from LungSegmentationLib.cohort.convert import convert
from LungSegmentationLib.cohort.options import ConversionOptions
from LungSegmentationLib.cohort.paths import CohortPaths
from LungSegmentationLib.cohort.prepare import PreparationOptions, prepare
from LungSegmentationLib.cohort.splits import Split, write_splits
from LungSegmentationLib.labels import load_label_set
from LungSegmentationLib.networks.unet import UNet
from LungSegmentationLib.phantom import PhantomOptions, make_phantoms
from LungSegmentationLib.training.checkpoint import load_checkpoint

SETTINGS: dict[str, object] = {
    "network.widths": "[8,16,32,64,128]",
    "learning_rate": 0.002,
    "schedule": "cosine",
    "warmup_epochs": 1,
    "augmentation": "default",
    "patience": "none",
    "monitor": "val_dice",
    "validate_every": 6,
    "device": "cpu",
}
WAYS: dict[str, tuple[dict[str, object], bool]] = {
    "exclusive": ({}, True),
    "keep": ({"overlap": "keep"}, True),
    "keep, begins at frequencies": ({"overlap": "keep", "class_weights": "none"}, True),
    "keep, neither": ({"overlap": "keep", "class_weights": "none"}, False),
}


def make_cohort(folder: Path) -> Path:
    """Make five phantoms with every structure drawn, three to learn from."""
    cohort = folder / "cohort"
    make_phantoms(folder / "phantoms", 5, 42, options=PhantomOptions(in_plane=256, complete=True))
    convert(folder / "phantoms" / "dicom", cohort, ConversionOptions())
    paths = CohortPaths(cohort)
    names = tuple(case.name for case in paths.finished_cases())
    write_splits(paths, Split(names[:3], names[3:], ()))
    prepare(cohort, PreparationOptions(slice_size=128))
    return cohort


def main() -> None:
    """Train each way and print the Dice of its last epoch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=18)
    parser.add_argument("--folder", type=Path, help="keep everything here")
    parser.add_argument("--way", action="append", choices=list(WAYS), help="only this one")
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="lungseg-"))
    cohort = make_cohort(folder)
    rows = {}
    for way in arguments.way or WAYS:
        settings, begins = WAYS[way]
        # A network whose outputs begin where chance put them, around one half.
        with patch.object(UNet, "begin_at", UNet.begin_at if begins else lambda *_: None):
            run = run_training(
                cohort, way.replace(" ", "-").replace(",", ""), SETTINGS | settings | {"epochs": arguments.epochs}
            )
        last = load_checkpoint(run.model.with_name("last.pt")).history["epochs"][-1]
        rows[way] = {key: value for key, value in last["dice"].items() if value is not None}
        print(f"{way}: {run.seconds:.0f} s", flush=True)
    print(table(rows, load_label_set().keys))
    if arguments.folder is None:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
