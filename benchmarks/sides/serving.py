"""`cutout serve` for a load of minutes, as an operator starts it: `python -m benchmarks.sides.serving serve --port N`.

SOAK_NETWORK_MS in the environment replaces the networks by one that waits so long per photo and finds a disc.
SOAK_KEPT_SECONDS shortens the time that results are kept, whose setting counts in days, and the hour between two
sweeps, so that sweeps take part in a load of minutes. Everything else is the product's own. `worker` is its worker.
"""

import os
import sys
import time
from collections.abc import Sequence
from datetime import timedelta

from cutout.app import bootstrap, cli, maintenance
from cutout.app.config.settings import Settings
from cutout.app.config.storage import StorageSettings
from cutout.app.embedded import supervisor
from cutout.inference.engine import Engine
from cutout.worker.__main__ import main as worker_main
from tests.fakes import FakeRunner, fake_engine

NETWORK_MS, KEPT_SECONDS = "SOAK_NETWORK_MS", "SOAK_KEPT_SECONDS"
WORKER = (sys.executable, "-m", "benchmarks.sides.serving", "worker", "--lifeline")
# How many sweeps there are in the time that results are kept.
SWEEPS = 4


def waiting_engine(settings: Settings) -> Engine:
    """Return an engine whose network waits; its limits are those of the settings."""
    seconds = float(os.environ[NETWORK_MS]) / 1000
    return fake_engine(FakeRunner(before=lambda: time.sleep(seconds)), settings.limits)


def shorten(kept: timedelta) -> None:
    """Keep results for this time, and sweep several times in it."""
    StorageSettings.kept = property(lambda _: kept)  # type: ignore[method-assign,assignment]
    maintenance.DELETE_EVERY = maintenance.DELETE_FIRST = kept / SWEEPS
    maintenance.UPLOADS_KEPT = kept


class WithWaitingWorker(supervisor.EmbeddedProcesses):
    """The queue and a worker whose network waits."""

    def __init__(self, settings: Settings, cards: Sequence[str] = ()) -> None:
        super().__init__(settings, WORKER, cards)


def main() -> int:
    """Run `cutout` with these arguments, or a worker."""
    has_fake = NETWORK_MS in os.environ
    if KEPT_SECONDS in os.environ:
        shorten(timedelta(seconds=float(os.environ[KEPT_SECONDS])))
    if sys.argv[1] == "worker":
        del sys.argv[1]
        return worker_main(waiting_engine if has_fake else bootstrap.engine_from)
    if has_fake:
        bootstrap.engine_from = waiting_engine  # type: ignore[assignment]
        bootstrap.pull_missing = lambda *_: None
        supervisor.EmbeddedProcesses = WithWaitingWorker  # type: ignore[misc,assignment]
    cli.main()
    return 0


if __name__ == "__main__":
    os.umask(0o077)
    sys.exit(main())
