"""The settings of a training: names, defaults, and what is said of wrong ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from LungSegmentationLib.errors import ExitCode, UsageError
from LungSegmentationLib.training.config import TrainingConfig


def load(*settings: str) -> TrainingConfig:
    return TrainingConfig.load(settings=settings)


def test_the_defaults_are_those_of_the_published_pipeline() -> None:
    config = TrainingConfig()
    assert (config.optimizer, config.learning_rate, config.batch_size, config.epochs) == ("adam", 1e-4, 8, 50)
    assert (config.patience, config.monitor, config.seed, config.network.name) == (10, "val_loss", 42, "standard")
    assert (config.loss.weight_ce, config.loss.weight_dice, config.overlap) == (0.5, 0.5, "exclusive")
    assert (config.normalization, config.neighbors, config.checkpoint_every) == ("zscore", 0, 10)
    assert config.network.widths == (64, 128, 256, 512, 1024)


def test_settings_are_read_with_their_types() -> None:
    config = load("epochs=2", "learning_rate=3e-4", "compile=true", "network=tiny", "ema=0.99", "optimizer=sgd")
    assert (config.epochs, config.learning_rate, config.compile) == (2, 3e-4, True)
    assert (config.network.widths, config.ema, config.optimizer) == ((16, 32, 64, 128, 256), 0.99, "sgd")


def test_dotted_keys_reach_into_groups_and_keep_what_a_preset_says() -> None:
    config = load("network=tiny", "network.norm=instance", "augmentation=light", "augmentation.flip_probability=0.5")
    assert (config.network.name, config.network.norm, config.network.widths[0]) == ("tiny", "instance", 16)
    assert (config.augmentation.flip_probability, config.augmentation.rotation_degrees) == (0.5, 7)
    assert load("loss.region=tversky").loss.region == "tversky"


@pytest.mark.parametrize("text", ["lung_right, heart", '["lung_right","heart"]'])
def test_structures_are_a_list_with_commas_or_json(text: str) -> None:
    assert load(f"structures={text}").structures == ("lung_right", "heart")


@pytest.mark.parametrize("key", ["patience", "ema", "gradient_clip", "structures", "steps_per_epoch", "threads"])
def test_what_may_be_absent_can_be_set_to_none(key: str) -> None:
    assert getattr(load(f"{key}=none"), key) is None


@pytest.mark.parametrize("setting", ["overlap=keep", "loss.overlap=keep"])
def test_overlap_is_one_setting_under_both_of_its_names(setting: str) -> None:
    config = load(setting)
    assert (config.overlap, config.loss.overlap) == ("keep", "keep")


def test_the_networks_inputs_follow_the_neighbors() -> None:
    assert load("neighbors=2", "network=lite").network.in_channels == 5


def test_a_file_and_settings_work_together_and_the_settings_win(tmp_path: Path) -> None:
    file = tmp_path / "Einstellungen für später 設定.json"
    file.write_text(json.dumps({"epochs": 7, "seed": 1, "loss": {"region": "tversky"}}), encoding="utf-8")
    config = TrainingConfig.load(file, ["epochs=3", "loss.weight_ce=0.3"])
    assert (config.epochs, config.seed, config.loss.region, config.loss.weight_ce) == (3, 1, "tversky", 0.3)


def test_a_configuration_comes_back_from_json_as_it_was() -> None:
    config = load("network=attention", "neighbors=1", "overlap=keep", "structures=heart", "augmentation=none")
    assert TrainingConfig.model_validate_json(config.model_dump_json()) == config
    assert TrainingConfig.load(base=json.loads(config.model_dump_json())) == config


@pytest.mark.parametrize(
    ("setting", "helps"),
    [
        ("epoch=2", "did you mean epochs?"),
        ("loss.regon=dice", "did you mean region?"),
        ("augmentation.flip=1", "flip_probability"),
        ("network=tinny", "standard, lite, tiny, attention"),
        ("network.wdths=[1,2]", "widths"),
        ("network.widths=[4]", "at least 2"),
        ("network.out_channels=3", "follows from structures"),
        ("network.in_channels=3", "neighbors"),
        ("network.norm=group", "network"),
        ("optimizer=adamm", "'adam', 'adamw' or 'sgd'"),
        ("epochs=x", "integer"),
        ("epochs=0", "greater than or equal to 1"),
        ("epochs=2.5", "integer"),
        ("learning_rate=NaN", "finite"),
        ("learning_rate=Infinity", "finite"),
        ("augmentation=heavy", "none, light, default"),
        ("structures=heart,heart", "once"),
        ("accumulation=9", "batch_size"),
        ("epochs", "key=value"),
        ("=3", "key=value"),
        ("loss=3", "loss"),
        ("epochs.deep=3", "epochs"),
        ("loss.deep.er=3", "loss.deep"),
        ("network.widths.x=3", "widths"),
    ],
)
def test_a_wrong_setting_is_refused_with_what_would_be_right(setting: str, helps: str) -> None:
    settings = (setting, "network.widths=[4,6]") if setting.endswith("=group") else (setting,)
    with pytest.raises(UsageError) as caught:
        load(*settings)
    assert helps in str(caught.value)
    assert caught.value.exit_code == ExitCode.USAGE


def test_two_overlaps_that_contradict_are_refused() -> None:
    with pytest.raises(UsageError, match="give one of them"):
        load("overlap=keep", "loss.overlap=exclusive")


@pytest.mark.parametrize(("text", "fact"), [("{", "no JSON"), ("[1]", "no settings"), ('{"epoks": 1}', "epochs")])
def test_a_wrong_file_is_refused(tmp_path: Path, text: str, fact: str) -> None:
    file = tmp_path / "settings.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=fact):
        TrainingConfig.load(file)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="There is no settings file"):
        TrainingConfig.load(tmp_path / "none.json")
    with pytest.raises(UsageError, match="cannot be read"):
        TrainingConfig.load(tmp_path)


def test_what_a_resumed_run_cannot_change_is_named_and_the_rest_is_not() -> None:
    before = TrainingConfig()
    assert before.fixed_differences(load("epochs=90", "patience=none", "device=cpu", "prefetch=9")) == []
    assert before.fixed_differences(load("seed=7", "loss.region=tversky")) == [
        "seed (42, now 7)",
        "loss.region (dice, now tversky)",
    ]
