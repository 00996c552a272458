"""Pictures of strokes that say what of a photo stays or goes, as a form sends them."""

import asyncio
from collections.abc import Mapping

from cutout.app.core.errors import InvalidInputError
from cutout.inference.imaging.backgrounds import Picture
from cutout.inference.limits import SizeLimits
from cutout.inference.option_values import as_strokes

# The parts with the files, and the options that they are.
PARTS = {"keepMask": "keep_mask", "dropMask": "drop_mask"}


async def read_parts(files: Mapping[str, bytes], sizes: SizeLimits) -> dict[str, Picture]:
    """Return the pictures of strokes among a form's files, by their options, after a look at their headers.

    Raises:
        InvalidOptions: one is no picture, or is too large; the message names its part.

    """
    return {
        option: await asyncio.to_thread(as_strokes, files[part], part, sizes)
        for part, option in PARTS.items()
        if part in files
    }


def too_large(part: str, limit_bytes: int) -> InvalidInputError:
    """Return the error for a picture that exceeds the size limit of an upload."""
    return InvalidInputError(
        f"{part}: The picture is larger than {limit_bytes // 1_000_000} MB. Send a smaller one; it is stretched to"
        " the photo."
    )
