"""Batches: the right slices, in the right order, without holding a cohort; errors arrive where they belong."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from training_files import LABELS, WINDOW, make_task, patient, tiny_config, write_case, write_cohort

from LungSegmentationLib.cohort.cache import open_split
from LungSegmentationLib.errors import BadInputError, StorageError, UsageError
from LungSegmentationLib.networks.unet import build_network
from LungSegmentationLib.training.batches import Prefetcher, SliceStore
from LungSegmentationLib.training.sampling import EpochSampler, step_seed
from LungSegmentationLib.training.segmentation import SegmentationTask


def store(root: Path, neighbors: int = 0) -> SliceStore:
    paths = write_cohort(root, ("a", "b"), ())
    return SliceStore(open_split(paths, "train"), LABELS.keys, neighbors=neighbors)


def test_slices_come_as_they_lie_in_the_cache(tmp_path: Path) -> None:
    batch = store(tmp_path).gather([7, 0, 7])
    ct_a, ct_b = (np.load(tmp_path / "cache" / f"{name}.ct.npy") for name in "ab")
    assert np.array_equal(batch.hounsfield[:, 0], np.stack([ct_b[2], ct_a[0], ct_b[2]]))
    assert np.array_equal(batch.bits[0], np.load(tmp_path / "cache" / "b.structures.npy")[2])
    assert batch.names == ("b slice 2", "a slice 0", "b slice 2")
    assert batch.hounsfield.dtype == torch.int16
    assert batch.mean[1].item() == pytest.approx(ct_a.clip(*WINDOW).mean(), rel=1e-6)
    assert batch.std[0].item() == pytest.approx(ct_b.clip(*WINDOW).std(), rel=1e-6)


def test_neighbors_lie_below_and_above_and_edges_are_repeated(tmp_path: Path) -> None:
    batch = store(tmp_path, neighbors=2).gather([0, 2, 4])
    ct = np.load(tmp_path / "cache" / "a.ct.npy")
    expected = [[0, 0, 0, 1, 2], [0, 1, 2, 3, 4], [2, 3, 4, 4, 4]]
    assert np.array_equal(batch.hounsfield, ct[np.array(expected)])


def test_neighbors_never_come_from_another_case(tmp_path: Path) -> None:
    batch = store(tmp_path, neighbors=1).gather([5])
    ct = np.load(tmp_path / "cache" / "b.ct.npy")
    assert np.array_equal(batch.hounsfield[0], ct[[0, 0, 1]])


def test_annotated_says_which_structures_were_drawn(tmp_path: Path) -> None:
    batch = store(tmp_path).gather([0])
    drawn = [key for key, flag in zip(LABELS.keys, batch.annotated[0], strict=True) if flag]
    assert drawn == ["lung_right", "lung_left", "heart"]


def test_no_file_stays_open_or_mapped(tmp_path: Path) -> None:
    paths = write_cohort(tmp_path, ("a", "b"), ())
    cases = open_split(paths, "train")
    SliceStore(cases, LABELS.keys).gather(range(10))
    assert not any({"ct", "structures"} & vars(case).keys() for case in cases)


@pytest.mark.parametrize("name", ["a.ct.npy", "a.structures.npy"])
def test_a_cache_that_vanishes_is_said_with_the_cure(tmp_path: Path, name: str) -> None:
    slices = store(tmp_path)
    (tmp_path / "cache" / name).unlink()
    with pytest.raises(StorageError, match=r"cannot be read any more.*--resume"):
        slices.gather([1])


def test_a_cache_that_is_cut_off_is_said_and_ends_nothing_else(tmp_path: Path) -> None:
    slices = store(tmp_path)
    file = tmp_path / "cache" / "a.ct.npy"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(StorageError, match="changed while the training ran"):
        slices.gather([4])
    assert len(slices.gather([5])) == 1  # another case


@pytest.mark.parametrize("name", ["a.ct.npy", "a.structures.npy"])
def test_a_cache_that_is_prepared_anew_is_not_read_at_the_old_places(tmp_path: Path, name: str) -> None:
    slices = store(tmp_path)
    slices.gather([1])
    file = tmp_path / "cache" / name
    new = tmp_path / "new.npy"
    array = np.load(file)
    np.save(new, np.concatenate([array, array]))  # so that each slice could still be read
    new.replace(file)
    with pytest.raises(StorageError, match=r"prepared anew.*--resume"):
        slices.gather([1])


def test_a_cache_that_is_prepared_anew_with_files_of_the_same_size_is_seen(tmp_path: Path) -> None:
    slices = store(tmp_path)
    file = tmp_path / "cache" / "a.ct.npy"
    new = tmp_path / "new.npy"
    np.save(new, np.load(file) + 1)
    new.replace(file)
    with pytest.raises(StorageError, match=r"prepared anew"):
        slices.gather([1])


def test_things_are_made_in_order_and_all_of_them() -> None:
    with Prefetcher(lambda number: number**2, range(50), ahead=3) as made:
        assert list(made) == [number**2 for number in range(50)]


def test_no_more_is_made_than_may_wait() -> None:
    made: list[int] = []
    begun = threading.Event()

    def make(number: int) -> int:
        made.append(number)
        if len(made) == 4:  # three wait, this one is in hand
            begun.set()
        return number

    with Prefetcher(make, range(100), ahead=3):
        assert begun.wait(10)
        assert len(made) <= 4
    assert len(made) < 100


def test_an_error_comes_where_its_batch_would() -> None:
    def make(number: int) -> int:
        if number == 2:
            raise StorageError("gone")
        return number

    taken = []
    with pytest.raises(StorageError, match="gone"), Prefetcher(make, range(9)) as made:
        for number in made:
            taken.append(number)  # noqa: PERF402 - what was taken before the error matters
    assert taken == [0, 1]


def test_leaving_early_ends_the_thread() -> None:
    with Prefetcher(lambda number: number, range(1000), ahead=2) as made:
        assert next(iter(made)) == 0
        thread = made._thread
    assert not thread.is_alive()


def test_an_epoch_holds_each_sample_once_in_another_order_than_the_next() -> None:
    sampler = EpochSampler(103, 8, seed=42)
    first = np.concatenate([step.samples for step in sampler.epoch(0)])
    assert sorted(first) == list(range(103))
    assert sampler.steps == 13
    assert not np.array_equal(first, sampler.order(1))
    assert not np.array_equal(first, EpochSampler(103, 8, seed=43).order(0))
    assert np.array_equal(first, EpochSampler(103, 8, seed=42).order(0))


def test_the_rest_of_an_epoch_is_the_same_from_any_position() -> None:
    sampler = EpochSampler(50, 4, seed=1)
    whole = sampler.epoch(3)
    rest = sampler.epoch(3, start=5)
    assert [step.number for step in rest] == list(range(5, 13))
    assert all(np.array_equal(a.samples, b.samples) for a, b in zip(whole[5:], rest, strict=True))
    assert sampler.epoch(3, start=13) == []


@pytest.mark.parametrize("samples", [16, 17, 18, 23])
@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_each_step_evenly_and_take_the_same_number_of_steps(samples: int, processes: int) -> None:
    sampler = EpochSampler(samples, 4, seed=0, processes=processes)
    alone = EpochSampler(samples, 4 * processes, seed=0)
    seen: list[int] = []
    for step, whole in zip(sampler.epoch(0), alone.epoch(0), strict=False):
        shares = [step.samples[step.share(rank)] for rank in range(processes)]
        assert min(map(len, shares)) >= 1
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
        assert np.array_equal(np.concatenate(shares), whole.samples)
        seen.extend(np.concatenate(shares))
    assert samples - len(seen) < processes
    assert len(set(seen)) == len(seen)


def test_more_of_some_samples_come_as_often_as_asked_for() -> None:
    extra = np.zeros(40)
    extra[[3, 5, 7, 9]] = 1.5
    sampler = EpochSampler(40, 8, seed=0, extra=extra)
    counts = np.mean([np.bincount(sampler.order(epoch), minlength=40) for epoch in range(200)], 0)
    assert all(len(sampler.order(epoch)) == sampler.length == 46 for epoch in range(5))
    assert np.array_equal(np.delete(counts, [3, 5, 7, 9]), np.ones(36))
    assert counts[[3, 5, 7, 9]] == pytest.approx(2.5, abs=0.15)


def test_an_epoch_can_be_cut() -> None:
    assert EpochSampler(100, 4, seed=0, most_steps=3).steps == 3
    assert len(EpochSampler(100, 4, seed=0, most_steps=3).epoch(0)) == 3


def test_seeds_of_steps_and_streams_differ() -> None:
    seeds = {step_seed(42, epoch, step, stream) for epoch in range(5) for step in range(50) for stream in range(2)}
    assert len(seeds) == 500
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert step_seed(1, 2, 3) == step_seed(1, 2, 3)


def _ready(task: SegmentationTask, samples: list[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    slices = task.train.gather(samples)
    from LungSegmentationLib.training.transforms_intensity import scale_window

    return task._ready(scale_window(slices.hounsfield, WINDOW), slices.bits, slices.annotated, slices)


def test_the_network_sees_the_z_score_of_the_clipped_ct(tmp_path: Path) -> None:
    task = make_task(write_cohort(tmp_path))
    images, _, _ = _ready(task, [3])
    ct = np.load(tmp_path / "cache" / "a.ct.npy").clip(*WINDOW).astype(np.float64)
    expected = (ct[3] - ct.mean()) / (ct.std() + 1e-8)
    assert np.abs(images[0, 0].numpy() - expected).max() < 1e-5


def test_the_network_sees_the_window_if_asked_for(tmp_path: Path) -> None:
    task = make_task(write_cohort(tmp_path), "normalization=window")
    images, _, _ = _ready(task, [3])
    ct = np.load(tmp_path / "cache" / "a.ct.npy").clip(*WINDOW).astype(np.float64)
    assert np.abs(images[0, 0].numpy() - (ct[3] + 1000) / 1400).max() < 1e-6


def overlapping(root: Path) -> None:
    """One case in which the GTV lies in the PTV, and that in the right lung: paint order lung, PTV, GTV."""
    paths = write_cohort(root)
    ct, _ = patient(0)
    masks = {key: np.zeros(ct.shape, bool) for key in ("lung_right", "ptv", "gtv")}
    masks["lung_right"][:, :8] = True
    masks["ptv"][:, :4] = True
    masks["gtv"][:, :2] = True
    for name in ("a", "b"):
        write_case(paths, name, ct, masks)


def test_exclusive_targets_are_counted_through_and_what_is_left_out_goes_to_what_lies_under_it(tmp_path: Path) -> None:
    overlapping(tmp_path)
    from LungSegmentationLib.cohort.paths import CohortPaths

    task = make_task(CohortPaths(tmp_path), "structures=lung_right,gtv")
    assert task.structures == ("gtv", "lung_right")
    _, target, annotated = _ready(task, [2])
    assert target[0, :, 0].tolist() == [1] * 2 + [2] * 6 + [0] * 8
    assert annotated.tolist() == [[True, True]]


def test_kept_overlaps_are_masks_as_drawn(tmp_path: Path) -> None:
    overlapping(tmp_path)
    from LungSegmentationLib.cohort.paths import CohortPaths

    task = make_task(CohortPaths(tmp_path), "overlap=keep")
    assert task.structures == ("gtv", "ptv", "lung_right")
    _, target, _ = _ready(task, [2])
    assert [int(mask[:, 0].sum()) for mask in target[0]] == [2, 4, 8]


def test_sigmoids_begin_at_how_frequent_a_structure_is_where_it_was_drawn(tmp_path: Path) -> None:
    paths = write_cohort(tmp_path, ("a", "b"), ("c",), slices=4, size=16)
    ct, _ = patient(0, 4, 16)
    for name, annotated in (("a", ("lung_right", "heart")), ("b", ("lung_right",))):
        mask = np.zeros((4, 16, 16), bool)
        mask[1, :4, :4] = True
        write_case(paths, name, ct, dict.fromkeys(annotated, mask))
    task = make_task(paths, "overlap=keep", "network.widths=[4,8,8]", "network.deep_supervision=1")
    network = task.build()
    # 16 of 1,024 pixels of each case; that nobody drew a heart in b says nothing about hearts.
    for head in (network.head, *network.extra_heads):
        assert torch.sigmoid(head.bias).tolist() == pytest.approx([16 / 1024] * 2)
    naive = make_task(paths, "overlap=keep", "loss.partial=naive").build()
    assert torch.sigmoid(naive.head.bias).tolist() == pytest.approx([16 / 1024, 8 / 1024])
    torch.manual_seed(1)
    before = make_task(paths).build().state_dict()
    torch.manual_seed(1)
    plain = build_network(make_task(paths).network_config).state_dict()
    assert all(torch.equal(before[name], plain[name]) for name in plain)


def test_what_nobody_drew_is_left_out_with_a_word_or_refused_if_it_was_asked_for(tmp_path: Path) -> None:
    paths = write_cohort(tmp_path)
    task = make_task(paths)
    assert task.structures == ("lung_right", "lung_left", "heart")
    assert "GTV, PTV, esophagus, spinal cord" in task.notes[0]
    with pytest.raises(BadInputError, match="structures=heart"):
        make_task(paths, "structures=heart,gtv")


def test_an_unknown_structure_is_refused_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="lung_right"):
        make_task(write_cohort(tmp_path), "structures=hart")
    with pytest.raises(UsageError, match="rare"):
        _ = make_task(write_cohort(tmp_path), "sampling.rare=hart", "sampling.oversample_rare=1").extra


def test_slices_with_rare_structures_come_more_often(tmp_path: Path) -> None:
    paths = write_cohort(tmp_path)
    ct, masks = patient(0)
    masks["heart"][:4] = False
    for name in ("a", "b"):
        write_case(paths, name, ct, masks)
    extra = make_task(paths, "sampling.oversample_rare=2", "sampling.rare_below=0.3").extra
    assert extra is not None
    assert extra.tolist() == [0, 0, 0, 0, 2] * 2
    assert make_task(paths).extra is None
    named = make_task(paths, "sampling.oversample_rare=2", "sampling.rare=lung_left").extra
    assert named is not None
    assert named.tolist() == [0, 2, 2, 2, 2] * 2


def test_cases_prepared_in_different_ways_are_refused(tmp_path: Path) -> None:
    paths = write_cohort(tmp_path)
    cases = open_split(paths, "train")
    cases[1].record = cases[1].record.model_copy(update={"window": (-500.0, 500.0)})
    with pytest.raises(BadInputError, match="different ways"):
        SegmentationTask(tiny_config(), LABELS, cases, [])


def test_the_order_of_the_cases_in_a_split_does_not_matter(tmp_path: Path) -> None:
    paths = write_cohort(tmp_path, ("a", "b"), ("c", "d"))
    train, val = open_split(paths, "train"), open_split(paths, "val")
    one = SegmentationTask(tiny_config(), LABELS, train, val)
    other = SegmentationTask(tiny_config(), LABELS, train[::-1], val[::-1])
    assert one.identity == other.identity
    samples = np.arange(10)
    assert one.batch(samples, slice(0, 10), 1).names == other.batch(samples, slice(0, 10), 1).names
    assert one.val.gather(range(10)).names == other.val.gather(range(10)).names


@pytest.mark.parametrize(("patient", "warned"), [("P1", True), ("", False)])
def test_a_patient_who_is_trained_and_validated_on_is_told(tmp_path: Path, patient: str, warned: bool) -> None:
    paths = write_cohort(tmp_path)
    train, val = open_split(paths, "train"), open_split(paths, "val")
    for case in (train[1], val[0]):
        case.record = case.record.model_copy(update={"patient_id": patient})
    notes = SegmentationTask(tiny_config(), LABELS, train, val).notes
    assert any("also trained on, the first: c." in note for note in notes) == warned


def test_a_process_has_its_share_of_a_batch_as_the_whole_is_changed(tmp_path: Path) -> None:
    task = make_task(write_cohort(tmp_path), "augmentation=default")
    samples = np.arange(8)
    whole = task.batch(samples, slice(0, 8), seed=5)
    shared = task.batch(samples, slice(3, 6), seed=5)
    assert torch.equal(shared.spatial.angle, whole.spatial.angle[3:6])
    assert torch.equal(shared.intensity.noise_seed, whole.intensity.noise_seed[3:6])
    assert shared.names == whole.names[3:6]
