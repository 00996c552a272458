"""Clients that send a byte at a time or nothing, or never read the response: each is cut off and delays no other."""

import asyncio
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import uvicorn
from starlette.types import Message, Receive, Scope, Send
from uvicorn.server import ServerState

from cutout.app.app import create_app
from cutout.app.config import settings as app_settings
from cutout.app.core.errors import ServiceError
from cutout.app.db.session import Database
from cutout.app.http import middleware, uvicorn_server
from cutout.app.http.middleware import BodyTime
from cutout.app.http.uvicorn_server import LONGEST_HEAD_BYTES, TimedHttpProtocol
from tests.app.api_client import settings_of
from tests.app.serving import served
from tests.fakes import PATIENCE, fake_engine, photo_bytes, wait_until
from tests.http import http
from tests.instant import InstantLoop

pytestmark = pytest.mark.slow

REMOVE = "/api/background-remover/remove"
# The timeout for a slow client, and a time that is far longer than any client needs on a busy host.
SECONDS, AGES = 0.5, 10 * PATIENCE
PICTURE_BYTES = 8_000_000
PART = b'--b\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("slow")


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    """Serve with short timeouts for bodies and for clients that do not read."""
    with patient(folder, upload=SECONDS, rest=SECONDS, reading=SECONDS) as address:
        yield address


@pytest.fixture(scope="module")
def hasty_address(folder: Path) -> Iterator[str]:
    """Serve with a short timeout for request heads."""
    with patient(folder, head=SECONDS) as address:
        yield address


@pytest.fixture(scope="module")
def patient_address(folder: Path) -> Iterator[str]:
    """Serve with timeouts longer than any test, so that slow clients are never cut off."""
    with patient(folder) as address:
        yield address


@contextmanager
def patient(
    folder: Path, *, head: float = AGES, upload: float = AGES, rest: float = AGES, reading: float = AGES
) -> Iterator[str]:
    """Serve the data in `folder` with these timeouts in seconds."""
    settings = app_settings.load(
        auth="off", data_dir=folder, upload_seconds=upload, max_upload_mb=20, uploads_at_once_mb=20
    )
    seconds = {"head_seconds": head, "rest_seconds": rest, "reading_seconds": reading}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(uvicorn_server, "TimedHttpProtocol", type("OfSoLong", (TimedHttpProtocol,), seconds))
        with served(create_app(settings, lambda _: fake_engine()), settings) as address:
            yield address


@contextmanager
def connected(address: str) -> Iterator[socket.socket]:
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as connection:
        yield connection


@contextmanager
def small_window(address: str) -> Iterator[socket.socket]:
    """Connect with a small receive buffer."""
    host, port = address.removeprefix("http://").split(":")
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 50_000)
        connection.settimeout(PATIENCE)
        connection.connect((host, int(port)))
        yield connection


@pytest.fixture(scope="module")
def picture(patient_address: str, folder: Path) -> str:
    """Store a result larger than the system's socket buffers; return its path, which is the same at each service."""
    job = http.post(f"{patient_address}{REMOVE}", files={"image": photo_bytes()}).json()
    (folder / "results" / f"{job['jobId']}.png").write_bytes(bytes(PICTURE_BYTES))
    return str(job["resultUrl"])


def head(path: str = REMOVE, method: str = "POST", **headers: str) -> bytes:
    """Build the head of a request; header names have _ for -."""
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


def upload(length: int, **headers: str) -> bytes:
    return head(Content_Type="multipart/form-data; boundary=b", Content_Length=str(length), **headers)


def jobs(address: str) -> list[object]:
    found: list[object] = http.get(f"{address}/api/background-remover/jobs?limit=200").json()["jobs"]
    return found


def read_to_end(connection: socket.socket) -> bytes:
    """Read until the service closes the connection."""
    read = b""
    try:
        while data := connection.recv(65536):
            read += data
    except ConnectionResetError:
        pass
    return read


def read_answer(connection: socket.socket) -> bytes:
    """Read one response; its head and its body may arrive separately."""
    read = connection.recv(65536)
    while (told := re.search(rb"\r\ncontent-length: (\d+)\r\n", read.lower())) is not None:
        if len(read.partition(b"\r\n\r\n")[2]) >= int(told[1]):
            break
        more = connection.recv(65536)
        if not more:
            break
        read += more
    return read


