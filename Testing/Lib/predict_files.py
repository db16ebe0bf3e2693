"""A tiny network that was taught to tell air, fat and dense tissue of one phantom apart; and phantoms as DICOM."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from LungSegmentationLib import __version__
from LungSegmentationLib.labels import load_label_set
from LungSegmentationLib.networks.card import ModelCard, Preprocessing, TrainingSummary
from LungSegmentationLib.networks.config import NetworkConfig
from LungSegmentationLib.networks.model_file import save_model
from LungSegmentationLib.networks.unet import build_network
from LungSegmentationLib.phantom import PhantomOptions, PhantomPatient, make_patient
from LungSegmentationLib.phantom.dicom_files import write_dicom

SIZE, SLICES = 64, 10
KEYS = ("lung_right", "lung_left", "heart")
OPTIONS = PhantomOptions(in_plane=SIZE, slices=SLICES, complete=True)
STEPS = 40


@cache
def phantom(index: int = 0, seed: int = 11) -> PhantomPatient:
    return make_patient(seed, index, OPTIONS)


def write_phantom(folder: Path, index: int = 0) -> Path:
    """Write CT and RTSTRUCT of a phantom."""
    write_dicom(phantom(index), folder)
    return folder


def make_card(overlap: str = "exclusive", **changes: Any) -> ModelCard:
    content = {
        "created": datetime(2026, 11, 21, tzinfo=UTC),
        "label_set": load_label_set(),
        "structures": KEYS,
        "overlap": overlap,
        "preprocessing": Preprocessing(
            size=(SIZE, SIZE), window=(-1000, 400), normalization="zscore", field_of_view="full", neighbors=0
        ),
        "network": NetworkConfig(
            name="small", out_channels=len(KEYS) + (overlap == "exclusive"), widths=(4, 8), norm="instance"
        ),
        "training": TrainingSummary(epochs=1, best_epoch=1, patients={"train": 1}, slices={"train": SLICES}),
        "software": {"lungsegmentation": __version__},
        "data_fingerprint": "cd" * 32,
    }
    return ModelCard(**content | changes)


@cache
def taught(overlap: str, seed: int = 0) -> nn.Module:
    """Return a network that gives each structure a few hundred voxels."""
    torch.manual_seed(seed)
    card = make_card(overlap)
    patient = phantom()
    windowed = patient.ct.astype(np.float32).clip(*card.preprocessing.window)
    images = torch.from_numpy((windowed - windowed.mean()) / (windowed.std() + 1e-8))[:, None]
    # What can be told from a voxel's own value, so that few steps suffice.
    bands = [(-950, -500), (-200, -20), (20, 3000)]
    masks = torch.from_numpy(np.stack([(patient.ct > low) & (patient.ct < high) for low, high in bands], 1)).float()
    network = build_network(card.network).train()
    optimizer = torch.optim.Adam(network.parameters(), 0.05)
    for _ in range(STEPS):
        output = network(images)
        logits = output[0] if isinstance(output, list) else output
        if overlap == "keep":
            loss = nn.functional.binary_cross_entropy_with_logits(logits, masks)
        else:
            labels = (masks * torch.arange(1, len(KEYS) + 1)[:, None, None]).amax(1).long()
            loss = nn.functional.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval()


def write_model(path: Path, overlap: str = "exclusive", seed: int = 0, **changes: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_model(path, taught(overlap, seed), make_card(overlap, **changes))
    return path
