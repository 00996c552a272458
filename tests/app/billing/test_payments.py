"""Payments over HTTP: which payments count, only once and for one user, and what they grant."""

import hashlib
import hmac
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.testclient import TestClient

from cutout.app.auth import accounts
from cutout.app.billing import ledger, payments, pricing, subscriptions
from cutout.app.billing.payments import Item, PaymentUsed
from cutout.app.db.session import Database
from cutout.app.db.tables import Payment, PaymentStatus, now
from tests.app.api_client import ADMIN, ANNA, API, BEN, ApiClient, opened_shop
from tests.app.databases import new_user, on_both
from tests.app.http.test_api import problem

PAYMENTS = "what the platform signs payments with"
STARTER = {"plan": "starter", "paymentId": "pay-1"}


def buy(shop: ApiClient, who: dict[str, str], **wanted: Any) -> httpx2.Response:
    path = "subscription" if "plan" in wanted else "credits"
    answer: httpx2.Response = shop.client.post(f"{API}/{path}", json=wanted, headers=who)
    return answer


def confirm(
    shop: ApiClient, who: dict[str, str], purchase: dict[str, Any], kind: str = "payments"
) -> httpx2.Response:
    path = f"{API}/admin/{kind}/{purchase['id']}/confirm"
    answer: httpx2.Response = shop.client.post(path, headers=who)
    return answer


def subscription_status(shop: ApiClient, who: dict[str, str]) -> dict[str, Any]:
    answer: dict[str, Any] = shop.get(f"{API}/subscription", who).raise_for_status().json()
    return answer


def signature(*lines: object) -> str:
    """Sign as the documentation describes, without the service's own code."""
    return hmac.new(PAYMENTS.encode(), "\n".join(map(str, lines)).encode(), hashlib.sha256).hexdigest()


@pytest.fixture
def signed(database: Database, tmp_path: Path) -> Iterator[ApiClient]:
    with opened_shop(database, tmp_path, payments="signed", payments_secret=PAYMENTS) as shop:
        yield shop


@on_both
def test_a_plan_begins_once_an_admin_says_that_it_is_paid(shop: ApiClient) -> None:
    assert subscription_status(shop, ANNA)["status"] == "none"
    assert set(subscription_status(shop, ANNA)["plans"]) == {"starter", "pro"}
    bought = buy(shop, ANNA, **STARTER).raise_for_status().json()
    assert (bought["status"], bought["rupiah"], bought["startsAt"]) == ("pending", 99_000, None)
    assert subscription_status(shop, ANNA)["status"] == "pending"
    assert subscription_status(shop, ANNA)["pending"] == [bought]
    problem(shop.remove(ANNA), 402, "INSUFFICIENT_CREDITS")

    with shop.database.begin() as session:
        anna = accounts.by_subject(session, "anna")
        assert anna is not None
        anna.email = "anna@shop.example"
    waiting = shop.get(f"{API}/admin/payments?status=pending", ADMIN).json()["payments"]
    assert waiting == [bought | {"user": "anna", "userId": str(anna.id), "email": "anna@shop.example"}]
    confirmed = confirm(shop, ADMIN, bought, "subscriptions").raise_for_status().json()
    assert confirmed["status"] == "confirmed"
    assert confirm(shop, ADMIN, bought, "subscriptions").json() == confirmed
    assert buy(shop, ANNA, **STARTER).json() == confirmed
    assert shop.get(f"{API}/admin/payments?status=pending", ADMIN).json() == {"payments": []}

    job = shop.remove(ANNA, tier="standard").raise_for_status().json()
    assert (job["paidBy"], job["credits"]) == ("quota", 0)
    mine = subscription_status(shop, ANNA)
    assert (mine["plan"], mine["status"], mine["endsAt"]) == ("starter", "active", confirmed["endsAt"])
    assert mine["today"] == {
        "day": f"{now():%Y-%m-%d}",
        "used": 1,
        "left": 49,
        "professionalUsed": 0,
        "professionalLeft": 0,
    }
    assert (mine["plans"], mine["pending"]) == (None, [])
    with shop.database.begin() as session:
        payment = session.query(Payment).one()
        assert payment.confirmed_by is not None
    problem(confirm(shop, ADMIN, {"id": uuid.uuid4()}), 404, "NOT_FOUND")


@on_both
def test_credits_are_bought_as_plans_are(shop: ApiClient) -> None:
    bought = buy(shop, ANNA, credits=500, paymentId="pay-2").raise_for_status().json()
    assert (bought["status"], bought["rupiah"]) == ("pending", 50_000)
    assert shop.balance(ANNA) == 0
    for _ in range(2):
        confirm(shop, ADMIN, bought).raise_for_status()
        assert shop.balance(ANNA) == 500


