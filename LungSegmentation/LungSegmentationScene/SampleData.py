"""The phantom in Slicer's Sample Data module: made on this computer when it is asked for, nothing is downloaded."""

from __future__ import annotations

import logging
from pathlib import Path

import slicer
from slicer.i18n import tr as _

from LungSegmentationScene import Environment

logger = logging.getLogger("LungSegmentation")

SAMPLE_NAME = "Lung segmentation phantom"
SEED = 42
PIXELS = 256


def registerSampleData() -> None:
    """Offer the phantom in the Sample Data module."""
    import SampleData

    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        category=_("Lung Segmentation"),
        sampleName=SAMPLE_NAME,
        uris="",
        fileNames="LungSegmentationPhantom",
        nodeNames="LungSegmentationPhantom",
        thumbnailFileName=str(Environment.resourcePath("Icons", "LungSegmentationPhantom.png")),
        customDownloader=loadPhantom,
    )


def phantomFolder() -> Path:
    """Return where the phantom is kept: with the other sample data, until the user clears that folder."""
    cache = slicer.mrmlScene.GetCacheManager()
    folder = cache.GetRemoteCacheDirectory() if cache is not None else ""
    return Path(folder or slicer.app.temporaryPath) / f"LungSegmentationPhantom-{SEED}"


def loadPhantom(_source=None) -> list:
    """Make the phantom, unless it was made before, and load it; waits, the window staying alive.

    Returns
    -------
    list
        CT node and segmentation node.

    Raises
    ------
    JobError, SceneError
        If it cannot be made or loaded.
    """
    from LungSegmentationScene import Import
    from LungSegmentationScene.Errors import SceneError
    from LungSegmentationScene.Jobs import SceneJob

    folder = phantomFolder()
    slicer.util.showStatusMessage(_("Making the phantom…"))
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        options = ["--patients", "1", "--seed", str(SEED), "--size", str(PIXELS), "--complete"]
        partial = folder.with_name(f"{folder.name}.part")
        job = SceneJob(["phantom", partial, *options], key="SampleData", title=_("Making the phantom"))
        job.start().wait()
        try:
            partial.replace(folder)
        except OSError as error:
            raise SceneError(
                _("{folder} cannot be written: {why}.").format(folder=folder, why=error.strerror),
                _("Choose another cache folder in the application settings."),
            ) from error
    imported = Import.importPatient(folder / "dicom")
    slicer.util.showStatusMessage(_("The phantom's DICOM files are in {folder}.").format(folder=folder), 10000)
    logger.info("The phantom's DICOM files are in %s", folder)
    return [node for node in (imported.volumeNode, imported.segmentationNode) if node is not None]
