"""The model that serves each tier, on this host or on a worker."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cutout.inference.tiers import Recipe, Tier

if TYPE_CHECKING:  # the service's queue and commands need this module, and no torch
    from cutout.inference.engine import Engine


@dataclass(frozen=True)
class Served:
    """The model, backend and recipe that serve a tier. If `model` is a substitute, it differs from `wanted`; if it is
    `own`, it is the operator's own weights.
    """

    model: str
    backend: str
    recipe: Recipe
    wanted: str
    substitute: bool
    own: bool = False  # workers of older versions do not tell


def served_by(engine: "Engine") -> Mapping[Tier, Served]:
    """Return the model that serves each tier of an engine."""
    return {
        tier: Served(
            serving.choice.checkpoint.name,
            serving.runner.backend,
            serving.choice.recipe,
            serving.choice.wanted,
            serving.choice.substitute,
            serving.choice.checkpoint.like is not None,
        )
        for tier, serving in engine.serving.items()
    }
