"""A segmentation changes its format: any that can be read becomes any that can be written, on its CT."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from LungSegmentationLib.dicom.ct import read_ct, read_grid
from LungSegmentationLib.dicom.matching import match
from LungSegmentationLib.dicom.readers.placing import described
from LungSegmentationLib.dicom.readers.seg import read_seg
from LungSegmentationLib.dicom.rtstruct import read_rtstruct
from LungSegmentationLib.dicom.scan import scan
from LungSegmentationLib.dicom.writers import AlgorithmInfo, result_format, source_of, write_result
from LungSegmentationLib.errors import BadInputError, GeometryError, LungSegError, UsageError
from LungSegmentationLib.geometry import Grid
from LungSegmentationLib.jobs.reporter import Reporter, SilentReporter
from LungSegmentationLib.labels import LabelSet, load_label_set
from LungSegmentationLib.segmentation_files import (
    SegmentationFile,
    placement,
    read_segmentation_file,
    segmentation_kind,
)

if TYPE_CHECKING:
    from LungSegmentationLib.dicom.ct import CTVolume
    from LungSegmentationLib.dicom.series import CTSeries

__all__ = ["DESCRIPTION", "export_segmentation", "find_series"]

DESCRIPTION = "Exported segmentation, for research only"

_DICOM = ("dicom-seg", "rtstruct")


def export_segmentation(
    segmentation: Path,
    output: Path,
    reporter: Reporter | None = None,
    *,
    source: Path | None = None,
    series_uid: str | None = None,
    format: str | None = None,  # noqa: A002 (what users call it)
    label_set: LabelSet | None = None,
    description: str | None = None,
) -> Path:
    """Read a segmentation and write it in another format.

    Overlaps stay where the format can hold them: in ``.seg.nrrd``, DICOM SEG and RTSTRUCT. Nothing is resampled.

    Parameters
    ----------
    segmentation
        Any that :func:`~LungSegmentationLib.segmentation_files.read_segmentation_file` reads.
    output
        The file to write.
    reporter
        Hears progress, warnings and the result.
    source
        Folder with the DICOM of the CT, among other files and series. Needed for DICOM formats and to read an
        RTSTRUCT. Of several series that one is taken that the segmentation refers to or shares the frame of reference
        and the voxels with.
    series_uid
        Which series of ``source``; needed where several have the same voxels.
    format
        A key of :data:`~LungSegmentationLib.dicom.writers.RESULT_ENDINGS`. Default: what the ending says.
    label_set
        Default: thorax.
    description
        Series Description. Default: what the segmentation says of itself, else :data:`DESCRIPTION`.

    Returns
    -------
    Path
        ``output``.

    Raises
    ------
    UsageError
        If ending and format do not say what to write, or the output is the segmentation itself.
    BadInputError
        If a file cannot be used, or a source is needed and not given.
    GeometryError
        If the segmentation does not lie on the voxels of the CT.
    StorageError
        If the output cannot be written.
    """
    reporter = reporter or SilentReporter()
    label_set = label_set or load_label_set()
    segmentation, output = Path(segmentation), Path(output)
    chosen = result_format(output, format)
    kind = segmentation_kind(segmentation)
    if output.exists() and output.resolve() == segmentation.resolve():
        raise UsageError(f"{output} is the segmentation itself.", "Give another name.")
    if source is None and (chosen in _DICOM or kind == "rtstruct"):
        why = "an RTSTRUCT holds contours and no voxels" if kind == "rtstruct" else "a DICOM file refers to its images"
        raise UsageError(f"{segmentation} cannot become {output.name} alone: {why}.", "Give the CT with --source.")
    if source is None:
        found = read_segmentation_file(segmentation, label_set)
        place: Grid | CTVolume = found.grid
        series = None
    else:
        found, place, series = _on_source(segmentation, source, series_uid, label_set, reporter)
    reporter.check_cancelled()
    if not found.keys:
        raise BadInputError(f"{segmentation} holds no structure, so there is nothing to write.")
    for warning in found.warnings:
        reporter.warning(warning)
    reporter.progress("export", 1, 2)
    where = source_of(place, series) if chosen in _DICOM and not isinstance(place, Grid) and series else found.grid
    write_result(
        found.structures,
        where,
        output,
        format=chosen,
        description=description or found.description or DESCRIPTION,
        algorithm=_algorithm(found.algorithm),
        keys=found.keys,
    )
    reporter.progress("export", 2, 2)
    reporter.result({"segmentation": str(output.resolve())})
    return output


def _algorithm(text: str) -> AlgorithmInfo:
    """Return what our files say made them; a person may have changed it since."""
    name, _, version = text.rpartition(" ")
    return AlgorithmInfo(name or version, version if name else "", automatic=False)


def _on_source(
    path: Path, source: Path, series_uid: str | None, label_set: LabelSet, reporter: Reporter
) -> tuple[SegmentationFile, CTVolume, CTSeries]:
    series, warnings = find_series(path, source, series_uid, reporter)
    for warning in warnings:
        reporter.warning(warning)
    ct = read_ct(series)
    return read_segmentation_file(path, label_set, ct), ct, series


def find_series(
    path: Path, source: Path, series_uid: str | None = None, reporter: Reporter | None = None
) -> tuple[CTSeries, tuple[str, ...]]:
    """Find the CT that a segmentation was made on.

    Parameters
    ----------
    path
        The segmentation. An RTSTRUCT is matched as in a conversion; a DICOM SEG by the series it refers to, else by
        its frame of reference, and by its voxels; all others by their voxels.
    source
        Folder with the DICOM of the CT, among other files and series.
    series_uid
        Series Instance UID; needed where several series have the same voxels.
    reporter
        Hears of the progress, and may ask to stop.

    Returns
    -------
    series
        The CT.
    warnings
        What a person should know of the match.

    Raises
    ------
    BadInputError
        If the folder holds no CT, or several fit.
    GeometryError
        If none fits.
    """
    reporter = reporter or SilentReporter()

    def scanned(done: int, total: int) -> None:
        reporter.progress("scan", done, total)
        reporter.check_cancelled()

    kind = segmentation_kind(path)
    found = scan(source, progress=scanned)
    every = [series for patient in found.patients for series in patient.series]
    if not every:
        raise BadInputError(
            f"{source} holds no CT ({found.files} files looked at).", "Choose the folder of the CT's DICOM files."
        )
    if series_uid is not None:
        every = [series for series in every if series.series_uid == series_uid]
        if not every:
            raise BadInputError(f"{source} holds no CT series {series_uid}.", "Leave the series out, or mend its UID.")
    if kind == "rtstruct":
        links, refused = match(read_rtstruct(path, with_contours=False), every)
        if not links:
            raise BadInputError(" ".join(refused) or f"No CT in {source} belongs to {path}.")
        return links[0].series, links[0].warnings
    if kind == "dicom-seg":
        seg = read_seg(path)
        named = [one for one in every if one.series_uid in seg.series_uids]
        same = [one for one in every if one.frame_of_reference_uid == seg.frame_of_reference_uid]
        every = named or same or every
    return _only_one(path, every, source), ()


def _only_one(path: Path, candidates: Sequence[CTSeries], source: Path) -> CTSeries:
    """Return the only series whose voxels are those of the segmentation; of several none is guessed."""
    fits = placement(path)
    fitting: list[CTSeries] = []
    refused: list[str] = []
    for series in candidates:
        try:
            grid = read_grid(series)
        except LungSegError as error:
            refused.append(str(error))
            continue
        if fits(grid):
            fitting.append(series)
        else:
            refused.append(f"{path.name} does not lie on the voxels of its images, {described(grid)}.")
    if not fitting:
        told = f" Series …{candidates[0].series_uid[-12:]}: {refused[0]}"
        raise GeometryError(
            f"No CT of {len(candidates)} in {source} fits {path}.{told}", "Give the CT that was segmented."
        )
    if len(fitting) > 1:
        names = ", ".join(f"{series.series_uid} ({series.description or 'no description'})" for series in fitting)
        raise BadInputError(
            f"{len(fitting)} series of {source} have the voxels of {path}: {names}.", "Name one of them."
        )
    return fitting[0]
