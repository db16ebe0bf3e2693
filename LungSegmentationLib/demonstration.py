"""The demo: what the software does, from DICOM to pictures, in one command."""

from __future__ import annotations

from typing import TYPE_CHECKING

from LungSegmentationLib.cohort.convert import convert
from LungSegmentationLib.cohort.options import ConversionOptions
from LungSegmentationLib.cohort.preview import preview_cases
from LungSegmentationLib.dicom.scan import scan
from LungSegmentationLib.figures.conversion import conversion_figures
from LungSegmentationLib.labels import load_label_set
from LungSegmentationLib.listing import print_preview
from LungSegmentationLib.phantom import PhantomOptions, make_phantoms

if TYPE_CHECKING:
    from pathlib import Path

    from LungSegmentationLib.jobs.reporter import Reporter

__all__ = ["demonstrate"]


def demonstrate(
    out: Path, dicom: Path | None, *, patients: int, seed: int, jobs: int, reporter: Reporter, show: bool
) -> None:
    """Make phantoms (or take a DICOM folder), list it, convert it, and draw the pictures.

    Parameters
    ----------
    out
        Folder for everything: ``phantoms``, ``cohort``.
    dicom
        The user's own DICOM folder; ``None`` makes phantoms.
    patients, seed
        Of the phantoms.
    jobs
        Processes for the conversion.
    reporter
        Hears progress and the results.
    show
        Whether to print what a person wants to see.
    """
    if dicom is None:
        phantoms = out / "phantoms"

        def made(done: int, total: int) -> None:
            reporter.progress("phantom", done, total)
            reporter.check_cancelled()

        make_phantoms(phantoms, patients, seed, options=PhantomOptions(), progress=made)
        dicom = phantoms / "dicom"

    def scanned(done: int, total: int) -> None:
        reporter.progress("scan", done, total)
        reporter.check_cancelled()

    found = scan(dicom, progress=scanned)
    if show:
        label_set = load_label_set()
        plan, previews = preview_cases(found, label_set)
        print_preview(found, plan, previews, label_set)
    cohort = out / "cohort"
    conversion = convert(dicom, cohort, ConversionOptions(jobs=jobs), reporter, found=found)
    pictures = conversion_figures(cohort)
    reporter.result(
        {"cohort": cohort, "table": conversion.paths.cases_table, **{path.stem: path for path in pictures}},
        {state: conversion.count(state) for state in ("converted", "kept", "failed")},
    )
    if show:
        print(f"Look at the pictures in {conversion.paths.figures.resolve()}")
