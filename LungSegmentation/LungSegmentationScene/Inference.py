"""CTs of the scene segmented by a job, results back into the scene; folders in batch; results out as files.

A result is a segmentation node under its CT's study with names, colors and terminology of the structures and the CT's
geometry. It remembers model and warnings; what the model was not made for is marked in its name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import slicer
from slicer.i18n import tr as _

from LungSegmentationScene import Segmentations, Volumes
from LungSegmentationScene.Errors import SceneError
from LungSegmentationScene.Jobs import FAILED, FINISHED, JobFailure, SceneJob
from LungSegmentationScene.Models import modelName
from LungSegmentationScene.SegmentFiles import readSegments
from LungSegmentationScene.VolumeFiles import VolumeData, readVolume, writeNrrd

KEY = "Inference.segment"
BATCH_KEY = "Inference.batch"
EXPORT_KEY = "Inference.export"

MODEL_ATTRIBUTE = "LungSegmentation.Model"
MARKED_ATTRIBUTE = "LungSegmentation.Marked"
"""On a segmentation whose CT lies outside of what the model was made for."""

MARKED_DESCRIPTION = "Automatic, research only, OUTSIDE MODEL RANGE: check"
"""Series description of such a segmentation in DICOM; not translated, as other systems read it."""

FORMATS = {".nii.gz": "nifti", ".seg.nrrd": "seg.nrrd", ".seg.dcm": "dicom-seg", ".rtstruct.dcm": "rtstruct"}
"""Formats of an exported segmentation by the ending of its file."""

DICOM_FORMATS = ("dicom-seg", "rtstruct")


@dataclass
class Segmented:
    """What became of one CT.

    Attributes
    ----------
    volumeId, name
        The CT node.
    nodeId
        The segmentation node; empty until it is there.
    marked, warnings
        Whether and why a person has to look at it more closely.
    structures
        By key, as in the record of the prediction: ``name``, ``cc``, ``confidence``.
    reason
        Why it was not segmented.
    """

    volumeId: str
    name: str
    nodeId: str = ""
    marked: bool = False
    warnings: list[str] = field(default_factory=list)
    structures: dict = field(default_factory=dict)
    reason: str = ""
    file: Path | None = None

    @property
    def node(self):
        """The segmentation node; None if it is not there (any more)."""
        return slicer.mrmlScene.GetNodeByID(self.nodeId) if self.nodeId else None


class SegmentationJob(SceneJob):
    """Segments CT nodes; when it is finished, :attr:`cases` know their segmentation nodes.

    Parameters
    ----------
    volumeNodes
        The CTs; their voxels are copied now and written beside the event loop.
    model
        The model file.
    arguments
        Further options of ``lungseg predict``.

    Raises
    ------
    SceneError
        If a CT holds no image, or lies under a transform.
    """

    def __init__(self, volumeNodes: Sequence, model: Path, arguments: Sequence[str] = ()) -> None:
        self.model = Path(model)
        self.cases: dict[str, Segmented] = {}
        volumes: dict[str, VolumeData] = {}
        for node in volumeNodes:
            data = readVolume(node)
            name = _freeName(data.name, volumes)
            volumes[name] = data
            self.cases[name] = Segmented(node.GetID(), data.name)

        def prepare(folder: Path) -> None:
            for name in list(volumes):
                place = folder / "input" / name
                place.mkdir(parents=True)
                data = volumes.pop(name)
                writeNrrd(place / "ct.nrrd", [data.array], data.lattice)

        title = _("Segmenting {name}").format(name=next(iter(self.cases.values())).name)
        if len(self.cases) > 1:
            title = _("Segmenting {count} CTs").format(count=len(self.cases))
        command = ["predict", str(self.model), "{folder}/input", "{folder}/output", "--format", "seg.nrrd", *arguments]
        super().__init__(command, key=KEY, title=title, prepare=prepare)
        self.spoken = {f"{{folder}}/input/{name}/ct.nrrd": f"“{case.name}”" for name, case in self.cases.items()}
        self.listen(onEvent=self._onEvent)

    @property
    def nodes(self) -> list:
        """The segmentation nodes that there are."""
        return [case.node for case in self.cases.values() if case.node is not None]

    def _onEvent(self, event) -> None:
        if event.event == "warning" and event.subject in self.cases:
            case = self.cases[event.subject]
            if event.message not in case.warnings:
                case.warnings.append(event.message)
        elif event.event == "result" and event.summary.get("case") in self.cases:
            case = self.cases[event.summary["case"]]
            case.file = Path(event.paths["seg.nrrd"])
            case.marked = bool(event.summary.get("marked"))
            case.warnings = [str(text) for text in event.summary.get("warnings") or ()]
            case.structures = dict(event.summary.get("structures") or {})

    def _end(self, state: str) -> None:
        # The temporary folder goes with the end, so the results are taken over before it is told.
        if state in (FINISHED, FAILED):
            try:
                for case in self.cases.values():
                    if case.file is not None:
                        case.nodeId = _takeOver(case, self.model).GetID()
            except SceneError as error:
                state, self.failure = FAILED, JobFailure(error.sentence, error.hint, "scene")
        super()._end(state)


def _takeOver(case: Segmented, model: Path):
    volume = slicer.mrmlScene.GetNodeByID(case.volumeId)
    if volume is None:
        raise SceneError(
            _("“{name}” is not in the scene any more.").format(name=case.name), _("Segment it again if it is needed.")
        )
    name = resultName(volume.GetName(), model, case.marked)
    node = Segmentations.loadSegmentation(case.file, volume, name)
    node.SetAttribute(MODEL_ATTRIBUTE, str(model))
    if case.marked:
        node.SetAttribute(MARKED_ATTRIBUTE, "1")
    node.SetDescription("\n".join([_("By the model {file}.").format(file=model), *case.warnings]))
    return node


def resultName(volumeName: str, model: Path, marked: bool = False) -> str:
    """Return the name of a result: CT and model, and that it has to be checked where the model was not made for it."""
    name = _("{volume} by {model}").format(volume=volumeName, model=modelName(model))
    return _("{name} – CHECK").format(name=name) if marked else name


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
    """Segment a CT node, or several.

    Parameters
    ----------
    volumes
        A scalar volume node, or a list of them.
    model
        The model file.
    wait
        Whether to wait, the window staying alive; else the job is returned at once.
    options
        See :func:`predictionArguments`.

    Returns
    -------
    vtkMRMLSegmentationNode, list or SegmentationJob
        A node for a node, a list of nodes for a list, the started job where nobody waits.

    Raises
    ------
    SceneError
        If a CT cannot be used.
    JobError
        If the job fails or is cancelled while it is waited for.
    """
    several = isinstance(volumes, list | tuple)
    job = SegmentationJob(list(volumes) if several else [volumes], Path(model), predictionArguments(**options))
    job.start()
    if not wait:
        return job
    job.wait()
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


def _freeName(text: str, taken: dict) -> str:
    from LungSegmentationLib.storage import safe_name

    name, number = safe_name(text), 1
    while name.casefold() in {one.casefold() for one in taken}:
        number += 1
        name = f"{safe_name(text)}_{number}"
    return name
