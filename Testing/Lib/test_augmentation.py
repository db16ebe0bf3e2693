"""The augmentation moves pictures and labels together, labels stay labels, and a random state repeats it all."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydantic import BaseModel, ValidationError
from scipy import ndimage

from LungSegmentationLib.errors import UsageError
from LungSegmentationLib.labels import LabelSet, load_label_set
from LungSegmentationLib.training.augmentation import Augmentation, AugmentationConfig, mirror_table
from LungSegmentationLib.training.transforms_intensity import (
    IntensityParameters,
    add_noise,
    adjust_gamma,
    adjust_linear,
    blur,
    change_intensity,
    scale_window,
    standardize,
)
from LungSegmentationLib.training.transforms_spatial import (
    SpatialParameters,
    sample_images,
    sample_labels,
    sampling_grid,
    spline_basis,
)

RIGHT, LEFT, HEART = 1 << 2, 1 << 3, 1 << 4
CPU = torch.device("cpu")
NONE = AugmentationConfig.preset("none")
ALL = AugmentationConfig(
    flip_probability=0.5,
    affine_probability=1,
    elastic_probability=0.5,
    brightness_probability=1,
    contrast_probability=1,
    gamma_probability=1,
    noise_probability=1,
    blur_probability=1,
)


@pytest.fixture(scope="module")
def thorax() -> LabelSet:
    return load_label_set("thorax")


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(size: int = 4, channels: int = 1, height: int = 32, width: int = 32, seed: int = 3):
    generator = seeded(seed)
    images = torch.rand(size, channels, height, width, generator=generator)
    bits = torch.randint(0, 128, (size, height, width), generator=generator).to(torch.uint8)
    annotated = torch.rand(size, 7, generator=generator) < 0.5
    return images, bits, annotated


def moved(size: int = 1, **changes) -> SpatialParameters:
    changes = {
        key: torch.as_tensor(value).expand(size, *torch.as_tensor(value).shape) for key, value in changes.items()
    }
    return dataclasses.replace(SpatialParameters.identity(size), **changes)


def changed(size: int = 1, **changes) -> IntensityParameters:
    values = {key: torch.full((size,), float(value), dtype=torch.float64) for key, value in changes.items()}
    return dataclasses.replace(IntensityParameters.identity(size), **values)


def warp(images: torch.Tensor, bits: torch.Tensor, parameters: SpatialParameters):
    grid = sampling_grid(parameters, images.shape[2], images.shape[3], CPU)
    return sample_images(images, grid), sample_labels(bits, grid)


def same(first, second) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


# Flip and mirror partners


def test_no_right_lung_becomes_a_left_lung(thorax):
    # In LPS the first columns are the patient's right: there the right lung lies, whatever the picture shows.
    bits = torch.zeros(1, 16, 32, dtype=torch.uint8)
    bits[0, 4:12, 2:12], bits[0, 5:11, 21:30], bits[0, 7:10, 18:23] = RIGHT, LEFT, HEART
    bits[0, 7:10, 21:23] = LEFT | HEART
    images = bits.unsqueeze(1) / 255
    flip = Augmentation(AugmentationConfig(**{**NONE.model_dump(), "flip_probability": 1}), thorax)
    pictures, flipped, _ = flip(images, bits, torch.ones(1, 7, dtype=torch.bool), seeded())

    columns = torch.arange(32).expand(16, 32)
    assert columns[(flipped[0] & RIGHT) > 0].max() < 16
    assert columns[(flipped[0] & LEFT) > 0].min() >= 16
    assert torch.allclose(pictures, images.flip(3), atol=1e-6)
    # Where the picture shows what was the left lung, the flipped labels say right lung, voxel by voxel, overlaps too.
    mirror = bits.flip(2)
    for source, target in ((LEFT, RIGHT), (RIGHT, LEFT), (HEART, HEART)):
        assert torch.equal((flipped & target) > 0, (mirror & source) > 0)


def test_flip_swaps_the_annotated_flags_of_partners_only_where_it_flips(thorax):
    augment = Augmentation(NONE, thorax)
    annotated = torch.tensor([[True, False, True, False, True, False, True]] * 2)
    images, bits, _ = batch(2)
    flip = torch.tensor([True, False])
    spatial = dataclasses.replace(SpatialParameters.identity(2), flip=flip)
    _, _, flags = augment.apply(images, bits, annotated, spatial, IntensityParameters.identity(2))
    assert flags.tolist() == [
        [True, False, False, True, True, False, True],
        [True, False, True, False, True, False, True],
    ]


def test_mirror_table_of_bits_swaps_the_lungs_and_nothing_else(thorax):
    table = mirror_table(thorax).tolist()
    for value in range(256):
        right, left = bool(value & RIGHT), bool(value & LEFT)
        assert table[value] == (value & ~(RIGHT | LEFT)) + right * LEFT + left * RIGHT


def test_mirror_table_of_label_maps_swaps_three_and_four(thorax):
    assert mirror_table(thorax, "labels").tolist() == [0, 1, 2, 4, 3, *range(5, 256)]


def test_more_structures_than_bits_are_refused_for_bits_and_taken_for_label_maps(thorax):
    many = dataclasses.replace(
        thorax,
        structures=tuple(
            dataclasses.replace(thorax.structures[0], label=label, key=f"s{label}") for label in range(1, 118)
        ),
    )
    with pytest.raises(UsageError, match="117 structures"):
        Augmentation(NONE, many)
    assert mirror_table(many, "labels").tolist() == list(range(256))


@settings(max_examples=30, deadline=None)
@given(arrays(np.uint8, (2, 9, 14)))
def test_two_flips_give_any_bit_field_back(bits):
    thorax = load_label_set("thorax")
    flip = Augmentation(AugmentationConfig(**{**NONE.model_dump(), "flip_probability": 1}), thorax)
    images, annotated = torch.rand(2, 1, 9, 14, generator=seeded()), torch.rand(2, 7, generator=seeded()) < 0.5
    once = flip(images, torch.from_numpy(bits), annotated, seeded())
    twice = flip(*once, seeded())
    assert torch.allclose(twice[0], images, atol=1e-5)
    assert np.array_equal(twice[1].numpy(), bits)
    assert torch.equal(twice[2], annotated)


# Spatial


def test_a_quarter_turn_equals_rot90_for_pictures_and_bits():
    images, bits, _ = batch(2, channels=3, height=33, width=33)
    pictures, labels = warp(images, bits, moved(2, angle=90.0))
    assert torch.allclose(pictures, torch.rot90(images, 1, (2, 3)), atol=1e-5)
    assert torch.equal(labels, torch.rot90(bits, 1, (1, 2)))


@pytest.mark.parametrize(("height", "width"), [(32, 32), (24, 40), (31, 27)])
def test_shift_by_whole_pixels_equals_moving_the_array_with_air_around(height, width):
    images, bits, _ = batch(2, height=height, width=width)
    right, down = 3, -5
    pictures, labels = warp(images, bits, moved(2, shift=torch.tensor([right / width, down / height]).double()))
    expected = torch.zeros_like(images)
    expected[:, :, : height + down, right:] = images[:, :, -down:, : width - right]
    expected_bits = torch.zeros_like(bits)
    expected_bits[:, : height + down, right:] = bits[:, -down:, : width - right]
    assert torch.allclose(pictures, expected, atol=1e-5)
    assert torch.equal(labels, expected_bits)


def test_scale_two_doubles_a_centered_square_and_scale_half_halves_it():
    bits = torch.zeros(1, 32, 32, dtype=torch.uint8)
    bits[0, 12:20, 12:20] = HEART
    for scale, low, high in ((2.0, 8, 24), (0.5, 14, 18)):
        _, labels = warp(bits.unsqueeze(1) / 255, bits, moved(scale=scale))
        expected = torch.zeros_like(bits)
        expected[0, low:high, low:high] = HEART
        assert torch.equal(labels, expected)


def test_rotation_keeps_shapes_on_pictures_that_are_not_square():
    # Pixels are square: a disc stays a disc and turns about the center of the picture.
    y, x = torch.meshgrid(torch.arange(40) - 19.5, torch.arange(80) - 39.5, indexing="ij")
    disc = (((x - 15) ** 2 + y**2) < 36).to(torch.uint8).unsqueeze(0)
    _, labels = warp(disc.unsqueeze(1).float(), disc, moved(angle=30.0))
    center = (x[labels[0] > 0].mean().item(), y[labels[0] > 0].mean().item())
    # Counterclockwise on the screen, where y runs down: to the right and up.
    assert center == pytest.approx((15 * math.cos(math.pi / 6), -15 * math.sin(math.pi / 6)), abs=0.2)
    assert abs(int(labels.sum()) - int(disc.sum())) <= 6


def test_rotation_scale_and_shift_together_equal_scipys_affine_transform():
    images, bits, _ = batch(1, height=30, width=44)
    images[:] = torch.from_numpy(ndimage.gaussian_filter(images.numpy(), (0, 0, 2, 2)))
    parameters = moved(flip=True, angle=20.0, scale=1.3, shift=torch.tensor([0.1, -0.05]).double())
    pictures, labels = warp(images, bits, parameters)

    cosine, sine = math.cos(math.radians(20)), math.sin(math.radians(20))
    # Row, column: mirror along the columns, then turn counterclockwise as displayed, enlarge, shift.
    forward = 1.3 * np.array([[cosine, -sine], [sine, cosine]]) @ np.diag([1.0, -1.0])
    center, inverse = np.array([14.5, 21.5]), np.linalg.inv(forward)
    offset = center - inverse @ (center + np.array([-0.05 * 30, 0.1 * 44]))
    inside = np.zeros((30, 44), bool)
    inside[4:-4, 4:-4] = True
    linear = ndimage.affine_transform(images[0, 0].numpy(), inverse, offset, order=1, mode="constant")
    ones = ndimage.affine_transform(np.ones((30, 44)), inverse, offset, order=1, mode="constant")
    inside &= ones > 0.999
    assert inside.sum() > 300
    assert np.allclose(pictures[0, 0].numpy()[inside], linear[inside], atol=1e-4)
    nearest = ndimage.affine_transform(bits[0].numpy(), inverse, offset, order=0, mode="constant")
    assert np.mean(nearest[inside] == labels[0].numpy()[inside]) > 0.995


def test_a_deformation_of_equal_nodes_is_a_shift():
    # The spline's weights sum to 1: nodes that all move by half a span of 8 pixels move everything by 4 pixels.
    images, bits, _ = batch(2)
    nodes = torch.zeros(2, 7, 7, dtype=torch.float64)
    nodes[0] = 0.5
    pictures, labels = warp(images, bits, moved(2, nodes=nodes))
    assert torch.allclose(pictures[..., :-4], images[..., 4:], atol=1e-5)
    assert torch.equal(labels[..., :-4], bits[..., 4:])
    assert labels[..., -4:].max() == 0


def test_content_is_turned_first_and_deformed_afterwards():
    images, bits, _ = batch(1)
    nodes = torch.zeros(2, 7, 7, dtype=torch.float64)
    nodes[0] = 0.5
    pictures, labels = warp(images, bits, moved(angle=90.0, nodes=nodes))
    assert torch.allclose(pictures[..., :-4], torch.rot90(images, 1, (2, 3))[..., 4:], atol=1e-5)
    assert torch.equal(labels[..., :-4], torch.rot90(bits, 1, (1, 2))[..., 4:])


def test_spline_basis_is_scipys_cubic_bspline():
    from scipy.interpolate import BSpline

    size, spans = 37, 5
    knots = np.arange(-3, spans + 4)
    expected = BSpline.design_matrix((np.arange(size) + 0.5) * spans / size, knots, 3).toarray()
    assert np.allclose(spline_basis(size, spans).numpy(), expected, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), spans=st.integers(1, 12))
def test_the_strongest_deformation_allowed_never_folds(seed, spans):
    nodes = torch.where(torch.rand(2, spans + 3, spans + 3, generator=seeded(seed)) < 0.5, -0.4, 0.4).double()
    grid = sampling_grid(moved(nodes=nodes, angle=15.0, scale=1.15), 96, 96, CPU)[0].double()
    along_x = grid[:, 1:] - grid[:, :-1]
    along_y = grid[1:] - grid[:-1]
    area = along_x[:-1, :, 0] * along_y[:, :-1, 1] - along_x[:-1, :, 1] * along_y[:, :-1, 0]
    assert area.min() > 0


def test_what_comes_in_from_outside_is_air_and_background():
    images, bits = torch.full((1, 1, 32, 32), 0.8), torch.full((1, 32, 32), 127, dtype=torch.uint8)
    pictures, labels = warp(images, bits, moved(scale=0.5))
    assert pictures[0, 0, :7].max() == 0
    assert labels[0, :7].max() == 0
    assert pictures[0, 0, 10:22, 10:22].min() == pytest.approx(0.8)


@settings(max_examples=40, deadline=None)
@given(arrays(np.uint8, (3, 13, 17), elements=st.sampled_from([0, 4, 8, 16, 18, 65])), st.integers(0, 2**32))
def test_bits_stay_in_the_set_they_came_from(bits, seed):
    augment = Augmentation(ALL, load_label_set("thorax"))
    images = torch.rand(3, 1, 13, 17, generator=seeded())
    _, labels, _ = augment(images, torch.from_numpy(bits), torch.ones(3, 7, dtype=torch.bool), seeded(seed))
    assert labels.dtype == torch.uint8
    # 4 and 8 are the lungs, partners of each other; the rest mirrors onto itself.
    assert set(labels.unique().tolist()) <= set(np.unique(bits).tolist()) | {0, 4, 8}


def test_label_maps_stay_label_maps(thorax):
    augment = Augmentation(ALL, thorax, content="labels")
    images, _, annotated = batch(6)
    labels = torch.randint(0, 8, (6, 32, 32), generator=seeded()).to(torch.uint8)
    _, result, _ = augment(images, labels, annotated, seeded())
    assert set(result.unique().tolist()) <= set(range(8))


def test_a_mark_in_the_picture_and_its_label_move_to_the_same_place(thorax):
    y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    disc = ((x - 40) ** 2 + (y - 25) ** 2 < 49).expand(12, 64, 64)
    labels = disc.to(torch.uint8) * HEART
    augment = Augmentation(AugmentationConfig(elastic_probability=1, affine_probability=1), thorax)
    spatial, _ = augment.draw(12, seeded())
    flags = torch.ones(12, 7, dtype=torch.bool)
    pictures, result, _ = augment.apply(
        disc.unsqueeze(1).float(), labels, flags, spatial, IntensityParameters.identity(12)
    )
    # Half of the height of the interpolated edge is the edge of the label, to within a pixel of rounding.
    bright, labelled = pictures[:, 0] > 0.5, result > 0
    assert not torch.equal(labelled, disc)
    for sample in range(12):
        overlap = (bright[sample] & labelled[sample]).sum() * 2
        assert overlap / (bright[sample].sum() + labelled[sample].sum()) > 0.93


def test_neighboring_slices_of_a_sample_move_and_change_alike(thorax):
    images, bits, annotated = batch(4)
    config = AugmentationConfig(**{**ALL.model_dump(), "noise_probability": 0})
    pictures, _, _ = Augmentation(config, thorax)(images.expand(-1, 5, -1, -1), bits, annotated, seeded())
    assert pictures.shape == (4, 5, 32, 32)
    assert torch.allclose(pictures, pictures[:, :1].expand_as(pictures), atol=1e-6)


# Intensity


def test_brightness_and_contrast_by_hand():
    images = torch.tensor([0.1, 0.3, 0.5, 0.7]).view(1, 1, 2, 2)
    result = adjust_linear(images, torch.tensor([0.05]), torch.tensor([2.0]))
    # Mean 0.4; differences −0.3 −0.1 0.1 0.3 doubled; plus 0.05.
    assert result.flatten().tolist() == pytest.approx([-0.15, 0.25, 0.65, 1.05])
    clipped = change_intensity(images, changed(brightness=0.05, contrast=2))
    assert clipped.flatten().tolist() == pytest.approx([0, 0.25, 0.65, 1])


def test_gamma_by_hand_and_only_on_the_chosen_sample():
    images = torch.tensor([0.0, 0.25, 0.64, 1.0]).expand(2, 1, 1, 4)
    result = adjust_gamma(images, torch.tensor([0.5, 1.0]))
    assert result[0].flatten().tolist() == pytest.approx([0, 0.5, 0.8, 1])
    assert torch.equal(result[1], images[1])


def test_blur_equals_scipys_gaussian_for_each_samples_own_sigma():
    images, _, _ = batch(3, channels=3)
    sigma = torch.tensor([0.7, 0.0, 1.2])
    result = blur(images, sigma)
    radius = math.ceil(3 * 1.2)
    for sample in (0, 2):
        expected = ndimage.gaussian_filter(
            images[sample].numpy(), (0, sigma[sample].item(), sigma[sample].item()), mode="nearest", radius=radius
        )
        assert np.allclose(result[sample].numpy(), expected, atol=1e-5)
    assert torch.equal(result[1], images[1])


def test_blur_leaves_a_constant_constant_up_to_the_edges():
    assert torch.allclose(blur(torch.full((1, 1, 12, 9), 0.37), torch.tensor([3.0])), torch.tensor(0.37), atol=1e-6)


def test_noise_has_the_asked_strength_no_bias_and_is_independent_between_slices():
    images = torch.full((2, 3, 128, 128), 0.5)
    result = add_noise(images, torch.tensor([0.04, 0.0]), torch.tensor([7, 8])) - 0.5
    # 49,152 draws: the standard error of the mean is 0.00018, that of the standard deviation 0.00013.
    assert result[0].mean().item() == pytest.approx(0, abs=0.0009)
    assert result[0].std().item() == pytest.approx(0.04, abs=0.0007)
    assert abs(torch.corrcoef(result[0].flatten(1))[0, 1].item()) < 0.04
    assert result[1].abs().max() == 0


def test_noise_differs_between_samples_and_follows_each_samples_seed():
    images = torch.full((3, 1, 16, 16), 0.5)
    result = add_noise(images, torch.tensor([0.04, 0.04, 0.08]), torch.tensor([7, 8, 7])) - 0.5
    assert abs(torch.corrcoef(result[:2].flatten(1))[0, 1].item()) < 0.3
    assert torch.allclose(result[2], 2 * result[0], atol=1e-6)


def test_whatever_is_drawn_the_pictures_stay_within_the_window(thorax):
    strong = AugmentationConfig(
        **{**ALL.model_dump(), "brightness_limit": 1, "contrast_limit": 3, "gamma_limit": 3, "noise_limit": 1}
    )
    pictures, _, _ = Augmentation(strong, thorax)(*batch(16), seeded())
    assert pictures.isfinite().all()
    assert pictures.min() >= 0
    assert pictures.max() <= 1


def test_window_and_z_score_by_hand():
    hounsfield = torch.tensor([-2000, -1000, -300, 50, 400, 3000], dtype=torch.int16).view(1, 1, 2, 3)
    unit = scale_window(hounsfield, (-1000, 400))
    assert unit.flatten().tolist() == pytest.approx([0, 0, 0.5, 0.75, 1, 1])
    scored = standardize(unit, torch.tensor([-400.0]), torch.tensor([500.0]), (-1000, 400))
    assert scored.flatten().tolist() == pytest.approx([-1.2, -1.2, 0.2, 0.9, 1.6, 1.6])


def test_z_score_of_a_constant_patient_is_finite():
    unit = torch.zeros(1, 1, 2, 2)
    assert standardize(unit, torch.tensor([-1000.0]), torch.tensor([0.0]), (-1000, 400)).abs().max() == 0


# Random states


def test_no_augmentation_is_the_identity_bit_by_bit(thorax):
    given_batch = batch(5, channels=3, height=27, width=45)
    assert same(Augmentation(NONE, thorax)(*given_batch, seeded()), given_batch)


def test_a_sample_that_is_not_chosen_stays_bit_by_bit(thorax):
    augment = Augmentation(
        AugmentationConfig(**{key: 0.3 if "probability" in key else value for key, value in ALL}), thorax
    )
    given_batch = batch(64, height=13, width=17)
    spatial, intensity = augment.draw(64, seeded())
    result = augment.apply(*given_batch, spatial, intensity)
    still = ~spatial.active
    plain = (
        (intensity.brightness == 0)
        & (intensity.contrast == 1)
        & (intensity.gamma == 1)
        & (intensity.noise == 0)
        & (intensity.blur == 0)
    )
    assert 0 < (still & plain).sum() < 64
    assert torch.equal(result[1][still], given_batch[1][still])
    assert torch.equal(result[0][still & plain], given_batch[0][still & plain])
    moves = ~still & plain
    assert all(not torch.equal(result[0][row], given_batch[0][row]) for row in moves.nonzero().flatten().tolist())


def test_samples_that_move_among_others_move_as_they_would_alone(thorax):
    augment, (images, bits, annotated) = Augmentation(NONE, thorax), batch(3)
    spatial = dataclasses.replace(
        SpatialParameters.identity(3),
        angle=torch.tensor([0, 90, 0]).double(),
        flip=torch.tensor([False, False, True]),
    )
    pictures, labels, _ = augment.apply(images, bits, annotated, spatial, IntensityParameters.identity(3))
    swapped = mirror_table(thorax)[bits[2].flip(1).long()]
    assert torch.allclose(pictures[1], torch.rot90(images[1], 1, (1, 2)), atol=1e-5)
    assert torch.equal(labels, torch.stack([bits[0], torch.rot90(bits[1], 1, (0, 1)), swapped]))


def test_the_batch_given_is_not_written_to(thorax):
    given_batch = batch(6)
    copies = [tensor.clone() for tensor in given_batch]
    Augmentation(ALL, thorax)(*given_batch, seeded())
    assert same(given_batch, copies)


def test_the_same_seed_gives_the_same_batch_and_another_seed_another(thorax):
    augment = Augmentation(ALL, thorax)
    first = augment(*batch(), seeded(1))
    torch.manual_seed(99)
    torch.rand(5)
    assert same(first, augment(*batch(), seeded(1)))
    assert not torch.equal(first[0], augment(*batch(), seeded(2))[0])


def test_nothing_is_drawn_from_the_global_random_state(thorax):
    torch.manual_seed(4)
    before = torch.get_rng_state()
    Augmentation(ALL, thorax)(*batch(), seeded())
    assert torch.equal(torch.get_rng_state(), before)


def test_a_saved_state_goes_on_where_it_stopped(thorax):
    augment, generator = Augmentation(ALL, thorax), seeded()
    augment(*batch(), generator)
    state = generator.get_state()
    expected = [augment(*batch(), generator) for _ in range(2)]
    resumed = torch.Generator()
    resumed.set_state(state)
    for wanted in expected:
        assert same(augment(*batch(), resumed), wanted)


def test_samples_are_drawn_independently(thorax):
    images, bits, annotated = batch(1)
    pictures, _, _ = Augmentation(ALL, thorax)(
        images.expand(8, -1, -1, -1), bits.expand(8, -1, -1), annotated.expand(8, -1), seeded()
    )
    assert len({tuple(picture.flatten().tolist()) for picture in pictures}) == 8


def test_a_batch_cut_in_two_is_changed_as_the_whole_one(thorax):
    augment, given_batch = Augmentation(ALL, thorax), batch(8)
    whole = augment(*given_batch, seeded())
    generator = seeded()
    halves = [augment(*(tensor[part] for tensor in given_batch), generator) for part in (slice(0, 4), slice(4, 8))]
    for tensor, first, second in zip(whole, *halves, strict=True):
        assert torch.allclose(tensor.float(), torch.cat([first, second]).float(), atol=1e-5)


def test_draws_stay_within_the_limits_and_reach_both_sides(thorax):
    config = AugmentationConfig(**{key: 1 if "probability" in key else value for key, value in AugmentationConfig()})
    spatial, intensity = Augmentation(config, thorax).draw(2000, seeded())
    assert spatial.flip.all()
    for values, low, high in (
        (spatial.angle, -15, 15),
        (spatial.scale, 1 / 1.15, 1.15),
        (spatial.shift, -0.06, 0.06),
        (spatial.nodes, -0.25, 0.25),
        (intensity.brightness, -0.1, 0.1),
        (intensity.contrast, 1 / 1.25, 1.25),
        (intensity.gamma, 1 / 1.4, 1.4),
        (intensity.noise, 0, 0.03),
        (intensity.blur, 0, 1.2),
    ):
        assert low <= values.min() < low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) < values.max() <= high


def test_probabilities_are_met_and_the_transforms_are_chosen_independently(thorax):
    spatial, intensity = Augmentation(AugmentationConfig(), thorax).draw(4000, seeded())
    flip, turn, noisy = spatial.flip, spatial.angle != 0, intensity.noise > 0
    for chosen, probability in ((flip, 0.5), (turn, 0.8), (noisy, 0.2), (intensity.blur > 0, 0.15)):
        # Four standard errors of 4,000 draws.
        assert chosen.double().mean().item() == pytest.approx(probability, abs=4 * math.sqrt(0.25 / 4000))
    assert abs(torch.corrcoef(torch.stack([flip, turn, noisy]).double())[0, 1:]).max() < 0.065


# Types, shapes, settings


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_types_come_back_in_their_type_and_close_to_float32(thorax, kind):
    augment = Augmentation(ALL, thorax)
    images, bits, annotated = batch()
    images = images.to(kind)
    pictures, labels, _ = augment(images, bits, annotated, seeded())
    expected, expected_labels, _ = augment(images.float(), bits, annotated, seeded())
    assert pictures.dtype == kind
    assert torch.allclose(pictures.float(), expected, atol=0.005)
    assert torch.equal(labels, expected_labels)


def test_autocast_changes_nothing(thorax):
    augment = Augmentation(ALL, thorax)
    expected = augment(*batch(), seeded())
    with torch.autocast("cpu", torch.bfloat16):
        assert same(augment(*batch(), seeded()), expected)


@pytest.mark.parametrize(("size", "height", "width"), [(0, 16, 16), (1, 1, 1), (3, 1, 40), (2, 64, 8)])
def test_odd_shapes_pass(thorax, size, height, width):
    pictures, labels, flags = Augmentation(ALL, thorax)(*batch(size, 1, height, width), seeded())
    assert pictures.shape == (size, 1, height, width)
    assert labels.shape == (size, height, width)
    assert flags.shape == (size, 7)
    assert pictures.isfinite().all()


def test_channels_last_and_strided_inputs_give_the_same_values(thorax):
    augment = Augmentation(ALL, thorax)
    images, bits, annotated = batch(4, channels=3)
    expected = augment(images, bits, annotated, seeded())
    strided = torch.stack([bits, bits], 3)[..., 0]
    assert same(augment(images.to(memory_format=torch.channels_last), strided, annotated, seeded()), expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_gives_what_the_cpu_gives(thorax):
    quiet = Augmentation(AugmentationConfig(**{**ALL.model_dump(), "noise_probability": 0}), thorax)
    given_batch = batch(8, channels=3)
    expected = quiet(*given_batch, seeded())
    result = quiet(*(tensor.cuda() for tensor in given_batch), seeded())
    assert all(tensor.is_cuda for tensor in result)
    assert torch.allclose(result[0].cpu(), expected[0], atol=1e-3)
    # A place half-way between two pixels may round to either.
    assert (result[1].cpu() == expected[1]).double().mean() > 0.999
    assert torch.equal(result[2].cpu(), expected[2])


def test_wrong_shapes_and_types_are_refused(thorax):
    augment = Augmentation(NONE, thorax)
    images, bits, annotated = batch()
    for wrong in (
        (images[:, 0], bits, annotated),
        ((images * 100).to(torch.int16), bits, annotated),
        (images, bits.long(), annotated),
        (images, bits[:, :16], annotated),
        (images, bits[:1], annotated),
        (images, bits, annotated[:, :5]),
        (images, bits, annotated.float()),
    ):
        with pytest.raises(ValueError, match="not torch"):
            augment(*wrong, seeded())


def test_presets_by_name_also_inside_other_settings():
    class Training(BaseModel):
        augmentation: AugmentationConfig = AugmentationConfig()

    assert Training(augmentation="none").augmentation == NONE
    assert Training(augmentation="default").augmentation == AugmentationConfig()
    assert Training(augmentation={"blur_probability": 0}).augmentation.blur_probability == 0
    light = AugmentationConfig.preset("light")
    assert (light.flip_probability, light.rotation_degrees) == (0, 7)
    assert Training.model_validate_json(Training(augmentation=light).model_dump_json()).augmentation == light


@pytest.mark.parametrize(
    "wrong",
    ["heavy", {"flip": 1}, {"flip_probability": 1.5}, {"elastic_limit": 0.6}, {"rotation_degrees": math.nan}, None],
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValidationError):
        AugmentationConfig.model_validate(wrong)


def test_settings_cannot_be_changed_afterwards():
    with pytest.raises(ValidationError):
        NONE.flip_probability = 1
