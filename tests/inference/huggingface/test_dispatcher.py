"""Networks at Hugging Face, against a stub over real HTTP: each fault ends in the right image or the right error."""

import email.utils
import io
import itertools
import logging
import math
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
import typer
from huggingface_hub.inference._providers import PROVIDERS
from PIL import Image

from cutout.app.bootstrap import device_of, engine_from, pull_missing
from cutout.app.cli.doctor import doctor
from cutout.app.config.base import SettingsError
from cutout.app.config.settings import load as load_settings
from cutout.app.core import log_config
from cutout.inference.engine import Engine
from cutout.inference.errors import (
    CutoutError,
    DeadlineExceeded,
    ModelUnavailable,
    Overloaded,
    PhotoTooLarge,
    RemoteFailed,
    RemoteRefused,
)
from cutout.inference.huggingface import client, dispatcher
from cutout.inference.huggingface.config import HuggingFaceConfig
from cutout.inference.huggingface.dispatcher import HuggingFaceDispatcher, RetryPolicy
from cutout.inference.options import Options
from cutout.inference.scheduling.circuit_breaker import CircuitBreaker
from cutout.inference.tiers import Tier
from cutout.models.catalog import find
from tests.fakes import PATIENCE, open_picture, photo_bytes, photo_with_disc, wait_until
from tests.remote import PROMISED, QUICK, SMALL, engine_on, local_engine, wait_shortly
from tests.stub_huggingface import (
    BROKEN,
    ENDLESS,
    FAL,
    FORMS,
    GARBAGE,
    TOKEN,
    Fault,
    Levels,
    Stub,
    disc,
    limited,
    loading,
    running,
    status,
)

pytestmark = pytest.mark.slow

PHOTO = photo_bytes(60, 40)


@pytest.fixture(scope="module")
def server() -> Iterator[Stub]:
    with running() as stub:
        yield stub


@pytest.fixture
def stub(server: Stub, monkeypatch: pytest.MonkeyPatch) -> Stub:
    server.reset()
    wait_shortly(monkeypatch)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.url)
    monkeypatch.setattr(huggingface_hub.constants, "INFERENCE_PROXY_TEMPLATE", server.url + "/{provider}")
    return server


@pytest.fixture(scope="module")
def engine(server: Stub) -> Iterator[Engine]:
    with engine_on(server) as engine:
        yield engine


def difference(first: bytes, second: bytes) -> int:
    one, other = (np.asarray(open_picture(data)).astype(int) for data in (first, second))
    return int(abs(one - other).max())


# The outcome of each fault.


@pytest.mark.parametrize(
    "faults",
    [
        (loading(0.03),),
        (loading(),),
        (loading(0.01), loading(), loading(0.01)),
        (limited(0.03),),
        (limited(),),
        (status(500), status(502), status(504)),
        (status(408),),
        BROKEN,
        (BROKEN[0], loading(), status(500), limited()),
        *((fault,) for fault in GARBAGE),
        *((form,) for form in FORMS),
    ],
    ids=lambda faults: "+".join(f"{fault.kind} {fault.status}" for fault in faults),
)
def test_what_passes_ends_in_the_right_picture(engine: Engine, stub: Stub, faults: tuple[Fault, ...]) -> None:
    right = local_engine([disc(64)], SMALL)
    stub.meets(*faults)
    done = engine.remove(PHOTO)
    assert difference(done.data, right.remove(PHOTO).data) <= 1
    assert done.backend == "huggingface:endpoint"
    assert len(stub.asked()) == 1 + sum(fault not in FORMS for fault in faults)
    times = [call.at for call in stub.asked()]
    for (before, after), fault in zip(itertools.pairwise(times), faults, strict=False):
        assert after - before >= (fault.seconds or 0)
    right.close()


