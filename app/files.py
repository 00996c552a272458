"""Files written whole or not at all."""

import uuid
from pathlib import Path


def write_whole(target: Path, data: bytes) -> None:
    """Write beside the target, then rename: nobody ever sees half a file. Folders are made as needed.

    Raises:
        OSError: it cannot be written; nothing is left behind.

    """
    target.parent.mkdir(parents=True, exist_ok=True)
    staged = target.with_name(f".cutout-{uuid.uuid4().hex}")
    try:
        staged.write_bytes(data)
        staged.replace(target)
    except BaseException:
        staged.unlink(missing_ok=True)
        raise
