"""The command ``lungseg``: parse, call, print. What it does is in the packages that it calls."""

from LungSegmentationLib.cli import data, learning, results, showing
from LungSegmentationLib.cli.application import app, main

__all__ = ["app", "data", "learning", "main", "results", "showing"]
