"""A patient from DICOM files into the scene: the library reads and draws in a job, the scene takes over its files."""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import slicer
from slicer.i18n import tr as _

from LungSegmentationScene import Hierarchy, Segmentations, Volumes
from LungSegmentationScene.Errors import SceneError
from LungSegmentationScene.Jobs import SceneJob
from LungSegmentationScene.TakingJobs import TakingJob

RECORD_FILE = "extract.json"
FINDINGS_FILE = "scan.json"

LOAD_KEY = "Import.load"
SCAN_KEY = "Import.scan"
CONVERT_KEY = "Import.convert"


@dataclass
class ImportedPatient:
    """What came into the scene.

    Attributes
    ----------
    volumeNode, segmentationNode
        The CT; its structures, None where nothing was drawn.
    rois
        What became of each ROI, as in ``extract.json``.
    warnings
        What a user should look at.
    """

    case: str
    volumeNode: object
    segmentationNode: object | None
    rois: list[dict] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


class ExtractJob(TakingJob):
    """Prepares a patient and takes it over into the scene.

    Attributes
    ----------
    imported
        What came into the scene; None until the job is finished.
    """

    imported: ImportedPatient | None = None

    def _take(self, event) -> None:
        super()._take(event)
        # What follows is the end of the process, which need not be waited for.
        if event.event == "result" and not self._cancelAsked:
            self._begin()

    def _hasResults(self) -> bool:
        return False  # they were taken over when they were told

    def _takeOver(self) -> Generator:
        self.imported = yield from takeOver(self.folder)
        return True


def extractJob(
    dicomFolder: Path | str,
    *,
    case: str | None = None,
    series: str | None = None,
    rtstruct: str | None = None,
    allRois: bool = False,
    cohort: Path | str | None = None,
    options: Sequence[str] = (),
) -> ExtractJob:
    """Return a job, not started yet, that brings a patient into the scene.

    Parameters
    ----------
    dicomFolder
        Folder with DICOM files.
    case, series
        Which CT, by the name of its case or its Series Instance UID; not needed where there is one.
    rtstruct
        SOP Instance UID of the RTSTRUCT; not needed where there is one.
    allRois
        Also the ROIs that are no structure.
    cohort
        Cohort whose corrections hold.
    options
        Further ones of ``lungseg extract``.
    """
    arguments: list[str] = ["extract", str(dicomFolder), "{folder}"]
    for option, value in (("--case", case), ("--series", series), ("--rtstruct", rtstruct), ("--cohort", cohort)):
        if value:
            arguments += [option, str(value)]
    if allRois:
        arguments.append("--all-rois")
    arguments += options
    return ExtractJob(arguments, key=LOAD_KEY, title=_("Loading {name}").format(name=case or Path(dicomFolder).name))


def scanJob(dicomFolder: Path | str, options: Sequence[str] = ()) -> SceneJob:
    """Return a job, not started yet, that tells patients and ROIs; ``Patients.readFindings`` reads its result.

    Parameters
    ----------
    dicomFolder
        Folder with DICOM files, or a list of files.
    options
        Further ones of ``lungseg scan``.
    """
    arguments = ["scan", str(dicomFolder), "--volumes", "--output", "{folder}/" + FINDINGS_FILE, *options]
    return SceneJob(arguments, key=SCAN_KEY, title=_("Scanning {name}").format(name=Path(dicomFolder).name))


def convertCohort(dicomFolder: Path | str, cohort: Path | str, **options: object) -> SceneJob:
    """Start to convert all patients of a folder into a cohort; what is there already is kept.

    Parameters
    ----------
    dicomFolder
        Folder with DICOM files, or a list of files.
    cohort
        The cohort's folder.
    options
        Of ``lungseg convert``: ``jobs=2``, ``synthetic_ptv=10``, ``roi_map="names.csv"``, ``ct="newest"`` …

    Returns
    -------
    SceneJob
        The job, started.
    """
    arguments = ["convert", str(dicomFolder), str(cohort)]
    for name, value in options.items():
        values = value if isinstance(value, list | tuple) else [value]
        for one in values:
            arguments += [f"--{name.replace('_', '-')}", str(one)]
    return SceneJob(arguments, key=CONVERT_KEY, title=_("Converting the cohort")).start()


def takeOver(folder: Path) -> Generator[object, object, ImportedPatient]:
    """Make CT and segmentation nodes of what ``lungseg extract`` wrote; steps for ``InTurns``, files read in a thread.

    Raises
    ------
    SceneError
        If a file is missing or damaged, or the scene is closed meanwhile; nothing is left in the scene then.
    """
    try:
        record = json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SceneError(_("The patient's files are not whole ({why}).").format(why=error), _("Try again.")) from error
    image = yield partial(Volumes.readRawImage, folder / record["ct"], record["geometry"])
    raw = None
    if record["segments"]:
        raw = yield partial(Segmentations.readRawSegments, folder / record["segments"])
    volumeNode = Volumes.addRawVolume(image, record["geometry"], f"{record['case']} CT")
    try:
        Volumes.rememberSource(volumeNode, record["ct_folder"], record["series_uid"], record["sop_instance_uids"])
        Hierarchy.placeVolume(
            volumeNode,
            patientId=record["patient_id"],
            studyUid=record["study_uid"],
            studyDate=record["study_date"],
            seriesUid=record["series_uid"],
            instanceUids=record["sop_instance_uids"],
        )
        yield
    except BaseException:  # also where it is stopped: all or nothing
        if Hierarchy.isInScene(volumeNode):
            slicer.mrmlScene.RemoveNode(volumeNode)
        raise
    if not Hierarchy.isInScene(volumeNode):
        raise SceneError(
            _("The scene was closed while {case} was loaded.").format(case=record["case"]), _("Load it again.")
        )
    name = _("{case} structures").format(case=record["case"])
    segmentationNode = Segmentations.addRawSegments(raw, volumeNode, name) if raw is not None else None
    return ImportedPatient(record["case"], volumeNode, segmentationNode, record["rois"], record["warnings"])


def importPatient(dicomFolder: Path | str, **options) -> ImportedPatient:
    """Load a patient and wait for it, the window staying alive; options as for :func:`extractJob`.

    Raises
    ------
    SceneError
        If the files cannot be read, the job was cancelled, or the result does not fit into the scene.
    """
    job = extractJob(dicomFolder, **options)
    job.start().wait()
    return job.imported
