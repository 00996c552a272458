"""The service, with this host's engine or one that only waits; see `--help`.

With `--network-ms` the network sleeps this long per photo, without using a core; the rest of the time is the cost of
HTTP and the engine. With `--database` accounts are enabled, in this empty database, and the first line of output is an
API key with credits.
"""

import argparse
import secrets
import tempfile
from pathlib import Path

from benchmarks import standin
from cutout.app.app import create_app
from cutout.app.auth import accounts
from cutout.app.auth.tokens import Claims
from cutout.app.billing import ledger
from cutout.app.bootstrap import engine_from
from cutout.app.config import settings
from cutout.app.db import migrate
from cutout.app.db.session import Database
from cutout.app.http.uvicorn_server import server_of
from cutout.inference.engine import Engine

CREDITS = 1_000_000


def main() -> None:
    """Serve until the process is terminated."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sides.service", description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("--network-ms", type=float)
    parser.add_argument("--database")
    arguments = parser.parse_args()

    def make_engine(chosen: settings.Settings) -> Engine:
        if arguments.network_ms is None:
            return engine_from(chosen)
        runner = standin.DiscRunner.waiting(arguments.network_ms)
        return standin.engine(runner, "isnet-general", chosen.limits)

    with tempfile.TemporaryDirectory() as folder:
        if arguments.database is None:
            chosen = settings.load(
                auth="off",
                port=arguments.port,
                data_dir=Path(folder),
                remove_per_minute=0,
                refine_per_minute=0,
            )
        else:
            chosen = settings.load(
                port=arguments.port,
                secret=secrets.token_hex(),
                database_url=arguments.database,
                data_dir=Path(folder),
                remove_per_minute=0,
            )
            print(customer(Database(arguments.database)), flush=True)
        server_of(create_app(chosen, make_engine), chosen).run()


def customer(database: Database) -> str:
    """Migrate an empty database and add a user with credits; return an API key of that user."""
    migrate.migrate(database)
    with database.begin() as session:
        user = accounts.get_or_create_user(session, Claims("benchmark"))
        ledger.grant(session, user.id, CREDITS, "benchmark")
        key, _ = accounts.create_key(session, user, "benchmark")
    database.close()
    return key


if __name__ == "__main__":
    main()
