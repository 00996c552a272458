"""The list of users, and accounts that an admin disables."""

import uuid
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from cutout.app.auth import accounts
from cutout.app.auth.tokens import Claims
from cutout.app.billing import ledger
from cutout.app.db.session import Database
from cutout.app.db.tables import PaidBy, Payment, PaymentStatus, Status, Subscription, User, now
from cutout.inference.tiers import Tier
from tests.app.api_client import ADMIN, ANNA, API, ApiClient, opened_shop
from tests.app.databases import on_both
from tests.app.http.test_api import problem
from tests.app.stats.test_service import job

USERS = f"{API}/admin/users"
NAMES = ["anna@shop.example", "100%@shop.example", "a_b@studio.example", "A+B@STUDIO.example", "back/slash\\"]


@pytest.fixture
def shop(database: Database, tmp_path: Path) -> Iterator[ApiClient]:
    """Return a service with five users, the first of whom is the oldest, and a deleted one."""
    with database.begin() as session:
        for number, name in enumerate(NAMES):
            session.add(
                User(subject=f"sub-{number}", email=name, balance=0, created_at=_days_ago(9 - number))
            )
        session.add(User(subject="deleted:shop.example", deleted_at=now(), disabled_at=now()))
    with opened_shop(database, tmp_path) as shop:
        yield shop


def _days_ago(days: float) -> Any:
    return now() - timedelta(days=days)


def emails(shop: ApiClient, **query: Any) -> list[str]:
    answer = shop.client.get(USERS, params=query, headers=ADMIN).raise_for_status().json()
    return [user["email"] for user in answer["users"]]


@on_both
def test_users_are_found_by_a_part_of_their_name(shop: ApiClient) -> None:
    assert emails(shop) == [None, *NAMES[::-1]], "newest first, and the admin who has just called"
    assert emails(shop, search="shop.example") == [NAMES[1], NAMES[0]], "not the deleted one"
    assert emails(shop, search=" STUDIO.") == [NAMES[3], NAMES[2]]
    assert emails(shop, search="sub-2") == [NAMES[2]]
    (found,) = shop.client.get(USERS, params={"search": NAMES[0]}, headers=ADMIN).json()["users"]
    assert emails(shop, search=found["id"]) == emails(shop, search=found["id"].upper()) == [NAMES[0]]
    assert emails(shop, search=found["id"][:-1]) == emails(shop, search=str(uuid.uuid4())) == []


@on_both
def test_what_a_search_means_elsewhere_it_does_not_mean_here(shop: ApiClient) -> None:
    assert emails(shop, search="%") == [NAMES[1]]
    assert emails(shop, search="_") == [NAMES[2]]
    assert emails(shop, search="\\") == emails(shop, search="/") == [NAMES[4]]
    assert emails(shop, search="' OR 1=1 --") == emails(shop, search="é\U0001f600" * 100) == []
    for bad in ("an\0na", "a" * 321):
        problem(shop.client.get(USERS, params={"search": bad}, headers=ADMIN), 400, "INVALID_INPUT")
    for name, value in (("limit", 0), ("limit", 201), ("offset", -1), ("offset", 10**30)):
        problem(shop.client.get(USERS, params={name: value}, headers=ADMIN), 400, "INVALID_INPUT")


def test_pages_follow_each_other(shop: ApiClient) -> None:
    whole = emails(shop)
    assert [*emails(shop, limit=4), *emails(shop, limit=4, offset=4)] == whole
    assert emails(shop, offset=len(whole)) == []
    answer = shop.client.get(USERS, params={"limit": 1, "search": "shop"}, headers=ADMIN).json()
    assert (answer["total"], len(answer["users"])) == (2, 1)


