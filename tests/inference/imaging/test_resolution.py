"""A photo's resolution is kept in every format; its other metadata are not."""

import dataclasses
import io
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image
from PIL.TiffImagePlugin import IFDRational

from cutout.inference.imaging.decode import decode
from cutout.inference.imaging.encode import Format
from cutout.inference.imaging.resolution import Dpi
from cutout.inference.options import Options
from tests.fakes import fake_engine, open_picture
from tests.inference import files
from tests.inference.files import encode, scene

ACROSS, DOWN = 300.0, 240.0
GPS, OWNER, SECRET = 0x8825, 0xA430, "Somebody's camera"


def exif(across: Any = ACROSS, down: Any = DOWN, unit: int | None = 2, orientation: int = 1) -> bytes:
    block = Image.Exif()
    block[282], block[283] = across, down
    if unit is not None:
        block[296] = unit
    block[files.ORIENTATION] = orientation
    return block.tobytes()


def tiff(**options: Any) -> bytes:
    out = io.BytesIO()
    tifffile.imwrite(out, scene(), photometric="rgb", metadata=None, **options)
    return out.getvalue()


TOLD = {
    "JPEG, its own": encode(scene(), "JPEG", dpi=(300, 240)),
    "JPEG, per centimetre": encode(scene(), "JPEG", dpi=(300, 240)).replace(
        b"\1\x01\x2c\0\xf0", b"\2\0\x76\0\x5e", 1
    ),
    "JPEG, EXIF": encode(scene(), "JPEG", exif=exif()),
    "PNG": encode(scene(), "PNG", dpi=(300, 240)),
    "WEBP, EXIF": encode(scene(), "WEBP", exif=exif()),
    "AVIF, EXIF": encode(scene(), "AVIF", exif=exif()),
    "HEIC, EXIF": encode(scene(), "HEIC", exif=exif()),
    "EXIF, per centimetre": encode(scene(), "WEBP", exif=exif(ACROSS / 2.54, DOWN / 2.54, 3)),
    "EXIF, no unit": encode(scene(), "WEBP", exif=exif(unit=None)),
    "BMP": encode(scene(), "BMP", dpi=(300, 240)),
    "TIFF": tiff(resolution=(300, 240), resolutionunit="inch"),
    "TIFF, per centimetre": tiff(resolution=(ACROSS / 2.54, DOWN / 2.54), resolutionunit="centimeter"),
    "TIFF, JPEG within": tiff(resolution=(300, 240), resolutionunit="inch", compression="jpeg"),
}


def assert_near(dpi: Dpi | None, expected: Dpi = (ACROSS, DOWN)) -> None:
    assert dpi is not None
    np.testing.assert_allclose(dpi, expected, rtol=0.01)  # JPEG stores whole numbers.


@pytest.mark.parametrize("name", TOLD)
def test_every_format_tells_its_resolution(name: str) -> None:
    assert_near(decode(TOLD[name]).dpi)


@pytest.mark.parametrize("file_format", ["JPEG", "WEBP"])
def test_a_photo_that_is_turned_turns_its_resolution(file_format: str) -> None:
    assert_near(decode(encode(scene(), file_format, exif=exif(orientation=6))).dpi, (DOWN, ACROSS))
    assert_near(decode(encode(scene(), file_format, exif=exif(orientation=3))).dpi)


@pytest.mark.parametrize("compression", [None, "jpeg"])
def test_a_tiff_that_is_turned_turns_its_resolution(compression: str | None) -> None:
    turned = [(files.ORIENTATION, 3, 1, 6, True)]
    data = tiff(resolution=(300, 240), resolutionunit="inch", compression=compression, extratags=turned)
    assert_near(decode(data).dpi, (DOWN, ACROSS))


@pytest.mark.parametrize(
    "data",
    [
        encode(scene(), "JPEG"),
        encode(scene(), "JPEG", exif=files.exif(1)),  # Pillow would report 72.
        encode(scene(), "PNG"),
        encode(scene(), "GIF"),
        encode(scene(), "WEBP", exif=exif(0, 0)),
        encode(scene(), "WEBP", exif=exif(IFDRational(1, 0), 300)),
        encode(scene(), "WEBP", exif=exif(1e9, 1e9)),
        encode(scene(), "WEBP", exif=exif(unit=1)),
        files.tiff(scene(), photometric=2, tags={282: (3, [7, 8, 9]), 283: (3, [7])}),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_is_not_told_or_cannot_be_meant_is_none(data: bytes) -> None:
    assert decode(data).dpi is None


@pytest.mark.parametrize("mask_only", [False, True])
def test_the_resolution_stays_and_all_other_metadata_go(mask_only: bool) -> None:
    block = Image.Exif()
    block[282], block[283], block[296] = ACROSS, DOWN, 2
    block[files.MAKE] = SECRET
    block.get_ifd(GPS)[1] = "N"
    block.get_ifd(0x8769)[OWNER] = SECRET
    xmp = f"<x:xmpmeta>{SECRET}</x:xmpmeta>".encode()
    photo = encode(scene(64, 48), "JPEG", exif=block, xmp=xmp, comment=SECRET.encode(), quality=95)
    assert photo.count(SECRET.encode()) == 4
    engine = fake_engine()
    try:
        for file_format in (Format.PNG, Format.WEBP, Format.JPG, Format.AVIF):
            options = dataclasses.replace(Options(), format=file_format, mask_only=mask_only)
            data = engine.remove(photo, options).data
            assert SECRET.encode() not in data
            assert_near(decode(data).dpi)
            told = open_picture(data).getexif()
            assert set(told) <= {282, 283, 296}
            assert not told.get_ifd(GPS)
    finally:
        engine.close()
