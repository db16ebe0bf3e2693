"""The demo: what the software does, from DICOM to a report on unseen patients, in one command."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from LungSegmentationLib import __version__
from LungSegmentationLib.cohort.convert import convert
from LungSegmentationLib.cohort.options import ConversionOptions
from LungSegmentationLib.cohort.prepare import PreparationOptions, prepare
from LungSegmentationLib.cohort.preview import preview_cases
from LungSegmentationLib.cohort.splits import read_split
from LungSegmentationLib.dicom.scan import scan
from LungSegmentationLib.errors import UsageError
from LungSegmentationLib.figures.conversion import conversion_figures
from LungSegmentationLib.labels import load_label_set
from LungSegmentationLib.listing import print_preview
from LungSegmentationLib.phantom import PhantomOptions, make_phantoms
from LungSegmentationLib.storage import read_json, write_json

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from LungSegmentationLib.cohort.paths import CohortPaths
    from LungSegmentationLib.dicom.scan import ScanResult
    from LungSegmentationLib.jobs.reporter import Reporter

__all__ = ["FEWEST", "Demonstration", "demonstrate", "demonstrate_own"]

FEWEST: Final = 4
"""Phantoms that leave some to learn from and one each to watch the training with and to try the result on."""

PHANTOMS: Final = PhantomOptions(in_plane=256, complete=True)
FORMATS: Final = ("nifti", "seg.nrrd", "dicom-seg", "rtstruct")
SLICE_SIZE: Final = 128
RATIOS: Final = (0.65, 0.125, 0.225)
RUN: Final = "demo"
# A PTV is a margin that nobody sees in a CT: the demo shows what a network can learn from the picture.
SETTINGS: Final = (
    "network=tiny",
    "structures=gtv,lung_right,lung_left,heart,esophagus,spinal_cord",
    "epochs=14",
    "learning_rate=0.003",
    "schedule=cosine",
    "warmup_epochs=0.5",
    "patience=none",
    "device=cpu",
)


@dataclass(frozen=True)
class Demonstration:
    """How the demo speaks: to a reporter, and to a person if there is one."""

    reporter: Reporter
    show: bool
    steps: int

    def step(self, number: int, said: str) -> None:
        """Tell what comes now."""
        self.reporter.check_cancelled()
        if self.show:
            print(f"\n{number} of {self.steps}  {said}", flush=True)
        else:
            self.reporter.log(said)

    def progress(self, stage: str) -> _Progress:
        """Return what counts the items of a stage."""
        return _Progress(self.reporter, stage)


@dataclass(frozen=True)
class _Progress:
    reporter: Reporter
    stage: str

    def __call__(self, done: int, total: int) -> None:
        self.reporter.progress(self.stage, done, total)
        self.reporter.check_cancelled()


def demonstrate(out: Path, *, patients: int, seed: int, jobs: int, reporter: Reporter, show: bool) -> Path:
    """Make phantoms and go the whole way with them: scan, convert, prepare, train, predict unseen ones, evaluate.

    What is there from an earlier call is not made again; a training that was interrupted goes on.

    Parameters
    ----------
    out
        Folder for everything: ``phantoms``, ``cohort``, ``predictions``, ``evaluation``.
    patients, seed
        Of the phantoms.
    jobs
        Processes for conversion and preparation.
    reporter
        Hears progress and the results.
    show
        Whether to print what a person wants to see.

    Returns
    -------
    Path
        The report.

    Raises
    ------
    UsageError
        If there are too few phantoms for a split, or the folder holds others.
    """
    if patients < FEWEST:
        raise UsageError(f"{patients} phantoms cannot be split into three parts.", f"Ask for {FEWEST} or more.")
    demo = Demonstration(reporter, show, steps=7)
    phantoms = out / "phantoms"
    demo.step(1, f"{patients} synthetic patients, as DICOM CT and RTSTRUCT")
    _make_phantoms(phantoms, patients, seed, demo)
    dicom = phantoms / "dicom"
    demo.step(2, "What the DICOM folder holds, and what each ROI becomes")
    found = _scanned(dicom, demo)
    demo.step(3, "Converting contours to label maps")
    paths, pictures = _converted(dicom, found, out / "cohort", jobs, reporter)
    demo.step(4, "Preparing slices, split and class weights")
    prepare(paths.root, PreparationOptions(slice_size=SLICE_SIZE, ratios=RATIOS, jobs=jobs), reporter)
    demo.step(5, "Training a tiny network (a few minutes; Ctrl-C stops, the next call goes on)")
    model = _trained(paths, reporter)
    unseen = read_split(paths, "test")
    demo.step(6, f"Segmenting {len(unseen)} patients that it never saw, from their DICOM files")
    predictions = _predicted(model, dicom, out / "predictions", reporter, unseen)
    demo.step(7, "Comparing with the contours")
    report = _assessed(predictions, paths.root, unseen, model, out / "evaluation", reporter)
    reporter.result(
        {"report": report, "model": model, "predictions": predictions, "cohort": paths.root, **pictures},
        {"unseen": len(unseen)},
    )
    if show:
        print(f"\nDICOM SEG, RTSTRUCT and label maps of the unseen patients: {predictions.resolve()}")
        print(f"Open the report: {report.resolve()}")
    return report


def demonstrate_own(
    out: Path, dicom: Path, model: Path | None, *, jobs: int, reporter: Reporter, show: bool
) -> Path | None:
    """Show the software on a user's own DICOM folder: its contours as label maps, and what a model makes of its CTs.

    Parameters
    ----------
    out
        Folder for everything.
    dicom
        The folder; only read.
    model
        Model file; ``None`` only converts.
    jobs, reporter, show
        As in :func:`demonstrate`.

    Returns
    -------
    Path or None
        The report; ``None`` without a model, or if the folder holds no contours to compare with.
    """
    from LungSegmentationLib.errors import BadInputError

    demo = Demonstration(reporter, show, steps=2 if model is None else 4)
    demo.step(1, "What the DICOM folder holds, and what each ROI becomes")
    found = _scanned(dicom, demo)
    demo.step(2, "Converting contours to label maps")
    paths: CohortPaths | None = None
    pictures: dict[str, Path] = {}
    try:
        paths, pictures = _converted(dicom, found, out / "cohort", jobs, reporter)
    except BadInputError as error:
        # A CT alone can be segmented, it can only not be compared with anything.
        if model is None:
            raise
        reporter.warning(str(error))
    made = {"cohort": paths.root, "table": paths.cases_table, **pictures} if paths is not None else {}
    if model is None:
        reporter.result(made)
        if show and paths is not None:
            print(f"\nLook at the pictures in {paths.figures.resolve()}")
        return None
    demo.step(3, "Segmenting the CTs")
    predictions = _predicted(model, dicom, out / "predictions", reporter)
    report = None
    drawn = [case.name for case in paths.finished_cases()] if paths is not None else []
    names = [name for name in drawn if (predictions / name).is_dir()]
    if paths is not None and names:
        demo.step(4, "Comparing with the contours")
        report = _assessed(predictions, paths.root, names, model, out / "evaluation", reporter)
    reporter.result({"predictions": predictions, **({"report": report} if report else {}), **made})
    if show:
        print(f"\nDICOM SEG, RTSTRUCT and label maps: {predictions.resolve()}")
        print(f"Open the report: {report.resolve()}" if report else "There were no contours to compare with.")
    return report


def _make_phantoms(folder: Path, patients: int, seed: int, demo: Demonstration) -> None:
    """Make phantoms where they are not there yet: new files with the same content would be converted again."""
    wanted = {"patients": patients, "seed": seed, "software_version": __version__}
    note = folder / "phantoms.json"
    if note.is_file():
        there = read_json(note, "note on phantoms")
        if there == wanted:
            return
        raise UsageError(
            f"{folder.parent} holds a demo of {there.get('patients')} phantoms with seed {there.get('seed')}, made by "
            f"version {there.get('software_version')}.",
            "Choose another folder, or delete that one.",
        )
    make_phantoms(folder, patients, seed, options=PHANTOMS, progress=demo.progress("phantom"))
    write_json(note, wanted)


def _scanned(dicom: Path, demo: Demonstration) -> ScanResult:
    found = scan(dicom, progress=demo.progress("scan"))
    if demo.show:
        label_set = load_label_set()
        plan, previews = preview_cases(found, label_set)
        print_preview(found, plan, previews, label_set)
    return found


def _converted(
    dicom: Path, found: ScanResult, cohort: Path, jobs: int, reporter: Reporter
) -> tuple[CohortPaths, dict[str, Path]]:
    conversion = convert(dicom, cohort, ConversionOptions(jobs=jobs), reporter, found=found)
    return conversion.paths, {path.stem: path for path in conversion_figures(cohort)}


def _trained(paths: CohortPaths, reporter: Reporter) -> Path:
    from LungSegmentationLib.figures.training import draw_history
    from LungSegmentationLib.training.command import plan_training, train

    run = paths.run(RUN)
    resume = run.checkpoint.is_file()
    plan = plan_training(paths.root, RUN, settings=() if resume else SETTINGS, resume=resume)
    train(plan, reporter, draw=draw_history)
    return run.model


def _predicted(
    model: Path, dicom: Path, predictions: Path, reporter: Reporter, only: Sequence[str] | None = None
) -> Path:
    from LungSegmentationLib.inference.command import predict_command

    predict_command([model], dicom, predictions, formats=FORMATS, only=only, existing="keep", reporter=reporter)
    return predictions


def _assessed(
    predictions: Path, cohort: Path, names: Sequence[str], model: Path, out: Path, reporter: Reporter
) -> Path:
    from LungSegmentationLib.assessment import assess_predictions
    from LungSegmentationLib.networks.model_file import model_file, read_card

    model = model_file(model)
    title = f"{model.name} on {len(names)} {'patient' if len(names) == 1 else 'patients'}"
    done = assess_predictions(predictions, cohort, names, read_card(model), out, reporter, title=title)
    return done.files["report"]
