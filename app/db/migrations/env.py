"""Alembic's environment. It uses the connection passed by `cutout.app.db.migrate`, or else opens `DATABASE_URL`."""

import os
from typing import Literal

from alembic import context
from sqlalchemy import Connection

from cutout.app.db.migrate import SERVES
from cutout.app.db.session import Database
from cutout.app.db.tables import Base, UtcDateTime


def run(connection: Connection) -> None:
    """Run the migration steps, in the transaction that is already open or in a new one."""
    # SQLite cannot alter a column in place, so Alembic copies the table.
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        render_as_batch=True,
        render_item=_as_sqlalchemys_own,
        include_name=_is_ours,
    )
    with context.begin_transaction():
        context.run_migrations()


def _as_sqlalchemys_own(kind: str, item: object, _: object) -> str | Literal[False]:
    """Render one of our column types as SQLAlchemy's own type, so that migration steps do not change with the code."""
    if kind == "type" and isinstance(item, UtcDateTime):
        return "sa.DateTime(timezone=True)"
    return False


def _is_ours(name: str | None, kind: str, _: object) -> bool:
    return kind != "table" or name != SERVES.name


handed = context.config.attributes.get("connection")
if handed is not None:
    run(handed)
else:
    database = Database(os.environ["DATABASE_URL"])
    with database.without_limits() as own:
        run(own)
    database.close()
