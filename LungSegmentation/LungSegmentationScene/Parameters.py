"""The settings of all panels in one parameter node, so that a saved scene brings them back.

Paths are texts here: an empty path is then an empty text, and a scene is read on every system.
"""

from __future__ import annotations

from typing import Annotated, Union

from slicer import (
    vtkMRMLLabelMapVolumeNode,
    vtkMRMLScalarVolumeNode,
    vtkMRMLSegmentationNode,
    vtkMRMLSequenceNode,
    vtkMRMLTableNode,
)
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper

# Slicer knows a union of node types by this spelling only, and takes "no node" only where None is one of the types.
LabelsNode = Union[vtkMRMLSegmentationNode, vtkMRMLLabelMapVolumeNode, None]  # noqa: UP007


@parameterNodeWrapper
class LungSegmentationParameters:
    """Fields begin with the name of the panel that shows them; all panels know all of them."""

    # Shared: what several panels work on
    openPanel: str = "Import"
    cohortFolder: str = ""
    modelPath: str = ""

    importSource: str = "folder"
    importFolder: str = ""
    importCase: str = ""
    importAllRois: bool = False
    importRoiMap: str = ""
    importCtChoice: str = ""
    importRtstructChoice: str = ""
    importSyntheticPtv: bool = False
    importSyntheticPtvMargin: Annotated[float, WithinRange(0.0, 50.0)] = 10.0
    importJobs: Annotated[int, WithinRange(1, 64)] = 2

    previewVolume: vtkMRMLScalarVolumeNode
    previewSegmentation: LabelsNode
    previewOpacity: Annotated[float, WithinRange(0.0, 100.0)] = 70.0
    previewFill: bool = True
    previewOutline: bool = True
    previewWindow: str = ""
    previewLabelNames: str = "colors"

    trainingRun: str = ""
    trainingPreset: str = "standard"
    trainingDevice: str = "auto"
    trainingEpochs: Annotated[int, WithinRange(1, 10000)] = 50
    trainingBatchSize: Annotated[int, WithinRange(1, 256)] = 8
    trainingLearningRate: str = "0.0001"
    trainingOverlap: str = "exclusive"
    trainingAugmentation: str = "default"
    trainingSettings: str = ""
    trainingSliceSize: str = ""

    inferenceVolume: vtkMRMLScalarVolumeNode
    inferenceSequence: vtkMRMLSequenceNode
    inferenceSegmentation: vtkMRMLSegmentationNode
    inferenceDevice: str = "auto"
    inferenceAugmentation: str = "none"
    inferenceSmoothing: Annotated[float, WithinRange(0.0, 50.0)] = 0.0
    inferencePostprocess: bool = True
    inferenceBatchInput: str = ""
    inferenceBatchOutput: str = ""
    inferenceExportFile: str = ""
    inferenceExportSource: str = ""

    evaluationSegmentation: LabelsNode
    evaluationReference: LabelsNode
    evaluationVolume: vtkMRMLScalarVolumeNode
    evaluationTable: vtkMRMLTableNode
    evaluationFolder: str = ""
    evaluationStructure: str = ""
