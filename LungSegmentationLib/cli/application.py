"""The application that all commands belong to, and the options that several of them take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from LungSegmentationLib import __version__

__all__ = [
    "CohortFolder",
    "CorrectOption",
    "CtOption",
    "DicomFolder",
    "Events",
    "RoiMapOption",
    "RtstructOption",
    "Verbose",
    "app",
    "main",
]

app = typer.Typer(
    name="lungseg",
    help="Lung CT with physicians' contours to a trained network and back. For research; not a medical device.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Events = Annotated[bool, typer.Option("--events", help="Write JSON lines to standard output, not a progress bar.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say more.")]
DicomFolder = Annotated[
    Path, typer.Argument(metavar="DICOM_DIR", help="Folder with DICOM files, in any order; or a .txt that lists files.")
]
CohortFolder = Annotated[Path, typer.Argument(metavar="COHORT", help="Folder of the cohort.")]
CorrectOption = Annotated[
    list[str] | None,
    typer.Option(
        "--correct",
        metavar="CASE/ROI=STRUCTURE",
        help="Take this ROI of this case for this structure (or “ignore”); a cohort that is converted remembers it.",
    ),
]
CtOption = Annotated[
    str | None, typer.Option("--ct", help="Which CT of a patient with contours on several: all, most-slices, newest.")
]
RtstructOption = Annotated[
    str | None,
    typer.Option(
        "--rtstruct",
        help="Which RTSTRUCT of a CT that has several: most-structures, newest, oldest, or a part of its label.",
    ),
]
RoiMapOption = Annotated[
    Path | None,
    typer.Option(
        "--roi-map", help="File of ROI names and the structures they are; wins over the rules; none: without."
    ),
]


def main() -> None:
    """Run the command line; ends the process with an exit code of :class:`~LungSegmentationLib.errors.ExitCode`."""
    app()


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"lungseg {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    del version
