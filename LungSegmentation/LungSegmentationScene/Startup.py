"""What is offered to other modules once the application has started: sample data and a terminology."""

from __future__ import annotations

import logging

import slicer

logger = logging.getLogger("LungSegmentation")

TERMINOLOGY_FILE = ("Terminologies", "LungSegmentation.term.json")


def registerAll() -> None:
    """Register everything; reads one small file and makes no network connection."""
    registerTerminology()
    registerSampleData()


def registerTerminology() -> bool:
    """Load our terminology, which knows GTV and PTV, into Slicer's; returns whether it is there afterwards."""
    from LungSegmentationLib.resources import resource_path

    if not hasattr(slicer.modules, "terminologies"):
        return False
    logic = slicer.modules.terminologies.logic()
    if not logic.LoadTerminologyFromFile(str(resource_path(*TERMINOLOGY_FILE))):
        logger.warning("the terminology with GTV and PTV could not be loaded.")
        return False
    return True


def registerSampleData() -> bool:
    """Offer the phantom in the Sample Data module, where that module is there."""
    if not hasattr(slicer.modules, "sampledata"):
        return False
    from LungSegmentationScene import SampleData

    SampleData.registerSampleData()
    return True
