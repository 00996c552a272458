"""The self-test on a pretended GPU: every check of a GPU runs, in each precision, and finds what is wrong there."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from cutout.inference.backends.runners import Precision, Runner, TorchRunner
from cutout.inference.limits import Limits
from cutout.inference.selftest import Checklist, Finding, Outcome, Plan, device, networks, photos, run
from cutout.inference.selftest.checklist import Fact
from cutout.inference.selftest.subjects import Subject
from cutout.inference.tiers import Choice, Tier
from tests.inference.selftest.subjects import SMALL, RedFinder, take_a_smaller_photo
from tests.pretend_gpu import pretended_gpu

MIB = 2**20


@pytest.fixture(autouse=True)
def _gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Pretend what the self-test asks of a GPU beside computing."""
    about = SimpleNamespace(name="Pretended", total_memory=80 * 2**30, uuid="1-2")
    for name, answer in {
        "get_device_properties": about,
        "device_count": 1,
        "is_bf16_supported": True,
        "memory_allocated": 100 * MIB,
        "max_memory_allocated": 350 * MIB,
        "mem_get_info": (70 * 2**30, 80 * 2**30),
        "empty_cache": None,
        "reset_peak_memory_stats": None,
        "synchronize": None,
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, answer=answer, **__: answer)
    monkeypatch.setattr(device, "pick_device", lambda wanted: wanted)
    monkeypatch.setattr(networks, "SPEED_SECONDS", 0.0)
    monkeypatch.setattr(photos, "MANY", {"cuda": 4})
    take_a_smaller_photo(monkeypatch)
    # They take seconds here, and pass.
    monkeypatch.setattr(photos, "edges_as_on_cpu", lambda _: Fact("left out"))
    # It captures what other threads do meanwhile, which a pretended GPU cannot tell apart.
    monkeypatch.setattr(networks, "capture_beside_threads", lambda _: Fact("left out"))
    with pretended_gpu():
        yield


def findings(fault: Callable[[Tensor], Tensor] = lambda mask: mask) -> list[Finding]:
    class Faulty(TorchRunner):
        def run(self, pixels: Tensor) -> Tensor:
            return fault(super().run(pixels))

    network = RedFinder()

    def open_it(precision: Precision, batch: int) -> Runner:
        dtype = torch.float16 if precision == "auto" else getattr(torch, precision)
        sizes = sorted({1, batch})
        return Faulty(deepcopy(network), torch.device("cuda"), dtype=dtype, batch_sizes=sizes)

    choices = (Choice(Tier.PROFESSIONAL, SMALL, ()),)
    subject = Subject(SMALL, choices, trained=False, network=lambda: deepcopy(network), open=open_it)
    checklist = Checklist()
    run(Plan("cuda", [subject], limits=Limits(threads=3, batch=2)), checklist)
    return checklist.findings


@pytest.mark.slow
def test_every_check_of_a_gpu_runs_in_each_precision() -> None:
    found = findings()
    assert [finding for finding in found if finding.outcome is Outcome.FAILED] == []
    by_name = {
        (finding.check, finding.subject.partition(", ")[2] or finding.subject): finding for finding in found
    }
    for precision in ("float16", "float32", "bfloat16"):
        for check in ("opening", "masks", "graphs"):
            assert by_name[check, precision].outcome is Outcome.PASSED
        assert by_name["tier professional", precision].outcome is Outcome.PASSED
    assert by_name["graphs", "float16"].figures["sizes"] == (1, 2)
    assert by_name["graphs", "float32"].figures["sizes"] == (1,)
    assert by_name["memory", "float16"].figures["mib_by_batch"] == {1: 250, 2: 250}
    assert set(by_name["speed", "float16"].figures["photos_per_s_by_batch"]) == {1, 2}
    assert by_name["under load", "tier professional"].figures["photos"] == 4


def test_a_gpu_that_gives_zeros_fails_in_every_precision() -> None:
    failed = [finding.subject for finding in findings(torch.zeros_like) if finding.check == "masks"]
    assert failed == [f"isnet-general, {name}" for name in ("float16", "float32", "bfloat16")]
