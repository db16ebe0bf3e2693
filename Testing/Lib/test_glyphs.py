"""Names in any script in pictures: never the same box for two letters, and nothing said on standard error."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from matplotlib import font_manager

from LungSegmentationLib.figures import glyphs
from LungSegmentationLib.figures.evaluation import CasePicture, Panel, Ranked, case_slices, metrics_distribution
from LungSegmentationLib.figures.evaluation import structure_ranking as draw_ranking
from LungSegmentationLib.geometry import Grid
from LungSegmentationLib.labels import LabelSet, load_label_set

GRID = Grid((24, 20, 3), (1.0, 1.0, 3.0), (0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))
LABELS = load_label_set()


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    """Fonts are looked for anew, and every warning is a failure: matplotlib warns of a letter that it has not."""
    glyphs._places.cache_clear()
    glyphs._fallbacks.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
    glyphs._places.cache_clear()
    glyphs._fallbacks.cache_clear()


@pytest.fixture
def only_own_font(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave only the fonts that come with matplotlib, as on a bare computer."""
    own = Path(matplotlib.get_data_path())
    fonts = [font for font in font_manager.fontManager.ttflist if Path(font.fname).is_relative_to(own)]
    assert fonts
    monkeypatch.setattr(font_manager.fontManager, "ttflist", fonts)


def picture(case: str, path: Path) -> np.ndarray:
    labels = np.zeros(GRID.shape, np.uint8)
    labels[:, 5:15, 5:15] = 1
    case_slices(CasePicture(case, labels, labels, GRID, None, LABELS.keys[:1]), LABELS, path)
    return matplotlib.image.imread(path)


def called(*names: str) -> LabelSet:
    """Return the label set with other names for its first structures."""
    first = [replace(one, name=name) for one, name in zip(LABELS.structures, names, strict=False)]
    return replace(LABELS, structures=(*first, *LABELS.structures[len(names) :]))


@pytest.mark.usefixtures("only_own_font")
def test_a_letter_that_no_font_has_is_written_as_its_number() -> None:
    # U+5C71 U+7530: a Japanese family name; U+1F600 is in the fonts that come with matplotlib, U+20000 in few fonts.
    assert glyphs.shown("山田 é") == "\\u5c71\\u7530 é"
    assert glyphs.shown("\U00020000") == "\\U00020000"


@pytest.mark.parametrize("text", ["PHANTOM-1", "Müller, Ångström", "Иванов", "Παπαδόπουλος", "a\nb", "1.5 ± 0.2 − 3"])
def test_what_the_own_font_has_stays_as_it_is(text: str) -> None:
    assert glyphs.shown(text) == text
    assert glyphs.families_for([text]) == (glyphs.FONT,)


def test_half_characters_and_control_characters_are_written_as_their_numbers() -> None:
    assert glyphs.shown("a\udcffb\tc\x00") == "a\\udcffb\\u0009c\\u0000"


def test_a_font_of_the_system_is_taken_where_it_has_the_letters() -> None:
    families = glyphs.families_for(["山田"])
    if len(families) == 1:
        pytest.skip("no font of this computer has Japanese letters")
    assert glyphs.shown("山田") == "山田"
    assert set(families[1:]) <= {font.name for font in font_manager.fontManager.ttflist}


def test_a_font_that_cannot_be_loaded_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "broken.ttf"
    broken.write_bytes(b"no font")
    monkeypatch.setattr(glyphs, "_places", lambda: (("Broken", str(broken)), ("Gone", str(tmp_path / "gone.ttf"))))
    assert glyphs.shown("山") == "\\u5c71"


@pytest.mark.usefixtures("only_own_font")
def test_two_names_never_look_the_same_in_a_picture_without_fonts_for_them(tmp_path: Path) -> None:
    assert not np.array_equal(picture("山田", tmp_path / "a.png"), picture("田山", tmp_path / "b.png"))


@pytest.mark.parametrize("name", ["山田太郎", "नमस्ते", "한국", "\udcff", "$a_1$", "x$", "\U0001f600", "<b>"])
def test_any_name_gives_a_picture_and_no_warning(name: str, tmp_path: Path) -> None:
    assert not np.array_equal(picture(name, tmp_path / "a.png"), picture("P", tmp_path / "b.png"))


@pytest.mark.usefixtures("only_own_font")
def test_names_at_an_axis_are_written_out_too(tmp_path: Path) -> None:
    keys = LABELS.keys[:2]
    pictures = []
    for names in (("山田", "右肺"), ("田山", "右肺")):
        label_set, drawn = called(*names), []
        panels = [Panel("Dice", {key: [0.5, 0.6, 0.7] for key in keys}, (0.0, 1.0), {})]
        drawn.append(metrics_distribution(panels, label_set, tmp_path / "distribution.png"))
        ranked = [Ranked(key, 0.5, 0.1, 3) for key in keys]
        drawn.append(draw_ranking(ranked, {}, label_set, tmp_path / "ranking.png"))
        pictures.append([matplotlib.image.imread(path) for path in drawn])
    for one, other in zip(*pictures, strict=True):
        assert one.shape != other.shape or not np.array_equal(one, other)
