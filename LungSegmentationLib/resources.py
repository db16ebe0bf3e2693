"""Where the data files lie: in a source tree, in a wheel, and in an installed Slicer extension."""

from __future__ import annotations

from pathlib import Path

from LungSegmentationLib.errors import InstallationError

_PACKAGE = Path(__file__).resolve().parent


def resource_path(*parts: str) -> Path:
    """Return the path of a file or folder below ``Resources``.

    A wheel carries ``Resources`` inside the package; a source tree and an installed extension have it beside
    the package.

    Parameters
    ----------
    *parts
        Path below ``Resources``, for example ``"LabelSets", "thorax.json"``.

    Raises
    ------
    InstallationError
        If the file is in neither place: the installation is incomplete.
    """
    for root in (_PACKAGE / "Resources", _PACKAGE.parent / "Resources"):
        candidate = root.joinpath(*parts)
        if candidate.exists():
            return candidate
    raise InstallationError(f"The installation lacks the resource {'/'.join(parts)}. Install LungSegmentation again.")
