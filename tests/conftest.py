"""Fixtures shared by all tests. Real weights are loaded once, and one run on a photo serves many tests.

Tests must pass on a busy host, in any order, and in parallel:

- Wait with `wait_until` for what another thread or process is about to do; never sleep. The time limit is `PATIENCE`.
  Wait with `wait_ready` for a process to start; it waits as long as the process lives. Make HTTP calls with
  `tests.http`.
- Do not assert that something took less time or less memory than a limit close to the measured value. Pass in a clock,
  count, compare the order of events, compare two figures that are far apart, or block the code that must not be waited
  for until after the response.
- Some code under test gives up after a short time, such as a call to Redis. A test that is not about that timeout sets
  it to `PATIENCE`. A lease that must not expire is long.
- Tests run in random order, with the seed in the first lines of the output: `pytest -p no:randomly` runs them in source
  order, and `pytest -p randomly --randomly-seed=…` repeats a run. A test leaves no changes in shared state: modules,
  environment, logging, databases.
"""

import faulthandler
import gc
import logging
import os
import signal
import threading
from collections.abc import Generator, Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings

if not torch.cuda.is_available():  # read when the kernels are imported
    os.environ["TRITON_INTERPRET"] = "1"

from cutout.app.config import settings as app_settings
from cutout.app.config.base import PREFIX, environment_name
from cutout.inference.cutout import Cutout
from cutout.inference.engine import Engine
from cutout.inference.errors import WeightsUnavailable
from cutout.inference.opening import open_engine
from cutout.inference.options import Options
from cutout.inference.tiers import Tier
from cutout.inference.weights.store import ModelsFolder
from cutout.models.catalog import find
from tests.fakes import fake_engine
from tests.stub_hub import Hub

pytest_plugins = ["tests.app.databases", "tests.app.s3_fixtures", "tests.app.api_client"]

DATA = Path(__file__).parent / "data"
EXIT_SECONDS = 300
# The names of all settings in the environment; some do not begin with `CUTOUT_`.
SETTINGS = {environment_name(app_settings.Settings, name) for name in app_settings.Settings.model_fields}
# Read from the caller's environment; the tests themselves run without CUTOUT_ settings.
HOST_MODELS = app_settings.load().models_folder
# On a busy host, a slow example or a small number of examples is no failure.
settings.register_profile(
    "any host", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("any host")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep all that is imported out of garbage collections: each would walk over it for a quarter of a second."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests that need a GPU if there is none."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no CUDA GPU on this host"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With xdist, run tests that share an expensive resource in the same process."""
    from tests.xdist_scheduler import Together

    return Together(config, log)


def pytest_configure() -> None:
    """Let SIGINT interrupt again: a shell ignores it in what it starts in the background, and tests send it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Limit the time for the end of the run, which waits for threads that a failed test may have left. A process of xdist
    waits here for the others, and is ended by the first one.
    """
    if not hasattr(config, "workerinput"):
        faulthandler.dump_traceback_later(EXIT_SECONDS, exit=True)


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name in SETTINGS or name.startswith(PREFIX)]:
        monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _no_logs_into_what_is_closed() -> Iterator[None]:
    """Remove log handlers, set up by a service, whose stream was the test's and is closed."""
    yield
    root = logging.getLogger()
    root.handlers = [
        handler
        for handler in root.handlers
        if not (isinstance(handler, logging.StreamHandler) and handler.stream.closed)
    ]


@pytest.fixture(autouse=True)
def _signals_as_they_were() -> Iterator[None]:
    """Restore the signal handlers that a server or a worker in the test's own process sets."""
    before = {kind: signal.getsignal(kind) for kind in (signal.SIGINT, signal.SIGTERM)}
    yield
    for kind, handler in before.items():
        if signal.getsignal(kind) is not handler:
            signal.signal(kind, handler)


@pytest.fixture(scope="session")
def weights() -> ModelsFolder:
    """Return this host's models folder with the open weights (`make test` downloads them)."""
    try:
        HOST_MODELS.check(find("isnet-general"))
    except WeightsUnavailable as error:
        pytest.fail(str(error))
    return HOST_MODELS


@pytest.fixture(scope="session")
def small_weights() -> ModelsFolder:
    """Return this host's models folder with a small real network, u2netp (`make test` downloads it)."""
    try:
        HOST_MODELS.check(find("u2netp"))
    except WeightsUnavailable as error:
        pytest.fail(str(error))
    return HOST_MODELS


@pytest.fixture(scope="session")
def small_engine(small_weights: ModelsFolder) -> Iterator[Engine]:
    """Open the real engine of the tier `preview`, for tests that need a real network and not its quality."""
    engine = open_engine(small_weights, "cpu", tiers=[Tier.PREVIEW])
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def real_engine(weights: ModelsFolder) -> Iterator[Engine]:
    engine = open_engine(weights, "cpu")
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def cutouts(real_engine: Engine) -> dict[str, Cutout]:
    """Return the cut-outs of three photos by their names, made once with the real weights; each takes seconds."""
    photos = ((name, (DATA / f"{name}.jpg").read_bytes) for name in ("chelsea", "coffee", "grass"))
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
    """Run a stub of the model hub; yield its address and its class, whose `mode` selects a fault."""
    handler = type("OneHub", (Hub,), {})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", handler
        server.shutdown()