@on_both
def test_who_has_waited_longest_is_listed_first(shop: ApiClient) -> None:
    ids = [
        buy(shop, who, **item).raise_for_status().json()["id"]
        for who, item in (
            (ANNA, {"credits": 5, "paymentId": "pay-2"}),
            (BEN, STARTER),
            (ANNA, {"credits": 6, "paymentId": "pay-3"}),
        )
    ]

    def listed(query: str) -> list[str]:
        return [
            payment["id"]
            for payment in shop.get(f"{API}/admin/payments?{query}", ADMIN)
            .raise_for_status()
            .json()["payments"]
        ]

    assert listed("status=pending") == ids
    assert listed("status=pending&limit=1&offset=1") == ids[1:2]
    assert listed("") == ids[::-1]
    confirm(shop, ADMIN, {"id": ids[0]}).raise_for_status()
    assert listed("status=pending") == ids[1:]
    assert listed("status=confirmed") == ids[:1]


@on_both
def test_a_payment_buys_once(shop: ApiClient) -> None:
    bought = buy(shop, ANNA, **STARTER).raise_for_status().json()
    assert buy(shop, ANNA, **STARTER).json() == bought
    for who, wanted in (
        (BEN, {"plan": "starter"}),
        (ANNA, {"plan": "pro"}),
        (ANNA, {"credits": 990}),
        (BEN, {"credits": 990}),
    ):
        problem(buy(shop, who, paymentId="pay-1", **wanted), 409, "CONFLICT")
    assert subscription_status(shop, BEN)["status"] == "none"


@on_both
def test_another_plan_has_to_wait_also_one_that_was_paid_before(shop: ApiClient) -> None:
    dear = buy(shop, ANNA, plan="pro", paymentId="pay-pro").raise_for_status().json()
    confirm(shop, ADMIN, buy(shop, ANNA, **STARTER).json()).raise_for_status()
    problem(confirm(shop, ADMIN, dear), 409, "CONFLICT")
    body = problem(buy(shop, ANNA, plan="pro", paymentId="pay-3"), 409, "CONFLICT")
    assert subscription_status(shop, ANNA)["endsAt"][:10] in body["detail"]
    assert subscription_status(shop, ANNA)["plan"] == "starter"
    assert [payment["paymentId"] for payment in subscription_status(shop, ANNA)["pending"]] == ["pay-pro"]


@on_both
def test_a_plan_is_cancelled_to_the_end_of_its_month(shop: ApiClient) -> None:
    problem(shop.client.delete(f"{API}/subscription", headers=ANNA), 404, "NOT_FOUND")
    bought = confirm(shop, ADMIN, buy(shop, ANNA, **STARTER).json()).json()
    answers = [
        shop.client.delete(f"{API}/subscription?reason={reason}", headers=ANNA).raise_for_status().json()
        for reason in ("too%20dear", "again")
    ]
    assert answers[0] == answers[1]
    assert (answers[0]["status"], answers[0]["endsAt"]) == ("cancelled", bought["endsAt"])
    assert shop.remove(ANNA).json()["paidBy"] == "quota"
    for bad in ("%00", "x" * 501):
        answer = shop.client.delete(f"{API}/subscription?reason={bad}", headers=ANNA)
        problem(answer, 400, "INVALID_INPUT")


def test_a_signature_counts_at_once_and_for_what_it_signs_only(signed: ApiClient) -> None:
    right = signature("plan:starter", 99_000, "pay-1", "anna")
    wrong = {
        "": "none",
        "nonsense": "nonsense",
        "é": "not even ASCII",
        signature("plan:starter", 1, "pay-1", "anna"): "another amount",
        signature("plan:starter", 99_000, "pay-2", "anna"): "another payment",
        signature("plan:starter", 99_000, "pay-1", "ben"): "another user",
        signature("plan:pro", 99_000, "pay-1", "anna"): "another plan",
        signature("credits:990", 99_000, "pay-1", "anna"): "credits",
        right[:-1] + ("0" if right[-1] != "0" else "1"): "altered",
    }
    for sent, why in wrong.items():
        assert problem(buy(signed, ANNA, **STARTER, signature=sent), 403, "FORBIDDEN"), why
    problem(buy(signed, BEN, **STARTER, signature=right), 403, "FORBIDDEN")
    assert subscription_status(signed, ANNA)["status"] == "none"
    assert signed.get(f"{API}/admin/payments", ADMIN).json() == {"payments": []}

    bought = buy(signed, ANNA, **STARTER, signature=right.upper()).raise_for_status().json()
    assert bought["status"] == "confirmed"
    assert buy(signed, ANNA, **STARTER, signature=right).json() == bought
    assert signed.remove(ANNA).json()["paidBy"] == "quota"


