"""The model file: what is saved comes back exactly; what is damaged, foreign or newer is refused in a sentence."""

from __future__ import annotations

import dataclasses
import json
import pickle
import random
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from LungSegmentationLib.errors import BadInputError, StorageError
from LungSegmentationLib.labels import label_set_from_dict, label_set_to_dict, load_label_set
from LungSegmentationLib.networks.card import (
    ModelCard,
    Preprocessing,
    Score,
    TrainingSummary,
    parse_card,
    software_versions,
)
from LungSegmentationLib.networks.config import NetworkConfig
from LungSegmentationLib.networks.model_file import load_model, read_card, save_model
from LungSegmentationLib.networks.unet import build_network

torch.set_num_threads(1)

LUNGS = ("lung_right", "lung_left", "heart")


def make_card(**changes) -> ModelCard:
    content = {
        "created": datetime(2026, 11, 21, 12, 0, tzinfo=UTC),
        "label_set": load_label_set(),
        "structures": LUNGS,
        "overlap": "exclusive",
        "preprocessing": Preprocessing(
            size=(256, 256), window=(-1000, 400), normalization="zscore", field_of_view="full", neighbors=1
        ),
        "network": NetworkConfig(name="small", in_channels=3, out_channels=4, widths=(4, 8), attention=True),
        "training": TrainingSummary(
            epochs=50,
            best_epoch=41,
            best_loss=0.12,
            patients={"train": 110, "val": 23, "test": 25},
            slices={"train": 40000, "val": 8000},
            settings={"learning_rate": 1e-4, "augmentation": {"flip": True}, "note": None},
        ),
        "scores": {"heart": Score(part="val", patients=7, dice=0.91, hd95_mm=4.5)},
        "software": software_versions(),
        "data_fingerprint": "ab" * 32,
    }
    return ModelCard(**content | changes)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    card = make_card()
    path = tmp_path / "model.safetensors"
    save_model(path, build_network(card.network), card)
    return path


def rewritten(path: Path, change) -> Path:
    """Write the file again after ``change(header)``, byte for byte by the format's own description."""
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + length :])
    return path


def with_card(path: Path, change) -> Path:
    def edit(header):
        card = json.loads(header["__metadata__"]["lungsegmentation"])
        change(card)
        header["__metadata__"]["lungsegmentation"] = json.dumps(card)

    return rewritten(path, edit)


def test_what_is_saved_comes_back_exactly(tmp_path):
    torch.manual_seed(1)
    card = make_card()
    network = build_network(card.network).to(memory_format=torch.channels_last)
    network(torch.randn(2, 3, 16, 16))
    path = tmp_path / "Krebs-Modell ü 日本" / "best model.safetensors"
    save_model(path, network, card)
    loaded, read = load_model(path)
    assert read == card
    assert read_card(path) == card
    assert not loaded.training
    x = torch.randn(1, 3, 32, 32)
    # The layout in memory decides the order of sums, so it has to be the same for equal results.
    loaded = loaded.to(memory_format=torch.channels_last)
    with torch.no_grad():
        assert torch.equal(loaded(x), network.eval()(x))
    for name, tensor in network.state_dict().items():
        assert loaded.state_dict()[name].dtype == tensor.dtype
        assert torch.equal(loaded.state_dict()[name], tensor)
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    assert [file.name for file in path.parent.iterdir()] == ["best model.safetensors"]


def test_another_reader_of_safetensors_sees_the_same_numbers(model):
    network, _ = load_model(model)
    foreign = safetensors.numpy.load_file(model)
    ours = network.state_dict()
    assert foreign.keys() == ours.keys()
    assert all(np.array_equal(foreign[name], ours[name].numpy()) for name in foreign)


def test_the_file_needs_no_other_label_set(model):
    read = read_card(model)
    assert read.label_set == load_label_set()
    assert read.label_set["lung_left"].color == (100, 180, 255)
    assert read.label_set["lung_left"].type.value == "39607008"
    assert read.label_set["lung_left"].mirror == "lung_right"
    assert read.channel_labels == (0, 3, 4, 5)


def test_keep_has_no_background_channel():
    network = NetworkConfig(name="small", in_channels=3, out_channels=3, widths=(4, 8))
    assert make_card(overlap="keep", network=network).channel_labels == (3, 4, 5)


