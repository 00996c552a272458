"""Schemathesis calls every operation of the OpenAPI description; all responses must match it.

`API_EXAMPLES=60` makes more calls, which takes minutes.
"""

import os
from typing import TYPE_CHECKING

import pytest

from cutout.app.app import create_app
from cutout.app.db import migrate
from cutout.app.db.session import Database
from tests.app.api_client import ApiClient, settings_of
from tests.app.serving import served
from tests.fakes import FakeRunner, fake_engine

if TYPE_CHECKING:
    from tests.app.http.prober import Prober

EXAMPLES = int(os.environ.get("API_EXAMPLES", "1"))
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900 + 60 * EXAMPLES)]


@pytest.fixture(scope="module")
def probed(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> "Prober":
    from tests.app.http.prober import Prober

    folder = tmp_path_factory.mktemp("probed")
    database = Database(f"sqlite:///{folder / 'cutout.db'}")
    migrate.migrate(database)
    chosen = settings_of(
        database, folder / "data", redis_url=redis_url, batch_per_hour=0, batch_attempts_per_hour=0
    )
    runner = FakeRunner()
    service = create_app(chosen, make_engine=lambda _: fake_engine(runner))
    with served(service, chosen) as address:
        prober = Prober(address)
        ApiClient.fund(ApiClient(None, database, runner), "anna", 1_000_000)  # type: ignore[arg-type]
        prober.probe()
        prober.session.close()
    database.close()
    return prober


def test_the_api_answers_as_it_says(probed: "Prober") -> None:
    assert not probed.broken, told(probed.broken)
    # The calls reached code in which errors can occur.
    assert {200, 201, 202, 400, 401, 403, 404} <= probed.statuses.keys()


def test_every_answer_is_in_the_description(probed: "Prober") -> None:
    assert not probed.undocumented, told(probed.undocumented)


def told(found: dict[str, str]) -> str:
    return "\n\n".join(f"{what}\n{how}" for what, how in found.items())
