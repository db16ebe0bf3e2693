"""Two real patients: the tiny network learns from one and segments the other, and the reverse, on the CPU.

Each way of handling overlap and intensity stands beside the other. One patient is no training set: the figures compare
ways, they do not promise results. There is no third patient to validate on, so the last epoch's model counts. LUNG1-001
has the planning system's own RTSTRUCT (GTV, PTV, lungs, cord), LUNG1-002 all seven structures; scores are on the native
grid, exclusive against exclusive, as drawn against as drawn. Bars: 30 minutes in all, lungs 0.90 both ways without PTV.

    python Testing/Benchmarks/bench_real_patients.py [--size 128] [--epochs 20] [--folder DIR]
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path

from training_runs import run_training, scores, table

from LungSegmentationLib.cohort.convert import convert
from LungSegmentationLib.cohort.options import ConversionOptions
from LungSegmentationLib.cohort.paths import CohortPaths
from LungSegmentationLib.cohort.prepare import PreparationOptions, prepare
from LungSegmentationLib.cohort.splits import Split, write_splits
from LungSegmentationLib.labels import load_label_set

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("LUNGSEG_TEST_DATA", ROOT.parent / "shared" / "data"))
FOLDERS = ("rt_lung1-001/image", "rt_lung1-001_xio_rtstruct", "rt_lung1-002")
PATIENTS = ("LUNG1-001", "LUNG1-002")
WITHOUT_PTV = "gtv,lung_right,lung_left,heart,esophagus,spinal_cord"
LUNGS = ("lung_right", "lung_left")

WAYS: dict[str, dict[str, object]] = {
    "exclusive, z-score": {},
    "exclusive, z-score, no PTV": {"structures": WITHOUT_PTV},
    "exclusive, window, no PTV": {"structures": WITHOUT_PTV, "normalization": "window"},
    "keep, z-score": {"overlap": "keep"},
    "keep, window": {"overlap": "keep", "normalization": "window"},
}
SETTINGS: dict[str, object] = {
    "network": "tiny",
    "learning_rate": 0.002,
    "schedule": "cosine",
    "warmup_epochs": 1,
    "augmentation": "default",
    "patience": "none",
}


def make_cohort(folder: Path, size: int) -> Path:
    """Convert and prepare the two patients."""
    dicom, cohort = folder / "dicom", folder / "cohort"
    for name in FOLDERS:
        shutil.copytree(DATA / name, dicom / name.replace("/", "-"))
    convert(dicom, cohort, ConversionOptions(jobs=2))
    write_splits(CohortPaths(cohort), Split(PATIENTS[:1], (), PATIENTS[1:]))
    prepare(cohort, PreparationOptions(slice_size=size, jobs=2))
    return cohort


def main() -> None:
    """Train each way in both directions, score, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--folder", type=Path, help="keep everything here")
    parser.add_argument("--way", action="append", choices=list(WAYS), help="only this one")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="another setting")
    arguments = parser.parse_args()
    if not DATA.is_dir():
        raise SystemExit(f"no test data at {DATA}: set LUNGSEG_TEST_DATA")
    start = time.monotonic()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="lungseg-"))
    cohort = make_cohort(folder, arguments.size)
    keys = load_label_set().keys
    more = dict(text.split("=", 1) for text in arguments.set)
    for learned, tried in (PATIENTS, PATIENTS[::-1]):
        write_splits(CohortPaths(cohort), Split((learned,), (), (tried,)))
        # Class weights are those of the patient that is learned from.
        prepare(cohort, PreparationOptions(slice_size=arguments.size))
        rows = {}
        for way in arguments.way or WAYS:
            settings = SETTINGS | WAYS[way] | {"epochs": arguments.epochs} | more
            settings = _only_drawn(settings, cohort, learned)
            run = run_training(cohort, f"{learned} {way}".replace(" ", "-").replace(",", ""), settings)
            rows[way] = scores(run.model, cohort, tried, keys)
            rows[f"{way}, largest lungs"] = scores(run.model, cohort, tried, LUNGS, largest=LUNGS)
            print(f"{way}: {run.seconds:.0f} s", flush=True)
        print(f"\nlearned from {learned}, tried on {tried}\n\n{table(rows, keys)}\n", flush=True)
    print(f"{(time.monotonic() - start) / 60:.1f} min in all (bar 30)")
    if arguments.folder is None:
        shutil.rmtree(folder, ignore_errors=True)


def _only_drawn(settings: dict[str, object], cohort: Path, name: str) -> dict[str, object]:
    """Leave out of a list of structures those that nobody drew in the one patient to learn from."""
    from LungSegmentationLib.cohort.records import CaseRecord, read_record

    if "structures" not in settings:
        return settings
    annotated = read_record(CaseRecord, CohortPaths(cohort).case(name).record).annotated
    chosen = [key for key in str(settings["structures"]).split(",") if key in annotated]
    return settings | {"structures": ",".join(chosen)}


if __name__ == "__main__":
    main()
