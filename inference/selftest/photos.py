"""Checks of whole photos, from the file to the picture, as the engine carries them."""

import io
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import median
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from cutout.inference.backends.runners import Serving
from cutout.inference.cutout import Cutout
from cutout.inference.engine import Engine
from cutout.inference.imaging.decode import Pixels
from cutout.inference.limits import DEFAULT_LIMITS, Limits
from cutout.inference.options import Options
from cutout.inference.scheduling.stage_timer import STAGES
from cutout.inference.selftest import samples
from cutout.inference.selftest.checklist import REPORT_IT, Fact, Failed
from cutout.inference.selftest.comparison import FAR, FAR_SHARE, IOU, MEAN_LEVELS, Apart, apart, overlap
from cutout.inference.selftest.device import gpu_state
from cutout.inference.tiers import SOLD, Choice, Recipe, Tier
from cutout.models.catalog import find

# How many copies of the photo are processed at once under load: on a GPU several full batches.
MANY = {"cuda": 64, "cpu": 3}
# The network's mask in the check of edges: a stored one, with a smaller input than the real one's.
EDGE_INPUT = 512
NOT_SAME = "Run the test again with CUTOUT_PRECISION=float32. " + REPORT_IT


def tier_serves(engine: Engine, tier: Tier, precision: str, *, trained: bool) -> Fact:
    """Cut the photo out at one tier, and compare with the stored alpha.

    Only the checkpoint that made the alpha gives exactly the same, at the photo's own size. Others must find the same
    subject. With random weights, the result is not compared.

    Raises:
        Failed: the alpha is another, or colours of the subject have changed.
        CutoutError: the photo could not be processed.

    """
    choice = engine.serving[tier].choice
    cut = engine.remove(samples.photo_file(), Options(tier=tier))
    rgba = _pixels(cut)
    figures: dict[str, Any] = {"seconds": cut.seconds, "checkpoint": cut.checkpoint, "backend": cut.backend}
    solid = rgba[..., 3] == 255
    is_whole = solid.shape == samples.photo().shape[:2]
    # Recipes that clean colours do so where the network's mask was not solid, even if the alpha is.
    keeps_colours = is_whole and not choice.recipe.cleans
    if keeps_colours and not np.array_equal(rgba[solid][:, :3], _decoded(samples.photo_file())[solid]):
        raise Failed("solid pixels do not have the photo's colours", REPORT_IT, figures)
    by = cut.checkpoint + (f", a substitute for {choice.wanted}" if choice.substitute else "")
    if not trained:
        return Fact(f"{by}, random weights: it runs, and its mask means nothing", figures)
    expected = samples.alpha(choice.recipe)
    if not is_whole:
        expected = np.array(Image.fromarray(expected).resize(solid.shape[::-1], Image.Resampling.BILINEAR))
    share = overlap(rgba[..., 3], expected)
    figures["overlap"] = share
    if cut.no_foreground or share < IOU:
        raise Failed(
            f"{by} does not find the cup in the photo (overlap {share:.2f}, at least {IOU:g} is expected)",
            f"If the check 'masks' passed, the weights are wrong. Run: cutout models pull {cut.checkpoint}",
            figures,
        )
    if cut.checkpoint != samples.REFERENCE or not is_whole:
        return Fact(
            f"{by} finds the cup (overlap {share:.2f}); no exact comparison, for want of its masks", figures
        )
    off = apart(rgba[..., 3], expected)
    figures |= off.figures
    _require_close(off, precision, f"the alpha of {by} is another than the stored one", figures)
    return Fact(f"{by}: the stored alpha, {off} apart", figures)


