"""Sequences of CTs (4D CT): their frames, and a sequence of results that is browsed together with them."""

from __future__ import annotations

from dataclasses import dataclass

import slicer
from slicer.i18n import tr as _

from LungSegmentationScene import Hierarchy
from LungSegmentationScene.Errors import SceneError

VOLUME = "vtkMRMLScalarVolumeNode"


@dataclass(frozen=True)
class Frame:
    """One frame of a sequence.

    Attributes
    ----------
    value
        Its index value, as the sequence stores it.
    title
        For people: “phase 30 %”.
    node
        The volume node, which lies in the sequence's own scene.
    """

    value: str
    title: str
    node: object


def problem(sequenceNode) -> str | None:
    """Return why a sequence cannot be segmented; None where it can."""
    name = sequenceNode.GetName()
    if sequenceNode.GetNumberOfDataNodes() == 0:
        return _("“{name}” holds no frames.").format(name=name)
    kinds = {sequenceNode.GetNthDataNode(n).GetClassName() for n in range(sequenceNode.GetNumberOfDataNodes())}
    if kinds != {VOLUME}:
        return _("“{name}” is no sequence of CTs.").format(name=name)
    proxies = [browser.GetProxyNode(sequenceNode) for browser in browsersOf(sequenceNode)]
    if any(proxy is not None and proxy.GetParentTransformNode() is not None for proxy in proxies):
        return _("“{name}” is shown under a transform; harden it or take it out.").format(name=name)
    return None


def frames(sequenceNode) -> list[Frame]:
    """Return the frames of a sequence of CTs.

    Raises
    ------
    SceneError
        If it holds something else, or nothing.
    """
    why = problem(sequenceNode)
    if why is not None:
        raise SceneError(why, _("Choose another one."))
    found = []
    for number in range(sequenceNode.GetNumberOfDataNodes()):
        value = sequenceNode.GetNthIndexValue(number)
        words = [sequenceNode.GetIndexName() or _("frame"), value, sequenceNode.GetIndexUnit()]
        found.append(Frame(value, " ".join(filter(None, words)), sequenceNode.GetNthDataNode(number)))
    return found


def nodeAt(sequenceNode, value: str):
    """Return the frame of an index value as it is now; None if there is none."""
    return sequenceNode.GetDataNodeAtValue(value)


def newLike(sequenceNode, name: str):
    """Return an empty sequence with the index of another one; it is not in the scene yet."""
    made = slicer.vtkMRMLSequenceNode()
    made.SetName(slicer.mrmlScene.GenerateUniqueName(name))
    made.SetIndexName(sequenceNode.GetIndexName())
    made.SetIndexUnit(sequenceNode.GetIndexUnit())
    made.SetIndexType(sequenceNode.GetIndexType())
    made.SetNumericIndexValueTolerance(sequenceNode.GetNumericIndexValueTolerance())
    return made


def browsersOf(sequenceNode) -> list:
    """Return the browsers that show a sequence."""
    return [
        browser
        for browser in slicer.util.getNodesByClass("vtkMRMLSequenceBrowserNode")
        if browser.IsSynchronizedSequenceNode(sequenceNode, True)
    ]


def browseTogether(segmentations, volumes):
    """Show a sequence of segmentations with the sequence of CTs that it was made of; return the shown segmentation.

    What a user draws into a frame is kept when another one is shown.
    """
    browsers = browsersOf(volumes)
    if browsers:
        browser = browsers[0]
    else:
        browser = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", volumes.GetName())
        browser.SetAndObserveMasterSequenceNodeID(volumes.GetID())
    browser.AddSynchronizedSequenceNodeID(segmentations.GetID())
    browser.SetSaveChanges(segmentations, True)
    # Over a CT that is added later nothing must be seen, rather than the segmentation of another frame.
    if hasattr(browser, "SetMissingItemMode"):  # older versions have no choice
        browser.SetMissingItemMode(segmentations, browser.MissingItemSetToDefault)
    slicer.modules.sequences.logic().UpdateProxyNodesFromSequences(browser)
    shown, ct = browser.GetProxyNode(segmentations), browser.GetProxyNode(volumes)
    if shown.GetDisplayNode() is None:
        shown.CreateDefaultDisplayNodes()
    if ct is not None:
        shown.SetReferenceImageGeometryParameterFromVolumeNode(ct)
        # What the CTs were put under meanwhile moves the results with them.
        shown.SetAndObserveTransformNodeID(ct.GetTransformNodeID())
        Hierarchy.placeBeside(shown, ct)
    return shown
