"""Removals in the tier `preview`: they cost nothing, whoever asks, and are no batch."""

from pathlib import Path

from cutout.app.billing import payments
from cutout.app.billing.payments import Item
from cutout.app.db.session import Database
from cutout.app.db.tables import User, now
from tests.app.api_client import ANNA, API, ApiClient, opened_shop
from tests.fakes import thin_picture


def test_it_is_free_for_a_user_without_credits(shop: ApiClient) -> None:
    answer = shop.remove(ANNA, thin_picture(1200, 900), tier="preview").raise_for_status().json()
    assert (answer["tier"], answer["credits"], answer["paidBy"]) == ("preview", 0, "free")
    assert (answer["width"], answer["height"]) == (577, 433)
    assert shop.remove(ANNA, tier="basic").status_code == 402

    credits = shop.get(f"{API}/credits", ANNA).json()
    assert credits == {"balance": 0, "entries": []}
    stats = shop.get(f"{API}/stats", ANNA).json()
    assert (stats["tiers"]["preview"]["removals"], stats["tiers"]["preview"]["creditsSpent"]) == (1, 0)


def test_a_failed_one_gives_nothing_back(shop: ApiClient) -> None:
    assert shop.remove(ANNA, b"no photo", tier="preview").status_code == 415
    assert shop.get(f"{API}/credits", ANNA).json() == {"balance": 0, "entries": []}


def test_it_leaves_the_quota(shop: ApiClient) -> None:
    owner = shop.fund("anna", 10)
    with shop.database.begin() as session:
        user = session.get_one(User, owner)
        payments.buy(session, user, Item(plan="pro"), "pay-1", settled=True, at=now())
    shop.remove(ANNA, tier="preview").raise_for_status()
    today = shop.get(f"{API}/subscription", ANNA).json()["today"]
    assert (today["used"], today["left"]) == (0, 200)
    assert shop.balance(ANNA) == 10


def test_it_counts_for_the_rate_limit(database: Database, tmp_path: Path) -> None:
    with opened_shop(database, tmp_path, remove_per_minute=2) as shop:
        answers = [shop.remove(ANNA, tier="preview").status_code for _ in range(3)]
    assert answers == [200, 200, 429]


def test_it_is_the_fifth_price(shop: ApiClient) -> None:
    tiers = shop.client.get(f"{API}/pricing").json()["tiers"]
    assert [(name, info["credits"]) for name, info in tiers.items()] == [
        ("basic", 3),
        ("standard", 8),
        ("professional", 15),
        ("industry", 25),
        ("preview", 0),
    ]
    one = shop.client.post(
        f"{API}/pricing/calculate", json={"tier": "preview", "imageCount": 1}, headers=ANNA
    )
    assert one.json()["finalCredits"] == 0


def test_there_is_no_price_of_a_batch(shop: ApiClient) -> None:
    wanted = {"tier": "preview", "imageCount": 2}
    answer = shop.client.post(f"{API}/pricing/calculate", json=wanted, headers=ANNA)
    assert (answer.status_code, answer.json()["code"]) == (400, "INVALID_INPUT")
    assert "there is no batch in preview" in answer.json()["detail"]