def test_calls_and_waits_are_counted_by_what_the_service_answered(stub: Stub) -> None:
    with engine_on(stub) as engine:
        stub.meets(loading(0.03), limited(0.02), status(500))
        engine.remove(PHOTO)
        stub.meets(status(401))
        with pytest.raises(RemoteRefused):
            engine.remove(PHOTO)
        stub.meets(status(413))
        with pytest.raises(PhotoTooLarge):
            engine.remove(PHOTO)
        calls, waits = engine.figures.remote_calls(), engine.figures.remote_waits()
    expected = {
        "ok": 1,
        "loading": 1,
        "rate_limited": 1,
        "failed": 1,
        "refused": 1,
        "too_large": 1,
        "timeout": 0,
    }
    assert calls == expected
    assert waits.keys() == {"loading", "rate_limited", "failed"}
    assert waits["loading"] >= 0.03


@pytest.mark.parametrize(
    ("fault", "kind", "says"),
    [
        (status(401), RemoteRefused, "CUTOUT_HF_INFERENCE_TOKEN"),
        (status(402), RemoteRefused, "billing"),
        (status(403), RemoteRefused, "permission"),
        (status(404), RemoteRefused, "CUTOUT_HF_ENDPOINT"),
        (status(413), PhotoTooLarge, "413"),
        (status(400), RemoteFailed, "400"),
        (status(422), RemoteFailed, "422"),
    ],
)
def test_what_is_final_is_said_at_once(
    engine: Engine, stub: Stub, fault: Fault, kind: type[CutoutError], says: str
) -> None:
    stub.meets(fault)
    with pytest.raises(kind, match=says):
        engine.remove(PHOTO)
    assert len(stub.asked()) == 1


@pytest.mark.parametrize("fault", [status(500), status(503 + 1), *BROKEN, *GARBAGE])
def test_what_does_not_pass_is_tried_some_times(engine: Engine, stub: Stub, fault: Fault) -> None:
    stub.meets(*[fault] * 20)
    with pytest.raises(RemoteFailed):
        engine.remove(PHOTO)
    assert len(stub.asked()) == QUICK.attempts


@pytest.mark.parametrize("fault", [*ENDLESS, loading(0.01), limited(0.01)])
def test_what_does_not_end_is_broken_off_at_the_deadline(stub: Stub, fault: Fault) -> None:
    with engine_on(stub, seconds=0.3) as engine:
        stub.meets(*[fault] * 1000)
        began = time.monotonic()
        # The last retry delay may exceed the remaining time.
        with pytest.raises((DeadlineExceeded, Overloaded)) as caught:
            engine.remove(PHOTO)
        assert time.monotonic() - began > 0.2  # The stub would go on.
        if fault in ENDLESS:
            assert caught.type is DeadlineExceeded
            assert "CUTOUT_HF_DEADLINE_SECONDS" in str(caught.value)


@pytest.mark.parametrize("fault", [loading(300), limited(300)])
def test_a_pause_longer_than_there_is_time_is_told_at_once(engine: Engine, stub: Stub, fault: Fault) -> None:
    stub.meets(fault)
    with pytest.raises(Overloaded) as caught:
        engine.remove(PHOTO)
    assert caught.value.retry_after == 300
    assert len(stub.asked()) == 1