@on_both
def test_a_user_is_shown_with_plan_and_use(shop: ApiClient) -> None:
    with shop.database.begin() as session:
        user = session.query(User).filter_by(subject="sub-1").one()
        ledger.grant(session, user.id, 7, "grant:gift")
        free = {"paid_by": PaidBy.FREE, "refined_from": uuid.uuid4()}
        jobs = [job(user, Tier.BASIC, 0), job(user, Tier.BASIC, 0, status=Status.FAILED)]
        jobs += [job(user, Tier.BASIC, 0, **free), job(user, Tier.INDUSTRY, 0), job(user, Tier.PREVIEW, 0)]
        for days, made in zip((1, 1, 1, 31, 1), jobs, strict=True):
            made.created_at = _days_ago(days)
        session.add_all(jobs)
        for number, ends in enumerate((-1, 20, 50)):
            payment = Payment(
                payment_id=f"p{number}", user_id=user.id, plan="pro", rupiah=1, status=PaymentStatus.CONFIRMED
            )
            session.add(payment)
            session.flush()
            month = Subscription(
                id=payment.id, user_id=user.id, plan="pro", day=1, starts_at=_days_ago(31 - ends)
            )
            month.ends_at = _days_ago(-ends)
            session.add(month)
        last = month.ends_at
    (told,) = shop.client.get(USERS, params={"search": "100%"}, headers=ADMIN).json()["users"]
    assert told == {
        "id": str(user.id),
        "email": "100%@shop.example",
        "subject": "sub-1",
        "role": "user",
        "balance": 7,
        "plan": "pro",
        "planEndsAt": f"{last:%Y-%m-%dT%H:%M:%S.%fZ}",
        "recentRemovals": 1,
        "createdAt": f"{user.created_at:%Y-%m-%dT%H:%M:%S.%fZ}",
        "disabledAt": None,
    }
    (other,) = shop.client.get(USERS, params={"search": NAMES[0]}, headers=ADMIN).json()["users"]
    assert (other["plan"], other["planEndsAt"], other["recentRemovals"]) == (None, None, 0)


def test_a_user_learns_nothing(shop: ApiClient) -> None:
    anna = shop.fund("anna", 5)
    admin = shop.client.get(USERS, params={"search": "boss"}, headers=ADMIN).json()["users"][0]["id"]
    for path in ("", "?search=shop.example", "?search=nobody", "?limit=0", "?search=%00"):
        answer = problem(shop.client.get(USERS + path, headers=ANNA), 403, "FORBIDDEN")
        assert answer["detail"] == "Only an admin may do this."
        problem(shop.client.get(USERS + path), 401, "UNAUTHENTICATED")
    for user in (anna, admin, uuid.uuid4(), "no id"):
        for what in ("disable", "enable"):
            answer = problem(shop.client.post(f"{USERS}/{user}/{what}", headers=ANNA), 403, "FORBIDDEN")
            assert answer["detail"] == "Only an admin may do this."
    assert shop.balance(ANNA) == 5, "Neither they themselves nor the admin was disabled."
    assert emails(shop, search="boss") == [None]


def test_an_account_is_disabled_and_enabled(shop: ApiClient) -> None:
    user = shop.fund("anna", 50)
    key = {"X-Api-Key": shop.client.post("/api/auth/keys", json={"name": "till"}, headers=ANNA).json()["key"]}

    def put(what: str) -> dict[str, Any]:
        told: dict[str, Any] = (
            shop.client.post(f"{USERS}/{user}/{what}", headers=ADMIN).raise_for_status().json()
        )
        return told

    disabled = put("disable")
    assert disabled["id"] == str(user)
    assert disabled["disabledAt"] is not None
    assert put("disable") == disabled
    for who in (ANNA, key):
        problem(shop.remove(who), 403, "FORBIDDEN")
    (listed,) = shop.client.get(USERS, params={"search": str(user)}, headers=ADMIN).json()["users"]
    assert listed["disabledAt"] == disabled["disabledAt"]
    assert put("enable") == put("enable") == {"id": str(user), "disabledAt": None}
    assert shop.remove(key).is_success


def test_some_accounts_cannot_be_disabled(shop: ApiClient) -> None:
    (boss,) = shop.client.get(USERS, params={"search": "boss"}, headers=ADMIN).json()["users"]
    own = problem(shop.client.post(f"{USERS}/{boss['id']}/disable", headers=ADMIN), 409, "CONFLICT")
    assert own["detail"] == "You cannot disable your own account. Ask another admin to do it."
    with shop.database.begin() as session:
        local = accounts.get_or_create_local_admin(session)
        gone = session.query(User).filter(User.deleted_at.is_not(None)).one()
        accounts.get_or_create_user(session, Claims("boss", role=local.role))
    told = problem(shop.client.post(f"{USERS}/{local.id}/disable", headers=ADMIN), 409, "CONFLICT")
    assert "CUTOUT_AUTH=on" in told["detail"]
    for what in ("disable", "enable"):
        for user in (gone.id, uuid.uuid4()):
            problem(shop.client.post(f"{USERS}/{user}/{what}", headers=ADMIN), 404, "NOT_FOUND")
    with shop.database.read() as session:
        assert session.query(User).filter(User.disabled_at.is_not(None)).count() == 1, "the deleted one"
