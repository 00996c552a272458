"""Accounts that are disabled, deleted, or have a new password; and the limit on API keys per user."""

import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from cutout.app import user_deletion
from cutout.app.auth import accounts
from cutout.app.auth.accounts import AccountError, TooManyKeys
from cutout.app.auth.signed_urls import sign
from cutout.app.auth.tokens import Claims
from cutout.app.batches import service as batches
from cutout.app.billing import ledger
from cutout.app.bootstrap import local_admin
from cutout.app.db.session import Database
from cutout.app.db.tables import (
    ApiKey,
    Base,
    Batch,
    Channel,
    Delivery,
    IdempotencyKey,
    Job,
    LedgerEntry,
    Payment,
    PaymentStatus,
    Role,
    Status,
    StoreDelivery,
    Subscription,
    SubscriptionUsage,
    User,
    now,
)
from cutout.app.jobs import queries as jobs
from cutout.app.storage.base import StorageError
from cutout.app.storage.local import LocalStorage
from cutout.app.user_deletion import DELETED, delete_user
from cutout.inference.options import Options
from cutout.inference.tiers import Tier
from tests.app.api_client import ADMIN, ANNA, API, BEN, SECRET, ApiClient, bearer, opened_shop
from tests.app.databases import on_both
from tests.app.http.test_api import problem

OWNER = "owner@shop.example"
PASSWORD, NEW_PASSWORD = "correct horse", "battery staple"


def user_of(database: Database, who: str) -> User:
    (user,) = database.run_read_only(accounts.matching, who)
    return user


def log_in(shop: ApiClient, password: str = PASSWORD) -> Any:
    return shop.client.post("/api/auth/login", json={"email": OWNER, "password": password})


def token_of(answer: Any) -> dict[str, str]:
    return {"Authorization": f"Bearer {answer.raise_for_status().json()['accessToken']}"}


@on_both
def test_all_doors_of_a_disabled_user_are_shut_at_once_and_open_again(shop: ApiClient) -> None:
    shop.fund("anna", 50)
    shop.fund("ben", 50)
    with shop.database.begin() as session:
        accounts.create_local(session, OWNER, PASSWORD)
    login = token_of(log_in(shop))
    key = {"X-Api-Key": shop.client.post("/api/auth/keys", json={"name": "k"}, headers=ANNA).json()["key"]}
    signed = shop.remove(ANNA).raise_for_status().json()["resultUrl"]
    others = shop.remove(BEN).raise_for_status().json()["resultUrl"]
    batch_id = finished_batch(shop.database, user_of(shop.database, "anna").id)
    zip_url = sign(SECRET, f"{API}/batch/{batch_id}/download", timedelta(days=1))
    doors = [(f"{API}/credits", who) for who in (ANNA, key, login)] + [(signed, {}), (zip_url, {})]

    def statuses() -> list[int]:
        return [shop.get(path, who).status_code for path, who in doors]

    assert statuses() == [200] * 4 + [404]  # This batch has no ZIP.
    for who in ("anna", OWNER):
        user_id = user_of(shop.database, who).id
        with shop.database.begin() as session:
            accounts.disable(session, session.get_one(User, user_id))
    for path, who in doors:
        assert "disabled" in problem(shop.get(path, who), 403, "FORBIDDEN")["detail"]
    problem(shop.remove(ANNA), 403, "FORBIDDEN")
    problem(log_in(shop), 403, "FORBIDDEN")
    problem(log_in(shop, "wrong password"), 401, "UNAUTHENTICATED")
    assert shop.get(others, {}).status_code == shop.get(f"{API}/credits", BEN).status_code == 200
    for who in ("anna", OWNER):
        user_id = user_of(shop.database, who).id
        with shop.database.begin() as session:
            accounts.enable(session, session.get_one(User, user_id))
    assert statuses() == [200] * 4 + [404]
    assert log_in(shop).status_code == 200


