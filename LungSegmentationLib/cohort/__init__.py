"""The folder of cases that a training learns from: how it is laid out, made from DICOM, and described."""
