"""Processes with a network of their own."""

import subprocess

import pytest


def skip_unless_allowed(command: list[str]) -> None:
    """Skip the test if this host does not let `command`, which starts with unshare, run."""
    try:
        trial = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    except FileNotFoundError:
        pytest.skip("no unshare here, with which a process gets a network of its own")
    if trial.returncode:
        pytest.skip(f"a process may not have a network of its own here: {trial.stderr.strip()}")