def problem(answer: bytes, status: int, code: str) -> dict[str, object]:
    """Check that raw bytes are a well-formed problem, and return it."""
    top, _, body = answer.partition(b"\r\n\r\n")
    lines = top.decode().lower().split("\r\n")
    assert lines[0].startswith(f"http/1.1 {status} "), answer
    assert "content-type: application/problem+json" in lines
    said: dict[str, object] = json.loads(body)
    assert (said["status"], said["code"]) == (status, code)
    assert f"x-request-id: {said['requestId']}" in lines
    return said


def drip(connection: socket.socket, data: bytes, stop: threading.Event) -> None:
    """Send a byte at a time until told to stop or disconnected."""
    for byte in data:
        try:
            connection.sendall(bytes([byte]))
        except OSError:
            return
        if stop.wait(0.02):
            return


def test_others_are_served_while_some_are_slow(patient_address: str, picture: str) -> None:
    with ExitStack() as stack:
        for sent in (b"", b"GET / HT", upload(100_000) + PART):
            stack.enter_context(connected(patient_address)).sendall(sent)
        stack.enter_context(small_window(patient_address)).sendall(head(picture, "GET"))
        assert http.get(f"{patient_address}/api/health").status_code == 200
        answer = http.post(f"{patient_address}{REMOVE}", files={"image": photo_bytes()})
        assert answer.status_code == 200


