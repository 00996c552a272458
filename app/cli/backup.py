"""`cutout backup` and `cutout restore`: the data of a service that keeps its own database, as one file."""

import os
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from cutout.app.cli.console import CommandError, escape, say
from cutout.app.config.settings import load as load_settings

PIPE = Path("-")


def backup(
    file: Annotated[
        Path, typer.Argument(help="The archive to write, such as cutout-2026-11-27.tar; `-` for stdout.")
    ],
) -> None:
    """Write the database, the secret and all pictures into one file, also while the service runs."""
    from cutout.app import backup as archives

    settings = load_settings()
    if file == PIPE:
        if sys.stdout.isatty():
            raise CommandError(
                "The archive would be shown in the terminal. Name a file, or pipe it somewhere."
            )
        try:
            manifest = archives.save(settings, sys.stdout.buffer)
            sys.stdout.buffer.flush()
        except OSError as error:
            raise CommandError(f"The archive is incomplete: stdout ended ({error.strerror}).") from error
    else:
        if file.exists():
            raise CommandError(f"{file} exists already. Choose another name.")
        # Whole or not at all, and a new file that only this user can read: it contains the secret.
        part = None
        try:
            opened, part = tempfile.mkstemp(".part", f".{file.name}.", file.parent)
            with os.fdopen(opened, "wb") as out:
                manifest = archives.save(settings, out)
                out.flush()
                os.fsync(out.fileno())
            Path(part).rename(file)
        except OSError as error:
            raise CommandError(f"{file} cannot be written ({error.strerror}).") from error
        finally:
            if part is not None:
                Path(part).unlink(missing_ok=True)
    say(
        f"Backed up {manifest.files} files, {manifest.bytes / 1e6:,.1f} MB, at revision {manifest.revision}."
        " Keep the file as secret as the service's data."
    )
    if settings.s3_bucket is not None:
        say(
            f"Pictures are in the bucket {escape(settings.s3_bucket)}, which is not part of it: copy that next."
        )


def restore(
    file: Annotated[Path, typer.Argument(help="An archive that `cutout backup` has written; `-` for stdin.")],
) -> None:
    """Unpack an archive into an empty CUTOUT_DATA_DIR, whole or not at all. Then start the service."""
    from cutout.app import backup as archives

    settings = load_settings()
    if file == PIPE:
        manifest = archives.restore(settings, sys.stdin.buffer)
    else:
        try:
            archive = file.open("rb")
        except OSError as error:
            raise CommandError(f"{file} cannot be read ({error.strerror}).") from error
        with archive:
            manifest = archives.restore(settings, archive)
    say(
        f"Restored {manifest.files} files, {manifest.bytes / 1e6:,.1f} MB, as of {manifest.made_at}, to"
        f" {escape(str(settings.data_dir.expanduser()))}. Start the service."
    )
