"""The computed figures of GPUs: what bounds a tier, and that the published ones are those of the code."""

import json

import pytest

from benchmarks import report, roofline
from benchmarks.counting import Cost, Count
from benchmarks.roofline import CARDS, HOST_SECONDS, PhotoWork, bounds, of_network
from cutout.inference.tiers import Tier
from cutout.models import gpu_kernels

needs_triton = pytest.mark.skipif(not gpu_kernels.INSTALLED, reason="Triton is published for Linux only")


def test_a_kernel_takes_as_long_as_its_bytes_or_its_products() -> None:
    count = Count([Cost("moves", "", 1, bytes=800), Cost("multiplies", "", 1, bytes=8, flop=5500)])
    assert count.seconds(80, 550) == pytest.approx(10 + 10)
    assert [group.kernels for group in count.groups.values()] == [2]


@needs_triton
def test_what_bounds_a_photo() -> None:
    def bound(*, operations: int = 0, gigabytes: float = 0, up: int = 0) -> tuple[str, float]:
        count = Count([Cost("", "", 1, bytes=int(gigabytes * 1e9), operations=operations)])
        parts = bounds(PhotoWork(1, count, up, 5), Tier.BASIC, CARDS["H100"])
        slowest = max(parts, key=lambda part: parts[part])
        return slowest, parts[slowest]

    assert bound(operations=1000) == ("host", 1000 * HOST_SECONDS)
    assert bound(up=10**9) == ("link", 10**9 / CARDS["H100"].link)
    what, seconds = bound(gigabytes=10)
    assert what == "kernels"
    assert seconds > 10e9 / 3.35e12


@pytest.mark.slow
@needs_triton
def test_the_published_figures_are_those_of_the_networks_as_they_are() -> None:
    """When this fails: python -m benchmarks roofline."""
    (file,) = report.RESULTS.glob("roofline-*.json")
    published = json.loads(file.read_text())
    assert published["computed"]
    for name in roofline.GOALS:
        for form in roofline.FORMS:
            assert published["networks"][name][form] == of_network(name, form)
