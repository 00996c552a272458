"""Many concurrent uploads to a service in its own process, whose memory is measured.

`python -m tests.app.load` runs it at full size: 400 photos of 2 megapixels, then 400 files of 20 MB that are no images.
`python -m tests.app.load serve FOLDER PORT` is the service, as `make serve`, on a fake network that takes 50 ms per photo.
"""

import asyncio
import os
import random
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cutout.app.app import create_app
from cutout.app.config import settings as app_settings
from cutout.app.http.uvicorn_server import allow_many_connections, server_of
from tests.fakes import PATIENCE, FakeRunner, fake_engine, photo_bytes
from tests.forked import ModuleProcess
from tests.http import answers_ok
from tests.processes import wait_ready

NETWORK_SECONDS = 0.05
HEAD = (
    "POST /api/background-remover/remove HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
    "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: {length}\r\n\r\n"
)
PART = b'--b\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n'
PIECE_BYTES = 250_000
END = b"\r\n--b--\r\n"


@dataclass
class Outcome:
    """The responses to the calls, and the service's peak memory above its memory before them."""

    statuses: Counter[int] = field(default_factory=Counter)
    without_retry_after: int = 0
    # Refusals that are no problem documents.
    no_problems: int = 0
    unanswered: int = 0
    peak_bytes: int = 0
    slowest: float = 0
    seconds: float = 0


def serve(folder: Path, port: int) -> None:
    """Run the service."""
    settings = app_settings.load(auth="off", data_dir=folder)
    runner = FakeRunner(before=lambda: time.sleep(NETWORK_SECONDS))
    listening = socket.create_server(("127.0.0.1", port), backlog=2048)
    allow_many_connections()
    service = create_app(settings, lambda _: fake_engine(runner, settings.limits))
    server_of(service, settings).run([listening])


@contextmanager
def service(folder: Path, **settings: object) -> Iterator[tuple[int, int]]:
    """Start a service in its own process; yield its port and process id."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CUTOUT_")}
    environment |= {f"CUTOUT_{name.upper()}": str(value) for name, value in settings.items()}
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    log = folder / "log"
    process = ModuleProcess(log, environment, "tests.app.load", "serve", str(folder), str(port))
    try:
        wait_ready(process, lambda: answers_ok(f"http://127.0.0.1:{port}"), log)
        yield port, process.pid
        assert process.poll() is None, log.read_text()
    finally:
        process.terminate()
        process.wait(PATIENCE)


def crowd(port: int, pid: int, files: Sequence[bytes], pause: float = 0) -> Outcome:
    """Send all files concurrently, in pieces with a pause of so many seconds after each."""
    return asyncio.run(_crowd(port, pid, files, pause))


async def _crowd(port: int, pid: int, files: Sequence[bytes], pause: float) -> Outcome:
    outcome, idle, start = Outcome(), resident_bytes(pid), time.monotonic()

    async def upload(file: bytes) -> None:
        head = HEAD.format(length=len(PART) + len(file) + len(END)).encode()
        answer = await call(port, [head, PART, file, END], pause)
        if not answer:
            outcome.unanswered += 1
            return
        status = int(answer[9:12])
        outcome.statuses[status] += 1
        if status != 200:
            top = answer.partition(b"\r\n\r\n")[0].lower()
            outcome.no_problems += b"\r\ncontent-type: application/problem+json" not in top
            outcome.without_retry_after += status in (429, 503) and b"\r\nretry-after: " not in top

    async def watch() -> None:
        while True:
            outcome.peak_bytes = max(outcome.peak_bytes, resident_bytes(pid) - idle)
            await asyncio.sleep(0.02)

    async def others() -> None:
        while True:
            asked = time.monotonic()
            await call(port, [b"GET /docs HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"])
            outcome.slowest = max(outcome.slowest, time.monotonic() - asked)
            await asyncio.sleep(0.2)

    beside = [asyncio.create_task(watch()), asyncio.create_task(others())]
    await asyncio.gather(*map(upload, files))
    for task in beside:
        task.cancel()
    outcome.seconds = time.monotonic() - start
    return outcome


async def call(port: int, request: Sequence[bytes], pause: float = 0) -> bytes:
    """Send a request and return the response; empty if the connection broke before there was one.

    After each piece of it there is a pause of so many seconds.
    """
    answer = b""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            answering = asyncio.create_task(reader.read())
            for part in request:
                for start in range(0, len(part), PIECE_BYTES):
                    writer.write(memoryview(part)[start : start + PIECE_BYTES])
                    await writer.drain()
                    await asyncio.sleep(pause)
            answer = await answering
        finally:
            writer.close()
    except ConnectionError:
        pass
    return answer


def resident_bytes(pid: int) -> int:
    """Return a process's resident memory in bytes, as Linux reports it."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    """Run at full size."""
    with tempfile.TemporaryDirectory() as folder, service(Path(folder)) as (port, pid):
        photo = photo_bytes(1600, 1250, "JPEG")
        for what, file in (("photos", photo), ("no photos", random.Random(0).randbytes(20_000_000))):
            outcome = crowd(port, pid, 400 * [file])
            print(f"400 {what} of {len(file):,} bytes: {outcome}")  # noqa: T201


if __name__ == "__main__":
    serve(Path(sys.argv[2]), int(sys.argv[3])) if sys.argv[1:2] == ["serve"] else main()