def test_the_card_is_read_without_torch(model):
    code = (
        "import sys; from LungSegmentationLib.networks.model_file import read_card;"
        "print(read_card(sys.argv[1]).training.best_epoch, 'torch' in sys.modules)"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code, str(model)], cwd=root, check=True, capture_output=True, text=True
    )
    assert done.stdout.split() == ["41", "False"]


def test_loading_draws_no_random_numbers(model):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    load_model(model)
    assert torch.equal(torch.rand(3), expected)


def test_the_card_names_no_patient():
    text = make_card().model_dump_json()
    for field in ("patient_id", "case", "uid", "path", "folder"):
        assert f'"{field}"' not in text
    with pytest.raises(ValidationError):
        make_card(patients=["LUNG1-001"])


def test_saving_over_an_old_model_replaces_it_whole(model):
    card = make_card(data_fingerprint="cd" * 32)
    save_model(model, build_network(card.network), card)
    assert read_card(model).data_fingerprint == "cd" * 32


def test_a_save_that_fails_leaves_the_old_model(model, monkeypatch):
    before = model.read_bytes()

    def full(self, content):
        with self.open("wb") as stream:
            stream.write(content[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    card = make_card()
    with pytest.raises(StorageError, match="disk is full"):
        save_model(model, build_network(card.network), card)
    monkeypatch.undo()
    assert model.read_bytes() == before
    assert [file.name for file in model.parent.iterdir()] == [model.name]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_numbers_are_neither_saved_nor_loaded(tmp_path, model, value):
    card = make_card()
    network = build_network(card.network)
    with torch.no_grad():
        network.head.bias[1] = value
    with pytest.raises(BadInputError, match=r"head\.bias are not all numbers"):
        save_model(tmp_path / "new.safetensors", network, card)
    assert not (tmp_path / "new.safetensors").exists()
    metadata = {"lungsegmentation": card.model_dump_json()}
    safetensors.torch.save_file(network.state_dict(), model, metadata)
    with pytest.raises(BadInputError, match=r"not numbers \(head\.bias\)"):
        load_model(model)


def test_a_network_that_is_not_the_one_on_its_card_is_not_saved(tmp_path):
    card = make_card()
    other = build_network(card.network.model_copy(update={"widths": (4, 6)}))
    with pytest.raises(ValueError, match="not the one on its card"):
        save_model(tmp_path / "a.safetensors", other, card)
    with pytest.raises(ValueError, match="not the one on its card"):
        save_model(tmp_path / "a.safetensors", build_network(card.network).half(), card)


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("pwned"),))


def test_a_pickle_is_named_and_never_opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"a": Evil()}, tmp_path / "zip.safetensors")
    (tmp_path / "plain.safetensors").write_bytes(pickle.dumps(Evil()))
    for name in ("zip.safetensors", "plain.safetensors"):
        with pytest.raises(BadInputError, match="pickled PyTorch file"):
            load_model(tmp_path / name)
    assert not (tmp_path / "pwned").exists()


def test_a_header_whose_length_looks_like_a_pickle_is_still_read(model):
    for wanted in (b"\x80\x02", b"PK"):
        raw = model.read_bytes()
        length = int.from_bytes(raw[:8], "little")
        text = raw[8 : 8 + length].rstrip(b" ")
        padded = int.from_bytes(wanted, "little")
        while padded < len(text):
            padded += 1 << 16
        model.write_bytes(padded.to_bytes(8, "little") + text.ljust(padded) + raw[8 + length :])
        assert model.read_bytes()[:2] == wanted
        load_model(model)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00" * 4,
        b"\x00" * 8,
        b"\xff" * 8,
        (2**40).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"[]",
        (2).to_bytes(8, "little") + b"{}",
        (4).to_bytes(8, "little") + b"null",
        (40_000).to_bytes(8, "little") + b"[" * 40_000,
        (2).to_bytes(8, "little") + b"\xff\xfe",
        b"just some text that is no model",
    ],
)
def test_what_is_no_model_is_refused(tmp_path, content):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    for reader in (read_card, load_model):
        with pytest.raises(BadInputError, match=r"x\.safetensors"):
            reader(path)