def test_a_new_password_ends_logins_by_the_old_one(shop: ApiClient) -> None:
    with shop.database.begin() as session:
        made = accounts.create_local(session, OWNER, PASSWORD)
        key, _ = accounts.create_key(session, made, "laptop")
    old = token_of(log_in(shop))
    assert shop.get(f"{API}/credits", old).status_code == 200
    with shop.database.begin() as session:
        accounts.set_password(session, session.get_one(User, made.id), NEW_PASSWORD)
    detail = problem(shop.get(f"{API}/credits", old), 401, "UNAUTHENTICATED")["detail"]
    assert "password has changed" in detail
    problem(log_in(shop), 401, "UNAUTHENTICATED")
    assert shop.get(f"{API}/credits", token_of(log_in(shop, NEW_PASSWORD))).status_code == 200
    assert shop.get(f"{API}/credits", {"X-Api-Key": key}).status_code == 200
    # Setting the same password again also counts as a change: logins with the old one end.
    with shop.database.begin() as session:
        accounts.set_password(session, session.get_one(User, made.id), PASSWORD)
    problem(shop.get(f"{API}/credits", old), 401, "UNAUTHENTICATED")


@on_both
def test_who_has_no_password_here_is_given_none(database: Database) -> None:
    with database.begin() as session:
        platforms = accounts.get_or_create_user(session, Claims("u-1", OWNER))
        with pytest.raises(AccountError, match=r"u-1 has no local password"):
            accounts.set_password(session, platforms, NEW_PASSWORD)
        with pytest.raises(AccountError, match="too short"):
            accounts.set_password(session, accounts.create_local(session, OWNER, PASSWORD), "short")


def finished_batch(database: Database, user_id: uuid.UUID) -> uuid.UUID:
    with database.begin() as session:
        batch = Batch(
            user_id=user_id,
            status=Status.FAILED,
            tier="basic",
            images=2,
            credits=6,
            discount=0,
            discount_percent=0,
            finished_at=now(),
        )
        session.add(batch)
    return batch.id


def fill(shop: ApiClient, storage: LocalStorage, subject: str) -> uuid.UUID:
    """Give a user one of everything; return their id."""
    user_id = shop.fund(subject, 500)
    who = bearer(subject)
    shop.client.post("/api/auth/keys", json={"name": "laptop"}, headers=who).raise_for_status()
    shop.remove(who | {"Idempotency-Key": "order-1"}).raise_for_status()
    at, day = now(), timedelta(days=1)
    with shop.database.begin() as session:
        for number, status in enumerate(PaymentStatus):
            payment = Payment(
                payment_id=f"{subject}-{number}", user_id=user_id, plan="pro", rupiah=299_000, status=status
            )
            session.add(payment)
        session.flush()
        session.add(
            Subscription(
                id=payment.id, user_id=user_id, plan="pro", day=1, starts_at=at, ends_at=at + 30 * day
            )
        )
        session.add(SubscriptionUsage(user_id=user_id, day=at.date(), used=1, professional=0))
    photos = [batches.StoredPhoto(uuid.uuid4(), f"{n}.png", "0" * 64) for n in range(3)]
    batch_id = uuid.uuid4()
    batches.submit(shop.database, user_id, batch_id, photos, batches.BatchRequest(Options()), at)
    with shop.database.begin() as session:
        done = session.get_one(Job, photos[0].job_id)
        done.status, done.attempts = Status.COMPLETED, 2
        session.get_one(Job, photos[1].job_id).status = Status.PROCESSING
        session.add(Delivery(batch_id=batch_id, channel=Channel.MAIL, target="anna@shop.example"))
        open_one = Job(user_id=user_id, status=Status.PENDING, tier="basic", credits=3, format="png")
        session.add(open_one)
        session.flush()
        ledger.hold(session, user_id, 3, f"job:{open_one.id}")
    for photo in photos:
        storage.put(jobs.upload_key(photo.job_id, batch_id), b"photo")
    for attempt in (1, 2):
        storage.put(jobs.result_key(photos[0].job_id, Options().format, attempt), b"picture")
    storage.put(jobs.upload_key(open_one.id, None), b"photo")
    storage.put(jobs.archive_key(batch_id), b"zip")
    return user_id


def files_in(storage: LocalStorage) -> Sequence[str]:
    found = [file.relative_to(storage.root).as_posix() for file in storage.root.rglob("*") if file.is_file()]
    return [name for name in found if name.startswith(("results/", "uploads/", "originals/"))]


