"""Where nodes stand in the subject hierarchy: a CT under its patient and study, results beside their CT."""

from __future__ import annotations

from collections.abc import Sequence

import slicer
from slicer.i18n import tr as _

_NAMES = slicer.vtkMRMLSubjectHierarchyConstants


def hierarchy():
    """Return the scene's subject hierarchy."""
    return slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)


def isInScene(node) -> bool:
    """Whether a node is in the scene; one of a closed scene is not, although another one may have its ID by now."""
    return node is not None and slicer.mrmlScene.GetNodeByID(node.GetID() or "") is node


def itemOf(node) -> int:
    """Return the item of a node; made where there is none."""
    tree = hierarchy()
    item = tree.GetItemByDataNode(node)
    return item if item != tree.GetInvalidItemID() else tree.CreateItem(tree.GetSceneItemID(), node)


def placeVolume(
    node, *, patientId: str, studyUid: str, studyDate: str, seriesUid: str, instanceUids: Sequence[str | None] = ()
) -> None:
    """Put a CT under its patient and study, which are made where they are missing."""
    tree = hierarchy()
    uid = _NAMES.GetDICOMUIDName()
    patientName = patientId or _("Unknown patient")
    patient = _found(tree, uid, patientId, _NAMES.GetDICOMLevelPatient())
    if patient is None:
        patient = tree.CreateSubjectItem(tree.GetSceneItemID(), patientName)
        if patientId:
            tree.SetItemUID(patient, uid, patientId)
            tree.SetItemAttribute(patient, _NAMES.GetDICOMPatientIDAttributeName(), patientId)
    study = _found(tree, uid, studyUid, _NAMES.GetDICOMLevelStudy())
    if study is None:
        study = tree.CreateStudyItem(patient, _studyName(studyDate))
        if studyUid:
            tree.SetItemUID(study, uid, studyUid)
            tree.SetItemAttribute(study, _NAMES.GetDICOMStudyInstanceUIDAttributeName(), studyUid)
        if studyDate:
            tree.SetItemAttribute(study, _NAMES.GetDICOMStudyDateAttributeName(), studyDate)
    item = itemOf(node)
    tree.SetItemParent(item, study)
    if seriesUid:
        tree.SetItemUID(item, uid, seriesUid)
    if any(instanceUids):
        tree.SetItemUID(item, _NAMES.GetDICOMInstanceUIDName(), " ".join(one for one in instanceUids if one))
    tree.SetItemAttribute(item, _NAMES.GetDICOMSeriesModalityAttributeName(), "CT")


def placeBeside(node, volumeNode) -> None:
    """Put a node under the study (or folder) that holds a volume."""
    tree = hierarchy()
    if volumeNode is not None:
        tree.SetItemParent(itemOf(node), tree.GetItemParent(itemOf(volumeNode)))


def patientOf(node) -> str:
    """Return the patient's id as the subject hierarchy knows it; empty where it does not."""
    tree = hierarchy()
    return tree.GetAttributeFromItemAncestor(
        itemOf(node), _NAMES.GetDICOMPatientIDAttributeName(), _NAMES.GetDICOMLevelPatient()
    )


def _found(tree, uidName: str, uid: str, level: str) -> int | None:
    item = tree.GetItemByUID(uidName, uid) if uid else tree.GetInvalidItemID()
    return item if item != tree.GetInvalidItemID() and tree.GetItemLevel(item) == level else None


def _studyName(date: str) -> str:
    if len(date) == 8 and date.isdigit():
        return _("Study of {date}").format(date=f"{date[:4]}-{date[4:6]}-{date[6:]}")
    return _("Study")
