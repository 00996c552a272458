"""`python -m tests.worker.full_stack`: `cutout serve` on a fake network, with its embedded queue and worker.

Its settings come from the environment. The worker is that of `tests.worker.worker_fixtures`.
"""

import sys

from cutout.app.app import create_app
from cutout.app.config import settings as app_settings
from cutout.app.embedded.supervisor import EmbeddedProcesses
from cutout.app.http.uvicorn_server import server_of
from tests.fakes import fake_engine

WORKER = (sys.executable, "-m", "tests.worker.worker_fixtures", "--lifeline")

if __name__ == "__main__":
    settings = app_settings.load()
    embedded = EmbeddedProcesses(settings, WORKER)
    server_of(create_app(settings, lambda _: fake_engine(), embedded), settings).run()
