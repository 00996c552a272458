"""Virtual environments of other projects, so that their packages and Cutout's own do not meet."""

import subprocess
import venv
from pathlib import Path


def python_with(requirement: str, folder: Path) -> str:
    """Return the interpreter of the environment in `folder`; on the first use, make it and install the requirement."""
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", requirement], check=True)
    return str(python)
