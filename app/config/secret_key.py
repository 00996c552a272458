"""The secret that a host without a setting for it makes for itself."""

import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path

from cutout.app.core.atomic_write import make_private_folder


def load_or_create(folder: Path) -> str:
    """Return the secret kept in `folder`, made at first sight, for its owner's eyes only."""
    file = folder / "secret"
    if not file.exists():
        make_private_folder(folder)
        with tempfile.NamedTemporaryFile("w", dir=folder, prefix=".secret-") as whole:  # of mode 600
            whole.write(secrets.token_urlsafe(48))
            whole.flush()
            with suppress(FileExistsError):  # another process was first; its secret counts
                os.link(whole.name, file)
    return file.read_text()
