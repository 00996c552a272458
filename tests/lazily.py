"""Modules that are imported at their first use: each test process collects all files, and one of them runs a file."""

import importlib
from typing import Any


class Lazily:
    """Stands for a module, which is imported when an attribute of it is first asked for."""

    def __init__(self, module: str) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # pytest asks all that it collects whether it is a mock.
            raise AttributeError(name)
        return getattr(importlib.import_module(self._module), name)
