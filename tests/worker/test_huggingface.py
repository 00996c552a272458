"""Batches with networks at Hugging Face: billed for the completed photos, with the service named that ran them."""

from collections.abc import Iterator

import huggingface_hub
import pytest

from cutout.app.bootstrap import engine_from
from cutout.app.config.settings import load as load_settings
from cutout.app.db.session import Database
from cutout.app.db.tables import Movement, Status
from cutout.app.jobs.leases import Line
from cutout.app.storage.local import LocalStorage
from cutout.inference.options import Options
from cutout.inference.tiers import Tier
from cutout.worker.rq_worker import info_of
from tests.remote import engine_on, wait_shortly
from tests.stub_huggingface import TOKEN, Stub, limited, loading, running, status
from tests.worker.test_tasks import look, movements
from tests.worker.worker_fixtures import context_of, small_photos, submitted, work_off

pytestmark = pytest.mark.slow


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    wait_shortly(monkeypatch)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with running() as stub:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", stub.url)
        monkeypatch.setattr(huggingface_hub.constants, "INFERENCE_PROXY_TEMPLATE", stub.url + "/{provider}")
        yield stub


def test_what_failed_there_is_given_back(database: Database, storage: LocalStorage, stub: Stub) -> None:
    scripts = [[loading(0.01)], [status(402)], [limited(0.01)], [status(413)], [], [status(500)] * 9]
    stub.scripts = iter(scripts)
    batch = submitted(database, storage, small_photos(20))  # 60 credits with a discount of 5 %
    with engine_on(stub) as engine, context_of(database, storage, engine=engine) as context:
        work_off(context)
    ended, photos = look(database, batch)
    failed = [photo for photo in photos if photo.status is Status.FAILED]
    done = [photo for photo in photos if photo.status is Status.COMPLETED]
    assert (ended.status, len(done), len(failed)) == (Status.PARTIAL, 17, 3)
    assert {photo.backend for photo in done} == {"huggingface:endpoint"}
    assert sorted(photo.error_code or "" for photo in failed) == [
        "IMAGE_TOO_LARGE",
        "MODEL_UNAVAILABLE",
        "MODEL_UNAVAILABLE",
    ]
    given_back = sum(photo.credits for photo in failed)
    assert ended.charged == ended.credits - given_back == 57 - given_back
    assert set(movements(database, batch)) == {
        (Movement.HOLD, -57),
        (Movement.RELEASE, given_back),
        (Movement.CHARGE, 0),
    }


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_worker_without_a_gpu_and_with_the_token_runs_through_it(
    database: Database, storage: LocalStorage, stub: Stub
) -> None:
    batch = submitted(database, storage, small_photos(2), Options(tier=Tier.STANDARD))
    engine = engine_from(load_settings(hf_inference_token=TOKEN))
    with context_of(database, storage, engine=engine) as context:
        info = info_of(context, "far-away-1", [Line.BATCH])
        assert (info.device, info.breaker) == ("huggingface", "closed")
        work_off(context)
        assert engine.breaker is not None
        for _ in range(5):
            engine.breaker.failed("no")
        assert info_of(context, "far-away-1", [Line.BATCH]).breaker == "open"
    ended, photos = look(database, batch)
    assert (ended.status, ended.charged) == (Status.COMPLETED, 16)
    assert {(photo.model, photo.backend) for photo in photos} == {("rmbg-2.0", "huggingface:fal-ai")}
