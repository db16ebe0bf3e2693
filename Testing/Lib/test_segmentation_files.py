"""Segmentation files of every kind: ours, such as Slicer and other makers write, and broken ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
import result_files
import SimpleITK as sitk
from pydicom.sr.coding import Code as DicomCode
from pydicom.uid import ExplicitVRLittleEndian, RLELossless, generate_uid

from LungSegmentationLib.dicom.readers.segment_names import SegmentInfo, match_segments
from LungSegmentationLib.dicom.writers import RESULT_ENDINGS, write_result
from LungSegmentationLib.errors import BadInputError, GeometryError, UnsupportedFileError
from LungSegmentationLib.evaluation.evaluate import evaluate_pairs
from LungSegmentationLib.evaluation.pairs import find_pairs
from LungSegmentationLib.geometry import Grid
from LungSegmentationLib.jobs.events import SilentReporter
from LungSegmentationLib.labels import load_label_set
from LungSegmentationLib.segmentation_files import (
    own_grid,
    placement,
    read_segmentation_file,
    segmentation_kind,
    segmentation_stem,
)
from LungSegmentationLib.structures import StructureMap

THORAX = load_label_set()
GRID = Grid((30, 36, 9), (0.8, 1.1, 2.5), (-12.5, 4.5, 6.75), (1, 0, 0, 0, 1, 0, 0, 0, 1))
COSINE, SINE = float(np.cos(0.3)), float(np.sin(0.3))
GRIDS = {
    "axial": GRID,
    "feet first": Grid(GRID.size, GRID.spacing, GRID.origin, (-1, 0, 0, 0, 1, 0, 0, 0, -1)),
    "sagittal": Grid(GRID.size, GRID.spacing, GRID.origin, (0, 0, 1, 1, 0, 0, 0, -1, 0)),
    "oblique": Grid(GRID.size, GRID.spacing, GRID.origin, (COSINE, 0, SINE, 0, 1, 0, -SINE, 0, COSINE)),
}
LUNG, HEART = THORAX["lung_right"].type, THORAX["heart"].type
RIGHT, LEFT = THORAX["lung_right"].modifier, THORAX["lung_left"].modifier
assert RIGHT
assert LEFT


# ---------------------------------------------------------------- what a segment is


def named(*segments: SegmentInfo | str, code_first: bool = False) -> tuple[tuple[str | None, ...], tuple[str, ...]]:
    infos = [SegmentInfo(one) if isinstance(one, str) else one for one in segments]
    match = match_segments(infos, THORAX, code_first=code_first)
    return match.keys, match.warnings


def pair(code: Any) -> tuple[str, str]:
    return code.scheme, code.value


def test_segments_are_known_by_key_name_or_tg263_name_in_any_case() -> None:
    assert named("lung_left", "Right Lung", "SPINALCORD", "gtv") == (
        ("lung_left", "lung_right", "spinal_cord", "gtv"),
        (),
    )


def test_segments_are_known_by_the_rules_for_roi_names() -> None:
    assert named("Poumon G", "Herz", "Oesophagus")[0] == ("lung_left", "heart", "esophagus")


def test_segments_are_known_by_their_code_and_its_side() -> None:
    left = SegmentInfo("Segment_1", type=pair(LUNG), modifier=pair(LEFT))
    right = SegmentInfo("Segment_2", type=pair(LUNG), modifier=pair(RIGHT))
    assert named(left, right) == (("lung_left", "lung_right"), ())
    both = SegmentInfo("Segment_3", type=pair(LUNG))
    keys, warnings = named(both)
    assert keys == (None,)
    assert "“Segment_3” is no structure" in warnings[0]


def test_a_further_modifier_takes_nothing_from_a_code_without_side() -> None:
    assert named(SegmentInfo("x", type=pair(HEART), modifier=pair(LEFT)))[0] == ("heart",)


@pytest.mark.parametrize(("code_first", "key"), [(True, "lung_left"), (False, "heart")])
def test_a_name_and_a_code_that_disagree_are_told(code_first: bool, key: str) -> None:
    keys, warnings = named(SegmentInfo("heart", "lung_left", "Lung_L", pair(LUNG), pair(LEFT)), code_first=code_first)
    assert keys == (key,)
    assert len(warnings) == 1
    assert "heart" in warnings[0]
    assert "left lung" in warnings[0]


def test_targets_are_united_and_an_organ_is_one_segment() -> None:
    keys, warnings = named("GTV", "GTV 2", SegmentInfo("Herz alt", type=pair(HEART)), "heart")
    assert keys == ("gtv", "gtv", None, "heart")
    assert warnings == ("Segment “Herz alt” was left out: heart is segment “heart”.",)


def test_segments_that_are_no_structure_are_told() -> None:
    keys, warnings = named("Trachea", "body", "", "heart")
    assert keys == (None, None, None, "heart")
    assert warnings == ("Segments “Trachea”, “body”, “” are no structure of the label set thorax and left out.",)


# ---------------------------------------------------------------- seg.nrrd


def saved(path: Path, layers: np.ndarray, grid: Grid, **texts: str) -> Path:
    """A file as SimpleITK writes it: layers (z, y, x) or (z, y, x, layer)."""
    image = sitk.GetImageFromArray(layers, isVector=layers.ndim == 4)
    image.SetSpacing(grid.spacing)
    image.SetOrigin(grid.origin)
    image.SetDirection(grid.direction)
    for key, value in texts.items():
        image.SetMetaData(key, value)
    sitk.WriteImage(image, str(path), useCompression=True)
    return path


def slicer_texts(*segments: tuple[str, str, int, int], reference: Grid | None = None) -> dict[str, str]:
    """Name, tags, layer and value of each segment, in the keys that Slicer 5 writes."""
    texts = {"Segmentation_MasterRepresentation": "Binary labelmap"}
    for n, (name, tags, layer, value) in enumerate(segments):
        texts |= {
            f"Segment{n}_ID": f"Segment_{n + 1}",
            f"Segment{n}_Name": name,
            f"Segment{n}_Layer": str(layer),
            f"Segment{n}_LabelValue": str(value),
            f"Segment{n}_Tags": tags,
        }
    if reference is not None:
        matrix = np.diag([-1.0, -1, 1, 1]) @ reference.affine
        numbers = [*matrix.ravel().tolist(), *(v for size in reference.size for v in (0, size - 1))]
        texts["Segmentation_ConversionParameters"] = (
            "Collapse labelmaps|1|Merge the labelmaps&Reference image geometry|"
            + ";".join(f"{value:.17g}" for value in numbers)
            + ";|Image geometry description string&Smoothing factor|0.5|x&"
        )
    return texts


def terminology(code: Any, modifier: Any = None) -> str:
    extra = "^^" if modifier is None else f"{modifier.scheme}^{modifier.value}^{modifier.meaning}"
    return (
        "Segmentation.Status:inprogress|TerminologyEntry:Segmentation category and type - 3D Slicer General Anatomy "
        f"list~SCT^1^x~{code.scheme}^{code.value}^{code.meaning}~{extra}~Anatomic codes - DICOM master list~^^~^^|"
    )


@pytest.mark.parametrize("overlapping", [True, False])
@pytest.mark.parametrize("name", GRIDS)
def test_our_own_file_comes_back_as_it_was(tmp_path: Path, name: str, overlapping: bool) -> None:
    structures = result_files.anatomy(overlapping=overlapping)
    path = write_result(structures, GRIDS[name], tmp_path / "ü 肺.seg.nrrd", description="von Hand")
    found = read_segmentation_file(path, THORAX)
    assert found.kind == "seg.nrrd"
    assert np.array_equal(found.structures.bits, structures.bits)
    assert found.grid.matches(GRIDS[name], 1e-9)
    assert found.keys == THORAX.keys  # the heart's segment is empty, and there
    assert found.warnings == ()
    assert found.exclusive is not overlapping
    assert found.description == "von Hand"


@pytest.mark.parametrize("name", GRIDS)
def test_a_file_that_slicer_cut_to_its_segments_lies_where_it_was(tmp_path: Path, name: str) -> None:
    grid = GRIDS[name]
    structures = result_files.anatomy()
    z, y, x = slice(2, 8), slice(3, 30), slice(1, 28)
    origin = tuple(grid.to_physical([[1.0, 3.0, 2.0]])[0].tolist())
    part = Grid((27, 27, 6), grid.spacing, origin, grid.direction)
    layers = np.stack(
        [
            structures.mask("lung_right")[z, y, x] * 2 + (structures.mask("spinal_cord")[z, y, x]) * 0,
            structures.mask("gtv")[z, y, x],
        ],
        axis=-1,
    ).astype(np.uint8)
    texts = slicer_texts(
        ("Segment_1", terminology(LUNG, RIGHT), 0, 2), ("GTV neu", "", 1, 1), ("Tissue", "", 0, 9), reference=grid
    )
    path = saved(tmp_path / "edited.seg.nrrd", layers, part, **texts)
    expected = np.zeros(grid.shape, bool)
    expected[z, y, x] = True
    for on in (None, grid):
        found = read_segmentation_file(path, THORAX, on)
        assert found.grid.matches(grid, 1e-6)
        assert np.array_equal(found.structures.mask("lung_right"), structures.mask("lung_right") & expected)
        assert np.array_equal(found.structures.mask("gtv"), structures.mask("gtv") & expected)
        assert found.keys == ("gtv", "lung_right")
        assert found.warnings == ("Segment “Tissue” is no structure of the label set thorax and left out.",)
    assert placement(path)(grid)
    moved = Grid(grid.size, grid.spacing, (0.3, 0.1, 0.2), grid.direction)
    assert not placement(path)(moved)
    with pytest.raises(GeometryError, match="does not lie on the voxels"):
        read_segmentation_file(path, THORAX, moved)


def test_without_a_reference_geometry_the_file_has_its_own_grid(tmp_path: Path) -> None:
    texts = slicer_texts(("heart", "", 0, 1))
    path = saved(tmp_path / "a.seg.nrrd", np.ones((3, 4, 5), np.uint8), Grid((5, 4, 3), *_rest()), **texts)
    found = read_segmentation_file(path, THORAX)
    assert found.grid.size == (5, 4, 3)
    other = Grid((5, 4, 3), (1, 1, 1.5), (0, 0, 0), (1, 0, 0, 0, 1, 0, 0, 0, 1))
    path = saved(
        tmp_path / "b.seg.nrrd",
        np.ones((3, 4, 5), np.uint8),
        Grid((5, 4, 3), *_rest()),
        **slicer_texts(("heart", "", 0, 1), reference=other),
    )
    assert read_segmentation_file(path, THORAX).grid.spacing == (1, 1, 2)


def _rest() -> tuple[Any, Any, Any]:
    return (1.0, 1.0, 2.0), (0.0, 0.0, 0.0), (1, 0, 0, 0, 1, 0, 0, 0, 1)


def test_what_was_painted_outside_of_the_image_is_told(tmp_path: Path) -> None:
    texts = slicer_texts(("heart", "", 0, 1))
    path = saved(tmp_path / "a.seg.nrrd", np.ones((3, 4, 5), np.uint8), Grid((5, 4, 3), *_rest()), **texts)
    target = Grid((10, 3, 10), (1, 1, 2), (2.0, 0.0, -2.0), (1, 0, 0, 0, 1, 0, 0, 0, 1))
    found = read_segmentation_file(path, THORAX, target)
    assert found.structures.voxel_counts()["heart"] == 3 * 3 * 3
    assert found.structures.mask("heart")[1:4, 0:3, 0:3].all()
    assert found.warnings == ("33 voxels of a.seg.nrrd lie outside of the image and were left out.",)
    nowhere = Grid((10, 3, 10), (1, 1, 2), (200.0, 0.0, -2.0), (1, 0, 0, 0, 1, 0, 0, 0, 1))
    assert not placement(path)(nowhere)
    assert read_segmentation_file(path, THORAX, nowhere).structures.bits.max() == 0


def test_a_file_of_an_old_slicer_has_a_layer_a_segment(tmp_path: Path) -> None:
    layers = np.zeros((3, 4, 5, 2), np.uint8)
    layers[0, ..., 0] = 1
    layers[0:2, ..., 1] = 1
    texts = {"Segment0_ID": "a", "Segment0_Name": "GTV", "Segment1_ID": "b", "Segment1_Name": "PTV"}
    path = saved(tmp_path / "old.nrrd", layers, Grid((5, 4, 3), *_rest()), **texts)
    assert segmentation_kind(path) == "seg.nrrd"  # by its header, whatever it is called
    counts = read_segmentation_file(path, THORAX).structures.voxel_counts()
    assert (counts["gtv"], counts["ptv"]) == (20, 40)


@pytest.mark.parametrize(
    ("texts", "layers", "said"),
    [
        ({}, np.zeros((2, 3, 4), np.uint8), "names no segment"),
        ({"Segment0_ID": "a", "Segment0_Layer": "4"}, np.zeros((2, 3, 4), np.uint8), "layer 4"),
        ({"Segment0_ID": "a"}, np.zeros((2, 3, 4), np.float32), "fractions"),
        ({"Segment0_ID": "a"}, np.zeros((3, 4), np.uint8), "2 dimensions"),
        ({"Segment0_ID": "a", "Segment0_Name": "Trachea"}, np.zeros((2, 3, 4), np.uint8), "None of the 1 segments"),
    ],
)
def test_a_seg_nrrd_that_holds_no_structures_is_refused(
    tmp_path: Path, texts: dict[str, str], layers: np.ndarray, said: str
) -> None:
    image = sitk.GetImageFromArray(layers)
    for key, value in texts.items():
        image.SetMetaData(key, value)
    sitk.WriteImage(image, str(tmp_path / "a.seg.nrrd"))
    with pytest.raises(BadInputError, match=said):
        read_segmentation_file(tmp_path / "a.seg.nrrd", THORAX)


# ---------------------------------------------------------------- DICOM SEG


@pytest.mark.parametrize("orientation", result_files.ORIENTATIONS)
def test_our_own_seg_comes_back_on_the_ct(tmp_path: Path, orientation: str) -> None:
    ct, source = result_files.source(tmp_path / "ct", orientation)
    structures = result_files.anatomy()
    path = write_result(structures, source, tmp_path / "a.seg.dcm")
    found = read_segmentation_file(path, THORAX, ct)
    assert found.kind == "dicom-seg"
    assert np.array_equal(found.structures.bits, structures.bits)
    assert found.warnings == ()
    # DICOM has no empty segments.
    assert found.keys == ("gtv", "ptv", "lung_right", "esophagus", "spinal_cord")
    assert placement(path)(ct.grid)
    # Alone it lies on the slices that hold something: all of them, here.
    alone = read_segmentation_file(path, THORAX)
    assert alone.grid.matches(ct.grid, 0.01)
    assert np.array_equal(alone.structures.bits, structures.bits)
    assert own_grid(path) is None


def foreign_seg(folder: Path, masks: dict[int, np.ndarray], **more: Any) -> tuple[Path, Any]:
    """A SEG of another maker, in highdicom's own way of writing it."""
    ct, _ = result_files.source(folder / "ct")
    images = sorted(
        (pydicom.dcmread(file) for file in (folder / "ct").iterdir()), key=lambda image: image.ImagePositionPatient[2]
    )
    labels = more.pop("labels", {number: f"Segment {number}" for number in masks})
    codes = more.pop("codes", dict.fromkeys(masks, DicomCode("85756007", "SCT", "Tissue")))
    kind = more.pop("kind", highdicom.seg.SegmentationTypeValues.BINARY)
    descriptions = [
        highdicom.seg.SegmentDescription(
            number,
            labels[number],
            DicomCode("85756007", "SCT", "Tissue"),
            codes[number],
            highdicom.seg.SegmentAlgorithmTypeValues.MANUAL,
        )
        for number in masks
    ]
    array = np.stack(list(masks.values()), axis=-1)
    dataset = highdicom.seg.Segmentation(
        source_images=images,
        pixel_array=array,
        segmentation_type=kind,
        segment_descriptions=descriptions,
        series_instance_uid=generate_uid(),
        series_number=3,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="Somebody",
        manufacturer_model_name="Other",
        software_versions="0",
        device_serial_number="0",
        **more,
    )
    path = folder / "foreign.dcm"
    dataset.save_as(path)
    return path, ct


