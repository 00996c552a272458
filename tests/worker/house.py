"""`python -m tests.worker.house`: `cutout serve` on a fake network, with the queue and the worker that it brings along.

Its settings come from the environment. The worker is that of `tests.worker.benches`.
"""

import sys

from app import settings as app_settings
from app.embedded import Embedded
from app.main import create_app
from app.server import server_of
from tests.fakes import fake_engine

WORKER = (sys.executable, "-m", "tests.worker.benches", "--lifeline")

if __name__ == "__main__":
    settings = app_settings.load()
    embedded = Embedded(settings, WORKER)
    server_of(create_app(settings, lambda _: fake_engine(), embedded), settings).run()
