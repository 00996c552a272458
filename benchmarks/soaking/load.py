"""Clients of every kind: those that use the service as it is meant, those that send rubbish, and those that hang up.

Each act is one client's whole visit, with random choices from the load's seed. An answer that its act does not ask
for, by status and code, is noted as unexpected.
"""

import asyncio
import json
import random
import time
import uuid
import zipfile
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import httpx2

from benchmarks.soaking.files import Files

API = "/api/background-remover"
REMOVE, BATCH = f"{API}/remove", f"{API}/batch"
TIERS = ("basic", "basic", "standard", "professional", "industry", "preview")
SOLD = ("basic", "basic", "standard", "professional", "industry")
FORMATS = ("png", "webp", "jpg", "avif", "auto", "zip")
ACCEPTED = ("application/json", "image/png", "image/*", "*/*")
READ = (
    *(
        "/jobs?limit=50",
        "/jobs?status=failed",
        "/stats",
        "/credits?limit=100",
        "/admin/stats",
        "/admin/stats/days",
    ),
    *("/batch?limit=20", "/pricing", "/subscription"),
)
LONGEST_BATCH_SECONDS = 600
# Unexpected answers beyond this many are only counted.
MOST_TOLD = 50


@dataclass
class Load:
    """The clients' service and files, and what became of their calls."""

    client: httpx2.AsyncClient
    files: Files
    rng: random.Random
    largest_batch: int = 50
    answers: Counter[tuple[str, str]] = field(default_factory=Counter)
    unexpected: Counter[str] = field(default_factory=Counter)
    told: list[str] = field(default_factory=list)

    def note(self, act: str, outcome: str, *, wanted: bool, detail: str = "") -> None:
        """Count an outcome of an act."""
        self.answers[act, outcome] += 1
        if not wanted:
            self.unexpected[f"{act}: {outcome}"] += 1
            if len(self.told) < MOST_TOLD:
                self.told.append(f"{act}: {outcome} {detail[:500]}")

    async def ask(
        self, act: str, method: str, path: str, *wanted: str, **sent: Any
    ) -> httpx2.Response | None:
        """Make a call and count its answer, as `200` or `400 CODE`. Return it if it is one of `wanted` and a success."""
        try:
            answer = await self.client.request(method, path, **sent)
        except httpx2.TransportError as error:
            self.note(act, type(error).__name__, wanted=False, detail=f"{method} {path} {error}")
            return None
        outcome = outcome_of(answer)
        self.note(
            act,
            outcome,
            wanted=outcome in (wanted or ("200",)),
            detail=f"{method} {path} {answer.text[:300]}",
        )
        return answer if answer.is_success else None

    def require(self, act: str, kept: bool, otherwise: str) -> None:
        """Count a broken promise."""
        if not kept:
            self.note(act, otherwise, wanted=False)


def outcome_of(answer: httpx2.Response) -> str:
    """Return an answer's status, with the code of its problem."""
    if answer.status_code < 400:
        return str(answer.status_code)
    try:
        return f"{answer.status_code} {answer.json()['code']}"
    except (ValueError, KeyError, TypeError):
        return f"{answer.status_code} without a code"


async def single(load: Load) -> None:
    """Remove a background, and look at the result as the page does; sometimes refine it."""
    rng = load.rng
    tier, accept, wanted = rng.choice(TIERS), rng.choice(ACCEPTED), rng.choice(FORMATS)
    form = {"tier": tier}
    if not accept.startswith("image/"):
        form["format"] = wanted
    if rng.random() < 0.3 and wanted != "zip":
        form |= {"background": "#f0e0d0", "shadow": "soft", "trim": "true", "margin": "5%"}
    headers, files = {"Accept": accept}, {"image": load.files.photo(rng)}
    if rng.random() < 0.25:
        await repeated(load, form, headers, files)
        return
    answer = await load.ask("remove", "POST", REMOVE, data=form, headers=headers, files=files)
    if answer is None:
        return
    if accept.startswith("image/"):
        job_id = answer.headers["x-cutout-job"]
    else:
        job = answer.json()
        job_id = job["jobId"]
        picture = await load.ask("result", "GET", job["resultUrl"])
        load.require("result", picture is None or len(picture.content) > 0, "empty")
        if rng.random() < 0.5:
            # A ZIP of layers has no small copy of its own kind to check here.
            await load.ask("thumbnail", "GET", job["thumbnailUrl"], "200", "404 NOT_FOUND")
    if rng.random() < 0.5:
        await refined(load, job_id)


