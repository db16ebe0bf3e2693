"""Augment batches of 256 × 256 slices with bit fields: ours beside kornia and MONAI, in one run.

    python Testing/Benchmarks/bench_augmentation.py [--device cuda] [--threads N] [--repeats N]

kornia and MONAI are measured where they are installed (``pip install --no-deps kornia kornia_rs monai``); the project
does not need them. All sides do the same: flip, rotation, scale, shift, elastic, brightness, contrast, gamma, noise,
blur; every transform on every sample, the same without elastic and blur (the costly ones), and the default
probabilities. What is also looked at is whether the labels stay in their value set.

Figures of 2026-11-21, ``--threads 1 --repeats 11``, 2-core AMD EPYC, torch 2.13 CPU, kornia 0.9.0, MONAI 1.6.1, other
work on the machine (the sides take turns, so the ratios hold better than the milliseconds), ms a batch of 8 / 16:

======================  =========  =================  =================
case                    ours       kornia             MONAI
======================  =========  =================  =================
every transform         31 / 45    549 / 836 (18 ×)   264 / 404 (9 ×)
without elastic, blur   61 / 55    139 / 204 (2–4 ×)  428 / 568 (7–10 ×)
default probabilities   29 / 40    531 / 849 (20 ×)   144 / 254 (5–6 ×)
======================  =========  =================  =================

All keep labels whole. Neither library swaps mirror partners. kornia draws from the global random state, so a resumed
run would have to save that; MONAI works sample by sample from a NumPy state. Hence our own, on ``grid_sample``.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
import warnings
from collections.abc import Callable

import torch

from LungSegmentationLib.labels import load_label_set
from LungSegmentationLib.training.augmentation import Augmentation, AugmentationConfig

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
Step = Callable[[Batch], tuple[torch.Tensor, torch.Tensor]]

SIZE = 256
ALWAYS = AugmentationConfig(**{key: 1 if "probability" in key else value for key, value in AugmentationConfig()})
CASES = {
    "every transform": ALWAYS,
    "without elastic, blur": ALWAYS.model_copy(update={"elastic_probability": 0, "blur_probability": 0}),
    "default probabilities": AugmentationConfig(),
}


def main() -> None:
    """Print milliseconds a batch of each side, and how many times faster ours is."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    warnings.filterwarnings("ignore")
    sides = {"ours": ours}
    for name, build in (("kornia", kornia_side), ("monai", monai_side)):
        if importlib.util.find_spec(name) is None:
            print(f"{name} is not installed: not compared")
        else:
            sides[name] = build
    for title, config in CASES.items():
        for size in (8, 16):
            batch = make_batch(size, arguments.device)
            steps = {name: build(config) for name, build in sides.items()}
            milliseconds = interleaved(steps, batch, arguments.repeats)
            for name, step in steps.items():
                ratio = f"{milliseconds[name] / milliseconds['ours']:6.1f} × ours" if name != "ours" else ""
                print(
                    f"{title:22} batch {size:2} {name:7}{milliseconds[name]:8.1f} ms {ratio:13} {foreign(step, batch)}"
                )


def make_batch(size: int, device: torch.device) -> Batch:
    """Return a smooth picture, overlapping discs as bits, and flags."""
    generator = torch.Generator().manual_seed(1)
    images = torch.nn.functional.interpolate(torch.rand(size, 1, 32, 32, generator=generator), SIZE, mode="bilinear")
    y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    bits = torch.zeros(size, SIZE, SIZE, dtype=torch.uint8)
    for label, (column, row, radius) in enumerate(
        ((90, 120, 20), (90, 120, 30), (80, 128, 60), (180, 128, 55), (140, 120, 35), (128, 160, 8), (128, 190, 9))
    ):
        bits |= ((x - column) ** 2 + (y - row) ** 2 < radius**2).to(torch.uint8) << label
    flags = torch.ones(size, 7, dtype=torch.bool)
    return images.to(device), bits.to(device), flags.to(device)


