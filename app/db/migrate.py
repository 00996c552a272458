"""Schema migrations: the revision this code needs, the revision the database has, and the upgrade between them."""

from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.exc import OperationalError

from cutout.app.core.errors import OperatorError
from cutout.app.db.session import Database

MIGRATIONS = Path(__file__).parent / "migrations"


class SchemaMismatch(OperatorError):
    """The database's schema is not the one this code needs; the message says which command to run."""


def migrate(database: Database) -> str:
    """Upgrade the database to this code's schema in one transaction; return the new revision.

    Raises:
        SchemaMismatch: the database has the schema of a newer version.

    """
    found = revision(database)
    if found == head():  # the usual case, without a look at each migration
        return head()
    if _is_ahead(found):
        raise SchemaMismatch(_say(found))
    with database.without_limits() as connection:
        config = alembic_config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    return head()


def require_current(database: Database) -> None:
    """Check that the database has this code's schema.

    Raises:
        SchemaMismatch: it has another schema, or none.

    """
    found = revision(database)
    if found != head():
        raise SchemaMismatch(_say(found))


@cache
def head() -> str:
    """Return the revision that this code needs."""
    found = ScriptDirectory.from_config(alembic_config()).get_current_head()
    assert found is not None
    return found


def revision(database: Database) -> str | None:
    """Return the database's revision, or None for an empty one."""
    with database.read() as session:
        return MigrationContext.configure(session.connection()).get_current_revision()


def reachable_revision(database: Database) -> str | None:
    """Return the database's revision, or None if the database is empty or does not answer."""
    try:
        return revision(database)
    except OperationalError:
        return None


def _is_ahead(found: str | None) -> bool:
    known = {script.revision for script in ScriptDirectory.from_config(alembic_config()).walk_revisions()}
    return found is not None and found not in known


def _say(found: str | None) -> str:
    if found is None:
        return f"The database is empty, and this version needs revision {head()}. Run: cutout migrate"
    if _is_ahead(found):
        return (
            f"The database is at revision {found}, which a newer version of Cutout created; this version"
            f" supports revisions up to {head()}. Install the newer version again."
        )
    return f"The database is at revision {found}, and this version needs {head()}. Run: cutout migrate"


def alembic_config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    return config
