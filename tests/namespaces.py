"""Processes with a network of their own."""

import subprocess

import pytest


def skip_unless_allowed(command: list[str]) -> None:
    """Skip the test if this host does not let `command`, which starts with unshare, run."""
    if reason := why_not_allowed(command):
        pytest.skip(reason)


def why_not_allowed(command: list[str]) -> str | None:
    """Return why this host does not let `command`, which starts with unshare, run; None if it does."""
    try:
        trial = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    except FileNotFoundError:
        return "no unshare here, with which a process gets a network of its own"
    if trial.returncode:
        return f"a process may not have a network of its own here: {trial.stderr.strip()}"
    return None
