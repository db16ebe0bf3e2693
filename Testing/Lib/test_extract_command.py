"""``lungseg extract``: what a viewer gets is voxel for voxel what a conversion makes of the same files."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from LungSegmentationLib.cohort.convert import Conversion, convert
from LungSegmentationLib.cohort.extract import ExtractRecord, extract
from LungSegmentationLib.cohort.options import ConversionOptions
from LungSegmentationLib.cohort.paths import CohortPaths
from LungSegmentationLib.cohort.records import CaseRecord, read_record
from LungSegmentationLib.dicom.segments import Segment, layers_of, write_segments
from LungSegmentationLib.errors import BadInputError, CancelledError, ExitCode
from LungSegmentationLib.geometry import Grid
from LungSegmentationLib.jobs.events import SilentReporter, parse_event
from LungSegmentationLib.labels import load_label_set
from LungSegmentationLib.phantom import PhantomOptions, make_phantoms
from LungSegmentationLib.structures import StructureMap

LABELS = load_label_set()
SMALL = PhantomOptions(in_plane=64, slices=14, complete=True)


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("Fantôme 患者 c")
    make_phantoms(out, 2, 11, options=SMALL)
    return out / "dicom"


@pytest.fixture(scope="module")
def converted(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Conversion:
    return convert(phantoms, tmp_path_factory.mktemp("cohort") / "c")


def patient(phantoms: Path, number: int = 0) -> Path:
    return sorted(phantoms.iterdir())[number]


def header(path: Path) -> dict[str, str]:
    """All fields of an NRRD file, read without any library."""
    text = path.read_bytes().split(b"\n\n", 1)[0].decode()
    return dict(line.split(":=" if ":=" in line else ": ", 1) for line in text.splitlines()[1:])


def segments(path: Path, shape: tuple[int, ...]) -> dict[str, tuple[dict[str, str], np.ndarray]]:
    """Segment id → its fields and its mask on the whole grid, read from the raw bytes."""
    fields = header(path)
    sizes = [int(size) for size in fields["sizes"].split()]
    sizes = sizes if len(sizes) == 4 else [1, *sizes]
    raw = np.frombuffer(path.read_bytes().split(b"\n\n", 1)[1], np.uint8).reshape(sizes[::-1])
    x, y, z = (int(value) for value in fields["Segmentation_ReferenceImageExtentOffset"].split())
    found = {}
    for place in range(sum(key.endswith("_ID") for key in fields)):
        own = {key.split("_", 1)[1]: value for key, value in fields.items() if key.startswith(f"Segment{place}_")}
        whole = np.zeros(shape, bool)
        part = raw[..., int(own["Layer"])] == int(own["LabelValue"])
        whole[z : z + part.shape[0], y : y + part.shape[1], x : x + part.shape[2]] = part
        found[own["ID"]] = own, whole
    return found


def extracted(folder: Path, out: Path, **options: Any) -> ExtractRecord:
    return extract(folder, out, label_set=LABELS, **options)


def structures_of(conversion: Conversion, name: str) -> StructureMap:
    image = sitk.ReadImage(str(conversion.paths.case(name).structures))
    return StructureMap(LABELS, sitk.GetArrayFromImage(image))


def lungseg(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "LungSegmentationLib", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)


def test_ct_and_segments_are_those_of_the_conversion(phantoms: Path, converted: Conversion, tmp_path: Path) -> None:
    for folder in sorted(phantoms.iterdir()):
        record = extracted(folder, tmp_path / "a b" / folder.name)
        case = converted.paths.case(record.case)
        ct, reference = (sitk.ReadImage(str(path)) for path in (tmp_path / "a b" / folder.name / "ct.nrrd", case.ct))
        assert ct.GetPixelID() == sitk.sitkInt16
        assert Grid.of(ct).matches(Grid.of(reference), 1e-4)
        assert np.array_equal(sitk.GetArrayViewFromImage(ct), sitk.GetArrayViewFromImage(reference))
        truth = structures_of(converted, record.case)
        shown = segments(tmp_path / "a b" / folder.name / "structures.seg.nrrd", truth.shape)
        drawn = {key for key, count in truth.voxel_counts().items() if count}
        assert drawn
        for key in drawn:
            parts = [
                mask for roi in record.rois if roi.structure == key and roi.segment for mask in [shown[roi.segment][1]]
            ]
            assert np.array_equal(np.logical_or.reduce(parts), truth.mask(key))


def test_segments_carry_the_names_colors_and_terminology_of_the_label_set(phantoms: Path, tmp_path: Path) -> None:
    record = extracted(patient(phantoms), tmp_path)
    shown = segments(tmp_path / "structures.seg.nrrd", tuple(reversed(record.geometry.size)))
    for structure in LABELS.structures:
        if structure.key in shown:
            own, _ = shown[structure.key]
            assert own["Name"] == structure.name
            assert own["NameAutoGenerated"] == own["ColorAutoGenerated"] == "0"
            assert np.allclose([float(v) * 255 for v in own["Color"].split()], structure.color, atol=0.01)
            assert structure.type.value in own["Tags"]
    order = [LABELS[roi.structure].label for roi in record.rois if roi.structure and roi.segment]
    assert order


def test_the_file_places_its_box_on_the_ct(phantoms: Path, tmp_path: Path) -> None:
    record = extracted(patient(phantoms), tmp_path)
    fields = header(tmp_path / "structures.seg.nrrd")
    offset = [int(value) for value in fields["Segmentation_ReferenceImageExtentOffset"].split()]
    origin = [float(value) for value in fields["space origin"].strip("()").split(",")]
    image = sitk.ReadImage(str(tmp_path / "ct.nrrd"))
    assert np.allclose(image.TransformIndexToPhysicalPoint(offset), origin, atol=1e-4)
    geometry = fields["Segmentation_ConversionParameters"].split("|")[1].split(";")
    assert [int(value) for value in geometry[16:22]] == [v for n in record.geometry.size for v in (0, n - 1)]


def test_rois_that_are_no_structure_come_on_request_in_their_own_color(phantoms: Path, tmp_path: Path) -> None:
    without = extracted(patient(phantoms), tmp_path / "a")
    record = extracted(patient(phantoms), tmp_path / "b", all_rois=True)
    assert all(roi.segment is None for roi in without.rois if roi.structure is None)
    others = [roi for roi in record.rois if roi.structure is None and roi.segment]
    assert others
    dataset = pydicom.dcmread(str(record.rtstruct_file))
    colors = {item.ReferencedROINumber: item.get("ROIDisplayColor") for item in dataset.ROIContourSequence}
    shown = segments(tmp_path / "b" / "structures.seg.nrrd", tuple(reversed(record.geometry.size)))
    for roi in others:
        own, mask = shown[str(roi.segment)]
        assert own["Name"] == roi.name
        assert roi.volume_cc == pytest.approx(mask.sum() * record.geometry.grid.voxel_volume, abs=1e-3)
        if colors[roi.number] is not None:
            assert np.allclose([float(v) * 255 for v in own["Color"].split()], list(colors[roi.number]), atol=0.01)


def edited(source: Path, target: Path, change: Callable[[pydicom.Dataset], None]) -> Path:
    """A copy of a patient whose RTSTRUCT was changed."""
    shutil.copytree(source, target)
    for file in sorted(target.rglob("*")):
        if file.is_file() and pydicom.dcmread(file, specific_tags=["Modality"]).Modality == "RTSTRUCT":
            dataset = pydicom.dcmread(file)
            change(dataset)
            dataset.save_as(file)
    return target


def test_rois_of_one_structure_are_separate_segments_named_after_both(phantoms: Path, tmp_path: Path) -> None:
    def split(dataset: pydicom.Dataset) -> None:
        for item in dataset.StructureSetROISequence:
            if "heart" in item.ROIName.lower():
                item.ROIName = "GTV-2"

    source = edited(patient(phantoms), tmp_path / "p", split)
    record = extracted(source, tmp_path / "out")
    targets = [roi for roi in record.rois if roi.structure == "gtv"]
    assert len(targets) > 1
    shown = segments(tmp_path / "out" / "structures.seg.nrrd", tuple(reversed(record.geometry.size)))
    names = {shown[str(roi.segment)][0]["Name"] for roi in targets}
    assert names == {f"{LABELS['gtv'].name} ({roi.name})" for roi in targets}
    done = convert(source, tmp_path / "cohort")
    union = np.logical_or.reduce([shown[str(roi.segment)][1] for roi in targets])
    assert np.array_equal(union, structures_of(done, record.case).mask("gtv"))


def test_two_rois_of_one_number_do_not_share_a_segment(phantoms: Path, tmp_path: Path) -> None:
    def same_number(dataset: pydicom.Dataset) -> None:
        dataset.StructureSetROISequence[1].ROINumber = dataset.StructureSetROISequence[0].ROINumber

    record = extracted(edited(patient(phantoms), tmp_path / "p", same_number), tmp_path / "out", all_rois=True)
    identifiers = [roi.segment for roi in record.rois if roi.segment]
    assert len(identifiers) == len(set(identifiers))


def test_corrections_of_a_cohort_hold(phantoms: Path, tmp_path: Path) -> None:
    source = patient(phantoms)
    plain = extracted(source, tmp_path / "a")
    heart = next(roi for roi in plain.rois if roi.structure == "heart")
    options = ConversionOptions(corrections=(f"{plain.case}/{heart.name}=esophagus",))
    done = convert(source, tmp_path / "cohort", options)
    record = extracted(source, tmp_path / "b", cohort=CohortPaths(tmp_path / "cohort"))
    mended = next(roi for roi in record.rois if roi.number == heart.number)
    assert (mended.structure, mended.by) == ("esophagus", "correction")
    truth = structures_of(done, record.case)
    shown = segments(tmp_path / "b" / "structures.seg.nrrd", truth.shape)
    assert np.array_equal(shown[str(mended.segment)][1], truth.mask("esophagus"))


def test_a_slice_that_no_file_holds_is_filled_as_in_the_conversion(phantoms: Path, tmp_path: Path) -> None:
    source = tmp_path / "p"
    shutil.copytree(patient(phantoms), source)
    slices = sorted(
        (float(d.ImagePositionPatient[2]), d.filename, d.SOPInstanceUID)
        for d in (pydicom.dcmread(f) for f in source.rglob("*") if f.is_file())
        if d.Modality == "CT"
    )
    _, middle, uid = slices[len(slices) // 2]
    Path(str(middle)).unlink()

    def leave_out(dataset: pydicom.Dataset) -> None:
        for item in dataset.ROIContourSequence:
            item.ContourSequence = [
                one for one in item.ContourSequence if one.ContourImageSequence[0].ReferencedSOPInstanceUID != uid
            ]

    source = edited(source, tmp_path / "q", leave_out)
    record = extracted(source, tmp_path / "out")
    done = convert(source, tmp_path / "cohort")
    case = read_record(CaseRecord, done.paths.case(record.case).record)
    assert case.interpolated_slices == (len(slices) // 2,)
    truth = structures_of(done, record.case)
    shown = segments(tmp_path / "out" / "structures.seg.nrrd", truth.shape)
    for roi in record.rois:
        if roi.segment is not None:
            assert np.array_equal(shown[roi.segment][1], truth.mask(str(roi.structure))), roi.name


def test_a_ct_without_contours_comes_without_segments(phantoms: Path, tmp_path: Path) -> None:
    source = tmp_path / "p"
    shutil.copytree(patient(phantoms), source)
    for file in source.rglob("*"):
        if file.is_file() and pydicom.dcmread(file).Modality == "RTSTRUCT":
            file.unlink()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "structures.seg.nrrd").write_text("of another patient")
    record = extracted(source, tmp_path / "out")
    assert record.segments is None
    assert record.rois == ()
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"ct.nrrd", "extract.json"}
    by_series = extracted(source, tmp_path / "again", series=record.series_uid[-12:])
    assert by_series.series_uid == record.series_uid


def test_of_several_cases_one_has_to_be_named(phantoms: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="2 cases") as caught:
        extracted(phantoms, tmp_path / "out")
    names = [case.name for case in sorted(phantoms.iterdir())]
    assert all(name in caught.value.hint for name in names)
    assert extracted(phantoms, tmp_path / "out", case=names[1]).case == names[1]
    with pytest.raises(BadInputError, match="no case"):
        extracted(phantoms, tmp_path / "out", case="nobody")
    with pytest.raises(BadInputError, match="no CT series"):
        extracted(phantoms, tmp_path / "out", series="999.999")
    with pytest.raises(BadInputError, match="no CT series"):
        (tmp_path / "empty").mkdir()
        extracted(tmp_path / "empty", tmp_path / "out")


def test_the_record_is_there_only_when_all_is_whole(phantoms: Path, tmp_path: Path) -> None:
    class StopsAfterTheCt(SilentReporter):
        read = False

        def progress(self, stage: str, done: int, total: int | None = None, message: str = "") -> None:
            self.read = stage == "extract" and done == 1

        def check_cancelled(self) -> None:
            if self.read:
                raise CancelledError("stop")

    extracted(patient(phantoms), tmp_path)
    with pytest.raises(CancelledError):
        extracted(patient(phantoms), tmp_path, reporter=StopsAfterTheCt())
    assert not (tmp_path / "extract.json").exists()


def test_the_command_tells_its_files_as_an_event(phantoms: Path, tmp_path: Path) -> None:
    out = tmp_path / "hors d’œuvre"
    done = lungseg("extract", patient(phantoms), out, "--events")
    assert done.returncode == 0, done.stderr
    events = [event for line in done.stdout.splitlines() if (event := parse_event(line)) is not None]
    result = next(event for event in events if event.event == "result")
    assert result.paths == {
        "ct": str(out / "ct.nrrd"),
        "record": str(out / "extract.json"),
        "segments": str(out / "structures.seg.nrrd"),
    }
    content = json.loads((out / "extract.json").read_text(encoding="utf-8"))
    assert len(content["ct_files"]) == content["geometry"]["size"][2]
    missing = lungseg("extract", tmp_path / "nowhere", out)
    assert missing.returncode == ExitCode.BAD_INPUT
    assert "Traceback" not in missing.stderr


def test_scan_tells_volumes_on_request(phantoms: Path, tmp_path: Path) -> None:
    done = lungseg("scan", patient(phantoms), "--volumes", "--json")
    (case,) = json.loads(done.stdout)["cases"]
    record = extracted(patient(phantoms), tmp_path, all_rois=True)
    told = {roi["number"]: roi["volume_cc"] for roi in case["rois"]}
    assert told == {roi.number: roi.volume_cc for roi in record.rois}
    assert Path(case["folder"]).resolve() == patient(phantoms).resolve()


def test_a_list_of_files_stands_for_a_folder(phantoms: Path, tmp_path: Path) -> None:
    folders = sorted(phantoms.iterdir())
    listed = tmp_path / "liste é.txt"
    files = sorted(str(file) for file in folders[0].rglob("*") if file.is_file())
    listed.write_text("\n".join([*files, "", str(tmp_path / "gone.dcm")]), encoding="utf-8")
    assert extracted(listed, tmp_path / "out").case == folders[0].name
    done = lungseg("scan", listed, "--output", tmp_path / "s.json")
    assert done.returncode == 0
    content = json.loads((tmp_path / "s.json").read_text(encoding="utf-8"))
    assert [case["case"] for case in content["cases"]] == [folders[0].name]
    assert [Path(one["path"]).name for one in content["scan"]["unreadable"]] == ["gone.dcm"]
    listed.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInputError, match="no list of files"):
        extracted(listed, tmp_path / "out")
    with pytest.raises(BadInputError, match="no such folder"):
        extracted(tmp_path / "none.txt", tmp_path / "out")


def block(identifier: str, *spans: tuple[int, int]) -> Segment:
    z, y, x = (slice(*span) for span in spans)
    shape = tuple(stop - start for start, stop in spans)
    return Segment(identifier, identifier, (1, 2, 3), "", (z, y, x), np.ones(shape, bool))


def test_only_segments_that_overlap_get_layers_of_their_own() -> None:
    one, inside, beside = (
        block("a", (0, 4), (0, 4), (0, 4)),
        block("b", (1, 2), (1, 2), (1, 2)),
        block("c", *[(4, 6)] * 3),
    )
    assert layers_of([one, inside, beside]) == [(0, 1), (1, 1), (0, 2)]
    hollow = Segment("d", "d", (1, 2, 3), "", one.box, np.zeros((4, 4, 4), bool))
    assert layers_of([one, hollow]) == [(0, 1), (0, 2)]


def test_segments_without_a_voxel_are_written_and_empty(tmp_path: Path) -> None:
    grid = Grid((5, 6, 7), (1.0, 2.0, 3.0), (10.0, 20.0, 30.0), (1, 0, 0, 0, 1, 0, 0, 0, 1))
    nothing = Segment("e", "e", (1, 2, 3), "", (slice(0, 0),) * 3, np.zeros((0, 0, 0), bool))
    path = write_segments([nothing], grid, tmp_path / "e.seg.nrrd", description="x")
    assert not segments(path, grid.shape)["e"][1].any()
    path = write_segments([nothing, block("f", (6, 7), (5, 6), (4, 5))], grid, tmp_path / "f.seg.nrrd", description="x")
    found = segments(path, grid.shape)
    assert not found["e"][1].any()
    assert np.argwhere(found["f"][1]).tolist() == [[6, 5, 4]]


def test_no_file_holds_a_single_voxel_which_slicer_does_not_survive(tmp_path: Path) -> None:
    grid = Grid((5, 6, 7), (1.0, 2.0, 3.0), (10.0, 20.0, 30.0), (1, 0, 0, 0, 1, 0, 0, 0, 1))
    for corner in ((0, 0, 0), (3, 3, 2), (6, 5, 4)):
        only = block("a", *[(place, place + 1) for place in corner])
        path = write_segments([only], grid, tmp_path / "a.seg.nrrd", description="x")
        assert all(int(size) > 1 for size in header(path)["sizes"].split())
        assert np.argwhere(segments(path, grid.shape)["a"][1]).tolist() == [list(corner)]


@pytest.mark.realdata
def test_lung1_002_has_the_voxels_that_plastimatch_counts(data: Path, tmp_path: Path) -> None:
    record = extracted(data / "rt_lung1-002", tmp_path)
    shown = segments(tmp_path / "structures.seg.nrrd", tuple(reversed(record.geometry.size)))
    assert len(shown) == 7
    counts = {key: int(mask.sum()) for key, (_, mask) in shown.items()}
    expected = {"gtv": 125204, "ptv": 347392, "heart": 373247, "esophagus": 19236, "spinal_cord": 22216}
    expected |= {"lung_right": 658479, "lung_left": 686334}
    for key, count in expected.items():
        assert counts[key] == pytest.approx(count, rel=2e-3), key


@pytest.mark.realdata
def test_a_ct_of_real_patients_in_one_folder_is_found_by_its_case(data: Path, tmp_path: Path) -> None:
    shutil.copytree(data / "rt_ibsi_pat2", tmp_path / "in" / "2")
    shutil.copytree(data / "rt_ibsi_pat3", tmp_path / "in" / "3")
    with pytest.raises(BadInputError, match="2 cases"):
        extracted(tmp_path / "in", tmp_path / "out")
