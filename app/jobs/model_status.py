"""What serves a tier: here, or on a worker."""

from collections.abc import Mapping
from dataclasses import dataclass

from cutout.inference.engine import Engine
from cutout.inference.tiers import Recipe, Tier


@dataclass(frozen=True)
class Served:
    """What serves a tier. `wanted` differs from `model` for a substitute."""

    model: str
    backend: str
    recipe: Recipe
    wanted: str
    substitute: bool


def served_by(engine: Engine) -> Mapping[Tier, Served]:
    """Say what serves each tier of an engine."""
    return {
        tier: Served(
            serving.choice.checkpoint.name,
            serving.runner.backend,
            serving.choice.recipe,
            serving.choice.wanted,
            serving.choice.substitute,
        )
        for tier, serving in engine.serving.items()
    }
