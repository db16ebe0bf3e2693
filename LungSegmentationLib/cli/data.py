"""Commands on data: what a DICOM folder holds, conversion, preparation, pictures, synthetic patients."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from LungSegmentationLib.cli.application import (
    CohortFolder,
    CorrectOption,
    CtOption,
    DicomFolder,
    Events,
    RoiMapOption,
    RtstructOption,
    Verbose,
    app,
)
from LungSegmentationLib.jobs.running import run_command

if TYPE_CHECKING:
    from LungSegmentationLib.cohort.resampling import FieldOfView, LabelResampling
    from LungSegmentationLib.jobs.reporter import Reporter


@app.command()
def scan(
    dicom_dir: DicomFolder,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
    roi_map: RoiMapOption = None,
    cohort: Annotated[
        Path | None, typer.Option("--cohort", help="Cohort whose corrections and settings are to hold.")
    ] = None,
    ct: CtOption = None,
    rtstruct: RtstructOption = None,
    volumes: Annotated[
        bool, typer.Option("--volumes", help="Draw each ROI as a conversion would, and tell its volume.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write everything as JSON into this file.")
    ] = None,
    events: Events = False,
    verbose: Verbose = False,
) -> None:
    """Show patients, series and RTSTRUCTs of a folder, and what each ROI would become."""

    def work(reporter: Reporter) -> None:
        from LungSegmentationLib.cohort.options import ConversionOptions
        from LungSegmentationLib.cohort.paths import CohortPaths
        from LungSegmentationLib.cohort.preview import preview_cases, preview_dict
        from LungSegmentationLib.dicom.scan import scan as scan_folder
        from LungSegmentationLib.labels import load_label_set
        from LungSegmentationLib.listing import print_preview
        from LungSegmentationLib.storage import write_json

        def progress(done: int, total: int, stage: str = "scan") -> None:
            reporter.progress(stage, done, total)
            reporter.check_cancelled()

        label_set = load_label_set()
        options = ConversionOptions(roi_map=roi_map, ct=ct, rtstruct=rtstruct)
        options.check(label_set)
        found = scan_folder(dicom_dir, progress=progress)
        plan, previews = preview_cases(
            found,
            label_set,
            options,
            CohortPaths(cohort) if cohort else None,
            volumes=volumes,
            progress=lambda done, total: progress(done, total, "contours"),
        )
        content = preview_dict(found, plan, previews)
        if output is not None:
            write_json(output, content)
            counts = {"patients": len(found.patients), "cases": len(plan.cases), "skipped": len(plan.skipped)}
            reporter.result({"scan": output}, counts)
        elif events:
            reporter.result({}, content)
        elif as_json:
            sys.stdout.write(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
        else:
            print_preview(found, plan, previews, label_set)

    raise typer.Exit(run_command("scan", work, events=events, verbose=verbose))


@app.command()
def extract(
    dicom_dir: DicomFolder,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the files.")],
    case: Annotated[
        str | None, typer.Option("--case", help="Case as the scan names it; not needed where there is one.")
    ] = None,
    series: Annotated[
        str | None, typer.Option("--series", help="CT by its series UID or the end of it, also one without contours.")
    ] = None,
    all_rois: Annotated[
        bool, typer.Option("--all-rois", help="Also the ROIs that are no structure, in their own colors.")
    ] = False,
    cohort: Annotated[
        Path | None, typer.Option("--cohort", help="Cohort whose corrections and settings are to hold.")
    ] = None,
    correct: CorrectOption = None,
    roi_map: RoiMapOption = None,
    ct: CtOption = None,
    rtstruct: RtstructOption = None,
    label_set: Annotated[str, typer.Option("--label-set", help="Name or file of the label set.")] = "thorax",
    events: Events = False,
    verbose: Verbose = False,
) -> None:
    """Write one patient's CT and contours for a viewer: each ROI a segment of its own, as drawn."""

    def work(reporter: Reporter) -> None:
        from LungSegmentationLib.cohort.extract import RECORD_FILE
        from LungSegmentationLib.cohort.extract import extract as extract_case
        from LungSegmentationLib.cohort.options import ConversionOptions
        from LungSegmentationLib.cohort.paths import CohortPaths
        from LungSegmentationLib.labels import load_label_set

        record = extract_case(
            dicom_dir,
            out,
            case=case,
            series=series,
            all_rois=all_rois,
            label_set=load_label_set(label_set),
            options=ConversionOptions(
                label_set=label_set, roi_map=roi_map, ct=ct, rtstruct=rtstruct, corrections=tuple(correct or ())
            ),
            cohort=CohortPaths(cohort) if cohort else None,
            reporter=reporter,
        )
        paths = {"ct": out / record.ct, "record": out / RECORD_FILE}
        if record.segments is not None:
            paths["segments"] = out / record.segments
        shown = sum(roi.segment is not None for roi in record.rois)
        reporter.result(paths, {"case": record.case, "segments": shown, "warnings": len(record.warnings)})
        if not events:
            typer.echo(f"{record.case}: {record.geometry.size[2]} slices, {shown} segments in {out}")

    raise typer.Exit(run_command("extract", work, events=events, verbose=verbose))


