"""The module ``SampleData``: other modules register their data in it, and a user asks for them by name."""

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
    """Registers sources and fetches their data."""

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

    def downloadFromSource(self, source: SampleDataSource) -> list[Any]:
        if source.customDownloader is None:
            raise RuntimeError(f"there is no network here to fetch {source.sampleName} from")
        return source.customDownloader(source)

    def downloadSamples(self, sampleName: str) -> list[Any]:
        sources = [item for listed in slicer.modules.sampleDataSources.values() for item in listed]
        for source in sources:
            if source.sampleName == sampleName:
                return self.downloadFromSource(source)
        return []


def build() -> ModuleType:
    """Return the module ``SampleData``."""
    module = ModuleType("SampleData", "Sample data sets")
    module.SampleDataLogic = SampleDataLogic
    module.SampleDataSource = SampleDataSource
    return module


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]