async def repeated(load: Load, form: dict[str, str], headers: dict[str, str], files: dict[str, Any]) -> None:
    """Send a photo several times with one key: all have the same job. With another photo the key is refused."""
    key = {"Idempotency-Key": uuid.uuid4().hex, "Accept": "application/json"}
    sent = {"data": form, "headers": headers | key}
    together = [
        load.ask("repeated", "POST", REMOVE, "200", "409 CONFLICT", files=files, **sent) for _ in range(2)
    ]
    answers = [
        *await asyncio.gather(*together),
        await load.ask("repeated", "POST", REMOVE, files=files, **sent),
    ]
    jobs = {answer.json()["jobId"] for answer in answers if answer is not None}
    load.require("repeated", len(jobs) == 1, f"{len(jobs)} jobs for one key")
    other = {"image": ("other.png", load.files.another(), "image/png")}
    await load.ask("key of another photo", "POST", REMOVE, "409 CONFLICT", files=other, **sent)


async def refined(load: Load, job_id: str) -> None:
    """Look at a result, at how it would be with strokes, and refine it."""
    await load.ask("job", "GET", f"{API}/jobs/{job_id}")
    strokes = {load.rng.choice(("keepMask", "dropMask")): ("strokes.png", load.files.strokes, "image/png")}
    await load.ask("view", "POST", f"{API}/jobs/{job_id}/refine/view", files=strokes)
    await load.ask("refine", "POST", f"{API}/jobs/{job_id}/refine", files=strokes)
    background = load.files.photo(load.rng)
    await load.ask("refine", "POST", f"{API}/jobs/{job_id}/refine", files={"backgroundImage": background})
    await load.ask("photo", "GET", f"{API}/jobs/{job_id}/photo")


async def batch(load: Load) -> None:
    """Submit a batch with some bad photos, follow it, and download its ZIP; or cancel it, or hang up in between."""
    rng = load.rng
    count = rng.choice([2, 3, 5, 8, 12, 20, 50])
    photos = [load.files.photo(rng) for _ in range(min(count, load.largest_batch))]
    if rng.random() < 0.3:
        photos[0] = ("broken.jpg", load.files.truncated, "image/jpeg")
    if rng.random() < 0.3:
        photos[-1] = ("../../etc/\u202epasswd\0.png", load.files.another(), "image/png")
    answer = await load.ask(
        *("batch", "POST", BATCH, "202"),
        data={"tier": rng.choice(SOLD)},
        files=[("images", photo) for photo in photos],
    )
    if answer is None:
        return
    url, way = f"{BATCH}/{answer.json()['batchId']}", rng.random()
    if way < 0.2:
        await asyncio.sleep(rng.random())
        await load.ask("cancel a batch", "DELETE", url, "200", "409 CONFLICT")
    ended = await followed(load, url) if way < 0.6 else await polled(load, url)
    if ended["zipUrl"] is None:
        load.require("batch", ended["status"] in ("failed", "cancelled"), f"{ended['status']} without a ZIP")
        return
    if rng.random() < 0.2:
        await hang_up(load, "download", "GET", ended["zipUrl"])
    archive = await load.ask("ZIP", "GET", ended["zipUrl"])
    if archive is not None:
        with zipfile.ZipFile(BytesIO(archive.content)) as packed:
            done = ended["counts"]["completed"]
            load.require("ZIP", packed.testzip() is None, "a file in it is broken")
            load.require("ZIP", len(packed.namelist()) == done + 1, "it lacks files")


async def followed(load: Load, url: str) -> dict[str, Any]:
    """Read a batch's events to their end, sometimes after having hung up once; return the batch."""
    if load.rng.random() < 0.3:
        await hang_up(load, "events", "GET", f"{url}/events")
    async with asyncio.timeout(LONGEST_BATCH_SECONDS), load.client.stream("GET", f"{url}/events") as stream:
        kinds = [line async for line in stream.aiter_lines() if line.startswith("event: ")]
    load.note(
        "events", "ended" if kinds[-1:] == ["event: end"] else "broken off", wanted="event: end" in kinds
    )
    return await polled(load, url)


async def polled(load: Load, url: str) -> dict[str, Any]:
    """Ask for a batch until it has ended; return it."""
    end = time.monotonic() + LONGEST_BATCH_SECONDS
    while time.monotonic() < end:
        answer = await load.ask("batch status", "GET", url)
        if answer is not None and answer.json()["finishedAt"] is not None:
            return dict(answer.json())
        await asyncio.sleep(0.5)
    load.note("batch", "not ended in time", wanted=False, detail=url)
    return {"zipUrl": None, "status": "failed"}


