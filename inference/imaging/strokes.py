"""Strokes: pictures that mark parts of a photo in white, of any size, stretched to the photo."""

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
from PIL import Image

from cutout.inference.errors import InvalidOptions, InvalidPhoto
from cutout.inference.imaging import decode
from cutout.inference.imaging.backgrounds import Picture
from cutout.inference.limits import DEFAULT_SIZES, SizeLimits

# A pixel is white if its lightness times its alpha is at least this, of 255.
WHITE = 127.5
# Strokes of both kinds contradict each other if they share more than this share of the smaller one.
SHARED = 0.1
# Pictures with more pixels a side are made smaller: a pixel is marked if any of those in its place is.
MOST_PIXELS = 2048
KEEP, DROP = "the strokes to keep", "the strokes to drop"

Marked = npt.NDArray[np.bool_]
Shares = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Strokes:
    """Marked pixels, bool [h,w], of a picture that is stretched to a photo.

    `left`, `top`, `right`, `bottom` are the part of the photo that is looked at, as shares of its width and height.
    """

    marked: Marked = field(repr=False)
    left: float = 0.0
    top: float = 0.0
    right: float = 1.0
    bottom: float = 1.0

    def seen(self, left: float, top: float, right: float, bottom: float) -> "Strokes":
        """Return the strokes for a part of the photo, with edges in shares of its width and height."""
        return replace(self, left=left, top=top, right=right, bottom=bottom)

    def shares(self, height: int, width: int, rows: float, columns: float) -> Shares:
        """Return how much of each cell of the part is marked, [height,width] of 0…1; it has rows × columns cells."""
        down = _edges(self.top, self.bottom, height, rows, self.marked.shape[0])
        across = _edges(self.left, self.right, width, columns, self.marked.shape[1])
        top, bottom, left, right = down[:-1], down[1:], across[:-1], across[1:]
        bottom, right = np.maximum(bottom, top + 1), np.maximum(right, left + 1)  # cells smaller than a pixel
        # Each cell ends where the next one begins, but for those smaller than a pixel, which `reduceat` gives one, too.
        inside = self.marked[: bottom[-1], : right[-1]].view(np.uint8)
        counts = np.add.reduceat(np.add.reduceat(inside, top, 0, np.int32), left, 1)
        shares: Shares = counts / ((bottom - top)[:, None] * (right - left))
        return shares


def size_of(picture: Picture, name: str, sizes: SizeLimits = DEFAULT_SIZES) -> decode.Size:
    """Return the size of a picture of strokes; `name` is for messages.

    Raises:
        InvalidOptions: the picture no longer exists, or cannot be read.

    """
    if not picture.data:
        raise InvalidOptions(f"The picture of {name} is empty, or no longer exists. Send it again.")
    try:
        return decode.read_size(picture.data, sizes)
    except InvalidPhoto as error:
        raise InvalidOptions(f"The picture of {name}: {error}") from error


def read(picture: Picture, name: str, sizes: SizeLimits = DEFAULT_SIZES) -> Strokes:
    """Decode a picture of strokes; `name` is for messages.

    Raises:
        InvalidOptions: the picture no longer exists, cannot be read, or has no white pixel.

    """
    size_of(picture, name, sizes)
    try:
        decoded = decode.decode(picture.data, sizes)
    except InvalidPhoto as error:
        raise InvalidOptions(f"The picture of {name}: {error}") from error
    light = np.asarray(Image.fromarray(decoded.rgb).convert("L"))
    if decoded.alpha is None:
        marked = light >= WHITE
    else:
        marked = np.multiply(light, decoded.alpha, dtype=np.uint16) >= WHITE * 255
    if not marked.any():
        raise InvalidOptions(
            f"The picture of {name} has no white strokes. Draw in white on black, or on nothing, or leave it out."
        )
    return Strokes(_reduced(_reduced(marked, 0), 1))


def check_apart(keep: Strokes, drop: Strokes) -> None:
    """Return if strokes to keep and to drop hardly share a pixel.

    Raises:
        InvalidOptions: they share more than a tenth of the smaller ones.

    """
    one, other = keep.marked, drop.marked
    rows, columns = np.maximum(one.shape, other.shape).tolist()
    one, other = _stretched(one, rows, columns), _stretched(other, rows, columns)
    shared = np.count_nonzero(one & other)
    if shared > SHARED * min(np.count_nonzero(one), np.count_nonzero(other)):
        raise InvalidOptions(
            "The same spot is marked both to keep and to drop: the strokes overlap. Clear one of them there."
        )


def _edges(first: float, last: float, count: int, cells: float, pixels: int) -> npt.NDArray[np.int64]:
    """Return the pixel at which each cell begins, and behind the last one, where it ends, [count+1] of 0…pixels."""
    places = first + (last - first) * np.minimum(np.arange(count + 1) / cells, 1)
    edges = np.rint(places * pixels).astype(np.int64).clip(0, pixels)
    edges[:-1] = np.minimum(edges[:-1], pixels - 1)
    return edges


def _reduced(marked: Marked, axis: int) -> Marked:
    pixels = marked.shape[axis]
    if pixels <= MOST_PIXELS:
        return marked
    reduced: Marked = np.logical_or.reduceat(marked, np.arange(MOST_PIXELS) * pixels // MOST_PIXELS, axis)
    return reduced


def _stretched(marked: Marked, rows: int, columns: int) -> Marked:
    """Return the marked pixels at another size, which is no smaller, without a blend."""
    if marked.shape == (rows, columns):
        return marked
    down = (np.arange(rows) * marked.shape[0]) // rows
    across = (np.arange(columns) * marked.shape[1]) // columns
    return marked[np.ix_(down, across)]
