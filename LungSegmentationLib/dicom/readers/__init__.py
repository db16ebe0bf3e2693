"""Segmentations come in: ``.seg.nrrd`` of Slicer and our own, DICOM SEG; which segment is which structure."""
