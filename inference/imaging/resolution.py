"""A picture's print resolution in dots per inch. It does not affect the pixels."""

from collections.abc import Mapping
from typing import Any

from PIL import Image

Dpi = tuple[float, float]  # across and down

X_RESOLUTION, Y_RESOLUTION, UNIT = 282, 283, 296  # EXIF and TIFF
PER_INCH = {2: 1.0, 3: 2.54}  # factor by unit: 2 is inches, 3 is centimetres
# The range that all formats can store; JPEG has 16 bits for it.
LOWEST, HIGHEST = 1, 65_535


def dpi_of(image: Image.Image, exif: Mapping[int, Any]) -> Dpi | None:
    """Return a picture's resolution; None if the file does not state one, or only an implausible one.

    If a JPEG states it both in its JFIF header and in EXIF, the JFIF header takes precedence.
    """
    if "jfif_density" in image.info:
        unit = {1: 1.0, 2: 2.54}.get(image.info.get("jfif_unit", 0))  # 0 states only the pixel aspect ratio
        if unit is not None:
            return checked(*(density * unit for density in image.info["jfif_density"]))
    elif image.format not in ("JPEG", "MPO") and "dpi" in image.info:
        return checked(*image.info["dpi"])
    return from_tags(exif)


def from_tags(tags: Mapping[int, Any]) -> Dpi | None:
    """Return the resolution from EXIF or TIFF tags; None if they state no valid one."""
    unit = tags.get(UNIT, 2)
    if unit not in PER_INCH or X_RESOLUTION not in tags or Y_RESOLUTION not in tags:
        return None
    return checked(tags[X_RESOLUTION], tags[Y_RESOLUTION], unit=PER_INCH[unit])


def checked(across: Any, down: Any, *, unit: float = 1.0) -> Dpi | None:
    """Return a resolution if it is valid, else None. Each number may be a pair of numerator and denominator."""
    try:
        found = [one[0] / one[1] if isinstance(one, tuple) else float(one) for one in (across, down)]
    except (TypeError, ValueError, ArithmeticError, IndexError):
        return None
    across, down = (one * unit for one in found)
    is_one = LOWEST <= across <= HIGHEST and LOWEST <= down <= HIGHEST  # False for NaN
    return (across, down) if is_one else None


def as_exif(dpi: Dpi) -> Image.Exif:
    """Return an EXIF block that contains only the resolution."""
    exif = Image.Exif()
    exif[X_RESOLUTION], exif[Y_RESOLUTION] = dpi
    exif[UNIT] = 2
    return exif
