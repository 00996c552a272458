"""The service and the command line around the engine."""

from importlib.metadata import version

__version__ = version("cutout-server")
