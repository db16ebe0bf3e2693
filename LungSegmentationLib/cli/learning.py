"""Commands around training: a training itself, where it would run, what a model is."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from LungSegmentationLib.cli.application import CohortFolder, Events, Verbose, app
from LungSegmentationLib.errors import LungSegError
from LungSegmentationLib.jobs.running import run_command

if TYPE_CHECKING:
    from LungSegmentationLib.jobs.reporter import Reporter


@app.command()
def train(
    cohort: CohortFolder,
    run: Annotated[str | None, typer.Option("--run", "-r", help="Name of the run; by default date and time.")] = None,
    config: Annotated[Path | None, typer.Option("--config", metavar="FILE", help="JSON file of settings.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="One setting, for example epochs=2 or loss.region=tversky."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was stopped or killed.")] = False,
    device: Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda, cuda:1, mps.")] = None,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write TensorBoard logs too.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Take over a run that another computer holds.")] = False,
    events: Events = False,
    verbose: Verbose = False,
) -> None:
    """Train a network on a prepared cohort. Stop it with Ctrl-C; --resume goes on where it was."""
    try:
        from LungSegmentationLib.training.precision import import_torch

        import_torch()

        from LungSegmentationLib.figures.training import draw_history
        from LungSegmentationLib.training.command import train_command

        flags = [*([f"device={device}"] if device else ()), *(["tensorboard=true"] if tensorboard else ())]
        code = train_command(
            cohort,
            run,
            config_file=config,
            settings=[*(settings or ()), *flags],
            resume=resume,
            force=force,
            draw=draw_history,
            events=events,
            verbose=verbose,
        )
    except LungSegError as error:
        refusal = error

        def refuse(reporter: Reporter) -> None:
            del reporter
            raise refusal

        code = run_command("train", refuse, events=events, verbose=verbose)
    raise typer.Exit(code)


@app.command()
def devices(
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
    events: Events = False,
    verbose: Verbose = False,
) -> None:
    """Show the devices that there are, their memory, and the precision that a training would use."""

    def work(reporter: Reporter) -> None:
        from LungSegmentationLib.listing import print_devices
        from LungSegmentationLib.training.devices import describe_devices

        report = describe_devices()
        if events:
            reporter.result({}, report.to_dict())
        elif as_json:
            sys.stdout.write(json.dumps(report.to_dict(), indent=2, ensure_ascii=False) + "\n")
        else:
            print_devices(report)

    raise typer.Exit(run_command("devices", work, events=events, verbose=verbose))


@app.command()
def info(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="File of a model (.safetensors), or folder of a run.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
    events: Events = False,
    verbose: Verbose = False,
) -> None:
    """Show what a model is: structures, preprocessing, network, training data counts, scores, versions."""

    def work(reporter: Reporter) -> None:
        from LungSegmentationLib.listing import print_model
        from LungSegmentationLib.networks.description import describe_model

        description = describe_model(model)
        if events:
            for warning in description.warnings:
                reporter.warning(warning, subject=str(model))
            reporter.result({"model": model}, description.to_dict())
        elif as_json:
            sys.stdout.write(json.dumps(description.to_dict(), indent=2, ensure_ascii=False) + "\n")
        else:
            print_model(description)

    raise typer.Exit(run_command("info", work, events=events, verbose=verbose))
