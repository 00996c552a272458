"""How Alembic meets the database: over the connection it is handed by `cutout.app.db.migrate`, or by `DATABASE_URL`."""

import os
from typing import Literal

from alembic import context
from sqlalchemy import Connection

from cutout.app.db.session import Database
from cutout.app.db.tables import Base, UtcDateTime


def run(connection: Connection) -> None:
    """Run the steps, in the transaction that is open or one of their own."""
    # SQLite changes a column by copying the table.
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        render_as_batch=True,
        render_item=_as_sqlalchemys_own,
    )
    with context.begin_transaction():
        context.run_migrations()


def _as_sqlalchemys_own(kind: str, item: object, _: object) -> str | Literal[False]:
    """Write a type of ours as what it is in the database: steps do not change with the code."""
    if kind == "type" and isinstance(item, UtcDateTime):
        return "sa.DateTime(timezone=True)"
    return False


handed = context.config.attributes.get("connection")
if handed is not None:
    run(handed)
else:
    database = Database(os.environ["DATABASE_URL"])
    with database.without_limits() as own:
        run(own)
    database.close()
