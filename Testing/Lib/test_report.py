"""Pictures, surfaces and the report: what they show, that they stand alone, and that odd names do no harm."""

from __future__ import annotations

import html.parser
import re
from datetime import UTC, datetime
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from LungSegmentationLib.assessment import assess, assess_files
from LungSegmentationLib.errors import BadInputError, StorageError, UsageError
from LungSegmentationLib.evaluation.evaluate import Evaluation
from LungSegmentationLib.evaluation.pairs import LoadedCase
from LungSegmentationLib.figures.evaluation import CasePicture, bland_altman, case_slices
from LungSegmentationLib.figures.meshes import structure_mesh
from LungSegmentationLib.geometry import Grid
from LungSegmentationLib.labels import LabelSet, load_label_set
from LungSegmentationLib.structures import StructureMap

LABELS = load_label_set()
NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
GRID = Grid((40, 32, 8), (2.0, 2.0, 5.0), (-40.0, -30.0, 10.0), AXIAL)
NASTY = "<script>alert(1)</script> & $x_1$ ö日本"


class InMemory:
    """A case that is made, not read."""

    def __init__(self, case: str, offset: int = 0, *, missed: bool = False, grid: Grid = GRID) -> None:
        self.case = case
        self._offset, self._missed, self._grid = offset, missed, grid

    def load(self, label_set: LabelSet) -> LoadedCase:
        reference = anatomy()
        prediction = np.roll(reference, self._offset, axis=2)
        if self._missed:
            prediction[prediction == label_set["heart"].label] = 0
        ct = np.where(reference > 0, -700, 40).astype(np.int16)
        return LoadedCase(self.case, prediction, reference, self._grid, ("heart", "lung_left", "lung_right"), ct)


def anatomy() -> NDArray[np.uint8]:
    values = np.zeros(GRID.shape, np.uint8)
    values[1:7, 6:26, 4:14] = LABELS["lung_right"].label
    values[1:7, 6:26, 26:36] = LABELS["lung_left"].label
    values[2:5, 10:20, 15:25] = LABELS["heart"].label
    return values


class _Reader(html.parser.HTMLParser):
    """Collects tags, sources, links and text of a page, and checks that tags close."""

    VOID = ("meta", "img", "line", "rect", "circle", "br", "link")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.sources: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        values = dict(attrs)
        self.sources += [values["src"] or ""] if "src" in values else []
        self.links += [values["href"] or ""] if "href" in values else []
        self.ids += [values["id"] or ""] if "id" in values else []
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    out = tmp_path_factory.mktemp("report é")
    pairs = [InMemory("good"), InMemory("bad", 3, missed=True), InMemory(NASTY, 1)]
    return assess(pairs, out, now=NOW, title="model <7>", alone=[("lonely", "there is no prediction for it")])


@pytest.fixture(scope="module")
def page(done: Evaluation) -> _Reader:
    return _Reader(done.files["report"].read_text(encoding="utf-8"))


def test_everything_is_written_under_the_names_that_are_promised(done: Evaluation) -> None:
    names = {path.name for path in done.out.iterdir()}
    for name in (
        "evaluation_results_20260304_050607.csv",
        "metrics_distribution_20260304_050607.png",
        "structure_ranking_20260304_050607.png",
        "segmentation_visualization_good.png",
        "segmentation_visualization_bad.png",
        "3d_bad.html",
        "report.html",
    ):
        assert name in names
    assert set(done.files.values()) == set(done.out.iterdir())


def test_the_report_needs_nothing_from_outside(done: Evaluation, page: _Reader) -> None:
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert len(page.sources) == 6
    text = done.files["report"].read_text(encoding="utf-8")
    assert not re.search(r"https?://|@import|url\(|<link|<script", text)
    outside = [link for link in page.links if not link.startswith("#")]
    assert {link.split("%")[0] for link in outside} <= {"3d_bad.html", "3d_good.html", "3d_script_alert_1_script_x_1_"}


def test_a_name_from_a_file_is_text_and_never_a_tag(page: _Reader) -> None:
    assert "script" not in page.tags
    assert NASTY in page.text
    assert "model <7>" in page.text


