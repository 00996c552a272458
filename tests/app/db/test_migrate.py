"""The database schema: created from nothing, equal to the tables, and refused if it is of another version."""

import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import column, func, insert, inspect, literal, select, table, text
from sqlalchemy.exc import InternalError

from cutout.app.bootstrap import prepare
from cutout.app.config.settings import load as load_settings
from cutout.app.db import migrate
from cutout.app.db.migrate import SchemaMismatch
from cutout.app.db.session import Database
from cutout.app.db.tables import Base, IdempotencyKey, Job, LedgerEntry, Movement, PaidBy, Status, User
from cutout.app.storage.local import LocalStorage
from cutout.inference.tiers import Tier
from tests.app.databases import new_user

pytestmark = pytest.mark.slow

NAMES = {
    "users",
    "api_keys",
    "credit_ledger",
    "background_removal_jobs",
    "background_removal_batches",
    "background_remover_payments",
    "background_remover_subscriptions",
    "background_remover_subscription_usage",
    "idempotency_keys",
    "webhook_deliveries",
    "result_deliveries",
}
KEPT_BY_MIGRATIONS = {"alembic_version", migrate.SERVES.name}


def test_the_steps_lead_to_the_tables(database: Database) -> None:
    """As `alembic check`: each table, column, index and type has a migration step."""
    assert set(inspect(database.engine).get_table_names()) == NAMES | KEPT_BY_MIGRATIONS
    assert {table.name for table in Base.metadata.sorted_tables} == NAMES
    with database.engine.begin() as connection:
        config = migrate.alembic_config()
        config.attributes["connection"] = connection
        command.check(config)


def test_a_migrated_database_is_accepted_and_migrated_again_without_harm(database: Database) -> None:
    user = new_user(database)
    migrate.require_current(database)
    assert migrate.migrate(database) == migrate.revision(database) == migrate.head()
    with database.begin() as session:
        assert session.get(type(user), user.id)


def test_an_empty_database_is_refused_with_the_command(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'new.db'}")
    with pytest.raises(SchemaMismatch, match=r"empty.*Run: cutout migrate"):
        migrate.require_current(database)
    migrate.migrate(database)
    migrate.require_current(database)
    database.close()


def test_a_database_of_a_newer_version_is_refused_also_by_migrate(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'newer.db'}")
    migrate.migrate(database)
    with database.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        # It takes away what this version needs.
        connection.execute(text("DELETE FROM schema_serves"))
    for refused in (migrate.require_current, migrate.migrate):
        with pytest.raises(SchemaMismatch, match=r"9999, which a newer version.*Install the newer version"):
            refused(database)
    database.close()


def test_a_step_back_and_forth(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'cutout.db'}")
    migrate.migrate(database)
    with database.engine.begin() as connection:
        config = migrate.alembic_config()
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
    assert set(inspect(database.engine).get_table_names()) == KEPT_BY_MIGRATIONS
    migrate.migrate(database)
    migrate.require_current(database)
    database.close()


def test_a_database_one_step_behind_is_refused_until_it_is_migrated_and_keeps_its_rows(
    database: Database, tmp_path: Path
) -> None:
    _to_first_step(database)
    settings = load_settings(database_url="postgresql://nowhere/cutout", secret="x" * 32)
    try:
        with pytest.raises(
            SchemaMismatch,
            match=rf"^The database is at revision 0001, and this version needs {migrate.head()}. Run: cutout migrate$",
        ):
            prepare(settings, database, LocalStorage(tmp_path))
        with database.engine.begin() as connection:
            assert connection.scalar(text("SELECT count(*) FROM background_removal_jobs")) == 1
    finally:
        migrate.migrate(database)
    _require_kept(database)


def test_an_embedded_database_one_step_behind_is_migrated_at_start_and_keeps_its_rows(tmp_path: Path) -> None:
    settings = load_settings(data_dir=tmp_path)
    database = Database(settings.database)
    migrate.migrate(database)
    _to_first_step(database)
    prepare(settings, database, LocalStorage(tmp_path))
    _require_kept(database)
    database.close()


