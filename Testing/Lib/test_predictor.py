"""A model sees a CT as in training, and what it says lands on the CT's own grid; whatever is odd ends in a sentence."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from inference_files import LABELS, LUNGS, ByIntensity, make_card, model_file, perfect, predictor, randomized
from prepared_files import add_case, new_cohort
from torch import Tensor
from training_files import Recorder

from LungSegmentationLib.cohort.cache import open_split
from LungSegmentationLib.cohort.prepare import PreparationOptions, prepare
from LungSegmentationLib.cohort.resampling import plan_mapping
from LungSegmentationLib.cohort.splits import Split, write_splits
from LungSegmentationLib.errors import (
    BadInputError,
    CancelledError,
    GeometryError,
    MemoryLimitError,
    UnsupportedFileError,
    UsageError,
)
from LungSegmentationLib.geometry import Grid
from LungSegmentationLib.inference.forward import Ensemble, Model, Slices, body_box, load, network_input
from LungSegmentationLib.inference.options import PredictionOptions
from LungSegmentationLib.inference.predictor import Predictor
from LungSegmentationLib.inference.region import region_logits, supports_region
from LungSegmentationLib.networks.config import network_preset
from LungSegmentationLib.networks.unet import build_network
from LungSegmentationLib.training.config import TrainingConfig
from LungSegmentationLib.training.segmentation import SegmentationTask
from LungSegmentationLib.volumes import read_array

AXIAL = (1.0, 0, 0, 0, 1, 0, 0, 0, 1)
CPU = torch.device("cpu")


def grid(shape: tuple[int, int, int], spacing: tuple[float, float, float] = (1.5, 1.5, 3.0)) -> Grid:
    return Grid((shape[2], shape[1], shape[0]), spacing, (0, 0, 0), AXIAL)


def noise(shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-1024, 1200, shape).astype(np.int16)


def lungs_by_intensity(**options: object) -> tuple[ByIntensity, Predictor]:
    network = ByIntensity(3, (-0.5, 0.5))
    return network, predictor(Model(network, make_card(LUNGS), "by intensity"), **options)


# What the network sees


@pytest.mark.parametrize("field_of_view", ["full", "body"])
@pytest.mark.parametrize(("normalization", "neighbors"), [("zscore", 0), ("zscore", 2), ("window", 1)])
def test_the_network_sees_the_very_numbers_that_it_was_trained_on(
    tmp_path: Path, normalization: str, neighbors: int, field_of_view: str
) -> None:
    paths = new_cohort(tmp_path / "cohort")
    shape = (7, 45, 40)
    feet_first = (0.0, -1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
    add_case(paths, "a", shape=shape, direction=feet_first)
    write_splits(paths, Split(("a",), (), ()))
    prepare(paths.root, PreparationOptions(slice_size=32, window=(-900.0, 350.0), field_of_view=field_of_view))
    config = TrainingConfig.load(
        settings=(f"normalization={normalization}", f"neighbors={neighbors}", "augmentation=none", "network=tiny")
    )
    task = SegmentationTask(config, LABELS, open_split(paths, "train"), [])
    seen = []

    def network(images: Tensor, /) -> Tensor:
        seen.append(images.clone())
        return torch.zeros(len(images), task.network_config.out_channels, *images.shape[2:])

    batch = task.batch(np.arange(shape[0]), slice(None), 0)
    task.loss(network, batch)
    ct_grid, ct = read_array(paths.case("a").ct)
    card = make_card(
        task.structures,
        neighbors=neighbors,
        normalization=normalization,
        window=(-900, 350),
        field_of_view=field_of_view,
    )
    predictor(Model(network, card, "both"), batch_size=3).predict((ct, ct_grid))
    trained, *predicted = seen
    assert [len(images) for images in predicted] == [3, 3, 1]
    assert torch.cat(predicted).numpy().tobytes() == trained.numpy().tobytes()


def test_folded_batch_norms_and_half_precision_change_next_to_nothing(tmp_path: Path) -> None:
    card = make_card(LUNGS, network={"widths": (8, 16, 32), "residual": True})
    path = model_file(tmp_path / "m.safetensors", card)
    torch.manual_seed(0)
    plain = randomized(build_network(card.network)).eval()
    images = torch.randn(2, 1, 32, 32)
    with torch.inference_mode():
        expected = plain(images).softmax(1)
        same = load(path, CPU, torch.float32).network(images).softmax(1)
        half = load(path, CPU, torch.bfloat16).network(images).float().softmax(1)
    assert same.numpy() == pytest.approx(expected.numpy(), abs=1e-5)
    assert half.numpy() == pytest.approx(expected.numpy(), abs=0.05)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"residual": True},
        {"in_channels": 5, "depth": 3},
        {"norm": "none", "deep_supervision": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "box",
    [
        (range(64), range(64)),
        (range(13, 30), range(40, 64)),
        (range(1, 63), range(3)),
        (range(50, 51), range(63, 64)),
    ],
    ids=str,
)
def test_a_part_of_the_slice_gets_the_logits_of_the_whole_slice(changes: dict[str, object], box: object) -> None:
    card = make_card(
        network=network_preset("tiny", **changes).model_dump() | {"name": "small"},
        neighbors=changes.get("in_channels", 1) // 2,
    )
    torch.manual_seed(1)
    plain = randomized(build_network(card.network)).eval()
    images = torch.randn(2, card.network.in_channels, 64, 64)
    with torch.inference_mode():
        whole = plain(images)
        folded = _folded(plain)
        part = region_logits(folded, images, box)
    rows, columns = box
    expected = whole[..., rows.start : rows.stop, columns.start : columns.stop]
    assert part.numpy() == pytest.approx(expected.numpy(), abs=1e-4)


def _folded(network: torch.nn.Module) -> torch.nn.Module:
    from LungSegmentationLib.inference.forward import _fold_batch_norms

    _fold_batch_norms(network)
    assert supports_region(network, 64)
    return network


@pytest.mark.parametrize(
    "changes", [{"norm": "instance"}, {"norm": "group"}, {"attention": True}, {"upsampling": "bilinear"}]
)
def test_networks_that_look_further_are_asked_for_whole_slices(changes: dict[str, object]) -> None:
    assert not supports_region(build_network(network_preset("tiny", **changes)), 256)


def test_slices_that_a_network_would_pad_are_asked_for_whole() -> None:
    network = build_network(network_preset("tiny", norm="none"))
    assert supports_region(network, 256)
    assert not supports_region(network, 248)
    assert not supports_region(network, 16)


def test_the_box_holds_body_and_lungs_and_leaves_air_and_thin_things_out() -> None:
    slices = np.full((3, 128, 128), -1000, np.int16)
    slices[:, 40:80, 30:100] = 0  # body
    slices[:, 50:70, 90:110] = -800  # a lung at the edge of the field of view
    slices[:, 110:112, :] = 200  # a couch of two pixels
    rows, columns = body_box(slices, pixel=2.0)
    assert (rows, columns) == (range(37, 83), range(27, 113))
    assert body_box(np.full((2, 64, 64), -1000, np.int16), 2.0) is None


def test_a_model_file_says_the_same_with_and_without_the_air_around(tmp_path: Path, monkeypatch) -> None:
    ct = np.full((4, 64, 64), -1000, np.int16)
    ct[:, 20:50, 16:44] = np.random.default_rng(0).integers(-100, 200, (4, 30, 28))
    card = make_card(LUNGS, size=64)
    path = model_file(tmp_path / "m.safetensors", card)
    options = PredictionOptions(device="cpu", precision="float32", postprocess=False)
    part = Predictor(path, options).predict((ct, grid(ct.shape)))
    monkeypatch.setattr("LungSegmentationLib.inference.forward.body_box", lambda *_: None)
    whole = Predictor(path, options).predict((ct, grid(ct.shape)))
    inside = np.s_[:, 20:50, 16:44]
    assert (part.structures.bits[inside] == whole.structures.bits[inside]).all()
    assert whole.structures.bits.any()
    # More than five millimeters beyond the body there is background without asking.
    assert not part.structures.bits[:, :, :8].any()


# What comes back


def test_every_voxel_gets_its_class_on_any_grid() -> None:
    ct = np.where(np.arange(40) < 20, -900, 200).astype(np.int16) * np.ones((5, 30, 1), np.int16)
    for direction in (AXIAL, (0.0, 0, 1, 1, 0, 0, 0, 1, 0), (-1.0, 0, 0, 0, 0, 1, 0, 1, 0)):
        place = Grid((40, 30, 5), (1.0, 1.3, 2.0), (7, -20, 3), direction)
        network = ByIntensity(3, (0.0,))
        found = predictor(Model(network, make_card(LUNGS, size=64), "n")).predict((ct, place))
        assert found.grid == place
        assert found.keys == LUNGS
        right = found.structures.mask("lung_right")
        # The edge falls between cached pixels; three image pixels of doubt on each side are plenty.
        assert right[..., 23:].all()
        assert not right[..., :17].any()
        assert set(np.unique(found.label_map())) == {0, LABELS["lung_right"].label}
        assert found.image().GetDirection() == place.direction


def test_only_learned_structures_are_named_and_painted() -> None:
    card = make_card(("heart",))
    found = predictor(Model(ByIntensity(2), card, "n")).predict((noise((4, 20, 20)), grid((4, 20, 20))))
    assert found.keys == ("heart",)
    assert set(np.unique(found.structures.bits)) <= {0, 1 << (LABELS["heart"].label - 1)}
    assert set(found.structure_confidence) == {"heart"}


def test_exclusive_models_give_one_structure_a_voxel_and_others_may_overlap() -> None:
    shape = (6, 30, 30)
    bits = np.zeros(shape, np.uint8)
    both = [1 << (LABELS[key].label - 1) for key in LUNGS]
    bits[:, 5:20, 5:20] |= both[0]
    bits[:, 10:25, 10:25] |= both[1]
    place = grid(shape)
    ct = noise(shape)
    keep = predictor(perfect(place, bits, make_card(LUNGS, overlap="keep"))).predict((ct, place))
    exclusive = predictor(perfect(place, bits, make_card(LUNGS))).predict((ct, place))
    assert (keep.structures.bits == sum(both)).any()
    assert not (exclusive.structures.bits == sum(both)).any()
    assert (exclusive.structures.bits > 0).sum() == pytest.approx((keep.structures.bits > 0).sum(), rel=0.05)


@pytest.mark.parametrize("pixel", [sitk.sitkInt16, sitk.sitkInt32, sitk.sitkFloat32, sitk.sitkFloat64, sitk.sitkInt64])
def test_images_of_all_number_types_give_the_same(pixel: int) -> None:
    ct = noise((4, 24, 20))
    place = grid(ct.shape)
    _, tool = lungs_by_intensity()
    expected = tool.predict((ct, place)).structures.bits
    _, tool = lungs_by_intensity()
    image = sitk.Cast(place.image(ct), pixel)
    found = tool.predict(image)
    assert (found.structures.bits == expected).all()
    assert Grid.of(found.image()) == Grid.of(image)


@pytest.mark.parametrize("shape", [(1, 30, 30), (2, 17, 53), (5, 1, 1), (3, 1, 40), (4, 300, 80), (40, 3, 3)], ids=str)
@pytest.mark.parametrize("neighbors", [0, 2])
def test_odd_shapes_are_segmented_on_their_grid(shape: tuple[int, int, int], neighbors: int) -> None:
    card = make_card(LUNGS, neighbors=neighbors)
    for direction in (AXIAL, (0.0, 0, 1, 1, 0, 0, 0, 1, 0)):
        place = Grid((shape[2], shape[1], shape[0]), (0.9, 1.3, 2.0), (0, 0, 0), direction)
        ct = noise(shape)
        found = predictor(Model(ByIntensity(3, (-0.5, 0.5)), card, "n"), smoothing=3.0).predict((ct, place))
        assert found.structures.shape == found.confidence.shape == shape


def test_huge_values_and_padding_are_clipped_not_wrapped() -> None:
    ct = noise((3, 20, 20)).astype(np.int32)
    ct[0, 0, 0], ct[0, 1, 1] = 100_000, -100_000
    _, tool = lungs_by_intensity()
    clipped = ct.clip(-1024, 3000)
    first = tool.predict((ct, grid(ct.shape))).structures.bits
    assert (first == tool.predict((clipped, grid(ct.shape))).structures.bits).all()


def test_confidence_is_the_probability_of_what_was_chosen() -> None:
    shape = (3, 32, 32)

    def unsure(images: Tensor, /) -> Tensor:
        shares = torch.tensor([0.2, 0.5, 0.3]).log()
        return shares[None, :, None, None].expand(len(images), 3, *images.shape[2:])

    found = predictor(Model(unsure, make_card(LUNGS), "n")).predict((noise(shape), grid(shape)))
    assert (found.confidence == 50).all()
    assert found.structure_confidence == {"lung_right": pytest.approx(0.5), "lung_left": None}
    keep = predictor(Model(lambda images: unsure(images)[:, 1:].exp().logit(), make_card(LUNGS, overlap="keep"), "n"))
    found = keep.predict((noise(shape), grid(shape)))
    assert not found.structures.bits.any()  # 0.5 is not above one half
    assert (found.confidence == 50).all()
    without = predictor(Model(unsure, make_card(LUNGS), "n"), confidence=False, contours=False)
    found = without.predict((noise(shape), grid(shape)))
    assert found.confidence is None
    assert found.confidence_image() is None
    assert found.field("lung_right", 0) is None


def test_what_lies_beyond_the_cropped_body_is_background_without_confidence() -> None:
    ct = np.full((5, 60, 60), -1000, np.int16)
    ct[:, 20:40, 20:40] = np.random.default_rng(0).integers(0, 100, (5, 20, 20))

    def lung_everywhere(images: Tensor, /) -> Tensor:
        return torch.tensor([0.0, 10.0, 0.0])[None, :, None, None].expand(len(images), 3, *images.shape[2:])

    card = make_card(LUNGS, field_of_view="body")
    place = grid(ct.shape, (3.0, 3.0, 3.0))
    found = predictor(Model(lung_everywhere, card, "n")).predict((ct, place))
    mapping = plan_mapping(ct, place, 32, "body")
    seen = mapping.y.covered[:, None] & mapping.x.covered
    assert not seen.all()
    assert (found.structures.mask("lung_right") == seen).all()
    assert (found.confidence[:, ~seen] == 0).all()
    assert (found.confidence[:, seen] == 100).all()


# Test-time augmentation, smoothing, ensembles


def two_sided(images: Tensor, /) -> Tensor:
    """A network that calls dark pixels of the left half of the picture right lung, of the right half left lung."""
    dark = images[:, 0] < 0
    half = torch.arange(images.shape[-1]) < images.shape[-1] // 2
    scores = torch.stack([~dark, dark & half, dark & ~half], 1).float()
    return 8 * scores + 0.1 * images


def test_mirrored_slices_exchange_the_lungs_back() -> None:
    ct = noise((4, 32, 32))
    place = grid(ct.shape)
    model = Model(two_sided, make_card(LUNGS), "n")
    plain = predictor(model).predict((ct, place))
    flipped = predictor(model, augmentation="flip").predict((ct, place))
    assert plain.structures.mask("lung_right").any()
    assert (plain.structures.bits == flipped.structures.bits).all()
    assert plain.confidence == pytest.approx(flipped.confidence, abs=1)


def test_turned_slices_come_back_to_their_place() -> None:
    rows, columns = np.mgrid[:64, :64]
    ct = np.where((rows - 24) ** 2 + (columns - 40) ** 2 < 100, -800, 100).astype(np.int16)[None].repeat(3, 0)
    ct += np.random.default_rng(0).integers(-5, 5, ct.shape).astype(np.int16)
    model = Model(two_sided, make_card(LUNGS, size=64), "n")
    plain, full = (
        predictor(model, augmentation=how).predict((ct, grid(ct.shape))).structures.mask("lung_left")
        for how in ("none", "full")
    )
    centers = [np.argwhere(mask).mean(0) for mask in (plain, full)]
    assert centers[0] == pytest.approx(centers[1], abs=0.2)
    assert full.sum() == pytest.approx(plain.sum(), rel=0.05)


@pytest.mark.parametrize("box", [False, True])
def test_augmentation_is_the_mean_over_all_views(tmp_path: Path, box: bool) -> None:
    ct = noise((2, 32, 32))
    if box:
        ct[:, :6], ct[..., 25:] = -1000, -1000
    path = model_file(tmp_path / "m.safetensors", make_card(("lung_right", "lung_left", "heart")))
    model = load(path, CPU, torch.float32)
    slices = Slices.of(ct, 5.0, [model])
    (found,) = Ensemble([model], CPU, 8, "flip").run(slices)
    with torch.inference_mode():
        images = network_input(slices, range(2), model.card.preprocessing, CPU)
        direct = model.network(images).softmax(1)
        mirrored = model.network(images.flip(-1)).softmax(1).flip(-1)[:, [0, 2, 1, 3]]
    expected = ((direct + mirrored) / 2).numpy()
    inside = np.s_[..., 6:, :25] if box else np.s_[...]
    assert found[inside] == pytest.approx(expected[inside], abs=1e-5)


def test_mirroring_needs_both_partners() -> None:
    card = make_card(("lung_right", "heart"))
    with pytest.raises(UsageError, match="right lung, but not the left lung"):
        predictor(Model(ByIntensity(3), card, "n"), augmentation="flip")


def test_an_ensemble_is_the_mean_of_its_models() -> None:
    shape = (2, 32, 32)

    def constant(*shares: float):
        return lambda images: torch.tensor(shares).log()[None, :, None, None].expand(len(images), 3, *images.shape[2:])

    models = [
        Model(constant(0.1, 0.7, 0.2), make_card(LUNGS, window=(-1000, 400)), "a"),
        Model(constant(0.1, 0.1, 0.8), make_card(LUNGS, window=(-160, 240), normalization="window", neighbors=1), "b"),
    ]
    found = predictor(*models).predict((noise(shape), grid(shape)))
    assert found.structures.mask("lung_left").all()
    assert (found.confidence == 50).all()
    assert found.model_names == ("a", "b")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"structures": ("lung_right", "heart")}, "the structures differs"),
        ({"size": 64}, "the slice size differs"),
        ({"field_of_view": "body"}, "the field of view differs"),
        ({"overlap": "keep"}, "the handling of overlaps differs"),
    ],
)
def test_models_that_disagree_are_refused(change: dict[str, object], said: str) -> None:
    one = Model(ByIntensity(3), make_card(LUNGS), "one")
    other = Model(ByIntensity(3), make_card(**{"structures": LUNGS} | change), "other")
    with pytest.raises(UsageError, match=said):
        predictor(one, other)
    renamed = replace(LABELS, name="chest")
    foreign = one.card.model_copy(update={"label_set": renamed})
    with pytest.raises(UsageError, match="label set differs"):
        predictor(one, Model(one.network, foreign, "foreign"))


def test_no_model_is_a_sentence() -> None:
    with pytest.raises(UsageError, match="No model"):
        Predictor([])


def test_a_missing_model_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="There is no model"):
        Predictor(tmp_path / "nothing.safetensors")


# Kinds of models


@pytest.mark.parametrize("overlap", ["exclusive", "keep"])
@pytest.mark.parametrize(
    "network",
    [
        {"widths": (4, 8, 16), "deep_supervision": 1},
        {"attention": True},
        {"norm": "instance", "upsampling": "bilinear"},
        {"norm": "group", "groups": 4, "residual": True},
        {"widths": (4, 8, 8, 8)},
    ],
    ids=str,
)
def test_every_kind_of_network_predicts(tmp_path: Path, network: dict[str, object], overlap: str) -> None:
    card = make_card(LABELS.keys, overlap=overlap, neighbors=2, network=network)
    path = model_file(tmp_path / "Modell für 肺.safetensors", card)
    for precision in ("float32", "bfloat16"):
        tool = Predictor(str(path), PredictionOptions(device="cpu", precision=precision))
        found = tool.predict((noise((5, 40, 36)), grid((5, 40, 36))))
        assert found.structures.shape == (5, 40, 36)
        assert found.model_names == (path.name,)
        single = np.bitwise_count(found.structures.bits).max() <= 1
        assert single or overlap == "keep"


# Memory, cancelling, progress


class Hungry(ByIntensity):
    """Runs out of memory above a number of slices."""

    def __init__(self, most: int) -> None:
        super().__init__(3, (-0.5, 0.5))
        self.most = most

    def __call__(self, images: Tensor, /) -> Tensor:
        if len(images) > self.most:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:75] DefaultCPUAllocator: can't allocate memory")
        return super().__call__(images)


def test_batches_halve_until_they_fit_and_the_result_is_the_same() -> None:
    ct = noise((11, 20, 20))
    _, tool = lungs_by_intensity()
    expected = tool.predict((ct, grid(ct.shape)))
    network = Hungry(2)
    tool = predictor(Model(network, make_card(LUNGS), "hungry"), batch_size=8)
    found = tool.predict((ct, grid(ct.shape)))
    assert network.batches == [2, 2, 2, 2, 2, 1]
    assert (found.structures.bits == expected.structures.bits).all()
    tool.predict((ct, grid(ct.shape)))
    assert network.batches[6:] == [2, 2, 2, 2, 2, 1]  # not tried again


def test_no_memory_for_one_slice_is_said_so() -> None:
    tool = predictor(Model(Hungry(0), make_card(LUNGS), "hungry"), batch_size=8)
    with pytest.raises(MemoryLimitError, match="one slice at a time"):
        tool.predict((noise((4, 20, 20)), grid((4, 20, 20))))


def test_other_errors_of_a_network_are_not_taken_for_a_lack_of_memory() -> None:
    def broken(images: Tensor, /) -> Tensor:
        raise RuntimeError("weights on another device")

    with pytest.raises(RuntimeError, match="another device"):
        predictor(Model(broken, make_card(LUNGS), "n")).predict((noise((4, 20, 20)), grid((4, 20, 20))))


def test_numbers_that_are_none_end_in_a_sentence() -> None:
    def diverged(images: Tensor, /) -> Tensor:
        return torch.full((len(images), 3, *images.shape[2:]), float("nan"))

    with pytest.raises(BadInputError, match="no numbers on the slices 0 to 3"):
        predictor(Model(diverged, make_card(LUNGS), "n")).predict((noise((4, 20, 20)), grid((4, 20, 20))))


def test_cancelling_stops_between_batches() -> None:
    network, tool = lungs_by_intensity(batch_size=2)
    reporter = Recorder(lambda _: len(network.batches) == 3)
    with pytest.raises(CancelledError):
        tool.predict((noise((20, 20, 20)), grid((20, 20, 20))), reporter)
    assert len(network.batches) <= 4


def test_progress_counts_the_slices_to_the_end() -> None:
    _, tool = lungs_by_intensity(batch_size=4)
    reporter = Recorder()
    tool.predict((noise((10, 20, 20)), grid((10, 20, 20))), reporter)
    steps = [(event.done, event.total) for event in reporter.of("progress") if event.stage == "prediction"]
    assert steps == [(0, 10), (4, 10), (8, 10), (10, 10)]


# What cannot be segmented


def test_an_image_that_is_no_volume_is_refused() -> None:
    _, tool = lungs_by_intensity()
    with pytest.raises(GeometryError, match="2 dimensions"):
        tool.predict(sitk.Image(8, 8, sitk.sitkInt16))
    with pytest.raises(GeometryError, match="4 dimensions"):
        tool.predict(sitk.Image([4, 4, 4, 2], sitk.sitkInt16))
    with pytest.raises(UnsupportedFileError, match="3 values a voxel"):
        tool.predict(sitk.Image([4, 4, 4], sitk.sitkVectorUInt8, 3))
    with pytest.raises(UnsupportedFileError, match="complex"):
        tool.predict(sitk.Image([4, 4, 4], sitk.sitkComplexFloat32))


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((4, 4), np.int16), "2 dimensions"),
        (np.zeros((4, 4, 5), np.int16), r"shape \(4, 4, 5\)"),
        (np.full((4, 4, 4), np.nan, np.float32), "no numbers"),
        (np.full((4, 4, 4), np.inf), "no numbers"),
        (np.zeros((4, 4, 4), bool), "type bool"),
        (np.zeros((4, 4, 4), complex), "type complex"),
    ],
)
def test_arrays_that_are_no_ct_are_refused(array: np.ndarray, said: str) -> None:
    _, tool = lungs_by_intensity()
    with pytest.raises(BadInputError, match=said):
        tool.predict((array, grid((4, 4, 4))))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"spacing": (0.0, 1.0, 1.0)}, "no place"),
        ({"spacing": (float("nan"), 1.0, 1.0)}, "no place"),
        ({"origin": (0.0, float("inf"), 0.0)}, "no place"),
        ({"direction": (1.0, 0, 0, 0.2, 1, 0, 0, 0, 1)}, "not perpendicular"),
    ],
)
def test_grids_that_space_does_not_have_are_refused(changes: dict[str, object], said: str) -> None:
    _, tool = lungs_by_intensity()
    with pytest.raises(GeometryError, match=said):
        tool.predict((noise((4, 4, 4)), replace(grid((4, 4, 4)), **changes)))


def test_an_empty_volume_is_a_sentence() -> None:
    _, tool = lungs_by_intensity()
    with pytest.raises(BadInputError, match="one value only"):
        # A strip so thin that no pixel of the network has its center on it.
        tool.predict((noise((4, 300, 2)), grid((4, 300, 2))))
    with pytest.raises(BadInputError, match="one value only"):
        tool.predict((np.full((4, 20, 20), -1024, np.int16), grid((4, 20, 20))))
    with pytest.raises(BadInputError, match="no voxels"):
        tool.predict((np.zeros((0, 20, 20), np.int16), grid((0, 20, 20))))


@pytest.mark.parametrize(
    "changes",
    [
        {"batch_size": 0},
        {"batch_size": 5000},
        {"augmentation": "all"},
        {"smoothing": -1.0},
        {"smoothing": float("nan")},
    ],
)
def test_impossible_options_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        PredictionOptions(**changes)


def test_the_ct_is_not_changed() -> None:
    ct = noise((4, 20, 20))
    before = ct.copy()
    ct.setflags(write=False)
    _, tool = lungs_by_intensity()
    tool.predict((ct, grid(ct.shape)))
    assert (ct == before).all()


# Contours and postprocessing


def test_the_field_is_positive_exactly_where_the_structure_is() -> None:
    shape = (6, 40, 44)
    rows, columns = np.mgrid[: shape[1], : shape[2]]
    bits = np.zeros(shape, np.uint8)
    for key, center in (("lung_right", 12), ("heart", 24)):
        bits[1:5][:, (rows - 20) ** 2 + (columns - center) ** 2 < 90] = 1 << (LABELS[key].label - 1)
    for direction in (AXIAL, (-1.0, 0, 0, 0, -1, 0, 0, 0, 1), (0.0, 1, 0, 1, 0, 0, 0, 0, -1)):
        place = Grid((44, 40, 6), (1.2, 1.2, 3.0), (0, 0, 0), direction)
        for overlap in ("exclusive", "keep"):
            model = perfect(place, bits, make_card(("lung_right", "heart"), overlap=overlap))
            found = predictor(model).predict((noise(shape), place))
            for key in found.keys:
                mask = found.structures.mask(key)
                assert mask.any()
                for z in range(shape[0]):
                    field = found.field(key, z)
                    assert field.shape == (40, 44)
                    # Steps of 1/255 decide only where both sides are that close.
                    assert ((field > 0) == mask[z])[np.abs(field) > 0.02].all()
                    assert (np.abs(field) <= 0.02).mean() < 0.02


def test_there_is_no_field_where_the_networks_slices_lie_across() -> None:
    sagittal = Grid((20, 22, 9), (2.0, 2.0, 3.0), (0, 0, 0), (0.0, 0, 1, 1, 0, 0, 0, -1, 0))
    network = ByIntensity(3, (-0.5, 0.5))
    found = predictor(Model(network, make_card(LUNGS), "n")).predict((noise((9, 22, 20)), sagittal))
    assert found.field("lung_right", 3) is None
    assert found.field("heart", 3) is None


def test_postprocessed_slices_have_no_field_and_are_told() -> None:
    shape = (8, 40, 40)
    bits = np.zeros(shape, np.uint8)
    bit = 1 << (LABELS["heart"].label - 1)
    bits[:, 10:30, 10:30] = bit
    bits[3, 34:38, 34:38] = bit  # a stray piece
    place = grid(shape, (3.0, 3.0, 3.0))
    card = make_card(("heart",), size=64)
    raw = predictor(perfect(place, bits, card)).predict((noise(shape), place))
    mended = predictor(perfect(place, bits, card), postprocess=True).predict((noise(shape), place))
    assert raw.structures.mask("heart")[3, 35, 35]
    assert not mended.structures.mask("heart")[3, 35, 35]
    assert mended.changes
    assert mended.field("heart", 3) is None
    assert mended.field("heart", 2) is not None
    assert mended.structure_confidence == raw.structure_confidence
