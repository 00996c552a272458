"""The result of the engine: a finished picture."""

from dataclasses import dataclass, field

from cutout.inference.imaging.encode import Format
from cutout.inference.imaging.geometry import Box
from cutout.inference.masked_photo import MaskedPhoto
from cutout.inference.tiers import Tier


@dataclass(frozen=True)
class Cutout:
    """A finished picture, and how it was made.

    `format`, `width` and `height` are those of the picture. `subject` is the subject's box in it, None if there is no
    subject. `coverage`, 0…1, is the share of the picture that the subject takes. `uncertainty`, 0…1, is the share of
    the subject's mask that the network was undecided about; `needs_review` says that a person should look at it. `masked`
    is the photo with the network's masks, if those were asked for. `frames` is how many frames the picture has; in an
    animation `subject` is the box of the subject in all of them, and the shares are their means.

    `notes` say, for the user, where the photo was not decoded exactly as its file states, and that it has no shadow to
    keep. `seconds` holds the time of each stage, see `stage_timer.STAGES`; a second look is counted in the same stages
    as the first. `laps` holds each stage with its begin and end, as times of `time.perf_counter`; results that differ
    only in these are equal.
    """

    data: bytes = field(repr=False)
    format: Format
    width: int
    height: int
    no_foreground: bool
    tier: Tier
    checkpoint: str
    substitute: bool
    backend: str
    subject: Box | None = None
    coverage: float = 0.0
    uncertainty: float = 0.0
    needs_review: bool = False
    notes: tuple[str, ...] = ()
    frames: int = 1
    masked: MaskedPhoto | None = field(default=None, repr=False)
    seconds: dict[str, float] = field(default_factory=dict)
    laps: tuple[tuple[str, float, float], ...] = field(default=(), repr=False, compare=False)
