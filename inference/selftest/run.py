"""The order of the checks: first those that need no network, then each network in each precision."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch

from cutout.inference.backends.runners import Precision, Runner, Serving
from cutout.inference.limits import DEFAULT_LIMITS, Limits
from cutout.inference.selftest import device, networks, photos, weights
from cutout.inference.selftest.checklist import Checklist, Fact, Skipped
from cutout.inference.selftest.networks import Reference
from cutout.inference.selftest.subjects import Subject
from cutout.inference.tiers import Tier
from cutout.inference.weights.own import own_checkpoints
from cutout.inference.weights.store import ModelsFolder
from cutout.models.birefnet import BiRefNet
from cutout.models.catalog import CHECKPOINTS


@dataclass(frozen=True)
class Plan:
    """What to test: `subjects` on `device`, and the files of `folder`.

    `unserved` has the reason for each tier that nothing serves here. `precision` and `limits` are those that photos are
    served with; on a GPU the other precisions are tested as well.
    """

    device: Literal["cuda", "cpu"]
    subjects: Sequence[Subject]
    folder: ModelsFolder | None = None
    unserved: Mapping[Tier, Exception] = field(default_factory=dict)
    precision: Precision = "auto"
    limits: Limits = DEFAULT_LIMITS

    @property
    def precisions(self) -> list[Literal["float32", "float16", "bfloat16"]]:
        """The precisions to test, first the one that photos are served with."""
        usual: Literal["float32", "float16"] = "float16" if self.device == "cuda" else "float32"
        served = usual if self.precision == "auto" else self.precision
        if self.device == "cpu":
            return [served]
        half = torch.cuda.is_bf16_supported(including_emulation=False)
        every: list[Literal["float32", "float16", "bfloat16"]] = [served, "float16", "float32"]
        return list(dict.fromkeys([*every, *(["bfloat16"] if half else [])]))  # type: ignore[list-item]


def run(plan: Plan, checklist: Checklist) -> None:
    """Carry out every check; `checklist` keeps and shows what they find."""
    if not checklist.take("device", plan.device, lambda: device.computes(plan.device)):
        return
    checklist.take("patches", "", weights.patches_are_in_order)
    checklist.take("edges", "", lambda: photos.edges_as_on_cpu(plan.device))
    for tier, reason in plan.unserved.items():
        checklist.take(f"tier {tier}", "", lambda reason=reason: _not_tested(reason))  # type: ignore[misc]
    whole = _whole_files(plan, checklist)
    references = {}
    for subject in plan.subjects:
        name = subject.checkpoint.name
        if name in whole and (reference := _reference(subject, checklist)):
            references[name] = reference
    for number, precision in enumerate(plan.precisions):
        _with_precision(plan, checklist, precision, references, served=number == 0)
    checklist.take(
        "capture beside threads",
        "",
        lambda: networks.capture_beside_threads(torch.device(plan.device)),
        optional=True,
    )


def _not_tested(reason: Exception) -> Fact:
    raise Skipped(f"not tested: {reason}")


def _whole_files(plan: Plan, checklist: Checklist) -> set[str]:
    """Check every file of weights in the folder. Return the names of the subjects that may be tested."""
    usable = {subject.checkpoint.name for subject in plan.subjects}
    folder = plan.folder
    if folder is not None:
        for checkpoint in (*CHECKPOINTS.values(), *own_checkpoints(folder).values()):
            if not folder.file(checkpoint).is_file():
                continue
            if not checklist.take(
                "weights",
                checkpoint.name,
                lambda checkpoint=checkpoint: weights.file_is_whole(folder, checkpoint),  # type: ignore[misc]
            ):
                usable.discard(checkpoint.name)
    return usable


def _reference(subject: Subject, checklist: Checklist) -> Reference | None:
    """Compute a network's mask on the CPU, and look at its weights; None if there is no mask."""
    name, found = subject.checkpoint.name, []

    def compute() -> Fact:
        network = subject.network()
        found.append((network, networks.make_reference(network, subject)))
        return Fact("a mask of the sample photo, in float32")

    if not checklist.take("on the CPU", name, compute):
        return None
    ((network, reference),) = found
    if isinstance(network, BiRefNet):
        checklist.take(
            "order of patches", name, lambda: weights.order_fits_weights(network, subject.checkpoint)
        )
    return reference


def _with_precision(
    plan: Plan,
    checklist: Checklist,
    precision: Literal["float32", "float16", "bfloat16"],
    references: Mapping[str, Reference],
    *,
    served: bool,
) -> None:
    """Test all networks in one precision. The one that photos are `served` with is tested more closely."""
    runners: dict[str, Runner] = {}
    subjects = [subject for subject in plan.subjects if subject.checkpoint.name in references]
    for subject in subjects:
        _network(plan, checklist, subject, precision, references[subject.checkpoint.name], runners, served)
    serving = {
        choice.tier: Serving(choice, runners[subject.checkpoint.name])
        for subject in subjects
        if subject.checkpoint.name in runners
        for choice in subject.choices
    }
    if serving:
        _tiers(plan, checklist, precision, serving, served)
    runners.clear()
    if plan.device == "cuda":
        torch.cuda.empty_cache()


def _network(
    plan: Plan,
    checklist: Checklist,
    subject: Subject,
    precision: Literal["float32", "float16", "bfloat16"],
    reference: Reference,
    runners: dict[str, Runner],
    served: bool,
) -> None:
    name = subject.checkpoint.name
    label = f"{name}, {precision}"
    # "auto" is the precision for which a CPU has libraries faster than torch.
    wanted = plan.precision if served else precision
    batch = plan.limits.batch_on(plan.device) if served else 1
    if not checklist.take(
        "opening", label, lambda: networks.opened(subject, wanted, batch, runners), optional=not served
    ):
        return
    runner, size = runners[name], subject.checkpoint.input_size
    found = networks.computed_in(runner, precision)
    checklist.take("masks", label, lambda: networks.same_masks(subject, runner, found, reference))
    checklist.take("graphs", label, lambda: networks.same_from_graphs(runner, found, reference))
    checklist.take("kernels", label, lambda: networks.kernels_in_use(runner, found, reference))
    if served:
        checklist.take("memory", label, lambda: networks.memory(runner, size), optional=True)
        checklist.take("speed", label, lambda: networks.speed(runner, size), optional=True)


def _tiers(
    plan: Plan, checklist: Checklist, precision: str, serving: Mapping[Tier, Serving], served: bool
) -> None:
    """Take the photo through every tier; under load only once for each network."""
    trained = {subject.checkpoint.name: subject.trained for subject in plan.subjects}
    under_load: dict[str, Tier] = {}
    with photos.engine_of(serving, plan.limits) as engine:
        for tier, served_by in serving.items():
            name = served_by.choice.checkpoint.name
            ok = checklist.take(
                f"tier {tier}",
                precision,
                lambda tier=tier, name=name, served_by=served_by: photos.tier_serves(  # type: ignore[misc]
                    engine,
                    tier,
                    networks.computed_in(served_by.runner, precision),
                    trained=trained[name],
                ),
                optional=not trained[name],
            )
            if ok:
                under_load.setdefault(name, tier)
        for name, tier in under_load.items() if served else ():
            checklist.take(
                "under load",
                f"{name}, tier {tier}",
                lambda tier=tier: photos.equal_under_load(  # type: ignore[misc]
                    engine, tier, networks.computed_in(serving[tier].runner, precision)
                ),
                optional=True,
            )
