"""A GIF writer for single pictures: the colours that are seen get the palette, and a pixel is opaque or transparent."""

import io

import numpy as np
from PIL import Image

from cutout.inference.imaging.decode import Pixels

# The last one of a palette stands for transparent pixels.
COLOURS, TRANSPARENT = 255, 255
OPAQUE = 128  # alpha from which on a pixel is opaque


def encode_gif(picture: Pixels) -> bytes:
    """Encode uint8 [H,W] (grey), [H,W,3] (RGB) or [H,W,4] (RGBA, straight alpha). RGBA becomes transparent below half."""
    out = io.BytesIO()
    if picture.ndim == 2:
        Image.fromarray(picture).save(out, "GIF", optimize=False, interlace=False)
        return out.getvalue()
    colours = np.ascontiguousarray(picture[..., :3])
    shown = None if picture.shape[2] == 3 else picture[..., 3] >= OPAQUE
    seen = colours.reshape(1, -1, 3) if shown is None else colours[shown][None]
    if not seen.size:
        seen = np.zeros((1, 1, 3), np.uint8)
    palette = Image.fromarray(seen).quantize(COLOURS, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    if shown is not None:
        # Exactly in the palette, so that transparent pixels lend no error of theirs to their neighbours.
        colours[~shown] = (palette.getpalette() or [0, 0, 0])[:3]
    indexed = Image.fromarray(colours).quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)
    if shown is None:
        indexed.save(out, "GIF", optimize=False, interlace=False)
        return out.getvalue()
    indices = np.array(indexed)
    indices[~shown] = TRANSPARENT
    marked = Image.fromarray(indices, "P")
    marked.putpalette((indexed.getpalette() or []) + [0] * (768 - len(indexed.getpalette() or [])))
    marked.save(out, "GIF", optimize=False, interlace=False, transparency=TRANSPARENT)
    return out.getvalue()