def test_the_pauses_are_those_that_are_told(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    in_half_a_minute = email.utils.format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    with engine_on(stub, seconds=60, sleep=sleep) as engine:
        for fault, least, most in (
            (loading(3.5), 3.5, 3.5),
            (loading(), 20, 20),
            (Fault("loading", 503, math.nan), 20, 20),
            (Fault("loading", 503, -1), 20, 20),
            (Fault("limited", 429, header="soon"), 0, 0),
            (limited(7), 7, 7),
            # On a busy host some of the half minute has passed by now.
            (Fault("limited", 429, header=in_half_a_minute), 1, 30),
        ):
            stub.meets(fault)
            slept.clear()
            engine.remove(PHOTO)
            [pause] = slept
            assert least <= pause <= most * 1.2 + QUICK.longest


def test_both_looks_of_a_photo_have_one_deadline(stub: Stub) -> None:
    photo, _ = photo_with_disc(600, 600, 60)
    data = io.BytesIO()
    Image.fromarray(photo.rgb).save(data, "PNG")
    stub.look = lambda picture: disc(64, 0.1)
    stub.meets()
    # The second delay would fit into a new deadline, even with the second that may be added to it.
    stub.scripts = iter([[loading(1.5)], [loading(PATIENCE - 1.2)]])
    with engine_on(stub, seconds=PATIENCE) as engine, pytest.raises(Overloaded):
        engine.remove(data.getvalue(), Options(tier=Tier.INDUSTRY))
    assert len(stub.asked()) == 3


def test_no_more_calls_are_out_than_may_be(stub: Stub) -> None:
    lock = threading.Lock()
    now, most = 0, 0

    def look(picture: Image.Image) -> Levels:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        wait_until(lambda: most >= 3)
        stub.stopping.wait(0.02)  # Time for one call too many to arrive.
        with lock:
            now -= 1
        return disc(64)

    stub.look = look
    with engine_on(stub, concurrency=3) as engine:
        photos = [(seed, lambda seed=seed: photo_bytes(seed=seed)) for seed in range(12)]
        outcomes = [outcome for _, outcome in engine.remove_many(photos, Options())]
    assert not [outcome for outcome in outcomes if isinstance(outcome, Exception)]
    assert most == 3


# The same result as with a local network.


@pytest.mark.parametrize("tier", Tier)
def test_a_tier_is_the_same_picture_wherever_it_ran(stub: Stub, tier: Tier) -> None:
    photo, _ = photo_with_disc(300, 400, 35)
    data = io.BytesIO()
    Image.fromarray(photo.rgb).save(data, "PNG")
    axis = np.linspace(-0.5, 0.5, 1024)
    # The first mask is of the whole photo, 400 × 300 and soft; the second is of the crop around the subject.
    ellipse = np.hypot(axis[:, None] * 300, axis * 400)
    first = np.clip(255 * (0.5 + (35 - ellipse) / 6), 0, 255).astype(np.uint8)
    looks = [first, disc(1024, 0.385)]
    answers = iter(looks)
    stub.look = lambda picture: next(answers)
    options = Options(tier=tier)
    local = local_engine(looks)
    with engine_on(stub, checkpoint=PROMISED) as engine:
        there, here = engine.remove(data.getvalue(), options), local.remove(data.getvalue(), options)
        assert difference(there.data, here.data) <= 1
        assert len(stub.asked()) == (2 if tier is Tier.INDUSTRY else 1)
        assert (there.tier, there.width, there.height) == (here.tier, here.width, here.height)
        if tier is Tier.INDUSTRY:
            once = local_engine(looks[:1])
            professional = once.remove(data.getvalue(), Options(tier=Tier.PROFESSIONAL))
            assert difference(there.data, professional.data) > 1
            once.close()
    local.close()


@pytest.mark.parametrize("size", [(96, 96), (40, 40), (50, 200)])
def test_a_mask_of_another_size_is_brought_to_the_right_one(
    engine: Engine, stub: Stub, size: tuple[int, int]
) -> None:
    mask = np.asarray(Image.fromarray(disc(64)).resize(size, Image.Resampling.BILINEAR))
    stub.look = lambda picture: mask
    right = local_engine([disc(64)], SMALL)
    alpha, expected = (
        np.asarray(open_picture(one.remove(PHOTO).data))[..., 3].astype(float) for one in (engine, right)
    )
    assert abs(alpha - expected).mean() < 4
    right.close()


def test_what_is_sent_is_upright_as_large_as_the_network_sees_and_nothing_else(
    engine: Engine, stub: Stub
) -> None:
    picture = Image.new("RGB", (300, 200), (0, 0, 200))
    # Stored at the top left; at the top right once the image is turned.
    picture.paste((200, 0, 0), (0, 0, 60, 40))
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "The maker's name"
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=95, exif=exif)
    engine.remove(data.getvalue())
    [call] = stub.asked()
    assert call.headers["content-type"] == "image/jpeg"
    assert b"maker" not in call.body
    sent = Image.open(io.BytesIO(call.body))
    assert (sent.format, sent.size) == ("JPEG", (64, 64))
    assert not sent.getexif()
    red, _, blue = (sent.getpixel((58, 4)), None, sent.getpixel((4, 4)))
    assert red[0] > 150 > red[2]  # type: ignore[index]
    assert blue[2] > 150 > blue[0]  # type: ignore[index]