@pytest.mark.parametrize("sent", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: local"])
def test_a_head_that_does_not_come(hasty_address: str, sent: bytes) -> None:
    with connected(hasty_address) as connection:
        connection.sendall(sent)
        assert read_to_end(connection) == b""


def test_a_head_that_comes_a_byte_at_a_time(hasty_address: str) -> None:
    stop = threading.Event()
    with connected(hasty_address) as connection:
        dripping = threading.Thread(target=drip, args=(connection, head(X=500 * "a"), stop))
        dripping.start()
        assert read_to_end(connection) == b"", "the head would come whole in the end"
        stop.set()
        dripping.join()


@pytest.mark.parametrize("dripping", [False, True])
def test_a_body_that_does_not_come_in_time(address: str, dripping: bool) -> None:
    stop, before = threading.Event(), len(jobs(address))
    with connected(address) as connection:
        connection.sendall(upload(100_000) + PART)
        sender = threading.Thread(target=drip, args=(connection, bytes(100_000 if dripping else 0), stop))
        sender.start()
        said = problem(read_to_end(connection), 408, "BODY_TOO_SLOW")
        assert str(SECONDS) in str(said["detail"])
        stop.set()
        sender.join()
    assert len(jobs(address)) == before


def test_a_large_body_has_so_much_more_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """0.1 s is allowed per two bytes, and each byte takes 0.03 s; then 0.1 s is allowed per hundred bytes."""
    statuses = []
    for each in (2, 100):
        with asyncio.Runner(loop_factory=InstantLoop) as runner:
            monkeypatch.setattr(middleware, "time", SimpleNamespace(monotonic=runner.get_loop().time))
            statuses.append(runner.run(body_in_time(pieces=12, pause=0.03, bytes_each=each)))
    assert statuses == [200, 408]


async def body_in_time(pieces: int, pause: float, bytes_each: int) -> int:
    """Send a body in single bytes to a service that only reads it; return the status."""
    answer = 200

    async def read(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal answer
        try:
            while (await receive())["more_body"]:
                pass
        except ServiceError as problem:
            answer = problem.status

    async def receive() -> Message:
        nonlocal pieces
        await asyncio.sleep(pause)
        pieces -= 1
        return {"type": "http.request", "body": b"x", "more_body": pieces > 0}

    async def send(_: Message) -> None: ...

    await BodyTime(read, seconds=0.1, bytes_each=bytes_each)({"type": "http"}, receive, send)
    return answer


def test_an_answer_that_is_not_read(address: str, picture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[int] = []
    lost = TimedHttpProtocol.connection_lost

    def note(self: TimedHttpProtocol, error: Exception | None) -> None:
        left.append(self.transport.get_extra_info("peername")[1])
        lost(self, error)

    monkeypatch.setattr(TimedHttpProtocol, "connection_lost", note)
    with small_window(address) as connection:
        connection.sendall(head(picture, "GET"))
        port = connection.getsockname()[1]
        wait_until(lambda: port in left)
        read = read_to_end(connection)
    assert read.startswith(b"HTTP/1.1 200 ")
    assert len(read) < PICTURE_BYTES, "an answer that nobody reads was kept"


def test_an_answer_that_is_read_slowly_comes_whole(patient_address: str, picture: str) -> None:
    answer, body_bytes = bytearray(), 0
    with small_window(patient_address) as connection:
        connection.sendall(head(picture, "GET"))
        while body_bytes < PICTURE_BYTES and (data := connection.recv(1_000_000)):
            answer += data
            head_bytes = answer.find(b"\r\n\r\n") + 4
            body_bytes = len(answer) - head_bytes if head_bytes > 4 else 0
    assert body_bytes == PICTURE_BYTES


class Reader:
    """Stand-in for a transport whose client makes `reads` reads of one byte, one every `seconds_each` seconds."""

    def __init__(self, loop: InstantLoop, unread: int, reads: int, seconds_each: float) -> None:
        self._loop, self._unread, self._reads, self._each = loop, unread, reads, seconds_each
        self.left_at: float | None = None

    def get_write_buffer_size(self) -> int:
        return self._unread - min(self._reads, int(self._loop.time() / self._each))

    def abort(self) -> None:
        self.left_at = self._loop.time()


@pytest.mark.parametrize(
    ("reads", "seconds_each", "left_at"),
    [
        (0, 1, 30),
        (4, 40, 30),  # The client reads too slowly.
        (100, 20, None),
        (5, 20, 150),  # Then the client stops reading.
    ],
)
def test_who_reads_slowly_is_left_only_once_he_has_stopped(
    reads: int, seconds_each: float, left_at: float | None
) -> None:
    loop = InstantLoop()
    reader = Reader(loop, 100, reads, seconds_each)
    config = uvicorn.Config(lambda *_: None, lifespan="off", log_config=None)
    protocol = TimedHttpProtocol(config=config, server_state=ServerState(), app_state={}, _loop=loop)
    protocol.transport = reader  # type: ignore[assignment]  # it has what is asked of one
    assert protocol.reading_seconds == 30
    protocol._watch_reader()
    loop.run_until_complete(asyncio.sleep(3000))
    loop.close()
    assert reader.left_at == left_at


@pytest.mark.parametrize("connection", ["keep-alive", "close"])
def test_who_is_refused_before_he_has_sent_all_hears_it(patient_address: str, connection: str) -> None:
    """The client may start to read only after its last byte; what it sends after the refusal is discarded."""
    with connected(patient_address) as talker:
        talker.sendall(upload(25_000_000, Connection=connection))
        for _ in range(25):
            talker.sendall(bytes(1_000_000))
        if connection == "close":
            problem(read_to_end(talker), 413, "IMAGE_TOO_LARGE")
        else:
            problem(read_answer(talker), 413, "IMAGE_TOO_LARGE")
            talker.sendall(head("/docs", "GET", Connection="close"))
            assert read_to_end(talker).startswith(b"HTTP/1.1 200 ")


def test_an_idle_connection_is_kept_for_longer_than_proxies_and_clients_keep_it(tmp_path: Path) -> None:
    """nginx keeps one for 60 s. A request that it sends while the service closes the connection would be lost."""
    settings = app_settings.load(auth="off", data_dir=tmp_path)
    server = uvicorn_server.server_of(create_app(settings, lambda _: fake_engine()), settings)
    assert server.config.timeout_keep_alive > 60


def test_a_connection_is_closed_where_the_caller_wants_no_more(patient_address: str) -> None:
    with connected(patient_address) as connection:
        connection.sendall(head("/docs", "GET", Connection="close"))
        assert read_to_end(connection).startswith(b"HTTP/1.1 200 ")


def test_who_never_ends_what_nobody_wants_is_left(folder: Path) -> None:
    with patient(folder, rest=SECONDS) as address, connected(address) as connection:
        connection.sendall(upload(1_000_000_000))
        problem(read_answer(connection), 413, "IMAGE_TOO_LARGE")
        with pytest.raises(OSError, match=r"reset|pipe"):
            go_on_sending(connection)


def go_on_sending(connection: socket.socket) -> None:
    for _ in range(round(PATIENCE / 0.01)):
        connection.sendall(bytes(1000))
        time.sleep(0.01)


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET / HTTP/9.9\r\n\r\n",
        b"CONNECT a:80 HTTP/1.1\r\n\r\n",
        b"GET http://[::1/ HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n",
        head(Content_Length="5", Transfer_Encoding="chunked") + b"0\r\n\r\n",
        head(Transfer_Encoding="chunked, identity") + b"0\r\n\r\n",
        head(Content_Length="-5"),
        head(Content_Length="5, 6"),
        head(Content_Length=99 * "9"),
        head(Transfer_Encoding="chunked") + b"zz\r\n",
        head(Transfer_Encoding="chunked") + b"ffffffffffffffffff\r\n",
        b"GET / HTTP/1.1\r\n" + (LONGEST_HEAD_BYTES + 1) * b"a",
        b"GET /" + (LONGEST_HEAD_BYTES + 1) * b"a",
        b"GET / HTTP/1.1\r\n" + 30_000 * b"X: a\r\n",
        # Data in one piece with the request's head, at most 256 kB, is not counted.
        head(Transfer_Encoding="chunked") + b"0\r\n" + 60_000 * b"X: a\r\n",
    ],
)
def test_what_is_no_http_is_told_so(patient_address: str, sent: bytes) -> None:
    with connected(patient_address) as connection:
        connection.sendall(sent)
        problem(read_to_end(connection), 400, "INVALID_INPUT")
    assert http.get(f"{patient_address}/api/health").status_code == 200


def test_nobody_waits_for_what_a_stranger_sends(database: Database, tmp_path: Path) -> None:
    settings = settings_of(database, tmp_path)
    with served(create_app(settings, lambda _: fake_engine()), settings) as address:
        for length in (500_000, 1_000_000_000):
            with connected(address) as stranger:
                stranger.sendall(upload(length))
                problem(read_answer(stranger), 401, "UNAUTHENTICATED")


def test_uploads_beyond_the_memory_are_overloaded(
    patient_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Received data counts until its request has ended, however little each client sends at a time."""
    half = PART + bytes(11_000_000)
    chunked = head(Content_Type="multipart/form-data; boundary=b", Transfer_Encoding="chunked")
    come = [0]
    on_body = TimedHttpProtocol.on_body

    def note(self: TimedHttpProtocol, body: bytes) -> None:
        on_body(self, body)
        come[0] += len(body)

    monkeypatch.setattr(TimedHttpProtocol, "on_body", note)
    with connected(patient_address) as second, connected(patient_address) as third:
        with connected(patient_address) as first:
            first.sendall(upload(15_000_000) + half)
            wait_until(lambda: come[0] == len(half))
            # It counts once the service has read it.
            wait_until(lambda: is_refused(patient_address))
            second.sendall(chunked + f"{len(half):x}\r\n".encode() + half)
            answer = read_answer(second)
            problem(answer, 503, "OVERLOADED")
            assert b"\r\nretry-after: " in answer.lower()
            third.sendall(upload(15_000_000))
            problem(read_answer(third), 503, "OVERLOADED")
        # The first client has disconnected.
        wait_until(lambda: not is_refused(patient_address))


def is_refused(address: str) -> bool:
    """Return whether a file of 15 MB is refused as overload, and not for its format."""
    status = http.post(f"{address}{REMOVE}", files={"image": bytes(15_000_000)}).status_code
    assert status in (503, 415)
    return status == 503


def test_one_request_has_one_answer_however_its_body_ends(patient_address: str) -> None:
    """The service answers a call without a photo before its body has arrived; then the body turns out to be invalid."""
    with connected(patient_address) as connection:
        connection.sendall(head(Transfer_Encoding="chunked") + b"1\r\na\r\n")
        read = read_answer(connection)
        connection.sendall(b"zz\r\n")
        problem(read + read_to_end(connection), 400, "INVALID_INPUT")
    with connected(patient_address) as connection:  # Input that follows a response is a new request.
        connection.sendall(head("/api/health", "GET"))
        assert read_answer(connection).startswith(b"HTTP/1.1 200 ")
        connection.sendall(b"GET / HTTP/9.9\r\n\r\n")
        problem(read_to_end(connection), 400, "INVALID_INPUT")
