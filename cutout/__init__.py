"""Cutout: background removal on your own GPU."""

from importlib.metadata import version

__version__ = version("cutout-server")
