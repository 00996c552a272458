"""Hundreds of clients at once, each with a photo of 2 to 12 megapixels, on `cutout serve` with its default settings.

`python -m benchmarks crowd` runs three rounds: all send at once; all send slowly; and half of them hold idle
connections, or send their heads and bodies a byte at a time, while others want removals. In each, the service should
live, every answer should be a result, or 429 or 503 as a problem document with `Retry-After`, and the memory of all its
processes together should stay within 2 GB of what they hold when idle. Afterwards a removal should work and the memory
should come back. The exit code is 1 otherwise.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx2

from benchmarks import inputs
from benchmarks.report import Table, publish
from benchmarks.soaking.processes import Running, pss_mb, roles, running

CLIENTS, MEGAPIXELS = 400, (2.0, 4.0, 6.0, 8.0, 10.0, 12.0)
MOST_ABOVE_IDLE_MB, MOST_LEFT_MB = 2000, 400
SLOW_SECONDS, PIECES = 40, 160
SAMPLE_SECONDS, REST_SECONDS, GIVE_UP_SECONDS = 0.05, 60, 1200
REMOVE = "/api/background-remover/remove"
HEAD = (
    f"POST {REMOVE} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: image/png\r\nConnection: close\r\n"
    "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: {length}\r\n\r\n"
)
PART = b'--b\r\nContent-Disposition: form-data; name="image"; filename="photo.jpg"\r\n\r\n'
END = b"\r\n--b--\r\n"


@dataclass
class Round:
    """A crowd's answers by status and code, what was wrong with some, and memory in MB."""

    name: str
    answers: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    idle_mb: float = 0
    peak_mb: float = 0
    after_mb: float = 0
    seconds: float = 0
    health_s: float = 0

    def judge(self) -> list[str]:
        """Return what was not as it should be."""
        found = [f"{count} × {what}" for what, count in self.faults.items()]
        if self.peak_mb - self.idle_mb > MOST_ABOVE_IDLE_MB:
            found.append(f"{self.peak_mb - self.idle_mb:.0f} MB above idle")
        if self.after_mb - self.idle_mb > MOST_LEFT_MB:
            found.append(f"{self.after_mb - self.idle_mb:.0f} MB did not come back")
        if not self.answers["200"]:
            found.append("no client got a picture")
        return [f"{self.name}: {one}" for one in found]


async def upload(service: Running, photo: bytes, seconds: float, outcome: Round) -> None:
    """Send a photo within about so many seconds, and note the answer."""
    sent = HEAD.format(length=len(PART) + len(photo) + len(END)).encode() + PART + photo + END
    host, port = service.address.removeprefix("http://").split(":")
    try:
        reader, writer = await asyncio.open_connection(host, int(port))
    except OSError as error:
        outcome.faults[f"no connection: {type(error).__name__}"] += 1
        return
    answering = asyncio.create_task(reader.read())
    try:
        step = -(-len(sent) // PIECES)
        for start in range(0, len(sent), step):
            writer.write(sent[start : start + step])
            await writer.drain()
            await asyncio.sleep(seconds / PIECES)
        answer = await answering
    except OSError as error:
        answer = b"" if not answering.done() or answering.exception() else answering.result()
        if not answer:
            outcome.faults[f"no answer: {type(error).__name__}"] += 1
            return
    finally:
        answering.cancel()
        writer.close()
        with suppress(OSError, asyncio.CancelledError):
            await answering
    note(answer, outcome)


def note(answer: bytes, outcome: Round) -> None:
    """Count an answer, and what is wrong with it."""
    top, _, body = answer.partition(b"\r\n\r\n")
    lines = top.decode("latin-1").lower().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines[1:] if ": " in line)
    if not top:
        outcome.faults["no answer: connection closed"] += 1
        return
    status = lines[0].split()[1]
    if status == "200":
        outcome.answers["200"] += 1
        if not body.startswith(b"\x89PNG") or len(body) != int(headers["content-length"]):
            outcome.faults["a picture is incomplete"] += 1
        return
    code = "?"
    if headers.get("content-type") == "application/problem+json":
        with suppress(ValueError, KeyError):
            code = json.loads(body)["code"]
    outcome.answers[f"{status} {code}"] += 1
    if status not in ("429", "503"):
        outcome.faults[f"{status} {code}"] += 1
    elif "retry-after" not in headers or code == "?":
        outcome.faults[f"{status} without Retry-After or code"] += 1


def memory_mb(service: Running) -> float:
    """Return the memory of all processes of a service in MB."""
    return sum(pss_mb(pid) for pids in roles(service.process).values() for pid in pids)


async def watch(service: Running, outcome: Round) -> None:
    """Note the peak of memory, and how long `/api/health` takes."""

    async def memory() -> None:
        pids = [pid for pids in roles(service.process).values() for pid in pids]
        while True:
            outcome.peak_mb = max(outcome.peak_mb, await asyncio.to_thread(lambda: sum(map(pss_mb, pids))))
            await asyncio.sleep(SAMPLE_SECONDS)

    async def health() -> None:
        async with httpx2.AsyncClient(timeout=GIVE_UP_SECONDS) as client:
            while True:
                began = time.monotonic()
                answer = await client.get(f"{service.address}/api/health")
                outcome.health_s = max(outcome.health_s, time.monotonic() - began)
                if answer.status_code != 200:
                    outcome.faults[f"health {answer.status_code}"] += 1
                await asyncio.sleep(0.5)

    await asyncio.gather(memory(), health())