@app.command()
def convert(
    dicom_dir: DicomFolder,
    cohort: CohortFolder,
    jobs: Annotated[int, typer.Option("--jobs", "-j", help="Processes that work side by side.")] = 1,
    roi_map: RoiMapOption = None,
    correct: CorrectOption = None,
    synthetic_ptv: Annotated[
        float | None,
        typer.Option("--synthetic-ptv", metavar="MM", help="Where no PTV was drawn, make one as this margin; 0: none."),
    ] = None,
    ct: CtOption = None,
    rtstruct: RtstructOption = None,
    label_set: Annotated[str, typer.Option("--label-set", help="Name or file of the label set.")] = "thorax",
    events: Events = False,
    verbose: Verbose = False,
) -> None:
    """Convert DICOM CT and RTSTRUCT into a cohort of cases; a second call does only what is new or changed."""

    def work(reporter: Reporter) -> None:
        from LungSegmentationLib.cohort.convert import convert as convert_folder
        from LungSegmentationLib.cohort.options import ConversionOptions

        options = ConversionOptions(
            jobs=jobs,
            label_set=label_set,
            roi_map=roi_map,
            corrections=tuple(correct or ()),
            synthetic_ptv=synthetic_ptv,
            ct=ct,
            rtstruct=rtstruct,
        )
        done = convert_folder(dicom_dir, cohort, options, reporter)
        summary = {state: done.count(state) for state in ("converted", "kept", "failed")}
        summary["skipped"] = len(done.plan.skipped)
        reporter.result({"cohort": cohort, "table": done.paths.cases_table}, summary)
        if not events:
            typer.echo(", ".join(f"{count} {state}" for state, count in summary.items()))

    raise typer.Exit(run_command("convert", work, events=events, verbose=verbose))


@app.command()
def prepare(
    cohort: CohortFolder,
    slice_size: Annotated[
        int | None, typer.Option("--slice-size", help="Rows and columns of a slice; at first 256.")
    ] = None,
    window: Annotated[
        tuple[float, float] | None,
        typer.Option("--window", metavar="LOW HIGH", help="HU that a network sees; at first -1000 400."),
    ] = None,
    field_of_view: Annotated[
        str | None,
        typer.Option("--field-of-view", help="full (at first), or body: crop to the body, more pixels an organ."),
    ] = None,
    label_resampling: Annotated[
        str | None,
        typer.Option("--label-resampling", help="coverage (at first), or nearest: moves structures by half a pixel."),
    ] = None,
    new_splits: Annotated[bool, typer.Option("--new-splits", help="Split anew, although there is a split.")] = False,
    stratify: Annotated[
        bool | None,
        typer.Option(
            "--stratify/--no-stratify", help="Give train, val and test their shares of rare structures (at first)."
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Another seed gives another split; at first 42.")] = None,
    ratios: Annotated[
        tuple[float, float, float] | None,
        typer.Option("--ratios", metavar="TRAIN VAL TEST", help="Shares of the patients; at first 0.7 0.15 0.15."),
    ] = None,
    jobs: Annotated[int, typer.Option("--jobs", "-j", help="Processes that work side by side.")] = 1,
    events: Events = False,
    verbose: Verbose = False,
) -> None:
    """Prepare a cohort for training: cached slices, split, class weights.

    A second call does only what is new or changed; what it does not say is as in the first one.
    """

    def work(reporter: Reporter) -> None:
        from LungSegmentationLib.cohort.prepare import PreparationOptions
        from LungSegmentationLib.cohort.prepare import prepare as prepare_cohort

        options = PreparationOptions(
            slice_size=slice_size,
            window=window,
            field_of_view=cast("FieldOfView | None", field_of_view),
            label_resampling=cast("LabelResampling | None", label_resampling),
            jobs=jobs,
            new_splits=new_splits,
            stratify=stratify,
            seed=seed,
            ratios=ratios,
        )
        done = prepare_cohort(cohort, options, reporter)
        reporter.result(
            {"cache": done.paths.cache, "splits": done.paths.splits, "class_weights": done.paths.class_weights},
            done.summary,
        )
        if not events:
            typer.echo(", ".join(f"{count} {state}" for state, count in done.summary.items()))

    raise typer.Exit(run_command("prepare", work, events=events, verbose=verbose))


@app.command()
def figures(
    cohort: CohortFolder,
    case: Annotated[str | None, typer.Option("--case", help="Case to show; by default the fullest.")] = None,
    events: Events = False,
    verbose: Verbose = False,
) -> None:
    """Make the pictures of every phase that the cohort has reached."""

    def work(reporter: Reporter) -> None:
        from LungSegmentationLib.figures.conversion import conversion_figures
        from LungSegmentationLib.figures.preparation import preparation_figures

        made = [*conversion_figures(cohort, case), *preparation_figures(cohort, case)]
        reporter.result({path.stem: path for path in made})

    raise typer.Exit(run_command("figures", work, events=events, verbose=verbose))


@app.command()
def phantom(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the synthetic patients.")],
    patients: Annotated[int, typer.Option("--patients", "-n", min=1, help="How many.")] = 4,
    seed: Annotated[int, typer.Option("--seed", help="The same seed gives the same bytes.")] = 42,
    size: Annotated[int | None, typer.Option("--size", help="Pixels in plane, 256 or 512; by default varied.")] = None,
    slices: Annotated[int | None, typer.Option("--slices", help="Slices; by default 40 to 80.")] = None,
    complete: Annotated[bool, typer.Option("--complete", help="Draw every structure in every patient.")] = False,
    events: Events = False,
    verbose: Verbose = False,
) -> None:
    """Make synthetic thorax patients: DICOM CT and RTSTRUCT, with the exact label maps beside them."""

    def work(reporter: Reporter) -> None:
        from LungSegmentationLib.phantom import PhantomOptions, make_phantoms

        def progress(done: int, total: int) -> None:
            reporter.progress("phantom", done, total)
            reporter.check_cancelled()

        options = PhantomOptions(in_plane=size, slices=slices, complete=complete)
        make_phantoms(out, patients, seed, options=options, progress=progress)
        reporter.result({"dicom": out / "dicom", "truth": out / "truth"})

    raise typer.Exit(run_command("phantom", work, events=events, verbose=verbose))
