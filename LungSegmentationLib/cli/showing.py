"""The command that shows the whole way."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from LungSegmentationLib.cli.application import Events, Verbose, app
from LungSegmentationLib.errors import UsageError
from LungSegmentationLib.jobs.running import run_command

if TYPE_CHECKING:
    from LungSegmentationLib.jobs.reporter import Reporter


@app.command()
def demo(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for everything that the demo makes.")],
    dicom: Annotated[Path | None, typer.Option("--dicom", help="Your own DICOM folder in place of phantoms.")] = None,
    model: Annotated[
        Path | None, typer.Option("--model", help="With --dicom: a model that segments the CTs of that folder.")
    ] = None,
    patients: Annotated[int, typer.Option("--patients", "-n", min=4, help="How many phantoms.")] = 8,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the phantoms.")] = 42,
    jobs: Annotated[int, typer.Option("--jobs", "-j", help="Processes that work side by side.")] = 2,
    events: Events = False,
    verbose: Verbose = False,
) -> None:
    """Show the whole way: synthetic patients, training, unseen patients, report. Or a DICOM folder of your own."""

    def work(reporter: Reporter) -> None:
        from LungSegmentationLib.training.precision import import_torch

        if dicom is None or model is not None:
            import_torch()
        from LungSegmentationLib.demonstration import demonstrate, demonstrate_own

        if dicom is not None:
            demonstrate_own(out, dicom, model, jobs=jobs, reporter=reporter, show=not events)
        elif model is not None:
            raise UsageError("A model needs CTs to segment.", "Give your DICOM folder with --dicom.")
        else:
            demonstrate(out, patients=patients, seed=seed, jobs=jobs, reporter=reporter, show=not events)

    raise typer.Exit(run_command("demo", work, events=events, verbose=verbose))