async def rubbish(load: Load) -> None:
    """Send something that is no photo, or with wrong options: each is refused with the code that says so."""
    data, name, wanted = load.rng.choice(load.files.rubbish)
    await load.ask("rubbish", "POST", REMOVE, wanted, files={"image": (name, data, "image/jpeg")})
    photo = {"image": load.files.photo(load.rng)}
    wrong: Sequence[tuple[str, str, str, dict[str, Any]]] = (
        ("POST", REMOVE, "400 INVALID_INPUT", {"data": {"tier": "free"}, "files": photo}),
        ("POST", REMOVE, "400 INVALID_INPUT", {"data": {"wrong": "1"}, "files": photo}),
        (
            "POST",
            REMOVE,
            "400 INVALID_INPUT",
            {"content": b"\0\xff", "headers": {"Content-Type": "text/plain"}},
        ),
        ("POST", REMOVE, "400 INVALID_INPUT", {"json": {"imageUrl": "http://127.0.0.1/secret"}}),
        (
            "POST",
            REMOVE,
            "400 INVALID_INPUT",
            {"content": b"{", "headers": {"Content-Type": "application/json"}},
        ),
        ("POST", BATCH, "400 BATCH_SIZE", {"files": {"images": load.files.photo(load.rng)}}),
        ("GET", f"{API}/jobs/{uuid.uuid4()}", "404 NOT_FOUND", {}),
        ("DELETE", f"{BATCH}/{uuid.uuid4()}", "404 NOT_FOUND", {}),
        ("PATCH", REMOVE, "405 METHOD_NOT_ALLOWED", {}),
        ("GET", "/wp-login.php", "404 NOT_FOUND", {}),
    )
    method, path, code, sent = load.rng.choice(wrong)
    await load.ask("rubbish", method, path, code, **sent)


async def cancelled(load: Load) -> None:
    """Hang up in an upload, in the work, or in the answer; of a single photo, or of a batch."""
    rng = load.rng
    path, part = rng.choice(((REMOVE, "image"), (REMOVE, "image"), (BATCH, "images")))
    photos = [(part, load.files.photo(rng)) for _ in range(1 if path == REMOVE else rng.randint(2, 10))]
    request = load.client.build_request("POST", path, files=photos, headers={"Accept": "image/png"})
    body = await request.aread()
    reader, writer = await asyncio.open_connection(request.url.host, request.url.port)
    head = f"POST {path} HTTP/1.1\r\n" + "".join(
        f"{name}: {value}\r\n" for name, value in request.headers.items()
    )
    moment = rng.choice(("in the upload", "in the work", "in the answer"))
    try:
        writer.write(head.encode() + b"\r\n" + body[: len(body) // 2])
        await writer.drain()
        await asyncio.sleep(0.2 * rng.random())
        if moment != "in the upload":
            writer.write(body[len(body) // 2 :])
            await writer.drain()
            await asyncio.sleep(0.3 * rng.random())
        if moment == "in the answer":
            await asyncio.wait_for(reader.read(100), LONGEST_BATCH_SECONDS)
    finally:
        if rng.random() < 0.5:
            writer.transport.abort()
        writer.close()
    load.note("hang up", moment, wanted=True)


async def hang_up(load: Load, act: str, method: str, path: str) -> None:
    """Make a call, read the beginning of its answer, and close the connection."""
    async with load.client.stream(method, path) as stream:
        async for _ in stream.aiter_raw(1000):
            break
    load.note("hang up", act, wanted=True)


async def reads(load: Load) -> None:
    """Read what is there, as the page and a monitor do."""
    for path in load.rng.sample(READ, 3):
        await load.ask("reads", "GET", f"{API}{path}")
    for path in ("/api/health", "/metrics", "/"):
        await load.ask("reads", "GET", path)


ACTS: dict[Callable[[Load], Awaitable[None]], int] = {
    single: 50,
    rubbish: 20,
    cancelled: 12,
    reads: 10,
    batch: 8,
}


async def visits(load: Load, until: float, pause: float) -> None:
    """Be one client after another until this time of `time.monotonic`, with `pause` seconds between them on average."""
    while time.monotonic() < until:
        (act,) = load.rng.choices(list(ACTS), list(ACTS.values()))
        try:
            await act(load)
        except (httpx2.HTTPError, OSError, TimeoutError, zipfile.BadZipFile, json.JSONDecodeError) as error:
            load.note(act.__name__, type(error).__name__, wanted=False, detail=str(error))
        await asyncio.sleep(2 * pause * load.rng.random())
