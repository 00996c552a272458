"""The service below a path of its proxy."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI

from cutout.app.config.server import OWN_PATHS
from cutout.app.db.session import Database
from tests.app.api_client import ANNA, API
from tests.app.batch_client import BATCH, BatchClient, opened_studio, photos

PREFIX = "/cutout"
# As a proxy asks that strips the prefix, as one asks that does not, and as a client that adds the paths of responses to
# the public URL.
WAYS = ("", PREFIX, PREFIX + PREFIX)


@pytest.fixture
def studio(database: Database, tmp_path: Path, redis_url: str) -> Iterator[BatchClient]:
    url = f"https://shop.example{PREFIX}/"
    with opened_studio(database, tmp_path, redis_url, public_url=url) as studio:
        studio.fund("anna", 100)
        yield studio


def test_addresses_in_responses_begin_with_it_and_hold_with_and_without_it(studio: BatchClient) -> None:
    job = studio.remove(ANNA).raise_for_status().json()
    assert job["resultUrl"].startswith(f"{PREFIX}{API}/jobs/{job['jobId']}/image?")
    listed = studio.get(f"{API}/jobs", ANNA).json()["jobs"]
    accepted = studio.hand_in(ANNA, photos(2)).json()
    assert accepted["statusUrl"] == f"{PREFIX}{BATCH}/{accepted['batchId']}"
    assert accepted["eventsUrl"] == f"{accepted['statusUrl']}/events"
    studio.work_off()
    batch = studio.get(accepted["statusUrl"], ANNA).json()
    urls = [batch["zipUrl"], listed[0]["resultUrl"], *(photo["resultUrl"] for photo in batch["photos"])]
    for url in urls:
        assert url.startswith(f"{PREFIX}{API}/")
        for at in WAYS:
            answer = studio.get(at + url.removeprefix(PREFIX), {})
            assert answer.status_code == 200, (at, url)
        assert studio.get(f"/other{url}", {}).status_code == 404


def test_everything_else_answers_with_and_without_it(studio: BatchClient) -> None:
    for at in WAYS:
        for path in ("/", "/docs", "/static/page.js", "/api/health", "/metrics", f"{API}/pricing"):
            status = {"/metrics": 401}.get(path, 200)
            assert studio.get(at + path, {}).status_code == status, (at, path)
        assert studio.get(at + "/openapi.json", {}).json()["servers"] == [{"url": PREFIX}]
        # The limits on bodies and the shapes of errors go by the path.
        form = {"image": ("photo.png", bytes(900_000), "image/png")}
        refused = studio.client.post(f"{at}{API}/remove", files=form, headers=ANNA)
        assert refused.json()["code"] == "UNSUPPORTED_FORMAT"
        too_large = studio.client.post(f"{at}{API}/pricing/calculate", content=bytes(900_000), headers=ANNA)
        assert too_large.json()["code"] == "BODY_TOO_LARGE"
        assert "errors" in studio.client.post(f"{at}/v1.0/removebg").json()
    assert studio.get(PREFIX, {}).text == studio.get("/", {}).text
    assert studio.get(f"{PREFIX}s/api/health", {}).status_code == 404
    assert studio.get(f"/other{PREFIX}/api/health", {}).status_code == 404


def test_a_prefix_could_not_be_told_from_these_paths(studio: BatchClient) -> None:
    assert isinstance(studio.client.app, FastAPI)
    own = {path.split("/")[1] for path in studio.client.app.openapi()["paths"]}
    assert own - set(OWN_PATHS) == set()