def test_a_photo_without_a_subject_is_known(engine: Engine, stub: Stub) -> None:
    stub.look = lambda picture: np.full((64, 64), 90, np.uint8)
    assert engine.remove(PHOTO).no_foreground


def test_a_remote_network_runs_like_any_other(engine: Engine, stub: Stub) -> None:
    runner = engine.serving[Tier.BASIC].runner
    masks = runner.run(torch.zeros(2, 3, 64, 64))
    assert masks.shape == (2, 1, 64, 64)
    assert (masks[1] * 255 - torch.from_numpy(disc(64))).abs().max() < 0.01


# Which service serves a model.


def test_each_tier_is_served_by_who_serves_its_model(stub: Stub, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        engine = dispatcher.open_remote(HuggingFaceConfig(TOKEN))
    told = [
        record.getMessage() for record in caplog.records if "Images leave this host" in record.getMessage()
    ]
    assert told
    assert "fal-ai" in told[0]
    for tier, serving in engine.serving.items():
        choice = serving.choice
        assert (choice.checkpoint.name, serving.runner.backend) == ("rmbg-2.0", "huggingface:fal-ai")
        assert choice.substitute == (tier in (Tier.BASIC, Tier.PREVIEW))
    [why] = engine.serving[Tier.BASIC].choice.passed_over
    assert "rmbg-1.4: briaai/RMBG-1.4 is not served live for image-segmentation by any provider" in why
    asked = [call for call in stub.asked("GET") if "/api/models/" in call.path]
    assert len(asked) == 2
    assert {call.headers["authorization"] for call in asked} == {f"Bearer {TOKEN}"}
    engine.close()


def test_another_model_stands_in_where_the_promised_one_is_not_served(stub: Stub) -> None:
    stub.mappings = {"ZhengPeng7/BiRefNet": FAL}
    [(choice, offer)] = dispatcher.choose_remote(HuggingFaceConfig(TOKEN), [Tier.STANDARD])
    assert (choice.checkpoint.name, choice.substitute) == ("birefnet-general", True)
    assert offer.provider == "fal-ai"


def test_a_tiers_own_order_counts_there_too(stub: Stub) -> None:
    stub.mappings = {"ZhengPeng7/BiRefNet": FAL, "ZhengPeng7/BiRefNet-portrait": FAL}
    settings = load_settings(device="huggingface", hf_inference_token=TOKEN, tier_standard="birefnet-general")
    with engine_from(settings, [Tier.STANDARD]) as engine:
        assert engine.serving[Tier.STANDARD].choice.checkpoint.name == "birefnet-general"
    own = replace(find("birefnet-hr"), name="shop-v3", like="birefnet-hr", sources=())
    order = {Tier.STANDARD: [own, find("birefnet-general")], Tier.BASIC: [find("isnet-general")]}
    access = HuggingFaceConfig(TOKEN)
    (standard, _), (basic, _), (industry, _) = dispatcher.choose_remote(
        access, [Tier.STANDARD, Tier.BASIC, Tier.INDUSTRY], order
    )
    assert (standard.checkpoint.name, standard.wanted) == ("birefnet-general", "shop-v3")
    assert standard.passed_over == ("shop-v3: your own weights run on this machine, not at Hugging Face",)
    assert (basic.checkpoint.name, basic.wanted) == ("birefnet-portrait", "isnet-general")
    assert (industry.checkpoint.name, industry.wanted) == ("birefnet-portrait", "rmbg-2.0")
    endpoint = HuggingFaceConfig(TOKEN, endpoint=stub.url, endpoint_model="rmbg-2.0")
    [(choice, _)] = dispatcher.choose_remote(endpoint, [Tier.STANDARD], order)
    assert (choice.checkpoint.name, choice.wanted) == ("rmbg-2.0", "shop-v3")


@pytest.mark.parametrize(
    ("mapping", "provider", "says"),
    [
        ({}, "auto", "providers: none"),
        ({"fal-ai": FAL["fal-ai"] | {"status": "error"}}, "auto", "providers: fal-ai (error)"),
        ({"fal-ai": FAL["fal-ai"] | {"task": "text-to-image"}}, "auto", "providers: fal-ai (live)"),
        ({"who-is-this": FAL["fal-ai"]}, "auto", "providers: who-is-this (live)"),
        (FAL, "hf-inference", "by hf-inference (providers: fal-ai (live))"),
    ],
)
def test_where_nobody_serves_a_tier_it_is_said_why(
    stub: Stub, mapping: dict[str, object], provider: str, says: str
) -> None:
    stub.mappings = {"briaai/RMBG-2.0": mapping}
    with pytest.raises(ModelUnavailable, match="No provider at Hugging Face serves tier standard") as caught:
        dispatcher.choose_remote(HuggingFaceConfig(TOKEN, provider), [Tier.STANDARD])
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("code", "kind"), [(401, RemoteRefused), (403, RemoteRefused), (429, RemoteFailed), (500, RemoteFailed)]
)
def test_a_hub_that_does_not_say_who_serves_is_an_error(
    stub: Stub, code: int, kind: type[CutoutError]
) -> None:
    stub.hub_status = code
    with pytest.raises(kind):
        dispatcher.open_remote(HuggingFaceConfig(TOKEN))