def test_a_purchase_repeated_after_a_change_of_prices_is_the_same(
    signed: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = STARTER | {"signature": signature("plan:starter", 99_000, "pay-1", "anna")}
    some = {"credits": 20, "paymentId": "pay-2", "signature": signature("credits:20", 2_000, "pay-2", "anna")}
    before = [buy(signed, ANNA, **wanted).raise_for_status().json() for wanted in (plan, some)]
    monkeypatch.setitem(pricing.PLANS, "starter", replace(pricing.PLANS["starter"], price_rupiah=120_000))
    monkeypatch.setattr(payments, "RUPIAH_PER_CREDIT", 150)
    assert [buy(signed, ANNA, **wanted).json() for wanted in (plan, some)] == before
    assert signed.balance(ANNA) == 20
    # A recorded payment does not fix an old price for another user or another product.
    for who, credits_wanted, rupiah, status, code in (
        (BEN, 20, 2_000, 403, "FORBIDDEN"),
        (BEN, 20, 3_000, 409, "CONFLICT"),
        (ANNA, 40, 4_000, 403, "FORBIDDEN"),
        (ANNA, 40, 6_000, 409, "CONFLICT"),
    ):
        subject = "anna" if who is ANNA else "ben"
        right = signature(f"credits:{credits_wanted}", rupiah, "pay-2", subject)
        answer = buy(signed, who, credits=credits_wanted, paymentId="pay-2", signature=right)
        problem(answer, status, code)
    old = signature("plan:starter", 99_000, "pay-3", "anna")
    problem(buy(signed, ANNA, plan="starter", paymentId="pay-3", signature=old), 403, "FORBIDDEN")


def test_credits_with_a_signature(signed: ApiClient) -> None:
    wanted = {
        "credits": 20,
        "paymentId": "pay-1",
        "signature": signature("credits:20", 2_000, "pay-1", "ben"),
    }
    for _ in range(2):
        buy(signed, BEN, **wanted).raise_for_status()
        assert signed.balance(BEN) == 20
    problem(buy(signed, BEN, **wanted | {"credits": 200}), 403, "FORBIDDEN")


@on_both
def test_what_cannot_be_bought_is_said(shop: ApiClient) -> None:
    for wanted in (
        {"plan": "gold", "paymentId": "pay-1"},
        {"plan": "starter"},
        {"plan": "starter", "paymentId": ""},
        {"plan": "starter", "paymentId": "two\nlines"},
        {"plan": "starter", "paymentId": "p" * 121},
        {"credits": 0, "paymentId": "pay-1"},
        {"credits": 1_000_001, "paymentId": "pay-1"},
        {"credits": "many", "paymentId": "pay-1"},
    ):
        problem(buy(shop, ANNA, **wanted), 400, "INVALID_INPUT")


def test_half_a_character_is_no_signature(signed: ApiClient) -> None:
    body = b'{"plan": "starter", "paymentId": "pay-1", "signature": "\\ud800"}'
    headers = ANNA | {"Content-Type": "application/json"}
    problem(signed.client.post(f"{API}/subscription", content=body, headers=headers), 400, "INVALID_INPUT")


def test_without_accounts_everything_is_given(client: TestClient) -> None:
    bought = client.post(f"{API}/subscription", json={"plan": "pro", "paymentId": "play"}).json()
    assert bought["status"] == "confirmed"
    assert client.get(f"{API}/subscription").json()["today"]["professionalLeft"] == 50
    client.post(f"{API}/credits", json={"credits": 5, "paymentId": "play-2"}).raise_for_status()
    assert client.get(f"{API}/credits").json()["balance"] == 1_000_005


@on_both
def test_one_payment_at_once_by_two_users_buys_once(database: Database) -> None:
    users = [new_user(database, name) for name in ("anna", "ben")]
    item = Item(credits=10)

    def pay(number: int) -> uuid.UUID | None:
        user = users[number % 2]
        try:
            bought = database.run_in_transaction(payments.buy, user, item, "pay-1", settled=True, at=now())
        except PaymentUsed:
            return None
        assert bought.payment.status is PaymentStatus.CONFIRMED
        return user.id

    with ThreadPoolExecutor(16) as pool:
        paid = {user_id for user_id in pool.map(pay, range(32)) if user_id is not None}
    assert len(paid) == 1
    with database.begin() as session:
        assert sorted(ledger.balance(session, user.id) for user in users) == [0, 10]
        assert {user.id for user in users if ledger.balance(session, user.id)} == paid
        assert session.query(Payment).count() == 1


@on_both
def test_a_payment_confirmed_by_many_at_once_gives_one_month(database: Database) -> None:
    user, admin = new_user(database, "anna"), new_user(database, "boss")
    at = now()
    bought = database.run_in_transaction(
        payments.buy, user, Item(plan="pro"), "pay-1", settled=False, at=at
    ).payment
    with ThreadPoolExecutor(12) as pool:
        outcomes = list(
            pool.map(lambda _: database.run_in_transaction(payments.confirm, bought.id, admin, at), range(24))
        )
    months = {
        outcome.month.ends_at for outcome in outcomes if outcome is not None and outcome.month is not None
    }
    assert months == {subscriptions.month_later(at, at.day)}
