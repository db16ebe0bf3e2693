"""The training history: a file that is whole after each epoch, a picture that shows it, TensorBoard if wanted."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from LungSegmentationLib.errors import BadInputError, InstallationError, StorageError
from LungSegmentationLib.figures.training import draw_history
from LungSegmentationLib.labels import load_label_set
from LungSegmentationLib.training.history import HISTORY_FILE, HISTORY_PICTURE, EpochRecord, History
from LungSegmentationLib.training.tensorboard import TENSORBOARD_FOLDER, TensorBoardLog

LABEL_SET = load_label_set()


def record(epoch: int, **changes) -> EpochRecord:
    content = {
        "epoch": epoch,
        "train_loss": 1 / epoch,
        "val_loss": 1.1 / epoch,
        "dice": {"lung_right": 1 - 0.5**epoch, "heart": None},
        "mean_dice": 1 - 0.5**epoch,
        "best": True,
        "lr": 1e-4,
        "seconds": 12.5,
        "memory_mb": 800.0,
    }
    return EpochRecord(**content | changes)


def make(epochs: int, **changes) -> History:
    return History(("lung_right", "heart"), tuple(record(epoch, **changes) for epoch in range(1, epochs + 1)))


def test_the_file_has_the_fixed_name_and_holds_each_epoch(tmp_path: Path) -> None:
    make(2).write(tmp_path)
    content = json.loads((tmp_path / "training_history.json").read_text(encoding="utf-8"))
    assert content["schema_version"] == 1
    assert content["structures"] == ["lung_right", "heart"]
    assert content["epochs"][1] == {
        "epoch": 2,
        "train_loss": 0.5,
        "val_loss": 0.55,
        "dice": {"lung_right": 0.75, "heart": None},
        "mean_dice": 0.75,
        "best": True,
        "lr": 1e-4,
        "seconds": 12.5,
        "memory_mb": 800.0,
    }


numbers = st.none() | st.floats(allow_nan=True, allow_infinity=True)


@given(
    epochs=st.lists(
        st.fixed_dictionaries(
            {"train_loss": numbers, "val_loss": numbers, "best": st.booleans(), "dice": st.just({}), "lr": numbers}
        ),
        max_size=5,
    )
)
def test_what_was_written_is_read_again_whatever_the_numbers(epochs: list[dict]) -> None:
    history = History(["heart"])
    for number, values in enumerate(epochs, start=1):
        history.append(EpochRecord(epoch=number, **values))
    text = json.dumps(history.to_json(), allow_nan=False)
    again = History.from_json(json.loads(text))
    assert (again.records, again.structures) == (history.records, history.structures)
    for values, seen in zip(epochs, again, strict=True):
        loss = values["val_loss"]
        assert seen.val_loss == (loss if loss is not None and math.isfinite(loss) else None)


def test_the_best_epoch_is_the_last_one_marked_and_the_best_dice_the_highest() -> None:
    history = History(["heart"])
    assert (history.best_epoch, history.best_mean_dice, history.seconds) == (None, None, 0)
    for epoch, dice, best in ((1, 0.4, True), (2, 0.8, False), (3, 0.6, True), (4, None, False)):
        history.append(EpochRecord(epoch=epoch, mean_dice=dice, best=best, seconds=2))
    assert (history.best_epoch, history.best_mean_dice, history.seconds) == (3, 0.8, 8)


def test_a_resumed_run_has_only_the_epochs_before_its_checkpoint_behind_it() -> None:
    history = make(5)
    resumed = history.truncated(3)
    resumed.append(record(4, train_loss=9.0))
    assert [one.epoch for one in resumed] == [1, 2, 3, 4]
    assert (resumed[-1].train_loss, history[3].train_loss, len(history)) == (9.0, 0.25, 5)


def test_epochs_out_of_order_and_unknown_structures_are_refused() -> None:
    history = make(2)
    with pytest.raises(ValueError, match="epoch 2 does not follow epoch 2"):
        history.append(record(2))
    with pytest.raises(ValueError, match=r"\['ptv'\] are not learned"):
        history.append(record(3, dice={"ptv": 0.3}))


def test_the_file_is_always_whole_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    folder = tmp_path / "Lauf é 日本"
    make(1).write(folder)
    make(3).write(folder)
    assert len(History.read(folder)) == 3
    assert [file.name for file in folder.iterdir()] == [HISTORY_FILE]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "is damaged"),
        ("[]", "is damaged"),
        ("null", "is damaged"),
        ('{"schema_version": 1}', "is damaged"),
        ('{"schema_version": 2, "later": true}', "newer LungSegmentation"),
        ('{"schema_version": 1, "structures": [], "epochs": [{"epoch": 0}]}', "epochs.0.epoch"),
        ('{"schema_version": 1, "structures": [], "epochs": [{"epoch": 2}, {"epoch": 1}]}', "does not follow"),
        ('{"schema_version": 1, "structures": [], "epochs": [{"epoch": 1, "dice": {"x": 1}}]}', "not learned"),
    ],
)
def test_a_damaged_or_newer_file_is_refused_by_its_name(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / HISTORY_FILE).write_text(text, encoding="utf-8")
    with pytest.raises(BadInputError, match=sentence) as raised:
        History.read(tmp_path)
    assert HISTORY_FILE in str(raised.value)


def test_a_missing_history_is_said(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="There is no training history at"):
        History.read(tmp_path)


def test_a_picture_that_cannot_be_drawn_is_a_warning_and_the_file_is_there(tmp_path: Path) -> None:
    def draw(history: History, path: Path) -> None:
        raise RuntimeError("no font")

    warnings: list[str] = []
    make(2).write(tmp_path, draw, warnings.append)
    assert len(History.read(tmp_path)) == 2
    assert len(warnings) == 1
    assert "training_history.png could not be drawn: RuntimeError: no font" in warnings[0]
    make(2).write(tmp_path, draw)


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file in the way", encoding="utf-8")
    with pytest.raises(StorageError, match="cannot be written"):
        make(1).write(tmp_path / "run")


def has_color(picture: np.ndarray, color: tuple[int, int, int]) -> bool:
    return bool((np.abs(picture.astype(int) - color).max(axis=2) <= 2).any())


def drawn(history: History, path: Path) -> np.ndarray:
    history.write(path.parent, lambda seen, place: draw_history(seen, LABEL_SET, place))
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def test_the_picture_shows_each_structure_in_its_color_where_white_paper_allows(tmp_path: Path) -> None:
    # Strong colors stay; light ones keep their hue and become darker.
    keys = ("gtv", "heart", "spinal_cord")
    history = History(keys)
    for epoch in range(1, 11):
        dice = {"gtv": 0.3, "heart": 0.9, "spinal_cord": None}
        history.append(EpochRecord(epoch=epoch, train_loss=1, val_loss=1, dice=dice, mean_dice=0.6))
    picture = drawn(history, tmp_path / HISTORY_PICTURE)
    assert has_color(picture, LABEL_SET["gtv"].color)
    assert has_color(picture, LABEL_SET["heart"].color)
    red, green, blue = picture.reshape(-1, 3).astype(int).T
    assert not ((green > red + 60) & (green > blue + 60)).any(), "nobody drew the spinal cord: it has no curve"


def test_a_curve_lies_where_its_numbers_are(tmp_path: Path) -> None:
    rows = []
    for dice in (0.2, 0.8):
        history = History(("gtv",))
        for epoch in range(1, 9):
            history.append(EpochRecord(epoch=epoch, dice={"gtv": dice}))
        picture = drawn(history, tmp_path / f"{dice}" / HISTORY_PICTURE)
        middle = picture[:, int(0.66 * picture.shape[1])].astype(int)
        rows.append(float(np.flatnonzero((middle[:, 0] > 200) & (middle[:, 1] < 60)).mean()))
    # The axis from 0 to 1 takes 74.5 % of the height.
    assert (rows[0] - rows[1]) / picture.shape[0] == pytest.approx(0.6 * 0.745, abs=0.005)


@pytest.mark.parametrize(
    "history",
    [
        History(("heart",)),
        make(1),
        History(("heart",), (EpochRecord(epoch=1),)),
        History(("heart",), (EpochRecord(epoch=3, train_loss=math.nan, lr=0.0, dice={"heart": None}),)),
        History(("no_such_structure",), (record(1, dice={"no_such_structure": 0.5}, train_loss=-1.0, val_loss=1e30),)),
        History(("heart",), tuple(EpochRecord(epoch=e, val_loss=10.0**-e, lr=0.1**e) for e in range(1, 40))),
        History(tuple(f"s{n}" for n in range(117)), (record(1, dice={f"s{n}": 0.5 for n in range(117)}),)),
        make(3, lr=None, seconds=None, val_loss=0.0, train_loss=0.0),
    ],
    ids=["empty", "one epoch", "nothing", "nan", "unknown", "wide", "117 structures", "zeros"],
)
def test_odd_histories_are_drawn(tmp_path: Path, history: History, recwarn: pytest.WarningsRecorder) -> None:
    warnings: list[str] = []
    history.write(tmp_path, lambda seen, place: draw_history(seen, LABEL_SET, place), warnings.append)
    assert not warnings
    assert not [str(one.message) for one in recwarn]
    with Image.open(tmp_path / HISTORY_PICTURE) as picture:
        assert picture.size == (1560, 624)


def test_drawing_opens_no_window_system(tmp_path: Path) -> None:
    draw_history(make(2), LABEL_SET, tmp_path / "x.png")
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


def test_without_the_package_tensorboard_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    for name in [name for name in sys.modules if name.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(InstallationError, match=r"not installed.*group tensorboard.*pip install tensorboard"):
        TensorBoardLog(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="tensorboard is not installed")
def test_tensorboard_reads_what_was_logged_and_a_resumed_run_hides_what_came_after(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with TensorBoardLog(tmp_path) as log:
        for epoch in (1, 2, 3):
            log.epoch(record(epoch))
    with TensorBoardLog(tmp_path, resumed_at=2) as log:
        log.epoch(record(3, train_loss=7.0))
    seen = EventAccumulator(str(tmp_path / TENSORBOARD_FOLDER))
    seen.Reload()
    assert [(event.step, event.value) for event in seen.Scalars("loss/train")] == [(1, 1.0), (2, 0.5), (3, 7.0)]
    assert "dice/lung_right" in seen.Tags()["scalars"]
    assert "dice/heart" not in seen.Tags()["scalars"]
