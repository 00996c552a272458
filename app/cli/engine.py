"""The engine of a command, and what is said of its results."""

from typing import TYPE_CHECKING

from cutout.app.cli.console import loading, say
from cutout.app.cli.models import pull_one
from cutout.app.config.settings import Settings
from cutout.inference.tiers import Tier

if TYPE_CHECKING:
    from cutout.inference.cutout import Cutout
    from cutout.inference.engine import Engine

UNSURE = "The subject's outline is uncertain, or it is very small or large. Have a look at the result."


def open_for(settings: Settings, tier: Tier) -> "Engine":
    """Open the engine of a tier, with a message meanwhile and about a substitute; download missing open weights.

    Raises:
        ModelUnavailable: the device or the weights are missing.

    """
    from cutout.app.bootstrap import engine_from, pull_missing

    pull_missing(settings, [tier], lambda checkpoint: pull_one(settings, checkpoint))
    with loading():
        engine = engine_from(settings, [tier])
    choice = engine.serving[tier].choice
    if choice.substitute:
        say(
            f"[yellow]note:[/yellow] {choice.checkpoint.name} is a substitute for {choice.wanted}; see cutout doctor."
        )
    return engine


def remarks_of(cutout: "Cutout") -> list[str]:
    """Return what the user should know about a result, a sentence each."""
    empty = ["No subject was found, so the image shows none."] if cutout.no_foreground else []
    return [*empty, *cutout.notes]


def is_unsure(cutout: "Cutout") -> bool:
    """Return whether a person should look at a result whose subject was found."""
    return cutout.needs_review and not cutout.no_foreground  # the latter is a remark


def reason_of(error: Exception) -> str:
    """Return why a photo has no result, without its name."""
    if isinstance(error, OSError):
        return f"cannot be read ({error.strerror})"
    return str(error)