@pytest.mark.parametrize("omit", [True, False])
def test_a_seg_of_another_maker_is_read_by_label_and_code(tmp_path: Path, omit: bool) -> None:
    structures = result_files.anatomy()
    masks = {1: structures.mask("gtv"), 2: structures.mask("lung_right"), 3: structures.mask("ptv")}
    heart = DicomCode(HEART.value, HEART.scheme, HEART.meaning)
    tissue = DicomCode("85756007", "SCT", "Tissue")
    path, ct = foreign_seg(
        tmp_path,
        masks,
        labels={1: "Tumour GTV", 2: "irgendwas", 3: "unknown thing"},
        codes={1: tissue, 2: heart, 3: tissue},
        omit_empty_frames=omit,
    )
    found = read_segmentation_file(path, THORAX, ct)
    assert found.keys == ("gtv", "heart")
    assert np.array_equal(found.structures.mask("gtv"), masks[1])
    assert np.array_equal(found.structures.mask("heart"), masks[2])
    assert found.warnings == ("Segment “unknown thing” is no structure of the label set thorax and left out.",)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless])
def test_fractions_count_from_a_half(tmp_path: Path, syntax: Any) -> None:
    part = np.zeros(result_files.SHAPE, np.float64)
    part[3:5, 4:9, 5:8] = 0.7
    part[3:5, 9:12, 5:8] = 0.3
    path, ct = foreign_seg(
        tmp_path,
        {1: part},
        labels={1: "heart"},
        kind=highdicom.seg.SegmentationTypeValues.FRACTIONAL,
        fractional_type="PROBABILITY",
        transfer_syntax_uid=syntax,
    )
    found = read_segmentation_file(path, THORAX, ct)
    assert np.array_equal(found.structures.mask("heart"), part > 0.5)
    assert "fractions" in found.warnings[0]


