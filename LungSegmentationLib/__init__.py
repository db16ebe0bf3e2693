"""Lung CT with physicians' contours to a trained network and back, without Slicer.

Importing this package is light: numpy, SimpleITK, pydicom and torch come in with the modules that need them.
"""

__version__ = "0.1.0"

PRODUCT = "LungSegmentation"
"""What this software calls itself in the files that it writes."""
