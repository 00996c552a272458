"""Two versions at once, as during an update: older code on a newer schema, and rows that a newer version wrote."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import ExceptionContext, event, inspect, select, text
from structlog.testing import capture_logs

from cutout.app.bootstrap import prepare
from cutout.app.config.settings import load as load_settings
from cutout.app.db import migrate
from cutout.app.db.migrate import SchemaMismatch
from cutout.app.db.session import Database
from cutout.app.db.tables import Job, Status
from cutout.app.jobs import leases
from cutout.app.jobs.leases import Line
from cutout.app.storage.local import LocalStorage
from cutout.worker import tasks
from tests.app.databases import on_both
from tests.fakes import PATIENCE, wait_until
from tests.worker.test_tasks import look
from tests.worker.worker_fixtures import context_of, small_photos, submitted

NEWER = "9999"
BATCHES, JOBS = "background_removal_batches", "background_removal_jobs"
# The columns of `migrate.OLDEST_CODE`, whose code may run on this schema: "name" where its INSERT statements give a
# value, "name?" where it may be null. Replace them when that revision is raised, never otherwise.
COLUMNS_OF_OLDEST = {
    "users": "id subject email? role password_hash? balance created_at disabled_at? deleted_at?",
    "api_keys": "id user_id name shown sha256 created_at revoked_at?",
    "background_removal_batches": (
        "id user_id status tier images credits discount discount_percent charged? webhook_url? "
        "notify_email? zip_bytes? claim? lease_until? claimed_at? created_at started_at? "
        "finished_at?"
    ),
    "background_remover_payments": "id payment_id user_id plan? credits? rupiah status confirmed_by? confirmed_at? created_at",
    "background_remover_subscription_usage": "user_id day used professional",
    "credit_ledger": "id user_id movement credits key note created_at",
    "background_removal_jobs": (
        "id user_id batch_id? position? name? options? claim? attempts sha256? status tier credits "
        "paid_by format lease_until? model? backend? substitute? width? height? no_foreground? "
        "has_store? refined_from? frames? subject? coverage? uncertainty? needs_review? notes? "
        "milliseconds? stage_milliseconds? error_code? error_detail? created_at finished_at?"
    ),
    "background_remover_subscriptions": "id user_id plan day starts_at ends_at cancelled_at? cancel_reason?",
    "webhook_deliveries": "id batch_id channel target attempts status? error? due_at? delivered_at? created_at",
    "idempotency_keys": "id user_id key fingerprint job_id? batch_id? created_at",
    "result_deliveries": "id job_id user_id target stem? attempts status? error? due_at? delivered_at? created_at",
}


def made_newer(database: Database, *serves: str) -> None:
    """Make a database look as a newer version leaves it, which serves the code of these revisions."""
    with database.begin() as session:
        session.execute(text("UPDATE alembic_version SET version_num = :newer"), {"newer": NEWER})
        session.execute(text("DELETE FROM schema_serves"))
        for revision in (*serves, NEWER):
            session.execute(text("INSERT INTO schema_serves VALUES (:one)"), {"one": revision})


def test_a_newer_schema_that_serves_this_version_is_accepted_with_a_warning(
    database: Database, tmp_path: Path
) -> None:
    embedded = load_settings(data_dir=tmp_path)
    production = load_settings(database_url="postgresql://nowhere/cutout", secret="x" * 32)
    made_newer(database, "0001")
    for settings in (embedded, production):
        with pytest.raises(SchemaMismatch, match="Install the newer version again"):
            prepare(settings, database, LocalStorage(tmp_path))
    made_newer(database, migrate.head())
    with capture_logs() as told:
        for settings in (embedded, production):
            prepare(settings, database, LocalStorage(tmp_path))
    assert migrate.migrate(database) == migrate.revision(database) == NEWER
    warnings = {(line["event"], line["revision"]) for line in told if line["log_level"] == "warning"}
    assert warnings == {("the database has a newer schema, which serves this version too", NEWER)}


def test_a_migration_says_which_revisions_code_it_serves(database: Database) -> None:
    with database.read() as session:
        served = set(session.scalars(text("SELECT revision FROM schema_serves")))
    assert {migrate.OLDEST_CODE, migrate.head()} <= served
    with database.begin() as session:
        session.execute(text("INSERT INTO schema_serves VALUES ('0001')"))
    migrate.migrate(database)
    with database.read() as session:
        assert set(session.scalars(text("SELECT revision FROM schema_serves"))) == served


@on_both
def test_the_oldest_code_that_is_served_finds_all_its_columns_and_need_give_no_others(
    database: Database,
) -> None:
    """Expand, then contract: a step may add columns that are null or have a default, and tables, and takes nothing away."""
    there = inspect(database.engine)
    for name, columns in COLUMNS_OF_OLDEST.items():
        known = {column.removesuffix("?"): column.endswith("?") for column in columns.split()}
        found = {column["name"]: column for column in there.get_columns(name)}
        assert known.keys() <= found.keys(), name
        for column_name, may_be_null in known.items():
            assert found[column_name]["nullable"] or not may_be_null, f"{name}.{column_name}"
        for added in found.keys() - known.keys():
            assert found[added]["nullable"] or found[added]["default"] is not None, f"{name}.{added}"


@on_both
def test_rows_that_the_oldest_code_writes_are_worked_on(database: Database, tmp_path: Path) -> None:
    """The INSERT of its batch and its jobs, as recorded: with their columns and no others."""
    storage = LocalStorage(tmp_path)
    model = submitted(database, storage, small_photos(2))
    columns = {
        name: ", ".join(one.removesuffix("?") for one in COLUMNS_OF_OLDEST[name].split())
        for name in (JOBS, BATCHES)
    }
    with database.begin() as session:
        for name in (JOBS, BATCHES):
            session.execute(text(f"CREATE TEMPORARY TABLE kept_{name} AS SELECT {columns[name]} FROM {name}"))
            session.execute(text(f"DELETE FROM {name}"))
        for name in (BATCHES, JOBS):
            own = columns[name]
            session.execute(text(f"INSERT INTO {name} ({own}) SELECT {own} FROM kept_{name}"))
            session.execute(text(f"DROP TABLE kept_{name}"))
    with context_of(database, storage) as context:
        for _ in range(3):
            tasks.process_line(context, Line.BATCH)
            context.packing.submit(lambda: None).result(60)
    assert look(database, model)[0].status is Status.COMPLETED


@on_both
def test_an_older_worker_leaves_photos_with_newer_options_to_a_newer_one(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An option that it ignored would change the picture that was paid for."""
    storage = LocalStorage(tmp_path)
    newer, own = (submitted(database, storage, small_photos(2)) for _ in range(2))
    with database.begin() as session:
        for job in session.scalars(select(Job).where(Job.batch_id == newer.id)):
            assert job.options is not None
            job.options = job.options | {"glow": "50%"}
        first = session.scalars(select(Job).where(Job.batch_id == own.id, Job.position == 0)).one()
        assert first.options is not None
        first.options = first.options | {"format": "a newer one"}
    with context_of(database, storage) as context:
        for _ in range(4):
            tasks.process_line(context, Line.BATCH)
        assert [photo.status for photo in look(database, own)[1]] == [Status.PENDING, Status.COMPLETED]
        assert {(photo.status, photo.attempts) for photo in look(database, newer)[1]} == {(Status.PENDING, 0)}
        # A worker that cannot take what waits does not wake itself up again and again.
        rung: list[Line] = []
        monkeypatch.setattr(context.queue, "notify_workers", rung.append)
        tasks.process_line(context, Line.BATCH)
        assert rung == []
        assert database.run_read_only(leases.has_waiting_work, Line.BATCH)


@pytest.mark.slow
@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_a_step_that_waits_for_a_transaction_keeps_no_others_waiting_behind_it(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gives its place in the queue up, and begins again."""
    monkeypatch.setattr(migrate, "LOCK_MILLISECONDS", 50)
    with database.engine.begin() as connection:
        config = migrate.alembic_config()
        config.attributes["connection"] = connection
        command.downgrade(config, "0008")
    refused: list[object] = []

    def note(context: ExceptionContext) -> None:
        refused.append(context.original_exception)

    event.listen(database.engine, "handle_error", note)
    try:
        with ThreadPoolExecutor(1) as aside:
            with database.read() as session:
                session.execute(text(f"SELECT count(*) FROM {JOBS}"))
                migrated = aside.submit(migrate.migrate, database)
                wait_until(lambda: len(refused) >= 2)
                assert not migrated.done()
            assert migrated.result(PATIENCE) == migrate.head()
    finally:
        event.remove(database.engine, "handle_error", note)
        migrate.migrate(database)
    assert {getattr(error, "sqlstate", None) for error in refused} == {"55P03"}
