"""What the module does with the MRML scene, the application and the jobs of ``LungSegmentationLib``."""
