"""CTs of the scene and folders segmented by a job, and results out as files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import slicer
from slicer.i18n import tr as _

from LungSegmentationScene import Volumes
from LungSegmentationScene.Errors import SceneError
from LungSegmentationScene.Jobs import SceneJob
from LungSegmentationScene.SegmentationJobs import KEY, MARKED_ATTRIBUTE, SegmentationJob, SequenceJob
from LungSegmentationScene.SegmentFiles import readSegments

__all__ = ["KEY", "MARKED_ATTRIBUTE", "SegmentationJob", "SequenceJob"]

BATCH_KEY = "Inference.batch"
EXPORT_KEY = "Inference.export"

MARKED_DESCRIPTION = "Automatic, research only, OUTSIDE MODEL RANGE: check"
"""Series description of such a segmentation in DICOM; not translated, as other systems read it."""

FORMATS = {".nii.gz": "nifti", ".seg.nrrd": "seg.nrrd", ".seg.dcm": "dicom-seg", ".rtstruct.dcm": "rtstruct"}
"""Formats of an exported segmentation by the ending of its file."""

DICOM_FORMATS = ("dicom-seg", "rtstruct")


def predictionArguments(
    *,
    device: str = "auto",
    augmentation: str = "none",
    smoothing: float = 0.0,
    postprocess: bool = True,
    batchSize: int | None = None,
    structures: Sequence[str] = (),
) -> list[str]:
    """Return options of ``lungseg predict``.

    Parameters
    ----------
    device
        ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
    augmentation
        ``none``, ``flip`` or ``full``.
    smoothing
        Over neighboring slices, mm; 0 for none.
    postprocess
        Whether stray pieces and holes are mended by the label set's rules.
    batchSize
        Slices at once; None for what suits the device.
    structures
        Keys of what is wanted; default all.
    """
    arguments = ["--device", device, "--tta", augmentation, "--smoothing", f"{smoothing:g}"]
    if not postprocess:
        arguments.append("--no-postprocessing")
    if batchSize:
        arguments += ["--batch-size", str(batchSize)]
    if structures:
        arguments += ["--structures", ",".join(structures)]
    return arguments


def segment(volumes, model: Path | str, wait: bool = True, **options: object):
    """Segment a CT node, several, or every frame of a sequence.

    Parameters
    ----------
    volumes
        A scalar volume node, a list of them, or a sequence node of them.
    model
        The model file.
    wait
        Whether to wait, the window staying alive; else the job is returned at once.
    options
        See :func:`predictionArguments`.

    Returns
    -------
    vtkMRMLSegmentationNode, list, vtkMRMLSequenceNode, SegmentationJob or SequenceJob
        A node for a node, a list of nodes for a list, a sequence of segmentations for a sequence, the started job where
        nobody waits.

    Raises
    ------
    SceneError
        If a CT cannot be used.
    JobError
        If the job fails or is cancelled while it is waited for.
    """
    arguments = predictionArguments(**options)
    several = isinstance(volumes, list | tuple)
    ofFrames = not several and volumes is not None and volumes.IsA("vtkMRMLSequenceNode")
    if ofFrames:
        job = SequenceJob(volumes, Path(model), arguments)
    else:
        job = SegmentationJob(list(volumes) if several else [volumes], Path(model), arguments)
    job.start()
    if not wait:
        return job
    job.wait()
    if ofFrames:
        return job.sequenceNode
    return job.nodes if several else job.nodes[0]


def segmentFolder(
    source: Path | str, output: Path | str, model: Path | str, formats: Sequence[str] = ("seg.nrrd",), **options: object
) -> SceneJob:
    """Segment every CT of a folder into a folder; what is done already and has not changed is kept.

    Parameters
    ----------
    source
        DICOM tree, folder of volumes, or cohort.
    output
        Folder for results, one folder a CT.
    model
        The model file.
    formats
        ``nifti``, ``seg.nrrd``, ``dicom-seg``, ``rtstruct``.
    options
        See :func:`predictionArguments`.

    Returns
    -------
    SceneJob
        The job, started.
    """
    arguments = ["predict", str(model), str(source), str(output), "--format", ",".join(formats), "--keep"]
    return SceneJob(
        [*arguments, *predictionArguments(**options)], key=BATCH_KEY, title=_("Segmenting a folder")
    ).start()


def exportFormat(path: Path) -> str:
    """Return the format that the ending of a file says.

    Raises
    ------
    SceneError
        If it says none.
    """
    name = path.name.lower()
    for ending, kind in FORMATS.items():
        if name.endswith(ending) and len(name) > len(ending):
            return kind
    raise SceneError(
        _("The ending of “{name}” is no format of a segmentation.").format(name=path.name),
        _("Choose one of: {endings}.").format(endings=", ".join(FORMATS)),
    )


def exportSegmentation(node, path: Path | str, source: Path | str | None = None, wait: bool = True):
    """Write a segmentation as NIfTI, ``.seg.nrrd``, DICOM SEG or RTSTRUCT.

    Parameters
    ----------
    node
        The segmentation.
    path
        The file; its ending says the format, see :data:`FORMATS`.
    source
        Folder of the CT series, for DICOM; default where the CT came from (see :func:`sourceOf`).
    wait
        Whether to wait, the window staying alive; else the job is returned at once.

    Returns
    -------
    Path or SceneJob
        The file, or the started job.

    Raises
    ------
    SceneError
        If the segmentation is empty, or a DICOM file is wanted and the series is not known.
    JobError
        If the job fails while it is waited for.
    """
    path = Path(path)
    kind = exportFormat(path)
    folder = Path(source) if source else sourceOf(node)
    if kind in DICOM_FORMATS and folder is None:
        raise SceneError(
            _("It is not known which DICOM series “{name}” belongs to.").format(name=node.GetName()),
            _("Choose the folder of the CT's DICOM files."),
        )
    command = ["export", "{folder}/segmentation.seg.nrrd", str(path)]
    if folder is not None and kind in DICOM_FORMATS:
        command += ["--source", str(folder)]
        series = "" if source else Volumes.sourceSeries(volumeOf(node))
        if series:
            command += ["--series", series]
    if node.GetAttribute(MARKED_ATTRIBUTE):
        command += ["--description", MARKED_DESCRIPTION]
    data = readSegments(node)
    title = _("Writing {name}").format(name=path.name)
    job = SceneJob(
        command, key=EXPORT_KEY, title=title, prepare=lambda files: data.write(files / "segmentation.seg.nrrd")
    )
    job.spoken = {"{folder}/segmentation.seg.nrrd": f"“{node.GetName()}”"}
    job.start()
    if not wait:
        return job
    job.wait()
    return path


def volumeOf(node):
    """Return the volume whose geometry a segmentation has; None where there is none."""
    if node is None:
        return None
    return node.GetNodeReference(slicer.vtkMRMLSegmentationNode.GetReferenceImageGeometryReferenceRole())


def sourceOf(node) -> Path | None:
    """Return the folder of the DICOM series that a segmentation belongs to; None where it is not known."""
    return Volumes.sourceFolder(volumeOf(node))
