"""Commands on results: how good a segmentation is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from LungSegmentationLib.cli.application import Events, Verbose, app
from LungSegmentationLib.jobs.running import run_command

if TYPE_CHECKING:
    from LungSegmentationLib.jobs.reporter import Reporter


@app.command()
def evaluate(
    prediction: Annotated[
        Path, typer.Option("--prediction", metavar="P", help="Segmentation file, or a folder with one a case.")
    ],
    reference: Annotated[
        Path, typer.Option("--reference", metavar="R", help="Segmentation file, case folder, cohort, or a folder.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for tables, pictures and report.html.")],
    ct: Annotated[Path | None, typer.Option("--ct", help="CT of a single case, for the pictures.")] = None,
    structures: Annotated[
        str | None,
        typer.Option("--structures", metavar="KEY,…", help="What the prediction knows; by default everything."),
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
    """Compare segmentations with a reference: scores, pictures, and a report to read."""

    def work(reporter: Reporter) -> None:
        from LungSegmentationLib.assessment import assess_files
        from LungSegmentationLib.labels import load_label_set

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
        if not events:
            typer.echo(f"Read {done.files['report'].resolve()}")

    raise typer.Exit(run_command("evaluate", work, events=events, verbose=verbose))