def test_links_within_the_report_lead_somewhere(page: _Reader) -> None:
    inside = {link[1:] for link in page.links if link.startswith("#")}
    assert inside
    assert inside <= set(page.ids)


def test_the_worst_case_comes_first(page: _Reader) -> None:
    chapters = [name for name in page.ids if name.startswith("case-")]
    assert chapters[0] == "case-bad"
    assert chapters[-1] == "case-good"


def test_the_report_says_how_it_compared_what_was_missed_and_what_was_left_out(page: _Reader) -> None:
    assert "Compared as label maps" in page.text
    assert "(1 missed)" in page.text
    assert "lonely was left out: there is no prediction for it" in page.text
    assert "0.90–0.95" in page.text
    assert "not a medical device" in page.text


def test_structures_as_drawn_are_named_as_such(tmp_path: Path) -> None:
    class Drawn(InMemory):
        def load(self, label_set: LabelSet) -> LoadedCase:
            bits = StructureMap.from_label_map(label_set, anatomy())
            return LoadedCase(self.case, bits, bits, GRID)

    done = assess([Drawn("x")], tmp_path, meshes="none")
    text = _Reader(done.files["report"].read_text(encoding="utf-8")).text
    assert "Compared as drawn" in text
    assert not [name for name in done.files if name.startswith("3d")]


def test_slices_show_the_colors_of_both_sides(done: Evaluation, tmp_path: Path) -> None:
    loaded = InMemory("x").load(LABELS)
    picture = CasePicture("x", loaded.reference, loaded.prediction, GRID, None, ("heart", "lung_left", "lung_right"))
    path = case_slices(picture, LABELS, tmp_path / "x.png")
    pixels = (matplotlib.image.imread(path)[..., :3] * 255).round().astype(int)
    codes = np.unique(pixels @ [65536, 256, 1])
    found = np.column_stack([codes >> 16, codes >> 8 & 255, codes & 255])
    # Without a CT the colors lie on black at the opacity of the fill.
    for key in ("heart", "lung_left", "lung_right"):
        expected = np.array(LABELS[key].color) * 0.55
        assert np.abs(found - expected).max(axis=1).min() <= 1


@pytest.mark.parametrize(
    "case",
    [
        pytest.param({"prediction": "empty"}, id="nothing predicted"),
        pytest.param({"prediction": "empty", "reference": "empty"}, id="nothing anywhere"),
        pytest.param({"slices": 1}, id="one slice"),
        pytest.param({"direction": (0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, -1.0, 0.0)}, id="sagittal"),
    ],
)
def test_odd_cases_have_a_picture_all_the_same(tmp_path: Path, case: dict[str, object]) -> None:
    values = anatomy()
    if case.get("slices") == 1:
        values = values[3:4]
    reference = values * 0 if case.get("reference") == "empty" else values
    prediction = values * 0 if case.get("prediction") == "empty" else values
    direction = case.get("direction", AXIAL)
    assert isinstance(direction, tuple)
    grid = Grid((40, 32, len(values)), GRID.spacing, GRID.origin, direction)
    picture = CasePicture("x", reference, prediction, grid, None, ("heart", "lung_left"))
    assert case_slices(picture, LABELS, tmp_path / "x.png").stat().st_size > 5_000


def test_nothing_to_score_still_gives_a_report(tmp_path: Path) -> None:
    class Empty(InMemory):
        def load(self, label_set: LabelSet) -> LoadedCase:
            empty = np.zeros(GRID.shape, np.uint8)
            return LoadedCase(self.case, empty, empty, GRID, ("heart",))

    done = assess([Empty("x")], tmp_path)
    assert done.summary.mean_dice is None
    assert "absent" in done.files["report"].read_text(encoding="utf-8")


def test_many_cases_are_all_in_the_table_and_the_worst_have_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("LungSegmentationLib.assessment.SHOWN_CASES", 2)
    count = 4
    done = assess([InMemory(f"c{n:02}", n) for n in range(count)], tmp_path, meshes="none")
    page = _Reader(done.files["report"].read_text(encoding="utf-8"))
    # The worst, moved most, and the best.
    assert [name for name in page.ids if name.startswith("case-")] == ["case-c03", "case-c00"]
    assert all(f"c{n:02}" in page.text for n in range(count))
    assert len(list(tmp_path.glob("segmentation_visualization_*.png"))) == count


