"""Prices: every row of the contract, the edges of the bands, and shares that add up exactly."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutout.app.billing.pricing import CREDITS, PLANS, RUPIAH_PER_CREDIT, price
from cutout.inference.tiers import Tier


def test_the_prices_are_the_contracts() -> None:
    assert {tier.value: credits for tier, credits in CREDITS.items()} == {
        "basic": 3,
        "standard": 8,
        "professional": 15,
        "industry": 25,
        "preview": 0,
    }
    assert RUPIAH_PER_CREDIT == 100
    starter, pro = PLANS["starter"], PLANS["pro"]
    assert (starter.price_rupiah, starter.removals_per_day, starter.tiers) == (
        99_000,
        50,
        (Tier.BASIC, Tier.STANDARD),
    )
    assert (pro.price_rupiah, pro.removals_per_day, pro.professional_per_day) == (299_000, 200, 50)
    assert pro.tiers == (Tier.BASIC, Tier.STANDARD, Tier.PROFESSIONAL)


@pytest.mark.parametrize("tier", Tier)
@pytest.mark.parametrize(
    ("images", "percent"),
    [
        *[(1, 0), (2, 0), (19, 0), (20, 5), (50, 5), (51, 10), (100, 10)],
        *[(101, 15), (200, 15), (201, 20), (500, 20)],
    ],
)
def test_the_edges_of_the_discounts(tier: Tier, images: int, percent: int) -> None:
    found = price(tier, images)
    assert found.percent == percent
    assert found.total == CREDITS[tier] * images
    assert found.discount == found.total * percent // 100
    assert found.final == found.total - found.discount


def test_the_contracts_own_example() -> None:
    found = price(Tier.STANDARD, 100)
    assert (found.total, found.discount, found.final) == (800, 80, 720)


def test_a_discount_is_rounded_down() -> None:
    assert price(Tier.BASIC, 21).discount == 3  # 5 % of 63 is 3.15


@pytest.mark.parametrize("images", [-1, 0, 501])
def test_there_is_no_such_batch(images: int) -> None:
    with pytest.raises(ValueError, match=f"not {images}"):
        price(Tier.BASIC, images)


@given(tier=st.sampled_from(Tier), images=st.integers(1, 500))
def test_shares_sum_to_the_price_and_differ_by_one_at_most(tier: Tier, images: int) -> None:
    whole = price(tier, images)
    shares = [whole.share(index) for index in range(images)]
    assert sum(shares) == whole.final
    assert max(shares) - min(shares) <= 1