def test_a_missing_file_a_folder_and_a_foreign_model_are_told_apart(tmp_path):
    with pytest.raises(BadInputError, match="There is no model at"):
        load_model(tmp_path / "none.safetensors")
    with pytest.raises(BadInputError, match="cannot be read"):
        load_model(tmp_path)
    safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "foreign.safetensors", {"format": "pt"})
    with pytest.raises(BadInputError, match="holds no model card"):
        load_model(tmp_path / "foreign.safetensors")


def test_a_file_cut_off_anywhere_is_refused(model):
    whole = model.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    for end in (3, 8, 100, 8 + length - 1, 8 + length, 8 + length + 5, len(whole) - 1):
        model.write_bytes(whole[:end])
        with pytest.raises(BadInputError):
            load_model(model)
    model.write_bytes(whole + b"\x00")
    with pytest.raises(BadInputError, match="bytes of weights"):
        load_model(model)


def test_a_header_that_claims_huge_tensors_takes_no_memory(model):
    def huge(header):
        header["head.weight"]["shape"] = [4, 2**40, 1, 1]

    with pytest.raises(BadInputError, match="contradicts itself"):
        load_model(rewritten(model, huge))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda h: h.update({"extra": dict(h["head.bias"])}), "damaged"),
        (lambda h: h.update({"other": h.pop("head.bias")}), r"lacks the weights head\.bias"),
        (lambda h: h["head.weight"].update(shape=[1, 4, 4, 1]), r"in another shape or type, the weights head\.weight"),
        (lambda h: h["head.bias"].update(dtype="F16"), "damaged"),
        (lambda h: h["head.bias"].pop("dtype"), "damaged"),
        (lambda h: h["head.bias"].update(data_offsets=[0, 16]), "damaged"),
        (lambda h: h["head.bias"].update(data_offsets="ab"), "damaged"),
        (lambda h: h.update({"head.bias": 5}), "damaged"),
        (lambda h: h.pop("__metadata__"), "holds no model card"),
        (lambda h: h["__metadata__"].update(lungsegmentation="{"), "card .* is damaged"),
        (lambda h: h["__metadata__"].update(lungsegmentation="[" * 50_000), "card .* is damaged"),
        (lambda h: h["__metadata__"].update(lungsegmentation="[]"), "not understood"),
    ],
)
def test_weights_that_do_not_fit_the_card_are_refused(model, change, said):
    with pytest.raises(BadInputError, match=said):
        load_model(rewritten(model, change))


