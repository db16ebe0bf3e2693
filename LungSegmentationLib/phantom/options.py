"""What can be chosen about a synthetic patient; everything else follows from its seed and index."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from LungSegmentationLib.errors import UsageError

__all__ = ["Orientation", "PatientPosition", "PhantomOptions"]

Orientation = Literal["axial", "sagittal", "coronal", "oblique"]
PatientPosition = Literal["HFS", "FFS", "HFP", "FFP"]

SMALLEST_IMAGE = 32
LARGEST_IMAGE = 2048
MOST_SLICES = 2000
MOST_VOXELS = 400_000_000


@dataclass(frozen=True)
class PhantomOptions:
    """How synthetic patients are scanned and contoured.

    Attributes
    ----------
    in_plane
        Rows and columns of an image; ``None`` lets the seed choose 256 or 512.
    slices
        Number of images; ``None`` lets the seed choose 40–80. Fewer slices lie farther apart (up to 15 mm), and
        where they cannot cover the chest they lie around the tumor and the heart.
    orientation
        Plane of the stored images.
    position
        Patient Position (0018,5100): head or feet first, supine or prone. The image axes follow the scanner, so
        feet first and prone patients have rows or columns that run the other way in the patient.
    complete
        Draw every structure of the label set in every patient.
    lung_fraction, heart_fraction, esophagus_fraction, cord_fraction, ptv_fraction
        Part of a cohort's patients in whose RTSTRUCT the structure is drawn; a GTV always is.

    Raises
    ------
    UsageError
        If a value is impossible.
    """

    in_plane: int | None = None
    slices: int | None = None
    orientation: Orientation = "axial"
    position: PatientPosition = "HFS"
    complete: bool = False
    lung_fraction: float = 0.97
    heart_fraction: float = 0.28
    esophagus_fraction: float = 0.70
    cord_fraction: float = 0.95
    ptv_fraction: float = 0.15

    def __post_init__(self) -> None:
        if self.in_plane is not None and not SMALLEST_IMAGE <= self.in_plane <= LARGEST_IMAGE:
            raise UsageError(
                f"Phantom images of {self.in_plane} rows are impossible.",
                f"Choose {SMALLEST_IMAGE} to {LARGEST_IMAGE}; 256 and 512 are usual.",
            )
        if self.slices is not None and not 1 <= self.slices <= MOST_SLICES:
            raise UsageError(f"A phantom of {self.slices} slices is impossible.", f"Choose 1 to {MOST_SLICES}.")
        voxels = (self.in_plane or 512) ** 2 * (self.slices or 80)
        if voxels > MOST_VOXELS:
            raise UsageError(
                f"A phantom of {voxels:,} voxels is too large.", f"At most {MOST_VOXELS:,}: fewer slices or rows."
            )
        for name, value, allowed in (
            ("orientation", self.orientation, get_args(Orientation)),
            ("position", self.position, get_args(PatientPosition)),
        ):
            if value not in allowed:
                raise UsageError(f"The phantom {name} “{value}” is unknown.", f"Choose one of: {', '.join(allowed)}.")
        for key, fraction in self.drawn_fractions.items():
            if not 0.0 <= fraction <= 1.0:
                raise UsageError(f"The fraction {fraction} for {key} is impossible.", "Choose 0 to 1.")

    @property
    def drawn_fractions(self) -> dict[str, float]:
        """Part of the patients in whom each structure is drawn, by structure key."""
        if self.complete:
            return dict.fromkeys(("gtv", "ptv", "lung_right", "lung_left", "heart", "esophagus", "spinal_cord"), 1.0)
        return {
            "gtv": 1.0,
            "ptv": self.ptv_fraction,
            "lung_right": self.lung_fraction,
            "lung_left": self.lung_fraction,
            "heart": self.heart_fraction,
            "esophagus": self.esophagus_fraction,
            "spinal_cord": self.cord_fraction,
        }