def test_a_hub_that_cannot_be_reached_is_an_error(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(RemoteFailed, match="ConnectError"):
        dispatcher.open_remote(HuggingFaceConfig(TOKEN))


def test_a_provider_with_a_queue_is_waited_for(stub: Stub) -> None:
    engine = dispatcher.open_remote(
        HuggingFaceConfig(TOKEN), make_remote=lambda access: HuggingFaceDispatcher(access, QUICK)
    )
    stub.look = lambda picture: disc(1024)
    stub.meets(status(500))
    local = local_engine([disc(1024)])
    assert difference(engine.remove(PHOTO).data, local.remove(PHOTO).data) <= 1
    submitted, polled = stub.asked(), stub.asked("GET")
    assert [call.path for call in submitted] == ["/fal-ai/fal-ai/bria/background/remove?_subdomain=queue"] * 2
    assert len(polled) == 4
    assert {call.headers["authorization"] for call in submitted + polled} == {f"Bearer {TOKEN}"}
    engine.close()
    local.close()


def test_a_provider_that_polls_for_ever_is_broken_off(stub: Stub) -> None:
    stub.polls = 1_000_000
    engine = dispatcher.open_remote(HuggingFaceConfig(TOKEN, seconds=0.3))
    with pytest.raises(DeadlineExceeded):
        engine.remove(PHOTO)
    # No polling continues in the background either.
    asked = len(stub.calls)
    time.sleep(5 * client.POLL_SECONDS)
    assert len(stub.calls) <= asked + 1
    engine.close()


def test_a_queue_that_gives_no_picture_is_an_error(stub: Stub) -> None:
    engine = dispatcher.open_remote(
        HuggingFaceConfig(TOKEN),
        make_remote=lambda access: HuggingFaceDispatcher(
            access, RetryPolicy(attempts=1), CircuitBreaker(failures=10_000)
        ),
    )
    with closing(engine):
        results: tuple[object, ...] = (
            [],
            {},
            {"image": {}},
            {"image": {"url": 7}},
            {"image": {"url": "data:image/png;base64,§"}},
            {"image": {"url": "http://127.0.0.1/inside"}},
            {"image": {"url": "file:///etc/passwd"}},
        )
        for result in results:
            stub.result = result
            with pytest.raises(RemoteFailed, match="not a mask"):
                engine.remove(PHOTO)


def test_the_own_service_of_hugging_face_is_sent_the_picture_itself(
    stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        PROVIDERS["hf-inference"]["image-segmentation"], "base_url", f"{stub.url}/hf-inference"
    )
    live = {"status": "live", "providerId": "briaai/RMBG-1.4", "task": "image-segmentation"}
    stub.mappings = {"briaai/RMBG-1.4": {"hf-inference": live}}
    engine = dispatcher.open_remote(HuggingFaceConfig(TOKEN), [Tier.BASIC])
    done = engine.remove(PHOTO, Options(tier=Tier.BASIC))
    assert (done.checkpoint, done.backend, done.substitute) == ("rmbg-1.4", "huggingface:hf-inference", False)
    [call] = stub.asked()
    assert call.path == "/hf-inference/models/briaai/RMBG-1.4"
    assert call.headers["authorization"] == f"Bearer {TOKEN}"
    assert call.body.startswith(b"\xff\xd8")
    engine.close()


@pytest.mark.parametrize("token", [TOKEN, None])
def test_an_endpoint_gets_the_inference_token_or_none(
    stub: Stub, monkeypatch: pytest.MonkeyPatch, token: str | None
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_ThisOneOnlyDownloadsWeights")
    engine = dispatcher.open_remote(
        HuggingFaceConfig(token, endpoint=f"{stub.url}/own", endpoint_model="birefnet-general")
    )
    with closing(engine):
        done = engine.remove(PHOTO)
    assert (done.checkpoint, done.substitute, done.backend) == (
        "birefnet-general",
        True,
        "huggingface:endpoint",
    )
    # The library asks its hub for something of its own, once in a process.
    [call] = [call for call in stub.calls if call.path == "/own"]
    assert call.headers.get("authorization") == (f"Bearer {token}" if token else None)


# Where networks run.


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize(
    ("settings", "download_token", "place"),
    [
        ({"hf_inference_token": TOKEN}, False, "huggingface"),
        ({"hf_inference_token": TOKEN, "device": "cpu"}, False, "cpu"),
        ({}, True, "cpu"),
        ({}, False, "cpu"),
        ({"hf_endpoint": "https://mine.example"}, False, "cpu"),
        ({"hf_endpoint": "https://mine.example", "device": "huggingface"}, False, "huggingface"),
    ],
)
def test_without_a_gpu_the_inference_token_decides(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], download_token: bool, place: str
) -> None:
    if download_token:
        monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert device_of(load_settings(**settings)) == place


@pytest.mark.usefixtures("no_gpu")
def test_a_gpu_that_was_asked_for_is_not_replaced_by_hugging_face() -> None:
    with pytest.raises(ModelUnavailable, match="CUTOUT_DEVICE=cuda, but"):
        engine_from(load_settings(device="cuda", hf_inference_token=TOKEN))


def test_with_a_gpu_nothing_leaves_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert device_of(load_settings(hf_inference_token=TOKEN)) == "cuda"


@pytest.mark.usefixtures("no_gpu")
def test_no_weights_are_fetched_for_what_runs_elsewhere() -> None:
    pull_missing(
        load_settings(hf_inference_token=TOKEN), Tier, lambda checkpoint: pytest.fail(checkpoint.name)
    )


@pytest.mark.usefixtures("no_gpu")
def test_substitutes_elsewhere_can_be_refused_too(stub: Stub) -> None:
    with pytest.raises(ModelUnavailable, match=r"basic would use one: rmbg-1\.4: "):
        engine_from(load_settings(hf_inference_token=TOKEN, strict_models=True))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"device": "huggingface"}, "CUTOUT_HF_INFERENCE_TOKEN"),
        ({"hf_inference_token": f"{TOKEN}\n"}, "no spaces or line breaks"),
        ({"hf_endpoint": "http://mine.example"}, "https://"),
        ({"hf_endpoint": "https://anna:secret@mine.example"}, "no user or password"),
        ({"hf_endpoint_model": "u2net"}, "no checkpoint u2net"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, str], says: str) -> None:
    with pytest.raises(SettingsError, match=says) as caught:
        load_settings(**settings)
    assert TOKEN not in str(caught.value)
    assert "secret@" not in str(caught.value)


