"""Base of the tests of training, inference and evaluation: a tiny cohort with a trained run, made once for all of them.

Three phantoms of 64 × 64 × 10 voxels and the smallest network: the jobs are real, what they learn is not worth a look.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from ModuleTestCase import ROOT, ModuleTestCase, jobPython

RUN = "first"
SETTINGS = ("network=tiny", "batch_size=4", "device=cpu", "threads=1", "augmentation=none", "learning_rate=0.003")


class LearningTestCase(ModuleTestCase):
    """A case with :meth:`cohort` (a copy of its own) and :meth:`model`."""

    _made: tempfile.TemporaryDirectory | None = None

    @classmethod
    def source(cls) -> Path:
        """Return the folder of what all cases share: ``dicom``, ``cohort`` (prepared, with one run)."""
        if LearningTestCase._made is None:
            made = tempfile.TemporaryDirectory(prefix="learning ", ignore_cleanup_errors=True)
            out = Path(made.name)
            lungseg("phantom", out, "--patients", "3", "--seed", "5", "--size", "64", "--slices", "10")
            lungseg("convert", out / "dicom", out / "cohort")
            lungseg("prepare", out / "cohort", "--slice-size", "64")
            sets = [part for text in (*SETTINGS, "epochs=3") for part in ("--set", text)]
            lungseg("train", out / "cohort", "--run", RUN, *sets)
            LearningTestCase._made = made
        return Path(LearningTestCase._made.name)

    def cohort(self, runs: bool = True, prepared: bool = True) -> Path:
        """Return a copy of the cohort in the case's own folder, whose name has blanks, accents and Japanese letters."""
        left = [] if runs else ["runs"]
        left += [] if prepared else ["cache", "splits", "class_weights.json"]
        target = self.folder / "cohort"
        shutil.copytree(self.source() / "cohort", target, ignore=lambda _folder, names: [n for n in names if n in left])
        return target

    @classmethod
    def model(cls) -> Path:
        """Return the model of the shared run."""
        return cls.source() / "cohort" / "runs" / RUN / "best_unet_multi_organ.safetensors"

    def loadCase(self, index: int = 0) -> tuple:
        """Load CT and label map of a case of the cohort as nodes."""
        import slicer

        case = sorted((self.source() / "cohort" / "cases").iterdir())[index]
        ct = slicer.util.loadVolume(str(case / "ct.nii.gz"), {"name": f"{case.name} CT"})
        labels = slicer.util.loadLabelVolume(str(case / "labels.nii.gz"), {"name": f"{case.name} labels"})
        return ct, labels


def lungseg(*arguments: object) -> None:
    """Run a command of the library and wait for it."""
    command = [jobPython(), "-m", "LungSegmentationLib", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, env=environment, timeout=300, check=False)
    if done.returncode:
        raise RuntimeError(f"{arguments[0]}: {done.stdout.decode()} {done.stderr.decode()}")
