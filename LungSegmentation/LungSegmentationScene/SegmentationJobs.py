"""Jobs that segment CTs of the scene, and what becomes of their results: segmentation nodes, or a sequence of them.

A result stands under its CT's study with names, colors and terminology of the structures and the CT's geometry. It
remembers model and warnings; what the model was not made for is marked in its name.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import slicer
from slicer.i18n import tr as _

from LungSegmentationScene import Hierarchy, Segmentations, Sequences
from LungSegmentationScene.Errors import SceneError
from LungSegmentationScene.JobStates import JobProgress
from LungSegmentationScene.Models import modelName
from LungSegmentationScene.TakingJobs import TakingJob
from LungSegmentationScene.VolumeFiles import (
    Lattice,
    VolumeData,
    readVolumeInTurns,
    refuseNoVolume,
    volumeLattice,
    writeNrrd,
)

KEY = "Inference.segment"

MODEL_ATTRIBUTE = "LungSegmentation.Model"
MARKED_ATTRIBUTE = "LungSegmentation.Marked"
"""On a segmentation whose CT lies outside of what the model was made for."""


@dataclass
class Segmented:
    """What became of one CT.

    Attributes
    ----------
    name
        Of the CT.
    made
        The segmentation node; None until it is there.
    marked, warnings
        Whether and why a person has to look at it more closely.
    structures
        By key, as in the record of the prediction: ``name``, ``cc``, ``confidence``.
    file
        The result; None where there is none.
    """

    name: str
    made: object | None = None
    marked: bool = False
    warnings: list[str] = field(default_factory=list)
    structures: dict = field(default_factory=dict)
    file: Path | None = None

    @property
    def node(self):
        """The segmentation node; None if it is not there (any more)."""
        return self.made if Hierarchy.isInScene(self.made) else None


class SegmentationJob(TakingJob):
    """Segments CT nodes; when it is finished, :attr:`cases` know their segmentation nodes.

    Parameters
    ----------
    volumeNodes
        The CTs; their voxels are copied in turns and written beside the event loop, one CT at a time.
    model
        The model file.
    arguments
        Further options of ``lungseg predict``.
    names
        What to call the CTs; default their own names.

    Raises
    ------
    SceneError
        If a CT holds no image, or lies under a transform.
    """

    def __init__(
        self, volumeNodes: Sequence, model: Path, arguments: Sequence[str] = (), names: Sequence[str] = ()
    ) -> None:
        self.model = Path(model)
        self.cases: dict[str, Segmented] = {}
        for node in volumeNodes:
            refuseNoVolume(node)
        for title in names or [node.GetName() for node in volumeNodes]:
            self.cases[_freeName(title, self.cases)] = Segmented(title)
        # Not their IDs: those of a closed scene are given anew to the nodes of the next one.
        self._sources = dict(zip(self.cases, volumeNodes, strict=True))
        self._overall = None
        title = _("Segmenting {name}").format(name=next(iter(self.cases.values())).name)
        if len(self.cases) > 1:
            title = _("Segmenting {count} CTs").format(count=len(self.cases))
        command = ["predict", str(self.model), "{folder}/input", "{folder}/output", "--format", "seg.nrrd", *arguments]
        super().__init__(command, key=KEY, title=title, feed=partial(_written, self._sources))
        self.spoken = {f"{{folder}}/input/{name}/ct.nrrd": f"“{case.name}”" for name, case in self.cases.items()}
        # Where there are several, the sentence begins with the name that a folder can have.
        self.spoken |= {f"{name}: “{case.name}”": f"“{case.name}”" for name, case in self.cases.items()}
        self.listen(onEvent=self._onEvent)

    @property
    def nodes(self) -> list:
        """The segmentation nodes that there are."""
        return [case.node for case in self.cases.values() if case.node is not None]

    # What it says

    def _shownProgress(self, event):
        """Return how far all CTs are, where there are several."""
        if len(self.cases) == 1:
            return event
        if event.stage == "cases":
            self._overall = event
            return self._counted(event.done)
        if self._overall is None:
            return event
        part = _("slice {done} of {total}").format(done=event.done, total=event.total)
        # Events that follow each other too soon are left out, results never.
        done = max(self._overall.done, sum(case.file is not None for case in self.cases.values()))
        return self._counted(done, part if event.stage == "prediction" else "")

    def _counted(self, done: int, part: str = "") -> JobProgress:
        names = [case.name for case in self.cases.values()]
        message = " · ".join(filter(None, (names[done] if done < len(names) else "", part)))
        return JobProgress("prediction", done, len(names), message, self._overall.eta_s if self._overall else None)

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

    # Its results

    def _hasResults(self) -> bool:
        return any(case.file is not None for case in self.cases.values())

    def _takeOver(self) -> Generator:
        """Make nodes of the results; files are read in a thread."""
        try:
            for key, case in self.cases.items():
                if case.file is not None:
                    raw = yield partial(Segmentations.readRawSegments, case.file)
                    self._place(case, self._sources[key], raw)
                    yield
        except BaseException:  # also where it is stopped: all or nothing
            for node in self.nodes:
                slicer.mrmlScene.RemoveNode(node)
            raise
        return True

    def _place(self, case: Segmented, volume, raw: Segmentations.RawSegments) -> None:
        if not Hierarchy.isInScene(volume):
            raise _gone(case.name)
        _refuseMoved(case.name, volume, raw)
        node = Segmentations.addRawSegments(raw, volume, resultName(volume.GetName(), self.model, case.marked))
        # What the CT was put under meanwhile moves the result with it.
        node.SetAndObserveTransformNodeID(volume.GetTransformNodeID())
        case.made = node
        self._describe(node, case.marked, case.warnings)

    def _finish(self) -> None:
        self._sources.clear()  # the voxels of a closed scene are let go
        super()._finish()

    def _describe(self, node, marked: bool, warnings: Sequence[str]) -> None:
        node.SetAttribute(MODEL_ATTRIBUTE, str(self.model))
        if marked:
            node.SetAttribute(MARKED_ATTRIBUTE, "1")
        node.SetDescription("\n".join([_("By the model {file}.").format(file=self.model), *warnings]))


class SequenceJob(SegmentationJob):
    """Segments every frame of a sequence of CTs; the results are a sequence too, browsed together with the CTs.

    It is all frames or none: where one is missing, the segmentation of another would be seen over its CT.

    Attributes
    ----------
    sequenceNode
        The segmentations; None until the job is finished.
    segmentationNode
        The one of the frame that is shown.

    Parameters
    ----------
    sequenceNode
        The CTs.
    model, arguments
        As for :class:`SegmentationJob`.

    Raises
    ------
    SceneError
        If it holds something else, or nothing.
    """

    def __init__(self, sequenceNode, model: Path, arguments: Sequence[str] = ()) -> None:
        frames = Sequences.frames(sequenceNode)
        self.volumesNode = sequenceNode
        self.frames = frames
        self.sequenceNode = None
        self.segmentationNode = None
        super().__init__(
            [frame.node for frame in frames],
            model,
            arguments,
            [_("{sequence}, {frame}").format(sequence=sequenceNode.GetName(), frame=frame.title) for frame in frames],
        )
        self.title = _("Segmenting {count} frames").format(count=len(frames))

    def _hasResults(self) -> bool:
        missing = [case.name for case in self.cases.values() if case.file is None]
        if missing and self.failure is None:
            self._fault = SceneError(
                _("“{name}” was not segmented.").format(name=missing[0]), _("The log may tell why.")
            )
        return not missing

    def _takeOver(self) -> Generator:
        """Make the sequence; nothing of it is in the scene before all of it is."""
        marked = any(case.marked for case in self.cases.values())
        made = Sequences.newLike(self.volumesNode, resultName(self.volumesNode.GetName(), self.model, marked))
        for number, (case, frame) in enumerate(zip(self.cases.values(), self.frames, strict=True)):
            self.progress = JobProgress("writing", number, len(self.frames), case.name)
            self._tell("onProgress", self)
            raw = yield partial(Segmentations.readRawSegments, case.file)
            if Sequences.nodeAt(self.volumesNode, frame.value) is not frame.node:
                raise SceneError(
                    _("“{name}” was exchanged while it was segmented.").format(name=case.name), _("Segment it again.")
                )
            _refuseMoved(case.name, frame.node, raw)
            node = Segmentations.rawSegmentation(raw, resultName(case.name, self.model, case.marked))
            self._describe(node, case.marked, case.warnings)
            Segmentations.setReferenceGeometry(node, frame.node)
            made.SetDataNodeAtValue(node, frame.value)
            yield
        if not Hierarchy.isInScene(self.volumesNode):
            raise _gone(self.volumesNode.GetName())
        warnings = [f"{case.name}: {text}" for case in self.cases.values() for text in case.warnings]
        self.sequenceNode = slicer.mrmlScene.AddNode(made)
        self._describe(self.sequenceNode, marked, warnings)
        self.segmentationNode = Sequences.browseTogether(self.sequenceNode, self.volumesNode)
        return True


def _gone(name: str) -> SceneError:
    return SceneError(
        _("“{name}” is not in the scene any more.").format(name=name), _("Segment it again if it is needed.")
    )


def _refuseMoved(name: str, volume, raw: Segmentations.RawSegments) -> None:
    """Refuse a result whose CT does not lie any more where it lay."""
    now = volumeLattice(volume)
    place = Lattice(raw.toRas, now.extent).inFrameOf(now)
    if place is None or place.extent != now.extent:
        raise SceneError(_("“{name}” was moved while it was segmented.").format(name=name), _("Segment it again."))


def _written(nodes: dict[str, object], folder: Path) -> Generator:
    """Write CTs for a job: copied in turns, written in a thread."""
    for name, node in nodes.items():
        data = yield from readVolumeInTurns(node)
        place = folder / "input" / name
        place.mkdir(parents=True)
        yield partial(_writeVolume, place / "ct.nrrd", data)


def _writeVolume(path: Path, data: VolumeData) -> None:
    writeNrrd(path, [data.array], data.lattice)


def resultName(volumeName: str, model: Path, marked: bool = False) -> str:
    """Return the name of a result: CT and model, and that it has to be checked where the model was not made for it."""
    name = _("{volume} by {model}").format(volume=volumeName, model=modelName(model))
    return _("{name} – CHECK").format(name=name) if marked else name


def _freeName(text: str, taken: dict) -> str:
    from LungSegmentationLib.storage import safe_name

    name, number = safe_name(text), 1
    while name.casefold() in {one.casefold() for one in taken}:
        number += 1
        name = f"{safe_name(text)}_{number}"
    return name