@on_both
def test_a_deleted_user_leaves_only_a_ledger_without_a_name(shop: ApiClient, tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path / "data")
    anna = fill(shop, storage, "anna")
    kept = set(files_in(storage))
    assert len(kept) == 9
    ben = fill(shop, storage, "ben")
    bens = set(files_in(storage)) - kept
    with shop.database.begin() as session:
        before = len(session.scalars(select(LedgerEntry).where(LedgerEntry.user_id == anna)).all())

    deleted = delete_user(shop.database, storage, anna)

    assert (deleted.jobs, deleted.batches) == (5, 1)
    assert set(files_in(storage)) == bens
    with shop.database.begin() as session:
        for table in (Job, Batch, ApiKey, IdempotencyKey, Subscription, SubscriptionUsage):
            assert set(session.scalars(select(table.user_id))) == {ben}, table
        assert len(session.scalars(select(Delivery)).all()) == 1
        (paid,) = session.scalars(select(Payment).where(Payment.user_id == anna)).all()
        assert paid.status is PaymentStatus.CONFIRMED
        row = session.get_one(User, anna)
        named = (row.subject, row.email, row.password_hash, row.role)
        assert named == (f"{DELETED}{anna}", None, None, Role.USER)
        entries = session.scalars(select(LedgerEntry).where(LedgerEntry.user_id == anna)).all()
        # Credits held for unfinished work are released, and no ledger entry is removed.
        assert len(entries) > before
        assert ledger.discrepancies(session) == {}
        assert row.balance == 500 - 3 - 3  # One photo, and one photo of the batch.
        with pytest.raises(AccountError, match="was deleted"):
            accounts.enable(session, row)
    # If the platform's user logs in again, they are a new user with nothing.
    assert shop.balance(ANNA) == 0
    assert shop.get(f"{API}/jobs", ANNA).json()["jobs"] == []
    assert user_of(shop.database, "anna").id != anna
    problem(shop.get(f"{API}/credits", bearer(f"{DELETED}{anna}")), 403, "FORBIDDEN")
    assert shop.get(f"{API}/admin/stats", ADMIN).status_code == 200
    with pytest.raises(LookupError):
        delete_user(shop.database, storage, anna)
    assert shop.database.run_read_only(accounts.matching, str(anna)) == []


def test_every_table_with_a_user_is_thought_of() -> None:
    """A table that is added later must be handled by deletion, or listed here with the reason why its rows stay."""
    accounting = {Subscription, SubscriptionUsage, Payment, LedgerEntry}
    thought_of = accounting | {Job, Batch, ApiKey, IdempotencyKey, StoreDelivery}
    with_user = {
        table.name
        for table in Base.metadata.sorted_tables
        if any(key.column.table.name == "users" for key in table.foreign_keys)
    }
    assert with_user == {kind.__tablename__ for kind in thought_of}


def test_a_deletion_that_broke_off_is_taken_up_again(shop: ApiClient, tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path / "data")
    anna = fill(shop, storage, "anna")

    class Failing(LocalStorage):
        def delete(self, key: str) -> None:
            if key.endswith(".zip"):
                raise StorageError("The file cannot be deleted.")
            super().delete(key)

    with pytest.raises(StorageError):
        delete_user(shop.database, Failing(storage.root), anna)
    problem(shop.get(f"{API}/credits", ANNA), 403, "FORBIDDEN")
    assert user_of(shop.database, "anna").id == anna
    delete_user(shop.database, storage, anna)
    assert files_in(storage) == []


def test_a_removal_under_way_ends_with_its_user(shop: ApiClient, tmp_path: Path) -> None:
    anna = shop.fund("anna", 50)

    def close() -> None:
        shop.database.run_in_transaction(user_deletion.close_account, anna, now())

    shop.runner.before = close
    problem(shop.remove(ANNA), 500, "INTERNAL")
    with shop.database.begin() as session:
        assert session.get_one(User, anna).balance == 50
        assert ledger.discrepancies(session) == {}


def test_a_photo_in_the_engine_leaves_no_picture_when_its_user_is_deleted(
    shop: ApiClient, tmp_path: Path
) -> None:
    anna, storage = shop.fund("anna", 50), LocalStorage(tmp_path / "data")

    def delete() -> None:
        delete_user(shop.database, storage, anna)

    shop.runner.before = delete
    problem(shop.remove(ANNA), 500, "INTERNAL")
    assert files_in(storage) == []