def interleaved(steps: dict[str, Step], batch: Batch, repeats: int) -> dict[str, float]:
    """Return the median milliseconds of each side, the sides taken in turns so that a busy machine hits all."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for repeat in range(repeats + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            step(batch)
            if batch[0].is_cuda:
                torch.cuda.synchronize()
            if repeat:
                seconds[name].append(time.perf_counter() - start)
    return {name: 1000 * sorted(values)[len(values) // 2] for name, values in seconds.items()}


def foreign(step: Step, batch: Batch) -> str:
    """Say whether the result holds label values that the input, its mirror image and background do not."""
    allowed = set(batch[1].unique().tolist())
    table = {value: (value & ~12) | (value & 4) << 1 | (value & 8) >> 1 for value in allowed}
    values = set(torch.cat([step(batch)[1].flatten() for _ in range(4)]).unique().tolist())
    wrong = values - allowed - set(table.values()) - {0}
    return f"labels broken: {len(wrong)} new values" if wrong else "labels whole"


def ours(config: AugmentationConfig) -> Step:
    """Our own augmentation."""
    augmentation, generator = Augmentation(config, load_label_set()), torch.Generator().manual_seed(42)

    def step(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        images, bits, _ = augmentation(*batch, generator)
        return images, bits

    return step


def kornia_side(config: AugmentationConfig) -> Step:
    """The same by kornia's batched modules; it leaves the swap of mirror partners to the caller."""
    from kornia import augmentation as kornia
    from kornia.constants import DataKey, Resample

    scale, contrast, gamma = (1 + limit for limit in (config.scale_limit, config.contrast_limit, config.gamma_limit))
    shift, brightness = config.shift_limit, config.brightness_limit
    transforms = [
        kornia.RandomHorizontalFlip(p=config.flip_probability),
        kornia.RandomAffine(config.rotation_degrees, (shift, shift), (1 / scale, scale), p=config.affine_probability),
        # Its own kernel; a displacement as smooth as a spline's needs one of this size.
        kornia.RandomElasticTransform((63, 63), (16.0, 16.0), p=config.elastic_probability),
        kornia.RandomGaussianBlur((9, 9), (0.1, config.blur_limit), p=config.blur_probability),
        kornia.RandomGaussianNoise(0.0, config.noise_limit, p=config.noise_probability),
        kornia.RandomContrast((1 / contrast, contrast), p=config.contrast_probability),
        kornia.RandomBrightness((1 - brightness, 1 + brightness), p=config.brightness_probability),
        kornia.RandomGamma((1 / gamma, gamma), p=config.gamma_probability),
    ]
    pipeline = kornia.AugmentationSequential(
        *(transform for transform in transforms if transform.p > 0),
        data_keys=["input", "mask"],
        extra_args={DataKey.MASK: {"resample": Resample.NEAREST, "align_corners": False}},
    )

    def step(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad():
            images, masks = pipeline(batch[0], batch[1].unsqueeze(1).float())
        return images, masks[:, 0].round().to(torch.uint8)

    return step


def monai_side(config: AugmentationConfig) -> Step:
    """The same by MONAI's dictionary transforms, sample by sample as they are made; no swap either."""
    from monai import transforms as monai

    both = ["image", "label"]
    span = SIZE / config.elastic_spans
    affine = {
        "rotate_range": torch.pi * config.rotation_degrees / 180,
        "translate_range": config.shift_limit * SIZE,
        "scale_range": config.scale_limit,
        "mode": ("bilinear", "nearest"),
        "padding_mode": "zeros",
    }
    # Its elastic transform holds an affine one, in one interpolation; a sample gets both or the affine one alone.
    deform = monai.Rand2DElasticd(
        both, spacing=(span, span), magnitude_range=(0, config.elastic_limit * span), prob=1, **affine
    )
    turn = monai.RandAffined(both, prob=config.affine_probability, **affine)
    elastic = config.elastic_probability
    pipeline = monai.Compose(
        [
            monai.RandFlipd(both, prob=config.flip_probability, spatial_axis=1),
            monai.OneOf([deform, turn], weights=(elastic, 1 - elastic)) if elastic else turn,
            monai.RandGaussianSmoothd(
                "image", (0.1, config.blur_limit), (0.1, config.blur_limit), prob=config.blur_probability
            ),
            monai.RandGaussianNoised("image", prob=config.noise_probability, std=config.noise_limit),
            monai.RandScaleIntensityd("image", factors=config.contrast_limit, prob=config.contrast_probability),
            monai.RandShiftIntensityd("image", offsets=config.brightness_limit, prob=config.brightness_probability),
            monai.RandAdjustContrastd(
                "image", prob=config.gamma_probability, gamma=(1 / (1 + config.gamma_limit), 1 + config.gamma_limit)
            ),
        ]
    )

    def step(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        results = [
            pipeline({"image": image, "label": bits.unsqueeze(0).float()})
            for image, bits in zip(batch[0], batch[1], strict=True)
        ]
        images = torch.stack([torch.as_tensor(result["image"]) for result in results])
        labels = torch.cat([torch.as_tensor(result["label"]) for result in results])
        return images, labels.to(torch.uint8)

    return step


if __name__ == "__main__":
    main()