def test_a_seg_of_few_slices_alone_lies_on_the_smallest_grid(tmp_path: Path) -> None:
    mask = np.zeros(result_files.SHAPE, bool)
    mask[3, 4:9, 5:8] = mask[6, 4:9, 5:8] = True
    path, ct = foreign_seg(tmp_path, {1: mask}, labels={1: "heart"})
    alone = read_segmentation_file(path, THORAX)
    assert alone.grid.size == (30, 36, 4)
    assert alone.grid.spacing == pytest.approx(ct.grid.spacing)
    assert np.array_equal(alone.structures.mask("heart"), mask[3:7])
    assert placement(path)(ct.grid)


def test_a_seg_of_another_ct_is_refused(tmp_path: Path) -> None:
    ct, source = result_files.source(tmp_path / "ct")
    path = write_result(result_files.anatomy(), source, tmp_path / "a.seg.dcm")
    moved = Grid(ct.grid.size, ct.grid.spacing, (0, 0, 0), ct.grid.direction)
    with pytest.raises(GeometryError, match="does not lie on the voxels"):
        read_segmentation_file(path, THORAX, moved)
    assert not placement(path)(moved)
    other, _ = result_files.source(tmp_path / "other", FrameOfReferenceUID="1.2.3.4")
    with pytest.raises(GeometryError, match="frame of reference"):
        read_segmentation_file(path, THORAX, other)


