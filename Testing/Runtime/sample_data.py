"""The module ``SampleData``: other modules register their data in it, and its buttons call their functions.

By name (``downloadSamples``) the real one fetches addresses only and passes over functions, so that is not there.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import slicer


class SampleDataSource:
    """One entry of the module: where its files are, or the function that makes them."""

    def __init__(self, sampleName: str, uris: Any, fileNames: Any, nodeNames: Any) -> None:
        self.sampleName = sampleName
        self.uris, self.fileNames, self.nodeNames = (_listed(item) for item in (uris, fileNames, nodeNames))
        self.customDownloader: Any = None
        self.thumbnailFileName: str | None = None
        if not len(self.uris) == len(self.fileNames) == len(self.nodeNames):
            raise ValueError("uris, fileNames and nodeNames of a sample must be as many")


class SampleDataLogic:
    """Registers sources."""

    @staticmethod
    def registerCustomSampleDataSource(
        category: str = "General",
        sampleName: str | None = None,
        uris: Any = None,
        fileNames: Any = None,
        nodeNames: Any = None,
        customDownloader: Any = None,
        thumbnailFileName: str | None = None,
    ) -> None:
        source = SampleDataSource(sampleName, uris, fileNames, nodeNames)
        source.customDownloader = customDownloader
        source.thumbnailFileName = thumbnailFileName
        slicer.modules.sampleDataSources.setdefault(category, []).append(source)


def build() -> ModuleType:
    """Return the module ``SampleData``."""
    module = ModuleType("SampleData", "Sample data sets")
    module.SampleDataLogic = SampleDataLogic
    module.SampleDataSource = SampleDataSource
    return module


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]
