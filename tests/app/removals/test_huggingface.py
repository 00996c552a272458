"""The service with networks at Hugging Face: responses, billing and health, over HTTP to the stub."""

import logging
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
from sqlalchemy import func, select
from starlette.testclient import TestClient

from cutout.app.app import create_app
from cutout.app.core import log_config
from cutout.app.db.session import Database
from cutout.app.db.tables import Job, Status
from cutout.inference.engine import Engine
from cutout.inference.scheduling.circuit_breaker import CircuitBreaker
from tests.app.api_client import ANNA, API, ApiClient, settings_of
from tests.fakes import PATIENCE, FakeRunner, open_picture, photo_bytes
from tests.remote import engine_on, wait_shortly
from tests.stub_huggingface import GARBAGE, TOKEN, Stub, loading, random_script, running, status

pytestmark = pytest.mark.slow

SEQUENCES = 40
FUNDS = 10_000
METRICS_TOKEN = "the token of whoever reads the figures"
# Errors that a fault may end in.
ENDS = {
    "MODEL_UNAVAILABLE": 503,
    "OVERLOADED": 503,
    "DEADLINE_EXCEEDED": 504,
    "IMAGE_TOO_LARGE": 413,
}


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    wait_shortly(monkeypatch)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with running() as stub:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", stub.url)
        monkeypatch.setattr(huggingface_hub.constants, "INFERENCE_PROXY_TEMPLATE", stub.url + "/{provider}")
        yield stub


@contextmanager
def shop_on(
    database: Database, folder: Path, engine: Engine | None = None, **changes: object
) -> Iterator[ApiClient]:
    """Open a service on an engine, or on the engine that its settings select."""
    make_engine = None if engine is None else lambda _: engine
    settings = settings_of(database, folder / "data", metrics_token=METRICS_TOKEN, **changes)
    service = create_app(settings, make_engine)
    with TestClient(service, base_url="http://cutout.example", raise_server_exceptions=False) as client:
        yield ApiClient(client, database, FakeRunner())


def test_without_a_gpu_and_with_the_token_the_service_runs_through_it(
    database: Database, tmp_path: Path, stub: Stub, capfd: pytest.CaptureFixture[str]
) -> None:
    with shop_on(database, tmp_path, hf_inference_token=TOKEN) as shop:
        shop.fund("anna", 100)
        job = shop.remove(ANNA, tier="basic").raise_for_status().json()
        picture = shop.remove(ANNA | {"Accept": "image/*"}, tier="basic").raise_for_status()
        assert picture.headers["X-Cutout-Model"] == "rmbg-2.0"
        assert picture.headers["X-Cutout-Backend"] == "huggingface:fal-ai"
        assert (job["model"], job["backend"], job["substitute"]) == ("rmbg-2.0", "huggingface:fal-ai", True)
        assert shop.balance(ANNA) == 94
        health = shop.client.get("/api/health").raise_for_status().json()
        assert health["device"] == "huggingface"
        assert health["remote"] == {"breaker": "closed", "retryAfter": None}
        assert {tier["backend"] for tier in health["tiers"].values()} == {"huggingface:fal-ai"}
        prices = shop.client.get(f"{API}/pricing").json()["tiers"]
        assert {tier["backend"] for tier in prices.values()} == {"huggingface:fal-ai"}
        assert 'backend="huggingface:fal-ai"' in figures(shop)
    with database.begin() as session:
        assert session.scalars(select(Job.backend)).all() == ["huggingface:fal-ai"] * 2
    lines = capfd.readouterr().err.splitlines()
    assert any("Images leave this host" in line for line in lines)
    done = next(line for line in lines if "Background removed successfully" in line)
    assert "huggingface:fal-ai" in done


def test_a_failure_is_not_charged(database: Database, tmp_path: Path, stub: Stub) -> None:
    with engine_on(stub) as engine, shop_on(database, tmp_path, engine) as shop:
        shop.fund("anna", 3)
        for fault, code in ((status(402), 503), (loading(300), 503), (status(413), 413)):
            stub.meets(fault)
            assert shop.remove(ANNA).status_code == code
            assert shop.balance(ANNA) == 3
        stub.meets(status(402))
        assert "billing" in shop.remove(ANNA).json()["detail"]
        stub.meets(loading(300))
        assert shop.remove(ANNA).headers["Retry-After"] == "300"
        stub.meets(loading(0.01))
        assert shop.remove(ANNA).json()["backend"] == "huggingface:endpoint"
        assert shop.balance(ANNA) == 0