def broken(dataset: pydicom.Dataset, fault: str) -> None:
    if fault == "no segments":
        del dataset.SegmentSequence
    elif fault == "pixels cut off":
        dataset.PixelData = dataset.PixelData[:100]
    elif fault == "no position":
        for group in dataset.PerFrameFunctionalGroupsSequence:
            del group.PlanePositionSequence
    elif fault == "foreign number":
        group = dataset.PerFrameFunctionalGroupsSequence[0]
        group.SegmentIdentificationSequence[0].ReferencedSegmentNumber = 77
    elif fault == "no frame":
        dataset.PerFrameFunctionalGroupsSequence = []
    elif fault == "skewed":
        for group in dataset.SharedFunctionalGroupsSequence:
            group.PlaneOrientationSequence[0].ImageOrientationPatient = [1, 0, 0, 1, 0, 0]
    elif fault == "nan":
        dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing = [0, 0]


@pytest.mark.parametrize(
    "fault", ["no segments", "pixels cut off", "no position", "foreign number", "no frame", "skewed", "nan"]
)
def test_a_broken_seg_is_refused_in_a_sentence(tmp_path: Path, fault: str) -> None:
    ct, source = result_files.source(tmp_path / "ct")
    path = write_result(result_files.anatomy(), source, tmp_path / "a.seg.dcm")
    dataset = pydicom.dcmread(path)
    broken(dataset, fault)
    dataset.save_as(path)
    for on in (None, ct):
        with pytest.raises(BadInputError, match=r"a\.seg\.dcm"):
            read_segmentation_file(path, THORAX, on)