async def dawdle(service: Running, kind: int) -> None:
    """Hold a connection: idle after an answer, or with a head or a body that comes a byte at a time."""
    host, port = service.address.removeprefix("http://").split(":")
    starts = (b"GET /api/health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", b"GET / HTTP/1.1\r\nX-Slow: ")
    while True:
        with suppress(OSError):
            _, writer = await asyncio.open_connection(host, int(port))
            try:
                writer.write((*starts, HEAD.format(length=100_000).encode() + PART)[kind])
                while not writer.is_closing():
                    await asyncio.sleep(1)
                    if kind:
                        writer.write(b"a")
                        await writer.drain()
            finally:
                writer.close()
        await asyncio.sleep(0.5)


async def crowd(
    service: Running, name: str, photos: Sequence[bytes], clients: int, seconds: float = 0, slow: int = 0
) -> Round:
    """Let so many clients send at once, with `slow` others that dawdle; then let the service rest."""
    outcome = Round(name, idle_mb=memory_mb(service))
    beside = [asyncio.create_task(dawdle(service, number % 3)) for number in range(slow)]
    await asyncio.sleep(3 if slow else 0)
    beside.append(asyncio.create_task(watch(service, outcome)))
    began = time.monotonic()
    sending = [upload(service, photos[number % len(photos)], seconds, outcome) for number in range(clients)]
    try:
        async with asyncio.timeout(GIVE_UP_SECONDS):
            await asyncio.gather(*sending)
    except TimeoutError:
        outcome.faults["the crowd was not served in time"] += 1
    outcome.seconds = time.monotonic() - began
    if beside[-1].done() and (error := beside[-1].exception()) is not None:
        outcome.faults[f"health: {type(error).__name__}"] += 1
    for task in beside:
        task.cancel()
    await asyncio.gather(*beside, return_exceptions=True)
    await asyncio.to_thread(rest, service, photos[0], outcome)
    return outcome


def rest(service: Running, photo: bytes, outcome: Round) -> None:
    """Check that one removal works, and wait until the memory has come back."""
    answer = remove(service, photo)
    if answer.status_code != 200:
        outcome.faults[f"a removal afterwards: {answer.status_code}"] += 1
    end = time.monotonic() + REST_SECONDS
    while True:
        outcome.after_mb = memory_mb(service)
        if outcome.after_mb - outcome.idle_mb < MOST_LEFT_MB / 4 or time.monotonic() > end:
            return
        time.sleep(1)


def remove(service: Running, photo: bytes) -> httpx2.Response:
    """Remove one background, and wait for it as long as it takes."""
    return httpx2.post(
        f"{service.address}{REMOVE}", files={"image": ("photo.jpg", photo, "image/jpeg")}, timeout=600
    )


def main(arguments: Sequence[str]) -> int:
    """Run the rounds, print and save the results. Return 1 if one of them was not as it should be."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks crowd", description=__doc__)
    parser.add_argument("--clients", type=int, default=CLIENTS)
    parser.add_argument("--fake-ms", type=float, help="replace the network by one that takes so long")
    parser.add_argument("--rounds", default="at once,slowly,beside dawdlers", help="comma-separated")
    parser.add_argument("--no-publish", action="store_true", help="print the results only")
    options = parser.parse_args(arguments)
    photos = [inputs.jpeg(inputs.SUBJECTS[n % 3], size) for n, size in enumerate(MEGAPIXELS)]
    rounds = []
    with (
        tempfile.TemporaryDirectory() as folder,
        running(Path(folder), network_ms=options.fake_ms) as service,
    ):
        for photo in photos:  # fills the pools and caches that stay
            remove(service, photo).raise_for_status()
        for name in options.rounds.split(","):
            seconds = SLOW_SECONDS if name == "slowly" else 0
            slow = options.clients if name == "beside dawdlers" else 0
            count = 20 if slow else options.clients
            rounds.append(asyncio.run(crowd(service, name, photos, count, seconds, slow)))
            print(rounds[-1], flush=True)
    wrong = [one for done in rounds for one in done.judge()]
    table = Table(
        f"{options.clients} clients at once with photos of {MEGAPIXELS[0]:g} to {MEGAPIXELS[-1]:g} megapixels, on the"
        " embedded default; memory of all processes in MB",
        ["clients send", "answers", "idle", "peak above", "left after", "s", "health, worst s"],
        [
            [
                one.name,
                ", ".join(f"{count} × {what}" for what, count in sorted(one.answers.items())),
                f"{one.idle_mb:.0f}",
                f"{one.peak_mb - one.idle_mb:.0f}",
                f"{one.after_mb - one.idle_mb:+.0f}",
                f"{one.seconds:.0f}",
                f"{one.health_s:.1f}",
            ]
            for one in rounds
        ],
    )
    if options.no_publish:
        print(*table.rows, sep="\n")
    else:
        publish("crowd", [table], {"rounds": [vars(one) for one in rounds], "wrong": wrong})
    print("\n".join(wrong) or "All as it should be.")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
