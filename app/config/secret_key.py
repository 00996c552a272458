"""The secret key that is generated if the setting is not set."""

import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path

from cutout.app.core.atomic_write import make_private_folder


def load_or_create(folder: Path) -> str:
    """Return the secret stored in `folder`; on first use, create it, readable by its owner only."""
    file = folder / "secret"
    if not file.exists():
        make_private_folder(folder)
        with tempfile.NamedTemporaryFile(
            "w", dir=folder, prefix=".secret-"
        ) as whole:  # created with mode 600
            whole.write(secrets.token_urlsafe(48))
            whole.flush()
            with suppress(FileExistsError):  # another process was first; use its secret
                os.link(whole.name, file)
    return file.read_text()
