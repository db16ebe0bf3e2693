"""The commands ``info`` and ``devices``: what a model file says reaches people and programs."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from LungSegmentationLib import __version__
from LungSegmentationLib.cli import app
from LungSegmentationLib.labels import load_label_set
from LungSegmentationLib.listing import print_devices, print_model
from LungSegmentationLib.networks.card import ModelCard, Preprocessing, Score, TrainingSummary
from LungSegmentationLib.networks.config import NetworkConfig
from LungSegmentationLib.networks.description import describe_model, version_warning
from LungSegmentationLib.networks.model_file import save_model
from LungSegmentationLib.networks.unet import build_network, count_parameters
from LungSegmentationLib.training.devices import DeviceDescription, DeviceReport

ROOT = Path(__file__).resolve().parents[2]
RUNNER = CliRunner()


def make_card(**changes) -> ModelCard:
    content = {
        "created": datetime(2026, 11, 21, tzinfo=UTC),
        "label_set": load_label_set(),
        "structures": ("lung_right", "heart"),
        "overlap": "exclusive",
        "preprocessing": Preprocessing(
            size=(256, 192), window=(-1000, 400), normalization="zscore", field_of_view="body", neighbors=0
        ),
        "network": NetworkConfig(name="small", out_channels=3, widths=(4, 8), residual=True),
        "training": TrainingSummary(
            epochs=50,
            best_epoch=41,
            best_loss=0.1234,
            patients={"train": 110, "val": 23},
            slices={"train": 40000, "val": 8000},
            seconds=7200,
        ),
        "scores": {"heart": Score(part="test", patients=7, dice=0.912, dice_std=0.031, hd95_mm=4.5)},
        "software": {"lungsegmentation": __version__, "torch": "2.13.0"},
        "data_fingerprint": "ab" * 32,
    }
    return ModelCard(**content | changes)


def write(path: Path, card: ModelCard) -> Path:
    save_model(path, build_network(card.network), card)
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write(tmp_path / "Modell é 日本.safetensors", make_card())


def shown(path: Path) -> str:
    text = io.StringIO()
    print_model(describe_model(path), Console(file=text, width=200, color_system=None))
    return text.getvalue()


@pytest.mark.parametrize("norm", ["batch", "instance", "none"])
def test_parameters_counted_from_the_file_are_those_of_the_network(tmp_path: Path, norm: str) -> None:
    network = NetworkConfig(name="small", out_channels=3, widths=(4, 8, 16), norm=norm, attention=True)
    card = make_card(network=network)
    assert describe_model(write(tmp_path / "m.safetensors", card)).parameters == count_parameters(
        build_network(network)
    )


def test_people_see_structures_scores_preprocessing_training_and_versions(model: Path) -> None:
    text = shown(model)
    for fact in (
        model.name,
        "right lung",
        "heart",
        "0.912 ± 0.031",
        "7 test patient(s)",
        "not measured",
        "4-8, batch norm",
        "residual blocks",
        "256 × 192, body field of view",
        "-1000 to 400 HU, zscore",
        "50 epoch(s), best 41 (validation loss 0.1234)",
        "110 train, 23 val",
        "2.0 h",
        f"lungsegmentation {__version__}, torch 2.13.0",
        "Not learned: GTV, PTV, left lung, esophagus, spinal cord.",
    ):
        assert fact in text
    assert "warning" not in text


def test_programs_get_the_whole_card_as_json(model: Path) -> None:
    done = RUNNER.invoke(app, ["info", str(model), "--json"])
    assert done.exit_code == 0
    content = json.loads(done.stdout)
    assert content["path"] == str(model)
    assert content["structures"] == ["lung_right", "heart"]
    assert content["training"]["patients"] == {"train": 110, "val": 23}
    assert content["label_set"]["name"] == "thorax"
    assert content["warnings"] == []
    card = {key: value for key, value in content.items() if key in ModelCard.model_fields}
    assert ModelCard.model_validate_json(json.dumps(card)) == make_card()


def test_the_events_hold_the_same_and_the_warning(tmp_path: Path) -> None:
    model = write(tmp_path / "m.safetensors", make_card(software={"lungsegmentation": "0.0.1"}))
    done = RUNNER.invoke(app, ["info", str(model), "--events"])
    events = {event["event"]: event for event in map(json.loads, done.stdout.splitlines())}
    assert events["result"]["summary"]["parameters"] == describe_model(model).parameters
    assert "an older version" in events["warning"]["message"]
    assert events["finished"]["exit_code"] == 0


@pytest.mark.parametrize(
    ("trained", "here", "order"),
    [
        ("1.2.3", "1.2.3", ""),
        ("1.2.3", "1.10.0", "an older"),
        ("1.10.0", "1.9.9", "a newer"),
        ("0.1.0", "0.1.1", "an older"),
        ("2.0", "1.9.9", "a newer"),
        ("0.1.0+local", "0.1.0", "another"),
        ("unknown", "0.1.0", "an older"),
    ],
)
def test_a_model_of_another_version_is_told(trained: str, here: str, order: str) -> None:
    warning = version_warning(make_card(software={"lungsegmentation": trained}), here)
    assert bool(warning) is bool(order)
    assert f"{order} version of LungSegmentation ({trained}; this one is {here})" in warning or not order


def test_the_warning_is_shown(tmp_path: Path) -> None:
    model = write(tmp_path / "m.safetensors", make_card(software={"lungsegmentation": "99.0.0"}))
    assert "warning: It was trained by a newer version" in shown(model)


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 pickle", b"\x00" * 100, b"\xff" * 16])
def test_what_is_no_model_is_refused_in_one_sentence(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "some model.safetensors"
    if content is not None:
        path.write_bytes(content)
    done = RUNNER.invoke(app, ["info", str(path)])
    assert done.exit_code == 3
    assert "some model.safetensors" in done.output.replace("\n", " ")
    assert "Traceback" not in done.output


def test_a_folder_is_no_model(tmp_path: Path) -> None:
    assert RUNNER.invoke(app, ["info", str(tmp_path)]).exit_code == 3


def test_text_in_a_card_is_shown_and_not_taken_for_markup(tmp_path: Path) -> None:
    software = {"lungsegmentation": __version__, "[red]torch[/]": "[bold"}
    assert "[red]torch[/] [bold" in shown(write(tmp_path / "[blue].safetensors", make_card(software=software)))


def test_info_needs_no_torch(model: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None; sys.argv = ['lungseg', 'info', sys.argv[1], '--json']; "
        "from LungSegmentationLib.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-X", "utf8", "-c", code, str(model)],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["parameters"] > 0


def test_devices_prints_a_table_or_json_or_events() -> None:
    people = RUNNER.invoke(app, ["devices"])
    assert people.exit_code == 0
    assert "PyTorch" in people.stdout
    content = json.loads(RUNNER.invoke(app, ["devices", "--json"]).stdout)
    assert content["devices"][-1]["device"] == "cpu"
    lines = RUNNER.invoke(app, ["devices", "--events"]).stdout.splitlines()
    result = next(event for event in map(json.loads, lines) if event["event"] == "result")
    assert result["summary"]["torch_build"] == content["torch_build"]


def test_the_table_of_devices_marks_the_chosen_one_and_shows_what_is_wrong() -> None:
    report = DeviceReport(
        "2.13.0+cu130",
        (
            DeviceDescription("cuda:0", "old [GPU]", 4096, 0, "float32", "the GPU is old", False, "no kernel image"),
            DeviceDescription("cpu", "some CPU", None, None, "float32", "no other", True),
        ),
        "cuda:0 does not work: no kernel image.",
    )
    text = io.StringIO()
    print_devices(report, Console(file=text, width=160, color_system=None))
    shown_text = text.getvalue()
    lines = shown_text.splitlines()
    assert any("cuda:0 " in line and "old [GPU]" in line and "no kernel image" in line for line in lines)
    assert any("cpu ←" in line for line in lines)
    assert not any("cuda:0 ←" in line for line in lines)
    assert lines[-1].startswith("cuda:0 does not work")
