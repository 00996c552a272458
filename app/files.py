"""Files written whole or not at all."""

import uuid
from collections.abc import Iterable
from pathlib import Path


def write_whole(target: Path, data: bytes) -> None:
    """Write a file as `write_stream` does.

    Raises:
        OSError: it cannot be written; nothing is left behind.

    """
    write_stream(target, (data,))


def write_stream(target: Path, chunks: Iterable[bytes]) -> None:
    """Write beside the target, then rename: nobody ever sees half a file. Folders are made as needed.

    Raises:
        OSError: it cannot be written; nothing is left behind.
        Exception: what `chunks` raise; nothing is left behind.

    """
    target.parent.mkdir(parents=True, exist_ok=True)
    staged = target.with_name(f".cutout-{uuid.uuid4().hex}")
    try:
        with staged.open("wb") as file:
            file.writelines(chunks)
        staged.replace(target)
    except BaseException:
        staged.unlink(missing_ok=True)
        raise