# ---------------------------------------------------------------- RTSTRUCT, label maps, all of them


def test_an_rtstruct_is_drawn_on_the_ct_or_its_grid(tmp_path: Path) -> None:
    ct, source = result_files.source(tmp_path / "ct")
    structures = result_files.anatomy()
    path = write_result(structures, source, tmp_path / "a.rtstruct.dcm")
    for on in (ct, ct.grid):
        found = read_segmentation_file(path, THORAX, on)
        assert found.kind == "rtstruct"
        assert np.array_equal(found.structures.bits, structures.bits)
    with pytest.raises(BadInputError, match="CT"):
        read_segmentation_file(path, THORAX)


@pytest.mark.parametrize("kind", RESULT_ENDINGS)
def test_every_format_that_we_write_is_read(tmp_path: Path, kind: str) -> None:
    ct, source = result_files.source(tmp_path / "ct")
    structures = result_files.anatomy(overlapping=False)
    path = write_result(structures, source, tmp_path / f"P1{RESULT_ENDINGS[kind]}")
    found = read_segmentation_file(path, THORAX, ct)
    assert np.array_equal(found.structures.bits, structures.bits)
    assert found.exclusive
    assert segmentation_stem(path) == "P1"


def test_structure_bits_keep_their_overlaps(tmp_path: Path) -> None:
    structures = result_files.anatomy()
    sitk.WriteImage(GRID.image(structures.bits), str(tmp_path / "structures.nii.gz"))
    found = read_segmentation_file(tmp_path / "structures.nii.gz", THORAX)
    assert found.kind == "bits"
    assert np.array_equal(found.structures.bits, structures.bits)
    assert not found.exclusive
    assert "heart" not in found.keys


