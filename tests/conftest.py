"""Fixtures shared by all tests. Real weights are loaded once, and one run of a photo serves many tests.

Tests have to pass on a host that is busy with other things, in any order, and beside each other:

- What another thread or process is about to do is waited for with `wait_until`, never slept for; the bound is `PATIENCE`.
  A process that starts is waited for with `wait_ready`, as long as it lives. Calls over HTTP are made with `tests.http`.
- No test asserts that something took less than so many seconds, or held less than so many bytes, close to what was seen.
  It gives a clock in, counts, compares the order of events or two figures far apart, or holds up whom nobody may wait for
  until after the answer.
- Where the code under test itself gives up after a short time, as a call to Redis does, a test that is not about that
  gives it `PATIENCE`; a lease that may not run out is long.
- Tests run in a shuffled order, the seed of which is in the first lines of the output: `pytest -p no:randomly` goes
  through them as they are written, `pytest -p randomly --randomly-seed=…` repeats a run. A test leaves nothing behind in
  what it shares with others: modules, environment, logging, the databases.
"""

import faulthandler
import logging
import os
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings

from cutout.app.config import settings as app_settings
from cutout.inference.engine import Cutout, Engine, open_engine
from cutout.inference.errors import WeightsUnavailable
from cutout.inference.options import Options
from cutout.inference.weights.store import ModelsFolder
from cutout.models.catalog import find
from tests.fakes import fake_engine
from tests.stub_hub import Hub

DATA = Path(__file__).parent / "data"
EXIT_SECONDS = 300
# What the caller's environment says of this host; the tests themselves run without CUTOUT_ settings.
HOST_MODELS = app_settings.load().models_folder
# An example that takes long says nothing on a busy host, and neither does it that few were made in time.
settings.register_profile(
    "any host", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("any host")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what needs a GPU where there is none."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no CUDA GPU on this host"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep together what shares something dear, where tests run side by side."""
    from tests.xdist_scheduler import Together

    return Together(config, log)


def pytest_unconfigure() -> None:
    """Bound the end of the run, which waits for the threads that a failed test has left."""
    faulthandler.dump_traceback_later(EXIT_SECONDS, exit=True)


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    known = map(app_settings.environment_name, app_settings.Settings.model_fields)
    for name in {*known, *(name for name in os.environ if name.startswith(app_settings.PREFIX))}:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def _no_logs_into_what_is_closed() -> Iterator[None]:
    """Take back what a service has set up for its logs, once what it wrote to was a test's own."""
    yield
    root = logging.getLogger()
    root.handlers = [
        handler
        for handler in root.handlers
        if not (isinstance(handler, logging.StreamHandler) and handler.stream.closed)
    ]


@pytest.fixture(scope="session")
def weights() -> ModelsFolder:
    """Return this host's models folder, with the open weights in it (`make test` fetches them)."""
    try:
        HOST_MODELS.check(find("isnet-general"))
    except WeightsUnavailable as error:
        pytest.fail(str(error))
    return HOST_MODELS


@pytest.fixture(scope="session")
def real_engine(weights: ModelsFolder) -> Iterator[Engine]:
    engine = open_engine(weights, "cpu")
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def cutouts(real_engine: Engine) -> dict[str, Cutout]:
    """Return the cut-outs of all test photos by their stems, made once with the real weights."""
    photos = ((path.stem, path.read_bytes) for path in sorted(DATA.glob("*.jpg")))
    done = {}
    for name, outcome in real_engine.remove_many(photos, Options()):
        assert isinstance(outcome, Cutout), outcome
        done[name] = outcome
    return done


@pytest.fixture
def engine() -> Iterator[Engine]:
    """Build a real engine on a fake network."""
    engine = fake_engine()
    yield engine
    engine.close()


@pytest.fixture
def hub() -> Iterator[tuple[str, type[Hub]]]:
    """Run a stub of the model hub; its address, and its class, whose `mode` picks a fault."""
    handler = type("OneHub", (Hub,), {})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", handler
        server.shutdown()
