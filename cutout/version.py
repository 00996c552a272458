"""The version of this distribution."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("cutout-server")
except PackageNotFoundError:  # run from a checkout that is not installed, as benchmarks on a GPU host are
    __version__ = "0+source"