def test_names_that_fall_together_when_cleaned_keep_their_own_files(tmp_path: Path) -> None:
    done = assess([InMemory("a/b"), InMemory("a:b"), InMemory("A_B")], tmp_path, meshes="all")
    assert len(list(tmp_path.glob("segmentation_visualization_*.png"))) == 3
    assert len(list(tmp_path.glob("3d_*.html"))) == 3
    assert len(set(done.files.values())) == len(done.files)
    with pytest.raises(BadInputError, match="called x"):
        assess([InMemory("x"), InMemory("x")], tmp_path)


def test_the_file_of_surfaces_stands_alone_and_names_its_structures(done: Evaluation) -> None:
    text = (done.out / "3d_bad.html").read_text(encoding="utf-8")
    assert "heart (reference only)" in text
    assert "right lung" in text
    assert not re.search(r'<script[^>]+src=|<link[^>]+href="http', text)
    (nasty,) = done.out.glob("3d_script*.html")
    assert "<script>alert(1)" not in nasty.read_text(encoding="utf-8")


def test_a_surface_encloses_its_structure_where_it_lies_in_the_patient() -> None:
    turned = Grid((60, 50, 20), (1.0, 1.5, 3.0), (10.0, -20.0, 5.0), (0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, -1.0))
    mask = np.zeros(turned.shape, bool)
    mask[5:15, 10:40, 12:50] = True
    mesh = structure_mesh(mask, turned)
    assert mesh is not None
    # Faces of the cuboid lie half a voxel outside the centers of its outermost voxels.
    corners = turned.to_physical([[11.5, 9.5, 4.5], [49.5, 39.5, 14.5]])
    low, high = corners.min(axis=0), corners.max(axis=0)
    assert mesh.vertices.min(axis=0) == pytest.approx(low, abs=1.6)
    assert mesh.vertices.max(axis=0) == pytest.approx(high, abs=1.6)
    assert structure_mesh(np.zeros_like(mask), turned) is None


def test_a_thread_of_single_voxels_does_not_vanish_from_the_surfaces() -> None:
    mask = np.zeros((40, 200, 200), bool)
    mask[:, 100, 100] = True
    mesh = structure_mesh(mask, Grid((200, 200, 40), (1.0, 1.0, 3.0), (0.0, 0.0, 0.0), AXIAL))
    assert mesh is not None
    assert np.ptp(mesh.vertices[:, 2]) > 100


def test_volumes_are_drawn_for_one_case_and_for_many(tmp_path: Path) -> None:
    for volumes in ({"heart": [(600.0, 600.0)]}, {"heart": [(600.0, 610.0), (500.0, 480.0), (700.0, 705.0)]}, {}):
        assert bland_altman(volumes, LABELS, tmp_path / "b.png").stat().st_size > 3_000


def test_without_the_packages_for_surfaces_there_is_a_sentence_and_everything_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("LungSegmentationLib.assessment.find_spec", lambda _: None)
    done = assess([InMemory("x")], tmp_path)
    assert not list(tmp_path.glob("3d_*"))
    assert done.files["report"].is_file()


def test_wrong_choices_and_places_end_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="some"):
        assess([InMemory("x")], tmp_path, meshes="some")
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(StorageError):
        assess([InMemory("x")], tmp_path / "file" / "out", meshes="none")


def test_files_are_assessed_with_the_ct_that_is_given(tmp_path: Path) -> None:
    for name, values in (("p", np.roll(anatomy(), 1, 2)), ("r", anatomy()), ("ct", anatomy().astype(np.float32) * 100)):
        sitk.WriteImage(GRID.image(values), str(tmp_path / f"{name}.nrrd"))
    files = tmp_path / "p.nrrd", tmp_path / "r.nrrd", tmp_path / "out"
    done = assess_files(*files, ct=tmp_path / "ct.nrrd", meshes="none")
    assert "slices r" in done.files
    other = GRID.image(anatomy())
    other.SetSpacing((1.0, 1.0, 1.0))
    sitk.WriteImage(other, str(tmp_path / "ct.nrrd"))
    with pytest.raises(BadInputError, match="The CT"):
        assess_files(*files, ct=tmp_path / "ct.nrrd", meshes="none")
