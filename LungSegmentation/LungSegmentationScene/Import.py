"""A patient from DICOM files into the scene: the library reads and draws in a job, the scene takes over its files."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import slicer
from slicer.i18n import tr as _

from LungSegmentationScene import Hierarchy, Segmentations, Volumes
from LungSegmentationScene.Errors import SceneError
from LungSegmentationScene.Jobs import SceneJob

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


def extractJob(
    dicomFolder: Path | str,
    *,
    case: str | None = None,
    series: str | None = None,
    rtstruct: str | None = None,
    allRois: bool = False,
    cohort: Path | str | None = None,
    options: Sequence[str] = (),
) -> SceneJob:
    """Return a job, not started yet, that prepares a patient for :func:`loadExtracted` in its temporary folder.

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
    return SceneJob(arguments, key=LOAD_KEY, title=_("Loading {name}").format(name=case or Path(dicomFolder).name))


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


def loadExtracted(folder: Path) -> ImportedPatient:
    """Make CT and segmentation nodes of what ``lungseg extract`` wrote; the files are not needed afterwards.

    Raises
    ------
    SceneError
        If a file is missing or damaged; nothing is left in the scene then.
    """
    try:
        record = json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SceneError(_("The patient's files are not whole ({why}).").format(why=error), _("Try again.")) from error
    volumeNode = Volumes.loadRawVolume(folder / record["ct"], record["geometry"], f"{record['case']} CT")
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
        segmentationNode = None
        if record["segments"]:
            name = _("{case} structures").format(case=record["case"])
            segmentationNode = Segmentations.loadRawSegments(folder / record["segments"], volumeNode, name)
    except SceneError:
        slicer.mrmlScene.RemoveNode(volumeNode)
        raise
    return ImportedPatient(record["case"], volumeNode, segmentationNode, record["rois"], record["warnings"])


def follow(job: SceneJob, onLoaded: Callable[[ImportedPatient], None], onFailed: Callable[[str, str], None]) -> None:
    """Load a patient as soon as the job has its files, and tell it; or tell sentence and hint of what went wrong.

    Exactly one of both functions is called, unless the job is cancelled.
    """
    told = []

    def onEvent(event) -> None:
        if event.event == "result" and not told:
            told.append(True)
            try:
                imported = loadExtracted(job.folder)
            except SceneError as error:
                onFailed(error.sentence, error.hint)
            else:
                onLoaded(imported)

    def onFinished(job: SceneJob) -> None:
        if not told and job.failure is not None:
            onFailed(job.failure.sentence, job.failure.hint)

    job.listen(onEvent=onEvent, onFinished=onFinished)


def importPatient(dicomFolder: Path | str, **options) -> ImportedPatient:
    """Load a patient and wait for it, the window staying alive; options as for :func:`extractJob`.

    Raises
    ------
    SceneError
        If the files cannot be read, the job was cancelled, or the result does not fit into the scene.
    """
    loaded: list[ImportedPatient] = []
    failed: list[SceneError] = []
    job = extractJob(dicomFolder, **options)
    follow(job, loaded.append, lambda sentence, hint: failed.append(SceneError(sentence, hint)))
    job.start()
    while not loaded and not failed and job.isRunning:
        slicer.app.processEvents()
        time.sleep(0.002)
    if failed:
        raise failed[0]
    if not loaded:
        raise SceneError(_("Cancelled."))
    return loaded[0]
