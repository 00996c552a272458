"""Own weights are named in every answer: the header, the job, health and prices."""

from dataclasses import replace

import pytest
from sqlalchemy import select
from starlette.testclient import TestClient

from cutout.app.app import create_app
from cutout.app.db.session import Database
from cutout.app.db.tables import Job
from cutout.inference.backends.runners import Serving
from cutout.inference.engine import Engine
from cutout.inference.tiers import Choice, Tier
from tests.app.api_client import ANNA, API, ApiClient, settings_of
from tests.fakes import CHECKPOINT, SMALL, FakeRunner

OWN = replace(CHECKPOINT, name="shop-v3", like="isnet-general")


@pytest.mark.slow
def test_own_weights_are_named_wherever_a_checkpoint_is(
    database: Database, tmp_path_factory: pytest.TempPathFactory
) -> None:
    runner = FakeRunner()
    serving = {tier: Serving(Choice(tier, OWN, (), "shop-v3"), runner) for tier in Tier}
    serving[Tier.BASIC] = Serving(Choice(Tier.BASIC, OWN, ("rmbg-1.4: no",), "rmbg-1.4"), runner)
    settings = settings_of(database, tmp_path_factory.mktemp("data"))
    service = create_app(settings, lambda _: Engine(serving, SMALL))
    with TestClient(service, base_url="http://cutout.example") as client:
        shop = ApiClient(client, database, runner)
        shop.fund("anna", 100)
        job = shop.remove(ANNA, tier="standard").raise_for_status().json()
        assert (job["model"], job["substitute"]) == ("shop-v3", False)
        picture = shop.remove(ANNA | {"Accept": "image/*"}, tier="basic").raise_for_status()
        assert picture.headers["X-Cutout-Model"] == "shop-v3"
        for tiers in (
            client.get("/api/health").json()["tiers"],
            client.get(f"{API}/pricing").json()["tiers"],
        ):
            told = tiers["standard"]
            assert (told["model"], told["wanted"], told["own"]) == ("shop-v3", "shop-v3", True)
            told = tiers["basic"]
            assert (told["model"], told["wanted"], told["substitute"]) == ("shop-v3", "rmbg-1.4", True)
    with database.begin() as session:
        rows = session.execute(select(Job.model, Job.substitute).order_by(Job.created_at)).all()
    assert [tuple(row) for row in rows] == [("shop-v3", False), ("shop-v3", True)]
