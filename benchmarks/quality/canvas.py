"""Canvas for soft subjects: opaque shapes drawn with several samples per pixel."""

import cv2
import numpy as np
import numpy.typing as npt

from benchmarks.quality.layers import Bytes, Colour, Layer

SUPERSAMPLES = 2  # along each axis; the lens blur smooths the edges further
SHIFT = 4  # fractional bits of OpenCV's drawing coordinates


class Canvas:
    """Canvas for opaque shapes with several samples per pixel; alpha is the share of samples that were painted."""

    def __init__(self, height: int, width: int) -> None:
        self._size = (height, width)
        self._colour = np.zeros((height * SUPERSAMPLES, width * SUPERSAMPLES, 3), np.uint8)
        self._painted = np.zeros(self._colour.shape[:2], np.uint8)

    def ellipse(self, centre: npt.ArrayLike, axes: tuple[float, float], colour: Colour) -> None:
        place, radii = self._fixed(centre), self._fixed(axes)
        for image, value in self._images(colour):
            cv2.ellipse(image, place, radii, 0, 0, 360, value, cv2.FILLED, cv2.LINE_8, SHIFT)

    def ring(self, centre: npt.ArrayLike, radius: float, thick: float, colour: Colour) -> None:
        place, radii = self._fixed(centre), self._fixed((radius, radius))
        for image, value in self._images(colour):
            cv2.ellipse(image, place, radii, 0, 0, 360, value, self._thick(thick), cv2.LINE_8, SHIFT)

    def strand(
        self,
        root: npt.ArrayLike,
        angle: float,
        length: float,
        bend: float,
        thick: float,
        colour: Colour,
    ) -> None:
        """Draw a curve that turns by `bend` radians along its length; the last third is thinner."""
        turns = angle + bend * np.linspace(0, 1, 10)
        steps = length / 10 * np.stack([np.cos(turns), np.sin(turns)], 1)
        points = np.asarray(root) + np.concatenate([np.zeros((1, 2)), np.cumsum(steps, 0)])
        fixed = np.round(points * SUPERSAMPLES * 2**SHIFT).astype(np.int32)
        for image, value in self._images(colour):
            cv2.polylines(image, [fixed[:8]], False, value, self._thick(thick), cv2.LINE_8, SHIFT)
            cv2.polylines(image, [fixed[7:]], False, value, self._thick(thick / 2), cv2.LINE_8, SHIFT)

    def layer(self) -> Layer:
        height, width = self._size
        alpha = cv2.resize(self._painted, (width, height), interpolation=cv2.INTER_AREA)
        colour = cv2.resize(self._colour, (width, height), interpolation=cv2.INTER_AREA)
        return Layer(colour.astype(np.float32), alpha.astype(np.float32) / 255)

    def _images(self, colour: Colour) -> tuple[tuple[Bytes, Colour], tuple[Bytes, int]]:
        return (self._colour, colour), (self._painted, 255)

    @staticmethod
    def _fixed(values: npt.ArrayLike) -> tuple[int, int]:
        x, y = (np.asarray(values) * SUPERSAMPLES * 2**SHIFT).round().astype(int).tolist()
        return x, y

    @staticmethod
    def _thick(pixels: float) -> int:
        return max(1, round(pixels * SUPERSAMPLES))