def test_weights_of_another_type_are_refused(model):
    card = make_card()
    state = build_network(card.network).state_dict()
    state["head.bias"] = state["head.bias"].to(torch.int64)
    safetensors.torch.save_file(state, model, {"lungsegmentation": card.model_dump_json()})
    with pytest.raises(BadInputError, match=r"in another shape or type, the weights head\.bias"):
        load_model(model)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c.update(schema_version=2), "newer LungSegmentation"),
        (lambda c: c.update(schema_version="1.0"), "schema_version"),
        (lambda c: c.pop("overlap"), "overlap"),
        (lambda c: c.update(overlap="sometimes"), "overlap"),
        (lambda c: c.update(surprise=1), "surprise"),
        (lambda c: c["network"].update(surprise=1), "network.surprise"),
        (lambda c: c["network"].update(widths=[10**9, 10**9]), "network.widths"),
        (lambda c: c["network"].update(out_channels=5), "5 outputs, the structures need 4"),
        (lambda c: c["preprocessing"].update(neighbors=2), "3 inputs, but 2 neighbors"),
        (lambda c: c["preprocessing"].update(window=[400, -1000]), "window .* is empty"),
        (lambda c: c["preprocessing"].update(size=[0, 256]), "preprocessing.size"),
        (lambda c: c["preprocessing"].update(window=[float("nan"), 1]), "window"),
        (lambda c: c["training"].update(spacing_mm=[[1, 2], [1, 2], [3, 2]]), "smallest value above the largest"),
        (lambda c: c["training"].update(spacing_mm=[[0, 2], [1, 2], [3, 3]]), "training.spacing_mm"),
        (lambda c: c["training"].update(best_epoch=51), "best epoch 51"),
        (lambda c: c["training"]["patients"].update(LUNG1=1), "training.patients"),
        (lambda c: c["scores"].update(spleen={"part": "val", "patients": 1, "dice": 0.5}), "spleen"),
        (lambda c: c["scores"]["heart"].update(dice=1.5), "scores.heart.dice"),
        (lambda c: c.update(structures=["heart", "lung_left", "lung_right"]), "in the order of the labels"),
        (lambda c: c.update(structures=["heart", "heart", "lung_right"]), "each once"),
        (lambda c: c.update(structures=["heart", "spleen", "lung_right"]), "spleen"),
        (lambda c: c.update(structures=[]), "structures"),
        (lambda c: c.update(data_fingerprint="LUNG1-001"), "data_fingerprint"),
        (lambda c: c.update(created="2026-11-21T12:00:00"), "created"),
        (lambda c: c["software"].pop("lungsegmentation"), "version of lungsegmentation"),
        (lambda c: c.update(label_set="thorax"), "label_set"),
        (lambda c: c["label_set"].update(schema=2), "label_set"),
        (lambda c: c["label_set"]["structures"][0].update(label=9), "label_set"),
        (lambda c: c["label_set"]["structures"][0].update(color=[999, 0, 0]), "label_set"),
        (lambda c: c["label_set"]["structures"][0].update(mirror="spleen"), "label_set"),
        (lambda c: c["label_set"]["structures"][0].update(surprise=1), "label_set"),
        (lambda c: c["label_set"]["structures"][0].pop("type"), "label_set"),
    ],
)
def test_a_card_that_is_not_understood_is_refused_with_the_place(model, change, said):
    with pytest.raises(BadInputError, match=said) as caught:
        read_card(with_card(model, change))
    assert str(model) in caught.value.message
    assert "\n" not in str(caught.value)
    assert caught.value.hint


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_flipped_bytes_are_refused_or_give_finite_weights(model, seed):
    generator = random.Random(seed)
    whole = model.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    damaged = bytearray(whole)
    for _ in range(generator.choice([1, 1, 3, 20])):
        damaged[generator.randrange(8 + length if generator.random() < 0.8 else len(whole))] = generator.randrange(256)
    path = model.with_name("flipped.safetensors")
    path.write_bytes(damaged)
    try:
        network, _ = load_model(path)
    except BadInputError:
        return
    assert all(bool(torch.isfinite(tensor).all()) for tensor in network.state_dict().values())


def test_a_name_given_twice_with_another_shape_is_refused(model):
    raw = model.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = raw[8 : 8 + length].decode().rstrip()
    entry = json.loads(header)["head.bias"]
    twice = f'{{"head.bias":{json.dumps(entry | {"shape": [2, 2]})},' + header[1:]
    model.write_bytes(len(twice.encode()).to_bytes(8, "little") + twice.encode() + raw[8 + length :])
    try:
        network, _ = load_model(model)
    except BadInputError:
        return
    assert network.head.bias.shape == (4,)


def test_label_sets_survive_json(tmp_path):
    original = load_label_set()
    content = json.loads(json.dumps(label_set_to_dict(original)))
    assert label_set_from_dict(content, "x") == original
    (tmp_path / "mine.json").write_text(json.dumps(content), encoding="utf-8")
    assert load_label_set(tmp_path / "mine.json") == original
    with pytest.raises(BadInputError, match=r"net\.bin holds no label set"):
        label_set_from_dict({"schema": 1}, "net.bin")


def test_a_card_in_json_is_the_same_card():
    card = make_card(label_set=dataclasses.replace(load_label_set(), title="Größe 日本"))
    assert parse_card(card.model_dump_json(), "x") == card


def test_a_model_written_before_spacings_were_kept_still_loads(model):
    old = with_card(model, lambda content: content["training"].pop("spacing_mm", None))
    assert load_model(old)[1].training.spacing_mm is None


def test_the_spacing_of_the_training_cases_survives_the_file(model):
    ranges = [[0.9, 1.2], [0.9, 1.2], [2.5, 5.0]]
    changed = with_card(model, lambda content: content["training"].update(spacing_mm=ranges))
    assert load_model(changed)[1].training.spacing_mm == ((0.9, 1.2), (0.9, 1.2), (2.5, 5.0))
