"""Drawing of backgrounds: gradients, pictures that cover a canvas, and a photo's own background, blurred."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from cutout.inference.imaging.backgrounds import SMALLEST_BLUR, BlurredPhoto, Gradient
from cutout.inference.imaging.resize import resize_planes, resized_planes

# A blurred photo is computed at this size, in pixels of its longer side; more for a slight blur, whose standard deviation
# has at least SHARPEST pixels there.
BLURRED_SIDE, SHARPEST = 512, 2.0
# Behind the subject there is nothing to blur. It is filled from ever wider blurs of what is around it, each this many
# times as wide; a blur counts in full where at least 1/ENOUGH of what it sees is background.
WIDER, ENOUGH = 3, 4
# What a pixel of the subject counts as background, at most, in parts of one of the background.
SHINES_THROUGH = 1e-4
# Three means over a window after each other are close to a Gaussian.
MEANS = 3
# A blur is computed in cells in which its standard deviation is about this many.
CELLS = 4.0


def gradient(background: Gradient, height: int, width: int, device: torch.device) -> Tensor:
    """Draw a linear gradient, uint8 [height,width,3], with the direction and the length that CSS defines."""
    angle = math.radians(background.degrees)
    across, down = math.sin(angle), -math.cos(angle)
    length = max(1e-6, abs(width * across) + abs(height * down))
    columns = (torch.arange(width, device=device) + 0.5 - width / 2) * across
    rows = (torch.arange(height, device=device) + 0.5 - height / 2) * down
    share = ((rows[:, None] + columns) / length + 0.5).clamp_(0, 1)[..., None]
    first, last = (
        torch.tensor(colour[:3], dtype=torch.float32, device=device)
        for colour in (background.first, background.last)
    )
    return _to_bytes(first.lerp(last, share))


def cover(picture: Tensor, height: int, width: int) -> Tensor:
    """Scale a picture, uint8 [H,W,3], to cover [height,width,3], centred; what is beyond the canvas is cut off."""
    rows, columns = _covering(picture.shape[0], picture.shape[1], height, width)
    return _to_bytes(resized_planes(picture[rows, columns], height, width)[0].permute(1, 2, 0))


def blurred(photo: Tensor, alpha: Tensor, background: BlurredPhoto, height: int, width: int) -> Tensor:
    """Blur a photo, uint8 [H,W,3], without its subject, and let it cover [height,width,3].

    `alpha`, uint8 [H,W], is the subject's: pixels where it is not 0 lend the blur no colour, so that no ghost of the
    subject shines through beside it.
    """
    rows, columns = photo.shape[:2]
    longer = max(rows, columns)
    percent = max(SMALLEST_BLUR, background.blur_percent)
    side = min(longer, max(BLURRED_SIDE, math.ceil(SHARPEST / (percent / 100))))
    small = max(1, round(rows * side / longer)), max(1, round(columns * side / longer))
    behind = (alpha == 0).to(torch.uint8)
    weights = resized_planes(behind[..., None] * 255, *small).float() / 255
    # The edge pixels of the subject are mixed with it, and so are the small pixels beside them.
    weights = torch.where(F.max_pool2d(1 - weights, 3, 1, 1) > 0, 0.0, weights)
    # Where all of a photo is subject, as a veil or a close-up, what shines through most is all that there is.
    through = 1 - resized_planes(alpha[..., None], *small).float() / 255
    weights = weights + SHINES_THROUGH * (through + SHINES_THROUGH)
    weights = weights / weights.amax()
    colours = resized_planes(photo, *small).float() * weights
    filled = _filled(colours, weights, side * percent / 100)
    rows_shown, columns_shown = _covering(*small, height, width)
    shown = filled[:, :, rows_shown, columns_shown]
    return _to_bytes(resize_planes(shown, height, width)[0].permute(1, 2, 0))


def blur(planes: Tensor, deviation: float) -> Tensor:
    """Blur float [1,C,h,w] by about a Gaussian of this standard deviation in pixels; beyond the border is 0.

    A wide blur is computed in cells of several pixels and enlarged again, so that it takes no longer than a narrow one.
    """
    height, width = planes.shape[2:]
    cell = max(1, int(deviation / CELLS))
    if cell > 1:
        planes = resize_planes(planes, math.ceil(height / cell), math.ceil(width / cell))
    deviation = deviation / cell
    radius = max(1, round((math.sqrt(12 * deviation**2 / MEANS + 1) - 1) / 2))
    for _ in range(MEANS):
        for rows, columns in ((radius, 0), (0, radius)):
            planes = F.avg_pool2d(planes, (2 * rows + 1, 2 * columns + 1), 1, (rows, columns))
    return planes if cell == 1 else F.interpolate(planes, size=(height, width), mode="bilinear")


def _filled(colours: Tensor, weights: Tensor, deviation: float) -> Tensor:
    """Blur colours, [1,3,h,w], that count by `weights`, [1,1,h,w], and fill in what has none from further away."""
    longest = max(colours.shape[2:])
    deviations = [deviation]
    while deviations[-1] < longest:
        deviations.append(deviations[-1] * WIDER)
    mean = colours.sum((2, 3), keepdim=True) / weights.sum((2, 3), keepdim=True).clamp(min=1e-6)
    result = mean.expand_as(colours)
    inside = torch.ones_like(weights)
    for one in reversed(deviations):
        seen = blur(weights, one)
        share = seen / blur(inside, one).clamp(min=1e-6)  # at the border a window sees less
        result = result.lerp(blur(colours, one) / seen.clamp(min=1e-6), (share * ENOUGH).clamp(max=1))
    return result


def _covering(rows: int, columns: int, height: int, width: int) -> tuple[slice, slice]:
    """Return the rows and columns in the middle of a picture that, scaled, cover [height,width]."""
    scale = max(height / rows, width / columns)
    kept = min(rows, max(1, round(height / scale))), min(columns, max(1, round(width / scale)))
    top, left = (rows - kept[0]) // 2, (columns - kept[1]) // 2
    return slice(top, top + kept[0]), slice(left, left + kept[1])


def _to_bytes(values: Tensor) -> Tensor:
    if values.dtype is torch.uint8:
        return values.contiguous()
    return values.round().clamp_(0, 255).to(torch.uint8).contiguous()
