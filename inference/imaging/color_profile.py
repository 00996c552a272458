"""Colour profiles: conversion of photos to sRGB, and of what is added to them to their own profile."""

import io
from itertools import product

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms

SRGB_ICC: bytes = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()

# A coarse sample of all colours, to test whether a profile changes any.
_SAMPLES = np.array(list(product(range(0, 256, 15), repeat=3)), np.uint8)[None]


class UnusableProfile(Exception):
    """An embedded profile is damaged, or does not fit the picture's mode."""


def to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Convert a picture of mode RGB, L, CMYK or LAB from its embedded ICC profile to sRGB, mode RGB.

    The conversion is relative colorimetric with black point compensation, as in browsers. If the profile changes no
    colour of an RGB picture by more than one level, it is treated as sRGB and the picture is returned unchanged.

    Raises:
        UnusableProfile: the profile cannot be read, or does not fit the picture's mode.

    """
    try:
        transform = ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.createProfile("sRGB"),
            image.mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
        if image.mode == "RGB" and _is_identity(transform):
            return image
        converted = ImageCms.applyTransform(image, transform)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:  # TypeError: not bytes, in a TIFF
        raise UnusableProfile(str(error)) from error
    if converted is None:
        raise UnusableProfile("the conversion returned no picture")
    return converted


def is_rgb_profile(profile: object) -> bool:
    """Return whether this is a usable ICC profile of RGB colours."""
    if not isinstance(profile, bytes) or not profile:
        return False
    try:
        to_srgb(Image.fromarray(_SAMPLES), profile)
        from_srgb(_SAMPLES, profile)
        space = ImageCms.ImageCmsProfile(io.BytesIO(profile)).profile.xcolor_space
    except (UnusableProfile, OSError, ValueError, TypeError, ImageCms.PyCMSError):
        return False
    return space.strip() == "RGB"


def from_srgb(pixels: npt.NDArray[np.uint8], profile: bytes) -> npt.NDArray[np.uint8]:
    """Convert sRGB colours, uint8 [H,W,3], to those of an RGB profile.

    Raises:
        UnusableProfile: the profile cannot be read, or colours cannot be converted to it.

    """
    try:
        transform = ImageCms.buildTransform(
            ImageCms.createProfile("sRGB"),
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            "RGB",
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
        converted = ImageCms.applyTransform(Image.fromarray(pixels), transform)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
        raise UnusableProfile(str(error)) from error
    if converted is None:
        raise UnusableProfile("the conversion returned no picture")
    return np.array(converted)


def from_lab(image: Image.Image) -> Image.Image:
    """Convert a picture of mode LAB without a profile (CIE L*a*b*, D50) to sRGB."""
    return to_srgb(image, ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes())


def _is_identity(transform: ImageCms.ImageCmsTransform) -> bool:
    converted = ImageCms.applyTransform(Image.fromarray(_SAMPLES), transform)
    moved = np.asarray(converted, np.int16) - _SAMPLES
    return bool(np.abs(moved).max() <= 1)