def test_no_sequence_of_faults_hangs_or_charges_a_failure(
    database: Database, tmp_path: Path, stub: Stub
) -> None:
    chance = random.Random(10)
    seconds = 2.0  # Long enough for most removals on a busy host.
    with (
        engine_on(stub, seconds=seconds, concurrency=16) as engine,
        shop_on(database, tmp_path, engine) as shop,
    ):
        shop.fund("anna", FUNDS)
        whole = np.asarray(open_picture(engine.remove(photo_bytes(seed=SEQUENCES)).data))[..., 3]
        stub.scripts = iter([random_script(chance) for _ in range(SEQUENCES)])

        def remove(seed: int) -> tuple[int, str, int]:
            answer = shop.remove(ANNA, photo_bytes(seed=seed), tier="basic")
            if answer.status_code != 200:
                problem = answer.json()
                assert ENDS[problem["code"]] == answer.status_code
                assert TOKEN not in answer.text
                return answer.status_code, problem["code"], 0
            url = answer.json()["resultUrl"]
            alpha = np.asarray(open_picture(shop.client.get(url).content))[..., 3]
            assert abs(alpha.astype(int) - whole).max() <= 1
            return 200, "", answer.json()["credits"]

        with ThreadPoolExecutor(16) as pool:
            outcomes = list(pool.map(remove, range(SEQUENCES), timeout=10 * PATIENCE))
        assert shop.balance(ANNA) == FUNDS - sum(credits for *_, credits in outcomes)
    done = [code for code, *_ in outcomes].count(200)
    assert SEQUENCES * 0.2 < done < SEQUENCES * 0.9
    assert {code for _, code, *_ in outcomes} == {"", *ENDS}
    with database.begin() as session:
        counted = dict(session.execute(select(Job.status, func.count()).group_by(Job.status)).all())
    assert counted == {Status.COMPLETED: done, Status.FAILED: SEQUENCES - done}


def test_after_repeated_failures_requests_fail_at_once_and_recover(
    database: Database, tmp_path: Path, stub: Stub
) -> None:
    at = [0.0]
    with (
        engine_on(stub, breaker=CircuitBreaker(3, 30, lambda: at[0])) as engine,
        shop_on(database, tmp_path, engine) as shop,
    ):
        shop.fund("anna", 100)
        for _ in range(3):
            stub.meets(status(401))
            assert shop.remove(ANNA).json()["code"] == "MODEL_UNAVAILABLE"
        stub.meets()
        refused = shop.remove(ANNA)
        assert (refused.status_code, refused.json()["code"]) == (503, "OVERLOADED")
        assert refused.headers["Retry-After"] == "30"
        assert not stub.calls
        health = shop.client.get("/api/health")
        assert health.status_code == 503
        assert health.json()["status"] == "degraded"
        assert health.json()["remote"] == {"breaker": "open", "retryAfter": 30}
        assert shop.balance(ANNA) == 100
        at[0] = 31
        assert shop.client.get("/api/health").json()["remote"]["breaker"] == "half-open"
        assert shop.remove(ANNA).status_code == 200
        health = shop.client.get("/api/health").raise_for_status()
        assert health.json()["remote"]["breaker"] == "closed"


def test_the_token_is_in_no_answer_figure_or_log(
    database: Database, tmp_path: Path, stub: Stub, capfd: pytest.CaptureFixture[str]
) -> None:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    try:
        with (
            engine_on(stub, breaker=CircuitBreaker(1000)) as engine,
            shop_on(database, tmp_path, engine, log_format="json") as shop,
        ):
            root.setLevel(logging.DEBUG)
            shop.fund("anna", 1000)
            told = []
            for fault in (*map(status, (400, 401, 402, 403, 404, 413, 500)), loading(300), *GARBAGE):
                stub.meets(*[fault] * 9)
                told.append(shop.remove(ANNA).text)
            told += [figures(shop), shop.client.get("/api/health").text]
            told.append(shop.get(f"{API}/jobs", ANNA).text)
    finally:
        root.handlers = handlers
        root.setLevel(level)
    shown = capfd.readouterr()
    assert "Model loading" in shown.err
    assert set(log_config.NOISY) >= {"httpx2", "httpcore2"}
    assert TOKEN not in shown.err + shown.out + "".join(told)


def figures(shop: ApiClient) -> str:
    answer = shop.client.get("/metrics", headers={"Authorization": f"Bearer {METRICS_TOKEN}"})
    text: str = answer.raise_for_status().text
    return text