def equal_under_load(engine: Engine, tier: Tier, precision: str) -> Fact:
    """Process many copies of the photo at once: all must come out as one alone does. Measures photos per second.

    Raises:
        Failed: an alpha differs by more than rounding explains, or a photo failed.

    """
    alone = _pixels(engine.remove(samples.photo_file(), Options(tier=tier)))[..., 3]
    photos = ((number, samples.photo_file) for number in range(MANY[engine.device.type]))
    done: list[Cutout] = []
    state: dict[str, str] = {}
    start = time.perf_counter()
    for _, outcome in engine.remove_many(photos, Options(tier=tier)):
        if not isinstance(outcome, Cutout):
            raise Failed(f"a photo failed while others were in work: {outcome}", NOT_SAME)
        done.append(outcome)
        if len(done) == MANY[engine.device.type] // 2:
            state = gpu_state()
    wall = time.perf_counter() - start
    different = {cut.data: cut for cut in done}
    worst = max((apart(_pixels(cut)[..., 3], alone) for cut in different.values()), key=lambda off: off.mean)
    stages = {stage: median(cut.seconds[stage] for cut in done) for stage in STAGES}
    figures = {
        "photos": len(done),
        "photos_per_s": len(done) / wall,
        "stage_seconds": stages,
        "different_results": len(different),
        **worst.figures,
        "nvidia_smi": state,
    }
    _require_close(worst, precision, "the same photo came out differently while others were in work", figures)
    told = ", ".join(f"{stage} {1000 * seconds:.0f}" for stage, seconds in stages.items())
    return Fact(
        f"{len(done)} photos at once: {len(done) / wall:.3g}/s, equal to {worst.mean:.2g} levels; stages in ms: {told}",
        figures,
    )


def edges_as_on_cpu(device: Literal["cuda", "cpu"]) -> Fact:
    """Check what is done to a photo beside its network: resizing, edges, colours, copies, on the device against the CPU.

    The network is replaced by a stored mask, so that this needs no weights.

    Raises:
        Failed: a recipe gives another picture than on the CPU.

    """
    figures: dict[str, Any] = {}
    # The first round on a GPU loads kernels, so the second one's times count.
    if device == "cuda":
        _with_stored_mask(device)
    found, expected = _with_stored_mask(device), _with_stored_mask("cpu")
    worst = 0.0
    for tier, cut in found.items():
        off = apart(_pixels(cut), _pixels(expected[tier]))
        figures[tier.value] = {
            **off.figures,
            "seconds": cut.seconds,
            "seconds_on_cpu": expected[tier].seconds,
        }
        worst = max(worst, off.mean)
        _require_close(off, "float32", f"the picture of the tier {tier} is another than on the CPU", figures)
    return Fact(f"with a stored mask, all four recipes: at most {worst:.2g} levels from the CPU's", figures)


def _with_stored_mask(device: Literal["cuda", "cpu"]) -> dict[Tier, Cutout]:
    """Return the photo's cut-out by each tier, with a stored mask in place of the network's."""
    checkpoint = replace(find(samples.REFERENCE), input_size=EDGE_INPUT)
    runner = StoredMask(torch.device(device))
    serving = {tier: Serving(Choice(tier, checkpoint, ()), runner) for tier in SOLD}
    with Engine(serving, Limits(threads=2)) as engine:
        cuts = {tier: engine.remove(samples.photo_file(), Options(tier=tier)) for tier in SOLD}
    if not all(_pixels(cut)[..., 3].any() for cut in cuts.values()):
        raise Failed(f"on the device {device}, the alpha is empty although the mask is not", REPORT_IT)
    return cuts


@dataclass(eq=False)  # an engine keeps runners in a dictionary
class StoredMask:
    """A runner whose mask is always that of the sample photo."""

    device: torch.device
    backend: str = "stored"

    def run(self, pixels: Tensor) -> Tensor:
        alpha = torch.from_numpy(samples.alpha(Recipe.MASK)).float()[None, None] / 255
        mask = F.interpolate(alpha, pixels.shape[2:], mode="area").to(pixels.device)
        return mask.expand(len(pixels), -1, -1, -1).clone()

    def warm_up(self, input_size: int) -> None:
        """There is nothing to do."""


def engine_of(serving: Mapping[Tier, Serving], limits: Limits = DEFAULT_LIMITS) -> Engine:
    """Return an engine for the test; photos wait as long as it takes."""
    return Engine(serving, replace(limits, seconds=3600.0))


def _require_close(off: Apart, precision: str, wrong: str, figures: dict[str, Any]) -> None:
    if off.mean > MEAN_LEVELS[precision] or off.far > FAR_SHARE[precision]:
        raise Failed(f"{wrong}: by {off}, {off.far:.1%} of it by over {FAR}", NOT_SAME, figures)


def _pixels(cut: Cutout) -> Pixels:
    return np.array(Image.open(io.BytesIO(cut.data)))


def _decoded(data: bytes) -> Pixels:
    """Return the photo's pixels as the engine decodes them; another decoder may round differently."""
    from cutout.inference.imaging.decode import decode

    return decode(data).rgb