def test_users_of_the_revision_before_are_kept_and_may_call(database: Database) -> None:
    with database.begin() as session:
        session.add(User(subject="local:a@b.example", email="a@b.example", password_hash="hash", balance=0))
    new_user(database, "anna")

    def step(to: str) -> None:
        with database.engine.begin() as connection:
            config = migrate.alembic_config()
            config.attributes["connection"] = connection
            command.downgrade(config, to)

    step("0003")
    assert "disabled_at" not in {column["name"] for column in inspect(database.engine).get_columns("users")}
    migrate.migrate(database)
    migrate.require_current(database)
    with database.begin() as session:
        rows = session.scalars(select(User).order_by(User.subject)).all()
        assert [row.subject for row in rows] == ["anna", "local:a@b.example"]
        assert rows[1].password_hash == "hash"
        assert all(row.disabled_at is None and row.deleted_at is None for row in rows)


USER, JOB = uuid.uuid4(), uuid.uuid4()
FIRST_ROWS: dict[str, dict[str, object]] = {
    "users": {"id": USER, "subject": "anna", "role": "user", "balance": 7},
    "background_removal_jobs": {
        "id": JOB,
        "user_id": USER,
        "status": "completed",
        "tier": "basic",
        "credits": 3,
        "format": "png",
    },
    "idempotency_keys": {
        "id": uuid.uuid4(),
        "user_id": USER,
        "key": "order-1",
        "fingerprint": "f",
        "job_id": JOB,
    },
}


def _to_first_step(database: Database) -> None:
    """Take a database back to revision 0001, with a job that was completed then and an idempotency key that refers to
    it.
    """
    with database.engine.begin() as connection:
        config = migrate.alembic_config()
        config.attributes["connection"] = connection
        command.downgrade(config, "0001")
        for name, values in FIRST_ROWS.items():
            row = values | {"created_at": datetime(2026, 11, 1, tzinfo=UTC)}
            # The column type follows from the type of the value.
            columns = [column(key, literal(value).type) for key, value in row.items()]
            connection.execute(insert(table(name, *columns)).values(row))


def _require_kept(database: Database) -> None:
    migrate.require_current(database)
    with database.begin() as session:
        job, user = session.get_one(Job, JOB), session.get_one(User, USER)
        assert (job.user_id, job.credits, job.paid_by) == (USER, 3, PaidBy.CREDITS)
        assert (user.subject, user.balance) == ("anna", 7)
        assert session.scalars(select(IdempotencyKey.job_id)).all() == [JOB]


def test_words_times_and_lists_come_back_as_they_went(database: Database) -> None:
    user = new_user(database)
    east = datetime(2026, 11, 24, 23, 30, tzinfo=timezone(timedelta(hours=7)))
    with database.begin() as session:
        job = Job(
            user_id=user.id,
            status=Status.PROCESSING,
            tier=Tier.INDUSTRY,
            credits=25,
            format="png",
            lease_until=east,
            notes=["The first one was taken."],
        )
        session.add(job)
    with database.begin() as session:
        found = session.get(Job, job.id)
        assert found is not None
        assert (found.status, found.tier) == (Status.PROCESSING, Tier.INDUSTRY)
        assert found.lease_until == east
        assert found.lease_until.tzinfo == UTC
        assert found.notes == ["The first one was taken."]
        assert isinstance(found.id, uuid.UUID)
        words = session.execute(text("SELECT status, tier FROM background_removal_jobs")).one()
    assert tuple(words) == ("processing", "industry")


def test_what_leaves_a_transaction_by_an_error_never_was(database: Database) -> None:
    user = new_user(database)

    def fail() -> None:
        with database.begin() as session:
            session.add(LedgerEntry(user_id=user.id, movement=Movement.GRANT, credits=5, key="grant:1"))
            session.flush()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with database.begin() as session:
        assert session.query(LedgerEntry).count() == 0


def test_a_reader_waits_for_no_writer_and_writes_nothing(database: Database) -> None:
    """On SQLite a reader that took the write lock would wait here until its timeout."""
    with database.begin() as writing:
        writing.add(User(subject="anna", balance=0))
        writing.flush()
        with ThreadPoolExecutor(1) as another:
            count = select(func.count()).select_from(User)
            assert (
                another.submit(database.run_read_only, lambda reading: reading.scalar(count)).result(60) == 0
            )
    assert database.run_read_only(lambda session: session.scalar(select(func.count()).select_from(User))) == 1
    if database.engine.dialect.name == "postgresql":
        with pytest.raises(InternalError, match="read-only transaction"), database.read() as reading:
            reading.add(User(subject="ben", balance=0))
    new_user(database, "a connection that read may write again")