def test_what_is_no_segmentation_is_refused_in_a_sentence(tmp_path: Path) -> None:
    result_files.series(tmp_path / "ct")
    (tmp_path / "text.txt").write_text("no")
    (tmp_path / "empty.dcm").write_bytes(b"")
    (tmp_path / "empty.seg.nrrd").write_bytes(b"")
    (tmp_path / "lies.seg.nrrd").write_text("NRRD0004\ntype: uint8\ndimension: 3\nsizes: 9 9 9\nencoding: raw\n\n")
    slices = sorted((tmp_path / "ct").iterdir())
    cases: list[tuple[Path, type[BadInputError], str]] = [
        (slices[0], UnsupportedFileError, "of the kind CT"),
        (tmp_path / "text.txt", UnsupportedFileError, "unknown kind"),
        (tmp_path / "empty.dcm", UnsupportedFileError, "unknown kind"),
        (tmp_path / "empty.seg.nrrd", BadInputError, "damaged"),
        (tmp_path / "lies.seg.nrrd", BadInputError, "damaged|names no segment"),
        (tmp_path / "nothing.seg.dcm", BadInputError, "There is no file"),
        (tmp_path, BadInputError, "There is no file"),
    ]
    for path, kind, said in cases:
        with pytest.raises(kind, match=said):
            read_segmentation_file(path, THORAX)


