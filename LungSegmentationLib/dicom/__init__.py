"""DICOM in and out: what a folder holds, CT volumes, RTSTRUCT contours, masks, ROI names."""
