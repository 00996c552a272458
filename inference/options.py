"""The options of a background removal."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from cutout.inference.errors import InvalidOptions
from cutout.inference.imaging.backgrounds import Background, BlurredPhoto, Picture
from cutout.inference.imaging.encode import Format
from cutout.inference.imaging.geometry import AS_IN_PHOTO, NO_MARGIN, Layout
from cutout.inference.imaging.hints import NO_HINTS, Hints
from cutout.inference.tiers import TIERS, Tier


@dataclass(frozen=True)
class Options:
    """The options of one background removal.

    - `mask_only`: return the alpha matte itself as a grey picture.
    - `background`: put this behind the cut-out; a format without transparency defaults to white.
    - `quality`: 1…100, for the lossy formats: WebP, AVIF, JPEG.
    - `layout`: the part of the photo that is searched, and where the subject stands in the result.
    - `all_frames`: cut out every frame of an animation, instead of the first one; for any other photo it changes nothing.
    - `hints`: which subject of the photo is meant.
    - `shadow`: the opacity of a soft shadow under the subject, 0 (none) … 1.
    - `keep_shadow`: keep the shadow that the subject casts in the photo, if the ground is plain.
    - `keep_profile`: keep the photo's own colour profile instead of converting it to sRGB.
    - `require_subject`: fail with `NoSubject` where there is none, instead of returning an empty picture.
    """

    tier: Tier = Tier.BASIC
    format: Format = Format.PNG
    mask_only: bool = False
    background: Background | None = None
    quality: int = 90
    layout: Layout = AS_IN_PHOTO
    shadow: float = 0.0
    keep_profile: bool = False
    require_subject: bool = False
    hints: Hints = NO_HINTS
    keep_shadow: bool = False
    all_frames: bool = False

    def check(self) -> None:
        """Check that the options go together.

        Raises:
            InvalidOptions: one has no effect beside the others, or contradicts one; the message names it.

        """
        self.hints.check()
        if self.layout.margin != NO_MARGIN and not self.layout.trim and self.layout.canvas is None:
            raise InvalidOptions("A margin needs trim (cut to the subject) or a canvas. Add one of them.")
        if self.mask_only and (self.background is not None or self.shadow or self.keep_shadow):
            raise InvalidOptions("A mask has neither background nor shadow. Leave them out, or the mask.")
        if self.keep_shadow and self.shadow:
            raise InvalidOptions(
                "Either keep the photo's own shadow or add a soft one. Leave out one of the two."
            )
        if self.keep_shadow and isinstance(self.background, BlurredPhoto):
            raise InvalidOptions(
                "The blurred photo has its own shadow in it. Leave out the shadow to keep, or choose another background."
            )
        if self.mask_only and self.format is Format.ZIP:
            raise InvalidOptions("A ZIP has both the colours and the mask. Leave out one of the two options.")
        if self.keep_profile and self.format is Format.GIF:
            raise InvalidOptions(
                "A GIF cannot hold a colour profile. Leave out the profile, or choose png or webp."
            )
        if self.all_frames:
            self._check_all_frames()

    def _check_all_frames(self) -> None:
        if not self.format.can_move:
            raise InvalidOptions(
                f"A file of the format {self.format.value} holds one picture, and all frames of an animation are wanted."
                " Choose the format webp, png or gif, or animation=first."
            )
        if TIERS[self.tier].most_pixels is not None:
            raise InvalidOptions(
                f"The tier {self.tier.value} shows the first frame of an animation only. Choose another tier, or"
                " animation=first."
            )
        if self.keep_shadow:
            raise InvalidOptions(
                "The photo's own shadow is found in single photos only; in an animation it would flicker. Leave it out, or"
                " choose a soft shadow."
            )

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """The picture files that come with the options: the background, and the strokes of the hints."""
        all_of_them = self.background, self.hints.keep_mask, self.hints.drop_mask
        return tuple(one for one in all_of_them if isinstance(one, Picture))

    def with_pictures(self, read: Callable[[Picture], bytes]) -> "Options":
        """Return the options with the bytes that `read` returns for each of their picture files."""

        def filled(picture: Picture) -> Picture:
            return replace(picture, data=read(picture))

        keep, drop = self.hints.keep_mask, self.hints.drop_mask
        hints = replace(self.hints, keep_mask=keep and filled(keep), drop_mask=drop and filled(drop))
        background = filled(self.background) if isinstance(self.background, Picture) else self.background
        return replace(self, background=background, hints=hints)


DEFAULT_OPTIONS = Options()
