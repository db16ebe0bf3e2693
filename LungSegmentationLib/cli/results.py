"""Commands on results: segmenting CTs, and how good a segmentation is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from LungSegmentationLib.cli.application import Events, Verbose, app
from LungSegmentationLib.errors import UsageError
from LungSegmentationLib.jobs.running import run_command

if TYPE_CHECKING:
    from LungSegmentationLib.cohort.splits import Part
    from LungSegmentationLib.inference.command import PredictedCase
    from LungSegmentationLib.inference.options import TestTimeAugmentation
    from LungSegmentationLib.jobs.reporter import Reporter


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="File of a model (.safetensors), or folder of a run.")],
    source: Annotated[
        Path,
        typer.Argument(
            metavar="INPUT",
            help="CT: a DICOM folder or file, NIfTI, NRRD, MHA; or a folder of many: DICOM tree, volumes, cohort.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Argument(
            metavar="OUTPUT",
            help="A file (.nii.gz .nrrd .mha .seg.nrrd .seg.dcm .rtstruct.dcm), or a folder: a folder for each CT.",
        ),
    ],
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", "-f", metavar="FORMAT,…", help="Of: nifti, nrrd, mha, seg.nrrd, dicom-seg, rtstruct."),
    ] = None,
    ensemble: Annotated[
        list[Path] | None,
        typer.Option("--ensemble", metavar="MODEL", help="A further model, may be repeated: the mean of all counts."),
    ] = None,
    structures: Annotated[
        str | None,
        typer.Option("--structures", metavar="KEY,…", help="What to write; by default all that was learned."),
    ] = None,
    existing: Annotated[
        bool | None,
        typer.Option(
            "--overwrite/--keep", help="Replace results that are there, or keep what is done; by default neither."
        ),
    ] = None,
    confidence: Annotated[bool, typer.Option("--confidence", help="Write a map of confidence in percent too.")] = False,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    precision: Annotated[str, typer.Option("--precision", help="auto, float32, bfloat16, float16.")] = "auto",
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", help="Slices at once; by default what suits the device.")
    ] = None,
    tta: Annotated[
        str, typer.Option("--tta", help="Test-time augmentation: none, flip, or full (flip and small rotations).")
    ] = "none",
    smoothing: Annotated[
        float, typer.Option("--smoothing", metavar="MM", help="Smooth over neighboring slices; 0: do not.")
    ] = 0.0,
    postprocessing: Annotated[
        bool, typer.Option("--postprocessing/--no-postprocessing", help="Mend by the label set's rules.")
    ] = True,
    events: Events = False,
    verbose: Verbose = False,
) -> None:
    """Segment CTs with a model: labels on the exact grid of each CT, or DICOM SEG and RTSTRUCT of its series.

    For research: every result has to be checked.
    """

    def work(reporter: Reporter) -> None:
        from LungSegmentationLib.training.precision import import_torch

        import_torch()

        from LungSegmentationLib.inference.command import predict_command
        from LungSegmentationLib.inference.options import PredictionOptions

        done = predict_command(
            [model, *(ensemble or ())],
            source,
            output,
            PredictionOptions(
                device=device,
                precision=precision,
                batch_size=batch_size,
                augmentation=cast("TestTimeAugmentation", tta),
                smoothing=smoothing,
                postprocess=postprocessing,
                confidence=confidence,
            ),
            formats=formats or (),
            structures=structures.split(",") if structures else (),
            existing="refuse" if existing is None else "overwrite" if existing else "keep",
            reporter=reporter,
        )
        if not events:
            for case in done.cases:
                typer.echo(_predicted(case))

    raise typer.Exit(run_command("predict", work, events=events, verbose=verbose))


def _predicted(case: PredictedCase) -> str:
    """Return what a person is told of a case: volumes, and how sure the network is."""
    if case.record is None:
        return f"{case.case}: {case.reason}"
    lines = [f"{case.case}: {case.state}{', CHECK: outside the range of the model' if case.record.marked else ''}"]
    for found in case.record.structures.values():
        sure = "not found" if found.confidence is None else f"{found.cc:10.1f} cc, confidence {found.confidence:.0%}"
        lines.append(f"  {found.name:16} {sure}")
    return "\n".join(lines)


@app.command()
def evaluate(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for tables, pictures and report.html.")],
    prediction: Annotated[
        Path | None, typer.Option("--prediction", metavar="P", help="Segmentation file, or a folder with one a case.")
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option("--reference", metavar="R", help="Segmentation file, case folder, cohort, folder, or DICOM tree."),
    ] = None,
    model: Annotated[
        list[Path] | None,
        typer.Option("--model", metavar="M", help="In place of a prediction: the model to try; several are averaged."),
    ] = None,
    cohort: Annotated[
        Path | None, typer.Option("--cohort", metavar="C", help="The cohort that the model is tried on.")
    ] = None,
    split: Annotated[str, typer.Option("--split", help="Which part of the cohort: test, val, train.")] = "test",
    device: Annotated[str, typer.Option("--device", help="For the model: auto, cpu, cuda, cuda:1, mps.")] = "auto",
    ct: Annotated[
        Path | None,
        typer.Option(
            "--ct", help="CT of a single case, volume or DICOM folder: for pictures, and to draw contours on."
        ),
    ] = None,
    structures: Annotated[
        str | None,
        typer.Option(
            "--structures", metavar="KEY,…", help="What the prediction knows; by default what its record says, or all."
        ),
    ] = None,
    annotated: Annotated[
        str | None,
        typer.Option(
            "--annotated",
            metavar="KEY,…",
            help="What was drawn in the reference, or “all”; by default what case.json says, or what is there.",
        ),
    ] = None,
    surfaces: Annotated[
        str, typer.Option("--3d", help="Cases with surfaces to turn: worst (and median and best), all, none.")
    ] = "worst",
    label_set: Annotated[str, typer.Option("--label-set", help="Name or file of the label set.")] = "thorax",
    events: Events = False,
    verbose: Verbose = False,
) -> None:
    """Compare segmentations with a reference, or try a model on a cohort: scores, pictures, and a report to read."""

    def work(reporter: Reporter) -> None:
        from LungSegmentationLib.assessment import assess_files, assess_model
        from LungSegmentationLib.labels import load_label_set

        if model and cohort is not None and prediction is None and reference is None:
            if structures or annotated or ct is not None:
                raise UsageError(
                    "Structures and CT of a cohort are known.", "Leave --structures, --annotated, --ct out."
                )
            from LungSegmentationLib.training.precision import import_torch

            import_torch()
            from LungSegmentationLib.inference.options import PredictionOptions

            done = assess_model(
                model,
                cohort,
                out,
                reporter,
                split=cast("Part", split),
                options=PredictionOptions(device=device, confidence=False),
                meshes=surfaces,
            )
        elif prediction is not None and reference is not None and not model and cohort is None:
            chosen = load_label_set(label_set)
            done = assess_files(
                prediction,
                reference,
                out,
                reporter,
                label_set=chosen,
                keys=structures.split(",") if structures else None,
                annotated=chosen.keys if annotated == "all" else annotated.split(",") if annotated else None,
                ct=ct,
                meshes=surfaces,
            )
        else:
            raise UsageError(
                "It is not clear what to evaluate.", "Give --prediction and --reference, or --model and --cohort."
            )
        if not events:
            typer.echo(f"Read {done.files['report'].resolve()}")

    raise typer.Exit(run_command("evaluate", work, events=events, verbose=verbose))


@app.command()
def export(
    segmentation: Annotated[
        Path,
        typer.Argument(
            metavar="SEGMENTATION",
            help="Label map, structures.nii.gz, .seg.nrrd, DICOM SEG or RTSTRUCT; may be edited.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Argument(
            metavar="OUTPUT",
            help="File to write: .nii.gz .nrrd .mha .seg.nrrd .seg.dcm .rtstruct.dcm; or see --format.",
        ),
    ],
    source: Annotated[
        Path | None,
        typer.Option(
            "--source",
            metavar="DICOM_DIR",
            help="The CT, for DICOM formats and to read an RTSTRUCT; others may be there.",
        ),
    ] = None,
    series: Annotated[
        str | None, typer.Option("--series", metavar="UID", help="Which series of --source, if several fit.")
    ] = None,
    file_format: Annotated[
        str | None,
        typer.Option("--format", "-f", help="One of: nifti, nrrd, mha, seg.nrrd, dicom-seg, rtstruct."),
    ] = None,
    description: Annotated[
        str | None, typer.Option("--description", help="Series description; by default what the segmentation says.")
    ] = None,
    label_set: Annotated[str, typer.Option("--label-set", help="Name or file of the label set.")] = "thorax",
    events: Events = False,
    verbose: Verbose = False,
) -> None:
    """Write a segmentation in another format, overlaps kept, for example as DICOM after it was corrected by hand."""

    def work(reporter: Reporter) -> None:
        from LungSegmentationLib.exporting import export_segmentation
        from LungSegmentationLib.labels import load_label_set

        written = export_segmentation(
            segmentation,
            output,
            reporter,
            source=source,
            series_uid=series,
            format=file_format,
            label_set=load_label_set(label_set),
            description=description,
        )
        if not events:
            typer.echo(f"Wrote {written.resolve()}")

    raise typer.Exit(run_command("export", work, events=events, verbose=verbose))