@pytest.mark.realdata
def test_slicers_way_of_cutting_and_ours_agree_on_a_real_rtstruct(data: Path, tmp_path: Path) -> None:
    """Voxels of LUNG1-002 after plastimatch; the RTSTRUCT on the CT's grid without the CT."""
    from LungSegmentationLib.dicom.ct import read_grid
    from LungSegmentationLib.dicom.scan import scan

    found = scan(data / "rt_lung1-002")
    series = max((one for patient in found.patients for one in patient.series), key=lambda one: one.slice_count)
    (link,) = [link for patient in found.patients for link in patient.links_of(series)]
    read = read_segmentation_file(link.rtstruct.path, THORAX, read_grid(series))
    counts = read.structures.voxel_counts()
    plastimatch = {"heart": 373247, "esophagus": 19236, "spinal_cord": 22216, "lung_right": 658479, "lung_left": 686334}
    for key, voxels in plastimatch.items():
        assert counts[key] == pytest.approx(voxels, rel=0.005)
    assert any("contrast" in warning for warning in read.warnings)


# ---------------------------------------------------------------- both sides of an evaluation


@pytest.mark.parametrize("kind", RESULT_ENDINGS)
def test_a_prediction_of_any_kind_is_compared_with_structures_of_any_kind(tmp_path: Path, kind: str) -> None:

    _, source = result_files.source(tmp_path / "P1" / "ct files")
    structures = result_files.anatomy()
    overlapping = kind in {"seg.nrrd", "dicom-seg", "rtstruct"}
    write_result(structures, source, tmp_path / "p" / f"P1{RESULT_ENDINGS[kind]}")
    for other in ("seg.nrrd", "nifti", "dicom-seg"):
        write_result(structures, source, tmp_path / other / f"P1{RESULT_ENDINGS[other]}")
        (pair,) = find_pairs(tmp_path / "p", tmp_path / other, THORAX).pairs
        if "rtstruct" in {kind, other} and "dicom-seg" in {kind, other}:
            continue  # neither knows the grid: see the test with the CT
        loaded = pair.load(THORAX)
        assert loaded.case == "P1"
        assert isinstance(loaded.prediction, StructureMap) is overlapping
        both = [
            side.label_map() if isinstance(side, StructureMap) else side
            for side in (loaded.prediction, loaded.reference)
        ]
        assert np.array_equal(both[0], both[1])
        # Contours of what was looked for and not found are told.
        assert loaded.warnings == () or kind == "rtstruct"


def test_contours_among_the_slices_of_their_ct_are_a_reference_with_pictures(tmp_path: Path) -> None:

    ct, source = result_files.source(tmp_path / "patients" / "P1")
    structures = result_files.anatomy()
    write_result(structures, source, tmp_path / "patients" / "P1" / "RS.dcm", format="rtstruct")
    write_result(structures, source, tmp_path / "p" / "P1.seg.dcm")
    for reference in (tmp_path / "patients", tmp_path / "patients" / "P1"):
        (pair,) = find_pairs(tmp_path / "p", reference, THORAX).pairs
        loaded = pair.load(THORAX)
        assert (loaded.case, loaded.grid.matches(ct.grid)) == ("P1", True)
        assert isinstance(loaded.prediction, StructureMap)
        assert isinstance(loaded.reference, StructureMap)
        assert np.array_equal(loaded.prediction.bits, loaded.reference.bits)
        assert loaded.ct is not None
        assert np.array_equal(loaded.ct, ct.array)


def test_two_files_that_know_no_grid_need_the_ct(tmp_path: Path) -> None:

    _, source = result_files.source(tmp_path / "ct")
    structures = result_files.anatomy()
    one = write_result(structures, source, tmp_path / "one.rtstruct.dcm")
    two = write_result(structures, source, tmp_path / "two.rtstruct.dcm")
    with pytest.raises(BadInputError, match="Give the CT"):
        find_pairs(one, two, THORAX).pairs[0].load(THORAX)
    loaded = find_pairs(one, two, THORAX, ct=tmp_path / "ct").pairs[0].load(THORAX)
    assert isinstance(loaded.prediction, StructureMap)
    assert isinstance(loaded.reference, StructureMap)
    assert np.array_equal(loaded.prediction.bits, loaded.reference.bits)


