"""Schema migrations: the revision this code needs, the revision the database has, and the upgrade between them."""

from functools import cache
from pathlib import Path

import stamina
import structlog
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, String, column, delete, insert, inspect, select, table, text
from sqlalchemy.orm import Session

from cutout.app.core.errors import OperatorError
from cutout.app.db.session import Database

log = structlog.get_logger()

MIGRATIONS = Path(__file__).parent / "migrations"
# The oldest revision whose code works with this schema. A step that only adds leaves it; one that takes away what older
# code needs raises it to the first revision whose code does without.
OLDEST_CODE = "0009"
# A step waits for a lock of PostgreSQL so long, since all others wait behind it, and is then begun again; it gives way before
# the server's search for deadlocks, after a second, would end a transaction of the service.
LOCK_MILLISECONDS, LOCK_TRIES_SECONDS = 500, 120.0
LOCK_ERRORS = ("55P03", "40P01")  # the lock was not to be had in time; a deadlock
# Revisions whose code works with the database's schema. It is not one of Alembic's, since older code reads it.
SERVES = table("schema_serves", column("revision", String(32)))


class SchemaMismatch(OperatorError):
    """The database's schema is not the one this code needs; the message says which command to run."""


def migrate(database: Database) -> str:
    """Upgrade the database to this code's schema in one transaction; return its revision.

    A newer schema that serves this code too is left as it is.

    Raises:
        SchemaMismatch: the database has the schema of a newer version, which does not serve this one.

    """
    found = revision(database)
    if found is not None and is_ahead(found):
        require_current(database)
        return found
    _upgrade(database)
    return head()


def _waits_for_locks(error: Exception) -> bool:
    return getattr(getattr(error, "orig", None), "sqlstate", None) in LOCK_ERRORS


@stamina.retry(on=_waits_for_locks, attempts=None, timeout=LOCK_TRIES_SECONDS, wait_max=1.0)
def _upgrade(database: Database) -> None:
    with database.without_limits() as connection:
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = {LOCK_MILLISECONDS}")
        config = alembic_config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        _write_served(connection)


def require_current(database: Database) -> None:
    """Check that the database has this code's schema, or a newer one that says that it serves this code too.

    Raises:
        SchemaMismatch: it has another schema, or none.

    """
    found = revision(database)
    if found == head():
        return
    if is_ahead(found) and head() in database.run_read_only(_served):
        log.warning("the database has a newer schema, which serves this version too", revision=found)
        return
    raise SchemaMismatch(_say(found))


def head() -> str:
    """Return the revision that this code needs."""
    found = _scripts().get_current_head()
    assert found is not None
    return found


def revision(database: Database) -> str | None:
    """Return the database's revision, or None for an empty one."""
    with database.read() as session:
        return MigrationContext.configure(session.connection()).get_current_revision()


def is_ahead(found: str | None) -> bool:
    """Return whether a revision is one that this code does not know."""
    known = {script.revision for script in _scripts().walk_revisions()}
    return found is not None and found not in known


def _served(session: Session) -> set[str]:
    """Return the revisions whose code works with the database's schema, as the version that migrated it wrote."""
    if not inspect(session.connection()).has_table(SERVES.name):
        return set()
    return set(session.scalars(select(SERVES.c.revision)))


def _write_served(connection: Connection) -> None:
    if not inspect(connection).has_table(SERVES.name):
        connection.execute(text(f"CREATE TABLE {SERVES.name} (revision VARCHAR(32) PRIMARY KEY)"))
    served = [one.revision for one in _scripts().walk_revisions(OLDEST_CODE, "head")]
    connection.execute(delete(SERVES).where(SERVES.c.revision.not_in(served)))
    known = set(connection.scalars(select(SERVES.c.revision)))
    for one in served:
        if one not in known:
            connection.execute(insert(SERVES).values(revision=one))


def _say(found: str | None) -> str:
    if found is None:
        return f"The database is empty, and this version needs revision {head()}. Run: cutout migrate"
    if is_ahead(found):
        return (
            f"The database is at revision {found}, which a newer version of Cutout created; this version"
            f" supports revisions up to {head()}. Install the newer version again."
        )
    return f"The database is at revision {found}, and this version needs {head()}. Run: cutout migrate"


@cache
def _scripts() -> ScriptDirectory:
    """Return the migrations of this code, which are imported once: a start of the service asks for them several times."""
    return ScriptDirectory.from_config(alembic_config())


def alembic_config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    return config