# The circuit breaker.


def test_the_breaker_opens_tries_and_closes() -> None:
    at = [0.0]
    breaker = CircuitBreaker(failures=3, seconds=30, clock=lambda: at[0])
    for _ in range(2):
        assert breaker.admit()
        breaker.failed("no")
    breaker.succeeded()
    for _ in range(3):
        assert breaker.state == "closed"
        assert breaker.admit()
        breaker.failed("no")
    assert (breaker.state, breaker.wait, breaker.admit()) == ("open", 30, False)
    at[0] = 30
    assert breaker.state == "half-open"
    assert breaker.admit()
    assert not breaker.admit()  # One trial call is enough.
    breaker.failed("still not", 100)
    assert (breaker.state, breaker.wait) == ("open", 100)
    at[0] = 130
    assert breaker.admit()
    breaker.broken_off()
    assert breaker.admit()
    breaker.succeeded()
    assert (breaker.state, breaker.wait) == ("closed", 0)
    assert breaker.admit()
    assert breaker.admit()


def test_after_failures_nothing_is_asked_for_a_while_and_then_all_is_well_again(stub: Stub) -> None:
    at = [0.0]
    with engine_on(stub, breaker=CircuitBreaker(2, 30, lambda: at[0])) as engine:
        for _ in range(2):
            stub.meets(status(401))
            with pytest.raises(RemoteRefused):
                engine.remove(PHOTO)
        stub.meets()
        with pytest.raises(
            Overloaded, match=r"no calls are made for 30 s.*CUTOUT_HF_INFERENCE_TOKEN"
        ) as caught:
            engine.remove(PHOTO)
        assert caught.value.retry_after == 30
        assert not stub.calls
        at[0] = 31
        assert engine.remove(PHOTO).data
        assert engine.remove(PHOTO).data