def test_what_a_side_leaves_out_is_said_with_its_side(tmp_path: Path) -> None:

    heard: list[tuple[str, str]] = []

    class Listening(SilentReporter):
        def warning(self, message: str, subject: str = "") -> None:
            heard.append((message, subject))

    values = np.zeros((3, 4, 5), np.uint8)
    values[1] = 1
    texts = slicer_texts(("heart", "", 0, 1), ("Trachea", "", 0, 2))
    (tmp_path / "p").mkdir()
    saved(tmp_path / "p" / "a.seg.nrrd", values, Grid((5, 4, 3), *_rest()), **texts)
    saved(tmp_path / "a.nrrd", values * 5, Grid((5, 4, 3), *_rest()))
    done = evaluate_pairs(find_pairs(tmp_path / "p", tmp_path / "a.nrrd", THORAX).pairs, tmp_path / "out", Listening())
    assert done.cases[0].scores[0].dice == 1
    assert (
        "Prediction: Segment “Trachea” is no structure of the label set thorax and left out.",
        "a",
    ) in heard


# ---------------------------------------------------------------- damage


@pytest.mark.parametrize("kind", ["seg.nrrd", "nrrd", "mha", "nifti"])
def test_one_wrong_byte_in_compressed_voxels_is_noticed(tmp_path: Path, kind: str) -> None:
    """ITK reads on: the checksums behind the voxels are what tells."""
    path = write_result(result_files.anatomy(), GRID, tmp_path / f"a{RESULT_ENDINGS[kind]}")
    whole = path.read_bytes()
    before = read_segmentation_file(path, THORAX)
    refused = 0
    random = np.random.default_rng(1)
    for _ in range(25):
        spoiled = bytearray(whole)
        spoiled[len(whole) - int(random.integers(12, 300))] ^= int(random.integers(1, 256))
        path.write_bytes(bytes(spoiled))
        try:
            found = read_segmentation_file(path, THORAX)
        except BadInputError:
            refused += 1
        else:
            # A byte that packs nothing may be any.
            assert np.array_equal(found.structures.bits, before.structures.bits)
    assert refused > 20


@pytest.mark.parametrize("kind", ["dicom-seg", "rtstruct", "seg.nrrd"])
@pytest.mark.parametrize("seed", range(4))
def test_a_damaged_header_is_read_or_refused_in_a_sentence(tmp_path: Path, kind: str, seed: int) -> None:
    ct, source = result_files.source(tmp_path / "ct")
    path = write_result(result_files.anatomy(), source, tmp_path / f"a{RESULT_ENDINGS[kind]}")
    whole = path.read_bytes()
    random = np.random.default_rng(seed)
    for _ in range(12):
        spoiled = bytearray(whole)
        for place in random.integers(0, min(len(whole), 9000), 4):
            spoiled[place] = random.integers(0, 256)
        path.write_bytes(bytes(spoiled[: random.integers(1, len(whole) + 1)] if random.random() < 0.3 else spoiled))
        try:
            read_segmentation_file(path, THORAX, ct)
        except BadInputError as error:
            assert str(error).endswith((".", "…", "!")) or error.hint  # noqa: PT017 (what is raised differs by byte)


def test_names_in_another_character_set_are_no_fault(tmp_path: Path) -> None:
    path = write_result(result_files.anatomy(), GRID, tmp_path / "a.seg.nrrd")
    path.write_bytes(path.read_bytes().replace(b"Segment0_Name:=GTV", b"Segment0_Name:=M\xfcl", 1))
    found = read_segmentation_file(path, THORAX)
    assert "gtv" in found.keys
    assert found.warnings == ()


def test_a_claimed_geometry_too_large_for_any_image_is_not_taken(tmp_path: Path) -> None:
    huge = Grid((100_000, 100_000, 100_000), *_rest())
    texts = slicer_texts(("heart", "", 0, 1), reference=huge)
    path = saved(tmp_path / "a.seg.nrrd", np.ones((3, 4, 5), np.uint8), Grid((5, 4, 3), *_rest()), **texts)
    assert read_segmentation_file(path, THORAX).grid.size == (5, 4, 3)