@on_both
def test_what_comes_after_its_users_deletion_is_deleted_too(database: Database, tmp_path: Path) -> None:
    """A call that was accepted before the deletion may write a job after it."""
    storage = LocalStorage(tmp_path)
    with database.begin() as session:
        anna, ben = (accounts.get_or_create_user(session, Claims(who)) for who in ("anna", "ben"))
        ledger.grant(session, anna.id, 50, "grant:anna")
    delete_user(database, storage, anna.id)
    with database.begin() as session:
        done, other = (
            Job(user_id=user.id, status=Status.COMPLETED, tier=Tier.BASIC, credits=3, format="png")
            for user in (anna, ben)
        )
        session.add_all([done, other])
        session.flush()
        in_work = Job(
            user_id=anna.id, status=Status.PROCESSING, tier=Tier.BASIC, credits=3, format="png", attempts=1
        )
        session.add(in_work)
        session.flush()
        ledger.hold(session, anna.id, 3, f"job:{in_work.id}")
    for job in (done, other):
        storage.put(jobs.result_key_of(job), b"picture")
    assert user_deletion.delete_late_rows(database, storage) == 2
    assert files_in(storage) == [jobs.result_key_of(other)]
    with database.read() as session:
        assert session.scalars(select(Job.id)).all() == [other.id]
        assert session.get_one(User, anna.id).balance == 50
        assert ledger.discrepancies(session) == {}
    assert user_deletion.delete_late_rows(database, storage) == 0


def test_a_deleted_account_made_again_is_another(shop: ApiClient, tmp_path: Path) -> None:
    with shop.database.begin() as session:
        made = accounts.create_local(session, OWNER, PASSWORD)
    old = token_of(log_in(shop))
    delete_user(shop.database, LocalStorage(tmp_path / "data"), made.id)
    problem(shop.get(f"{API}/credits", old), 401, "UNAUTHENTICATED")
    with shop.database.begin() as session:
        assert accounts.create_local(session, OWNER, PASSWORD).id != made.id
    problem(shop.get(f"{API}/credits", old), 401, "UNAUTHENTICATED")


def test_the_admin_of_a_service_without_accounts_stays(database: Database, tmp_path: Path) -> None:
    admin = local_admin(database)
    closings: list[Callable[[], object]] = [
        lambda: database.run_in_transaction(accounts.disable, admin),
        lambda: delete_user(database, LocalStorage(tmp_path), admin.id),
    ]
    for close in closings:
        with pytest.raises(AccountError, match="CUTOUT_AUTH"):
            close()


@on_both
def test_a_user_has_so_many_keys_and_no_more_whatever_runs_at_once(database: Database) -> None:
    with database.begin() as session:
        user = accounts.get_or_create_user(session, Claims("u-1"))

    def make(_: int) -> bool:
        try:
            database.run_in_transaction(accounts.create_key, user, "k", 3)
        except TooManyKeys:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(make, range(12))) == 3
    with database.begin() as session:
        for key in accounts.keys(session, user)[:2]:
            accounts.revoke_key(session, user, key.id)
    assert [make(0) for _ in range(3)] == [True, True, False]


def test_revoked_keys_do_not_pile_up(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounts, "REVOKED_KEYS_LISTED", 2)
    with database.begin() as session:
        user = accounts.get_or_create_user(session, Claims("u-1"))
        for number in range(6):
            _, row = accounts.create_key(session, user, str(number))
            accounts.revoke_key(session, user, row.id)
        accounts.create_key(session, user, "last")
        assert {key.name for key in accounts.keys(session, user)} == {"last", "5", "4"}


def test_a_key_too_many_is_a_conflict_that_names_the_setting(database: Database, tmp_path: Path) -> None:
    with opened_shop(database, tmp_path, max_api_keys=2) as shop:

        def make() -> Any:
            return shop.client.post("/api/auth/keys", json={"name": "k"}, headers=ANNA)

        first = make().raise_for_status().json()
        assert make().status_code == 201
        assert "CUTOUT_MAX_API_KEYS" in problem(make(), 409, "CONFLICT")["detail"]
        shop.client.delete(f"/api/auth/keys/{first['id']}", headers=ANNA).raise_for_status()
        assert make().status_code == 201


@on_both
def test_a_user_is_found_by_mail_sub_or_id(database: Database) -> None:
    with database.begin() as session:
        local = accounts.create_local(session, OWNER, PASSWORD)
        one = accounts.get_or_create_user(session, Claims("u-1", "Anna@shop.example"))
        two = accounts.get_or_create_user(session, Claims("u-2", "anna@shop.example"))
        owner_there = accounts.get_or_create_user(session, Claims("u-3", OWNER))
        for who, found in (
            ("u-1", [one]),
            (str(two.id), [two]),
            (" ANNA@shop.example", [one, two]),
            (OWNER, [local, owner_there]),
            (local.subject, [local]),
            ("u-4", []),
        ):
            assert {user.id for user in accounts.matching(session, who)} == {user.id for user in found}, who
