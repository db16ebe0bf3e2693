"""``python -m LungSegmentationLib`` is ``lungseg``."""

from LungSegmentationLib.cli import main

if __name__ == "__main__":
    main()
