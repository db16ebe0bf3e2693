"""What nobody drew is unknown, not absent: the marginal loss finds hearts that the naive one learns to overlook."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from training_files import Recorder, make_trainer, write_case, write_cohort

from LungSegmentationLib.cohort.paths import CohortPaths
from LungSegmentationLib.phantom import PhantomOptions, make_patient

LEARNED = ("lung_right", "lung_left", "heart")
TRAIN, TEST = 18, 4
SETTINGS = (
    "network.name=small",
    "network.widths=[8,16,32]",
    "network.norm=instance",
    "batch_size=8",
    "epochs=12",
    "learning_rate=0.005",
    "schedule=cosine",
    "device=cpu",
    "precision=float32",
    "augmentation=none",
    "patience=none",
    f"structures={','.join(LEARNED)}",
)


def _phantom_cohort(root: Path) -> CohortPaths:
    """Hearts are drawn in 28 % of the training patients; in the test patients everything is."""
    train = [f"train{number:02d}" for number in range(TRAIN)]
    test = [f"test{number}" for number in range(TEST)]
    paths = write_cohort(root, train, test, slices=10, size=48)
    hearts = 0
    for number, name in enumerate([*train, *test]):
        options = PhantomOptions(in_plane=48, slices=10, complete=name in test)
        patient = make_patient(31, number, options)
        drawn = [key for key in patient.drawn if key in LEARNED]
        hearts += name in train and "heart" in drawn
        masks = {key: np.asarray(patient.structures.mask(key)) for key in drawn}
        write_case(paths, name, patient.ct, masks)
    assert 4 <= hearts <= 6
    return paths


def _heart_dice(paths: CohortPaths, partial: str) -> float:
    torch.set_num_threads(1)
    recorder = Recorder()
    make_trainer(paths, partial, *SETTINGS, f"loss.partial={partial}", reporter=recorder).train()
    dice = recorder.epochs[-1].dice
    assert all(value is not None and value > 0.8 for key, value in dice.items() if key != "heart"), dice
    heart = dice["heart"]
    assert heart is not None
    return heart


def test_with_hearts_drawn_in_28_percent_the_marginal_loss_finds_them_and_the_naive_one_does_not(
    tmp_path: Path,
) -> None:
    paths = _phantom_cohort(tmp_path / "cohort")
    marginal, naive = _heart_dice(paths, "marginal"), _heart_dice(paths, "naive")
    print(f"heart Dice: marginal {marginal:.3f}, naive {naive:.3f}")
    assert marginal >= naive + 0.10