def test_photos_of_a_batch_wait_while_the_service_is_left_alone(stub: Stub) -> None:
    at = [0.0]
    breaker = CircuitBreaker(1, 30, lambda: at[0])
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        at[0] += seconds

    with engine_on(stub, breaker=breaker, seconds=60, sleep=sleep) as engine:
        breaker.failed("no")
        [(_, outcome)] = engine.remove_many([("a", lambda: PHOTO)], Options())
        assert not isinstance(outcome, Exception)
        assert slept[0] == 30


def test_a_picture_that_is_too_large_says_nothing_of_the_service(stub: Stub) -> None:
    with engine_on(stub, breaker=CircuitBreaker(1)) as engine:
        stub.meets(status(413))
        with pytest.raises(PhotoTooLarge):
            engine.remove(PHOTO)
        assert engine.remove(PHOTO).data


# The access token.


def test_the_token_is_in_no_log_error_or_traceback(stub: Stub, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for name in log_config.NOISY:
        caplog.set_level(logging.WARNING, name)
    told = [repr(HuggingFaceConfig(TOKEN))]
    for fault in (
        *map(status, (400, 401, 402, 403, 404, 413, 500)),
        loading(30),
        limited(30),
        *BROKEN,
        *GARBAGE,
        *ENDLESS,
    ):
        with engine_on(stub, seconds=0.2) as engine:
            stub.meets(*[fault] * 9)
            with pytest.raises(CutoutError) as caught:
                engine.remove(PHOTO)
            told += [repr(caught.value), "".join(traceback.format_exception(caught.value))]
    for code in (401, 403, 404, 429, 500):
        stub.hub_status = code
        for ask in (dispatcher.open_remote, client.whoami):
            with pytest.raises(ModelUnavailable) as refused:
                ask(HuggingFaceConfig(TOKEN))
            told += [repr(refused.value), "".join(traceback.format_exception(refused.value))]
    assert stub.calls
    assert TOKEN not in "".join(told)
    assert caplog.records
    for record in caplog.records:
        assert TOKEN not in logging.Formatter().format(record) + repr(record.args)


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("healthy", [True, False])
def test_the_doctor_checks_token_and_providers(
    stub: Stub,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    healthy: bool,
) -> None:
    monkeypatch.setenv("CUTOUT_HF_INFERENCE_TOKEN", TOKEN)
    monkeypatch.setenv("COLUMNS", "500")
    stub.hub_status = 200 if healthy else 401
    try:
        doctor(None)
        code = 0
    except typer.Exit as ended:
        code = ended.exit_code
    shown = capsys.readouterr()
    said = shown.out + shown.err
    assert code == (0 if healthy else 1)
    if healthy:
        assert "token of anna" in said
        assert "standard: rmbg-2.0, by huggingface:fal-ai" in said
        assert "is a substitute for rmbg-1.4" in said
    else:
        assert "rejected the token" in said
    assert TOKEN not in said
