"""Fetching photos from URLs: valid responses, and hostile servers."""

import asyncio
import gzip
import socket
import ssl
import threading
from collections.abc import Iterator
from functools import partial
from ipaddress import ip_network
from pathlib import Path

import h11
import pytest

from cutout.app.net import image_fetcher as room
from cutout.app.net.image_fetcher import FetchedTooLarge, ImageFetcher, NotFetched
from cutout.app.net.safe_http import SafeHttpClient, default_tls
from cutout.app.net.url_policy import UrlPolicy
from cutout.inference.errors import Overloaded
from tests.app.net.test_url_policy import MALFORMED, NOT_PUBLIC
from tests.fakes import PATIENCE, photo_bytes, wait_until
from tests.web import PRIVATE, PUBLIC, Names, Visit, Web, after, answer, certificates, open_web, raw, send_on

pytestmark = pytest.mark.slow

LIMIT = 1_000_000
PHOTO = photo_bytes()
# A TLS context that trusts no CA; loading the system's takes a while.
NOBODYS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


@pytest.fixture(scope="module")
def opened() -> Iterator[Web]:
    with open_web() as web:
        yield web


@pytest.fixture
def web(opened: Web) -> Web:
    opened.pages.clear()
    opened.seen.clear()
    return opened


def fetcher(names: Names, seconds: float = PATIENCE, tls: ssl.SSLContext | None = NOBODYS) -> ImageFetcher:
    """Create a fetcher for which PUBLIC is the only public address."""
    return ImageFetcher(SafeHttpClient(UrlPolicy([ip_network(PUBLIC)], names), tls), LIMIT, seconds)


def get(web: Web, path: str, names: Names | None = None, seconds: float = PATIENCE) -> bytes:
    names = names or Names(pictures_example=[[PUBLIC]])
    return asyncio.run(fetcher(names, seconds).fetch(f"http://pictures.example:{web.port}{path}"))


def refused(web: Web, path: str, says: str, names: Names | None = None, seconds: float = PATIENCE) -> None:
    with pytest.raises(NotFetched, match=says) as error:
        get(web, path, names, seconds)
    assert str(error.value).startswith("imageUrl: ")


def test_a_photo_is_fetched_and_nothing_told_but_what_has_to_be(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    web.pages["/photo.png?size=%C3%BC"] = answer(PHOTO)
    assert get(web, "/photo.png?size=ü#top") == PHOTO
    [(address, _, headers)] = web.seen
    assert address == PUBLIC
    agent = headers.pop("User-Agent")
    assert agent.startswith("Cutout/")
    assert headers == {
        "Host": f"pictures.example:{web.port}",
        "Accept": "image/*",
        "Accept-Encoding": "identity",
    }


@pytest.mark.parametrize(
    "host", [PRIVATE, "localhost", f"[::ffff:{PRIVATE}]", f"[::ffff:{PUBLIC}]", "2130706434"]
)
def test_a_server_on_this_host_is_not_asked(web: Web, host: str) -> None:
    web.pages["/"] = answer(PHOTO)
    closed = ImageFetcher(SafeHttpClient(UrlPolicy()), LIMIT, PATIENCE)
    with pytest.raises(NotFetched, match="as a file"):
        asyncio.run(closed.fetch(f"http://{host}:{web.port}/"))
    assert web.seen == []


def test_redirects_are_followed(web: Web) -> None:
    port = web.port
    web.pages |= {
        "/a/1": send_on("2?b", 301),
        "/a/2?b": send_on("/3", 302),
        "/3": send_on(f"//other.example:{port}/4", 303),
        "/4": send_on(f"HTTP://other.example:{port}/5", 307),
        "/5": send_on(f"http://pictures.example:{port}/6", 308),
        "/6": answer(PHOTO),
    }
    names = Names(pictures_example=[[PUBLIC]], other_example=[[PUBLIC]])
    assert get(web, "/a/1", names) == PHOTO
    assert [path for _, path in web.asked] == ["/a/1", "/a/2?b", "/3", "/4", "/5", "/6"]
    assert not any("Cookie" in headers or "Referer" in headers for _, _, headers in web.seen)
    web.pages["/0"] = send_on("/a/1")
    refused(web, "/0", "more than 5 times", names)
    web.pages["/round"] = send_on("/round")
    refused(web, "/round", "more than 5 times", names)


def test_a_redirect_leads_nowhere_that_the_first_address_could_not(web: Web) -> None:
    names = Names(pictures_example=[[PUBLIC]], inside_example=[[PRIVATE]])
    literals = [f"[{address}]" if ":" in address else address for address in [PRIVATE, *NOT_PUBLIC]]
    relative = {
        "",
        "photo.jpg",
        "//pictures.example/photo.jpg",
        "http://",
        "http:///photo.jpg",
    }  # Valid relative to a base.
    onwards = [f"http://{host}:{web.port}/inside" for host in [*literals, "inside.example", "localhost"]]
    onwards += [url for url in MALFORMED if url not in relative and url.isascii() and url.isprintable()]
    web.pages["/inside"] = answer(PHOTO)
    for to in onwards:
        web.seen.clear()
        web.pages["/start"] = send_on(to)
        refused(web, "/start", "as a file", names)
        assert web.asked == [(PUBLIC, "/start")], to


def test_a_name_that_turns_private_gains_nothing(web: Web) -> None:
    web.pages |= {"/": answer(PHOTO), "/again": send_on("/")}
    names = Names(pictures_example=[[PUBLIC], [PRIVATE]])
    assert get(web, "/", names) == PHOTO
    # The name is looked up only once: the checked address is the one that is called.
    assert names.asked == ["pictures.example"]
    refused(web, "/", "not on the public internet", names)
    refused(web, "/again", "not on the public internet", Names(pictures_example=[[PUBLIC], [PRIVATE]]))
    refused(web, "/", "not on the public internet", Names(pictures_example=[[PUBLIC, PRIVATE]]))
    assert web.asked == [(PUBLIC, "/"), (PUBLIC, "/again")]


def test_the_next_address_is_tried(web: Web) -> None:
    web.pages["/"] = answer(PHOTO)
    names = Names(pictures_example=[["127.0.0.3", PUBLIC]])
    http_client = SafeHttpClient(UrlPolicy([ip_network("127.0.0.2/31")], names))
    assert (
        asyncio.run(ImageFetcher(http_client, LIMIT, PATIENCE).fetch(f"http://pictures.example:{web.port}/"))
        == PHOTO
    )


def test_what_is_larger_than_an_upload_is_not_read_to_its_end(web: Web) -> None:
    sent: list[int] = []

    def endless(visit: Visit, *, chunked: bool) -> None:
        visit.send_response(200)
        if chunked:
            visit.send_header("Transfer-Encoding", "chunked")
        visit.end_headers()
        piece = bytes(50_000)
        try:
            for _ in range(1000):
                visit.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
                sent.append(len(piece))
        except OSError:
            sent.append(0)

    web.pages |= {
        "/full": answer(bytes(LIMIT)),
        "/announced": answer(Content_Length=str(LIMIT + 1)),
        "/chunked": partial(endless, chunked=True),
        "/open": partial(endless, chunked=False),
    }
    assert len(get(web, "/full")) == LIMIT
    for path in ("/announced", "/chunked", "/open"):
        sent.clear()
        with pytest.raises(FetchedTooLarge, match="larger than 1 MB"):
            get(web, path)
        if path != "/announced":
            wait_until(lambda: sent[-1:] == [0])  # The client closed the connection.
            assert sum(sent) < 20 * LIMIT


def test_time_is_bounded_however_it_is_spent(web: Web) -> None:
    over = threading.Event()

    def silent(visit: Visit) -> None:
        over.wait(PATIENCE)

    def drip(visit: Visit, *, after: bytes) -> None:
        visit.wfile.write(after)
        while not over.wait(0.02):
            visit.wfile.write(b"x")

    web.pages |= {
        "/silent": silent,
        "/headers": partial(drip, after=b"HTTP/1.1 200 OK\r\nX-Long: "),
        "/body": partial(drip, after=b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"),
        "/hops": after(0.1, send_on("/hops")),
    }
    try:
        for path in ("/silent", "/headers", "/body", "/hops"):
            refused(web, path, "within 0.25 s", seconds=0.25)  # The server is still sending.
    finally:
        over.set()


def flood(begin: bytes, again: bytes, sent: list[int], visit: Visit) -> None:
    """Send `again` without end until disconnected; `sent` counts the bytes, and ends with 0."""
    try:
        visit.wfile.write(begin)
        while True:
            visit.wfile.write(1000 * again)
            sent.append(1000 * len(again))
    except OSError:
        sent.append(0)


CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("begin", "again"),
    [
        (b"", CONTINUE),
        (b"", b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\n", b"X-Header: 1\r\n"),
        (b"HTTP/1.1 200 OK\r\nX-Header: ", b"x"),
        (CHUNKED, b"1\r\nx\r\n"),
        (CHUNKED + b"1;", b"extension=1;"),
        (CHUNKED + b"1\r\nx\r\n0\r\n", b"X-Trailer: 1\r\n"),
    ],
    ids=["continue", "hints", "headers", "header", "chunks", "extension", "trailers"],
)
def test_what_a_server_sends_without_end_is_cut_off_by_its_amount(
    web: Web, begin: bytes, again: bytes
) -> None:
    """The limit that applies is one of amount, since the time limit is long."""
    sent: list[int] = []
    web.pages["/"] = partial(flood, begin, again, sent)
    refused(web, "/", "does not answer, or closed the connection", seconds=60)
    wait_until(lambda: sent[-1:] == [0])
    # Sockets themselves buffer some megabytes.
    assert sum(sent) < 20_000_000


def test_a_few_interim_responses_are_passed_over(web: Web) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n" % len(PHOTO) + 100 * b"X-Header: 1\r\n" + b"\r\n"
    web.pages["/"] = raw(8 * CONTINUE + head + PHOTO)
    assert get(web, "/") == PHOTO
    web.pages["/"] = raw(9 * CONTINUE + 4000 * b" " + head + PHOTO)
    refused(web, "/", "does not answer, or closed the connection")


def test_lines_of_a_body_are_none_of_a_head(web: Web) -> None:
    """Data received together with the end of the head does not count towards the limits of the head."""
    body = 300_000 * b"\n" + 50_000 * b"\nHTTP/1.1 "
    web.pages["/"] = answer(body)
    assert get(web, "/") == body
    web.pages["/"] = raw(CHUNKED + b"%x\r\n%b\r\n" % (len(body), body) + b"0\r\n\r\n")
    assert get(web, "/") == body


@pytest.mark.parametrize("encrypted", [False, True])
@pytest.mark.parametrize("kind", ["continue", "chunks"])
def test_others_get_their_turn_while_a_server_floods(kind: str, encrypted: bool, tmp_path: Path) -> None:
    """Between two turns of another task, only a small piece of the flood is parsed."""
    server, trusting = certificates(tmp_path, "pictures.example") if encrypted else (None, NOBODYS)
    begin, again = (b"", CONTINUE) if kind == "continue" else (CHUNKED, b"1\r\nx\r\n")
    turns: list[int] = []
    parsed = 0
    next_event = h11.Connection.next_event

    def counted(connection: h11.Connection) -> object:
        nonlocal parsed
        parsed += 1
        return next_event(connection)

    async def other() -> None:
        nonlocal parsed
        while True:
            turns.append(parsed)
            parsed = 0
            await asyncio.sleep(0)

    async def both(url: str) -> None:
        turning = asyncio.create_task(other())
        with pytest.raises(NotFetched):
            await fetcher(Names(pictures_example=[[PUBLIC]]), 60, trusting).fetch(url)
        turning.cancel()

    with open_web(server) as web, pytest.MonkeyPatch.context() as patch:
        web.pages["/"] = partial(flood, begin, again, [])
        patch.setattr(h11.Connection, "next_event", counted)
        asyncio.run(both(f"http{'s' if encrypted else ''}://pictures.example:{web.port}/"))
    assert sum(turns) > 10, "the flood was not parsed at all"
    assert max(turns) < 200


def test_a_slow_name_server_holds_up_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, over, answered = threading.Event(), threading.Event(), threading.Event()

    def look_up(*_: object, **__: object) -> list[object]:
        asked.set()
        over.wait(PATIENCE)
        answered.set()
        return []

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    slow = ImageFetcher(SafeHttpClient(UrlPolicy()), LIMIT, 0.2)

    async def both() -> None:
        fetching = asyncio.create_task(slow.fetch("http://pictures.example/"))
        while not asked.is_set():
            await asyncio.sleep(0.001)
        with pytest.raises(NotFetched, match=r"within 0\.2 s"):
            await fetching
        # Neither the event loop nor the fetch has waited for the name server.
        assert not answered.is_set()
        over.set()

    asyncio.run(both())


def test_packed_content_is_not_unpacked(web: Web) -> None:
    bomb = gzip.compress(bytes(50_000_000))
    assert len(bomb) < LIMIT
    for encoding in ("gzip", "br", "identity, gzip", "GZIP"):
        web.pages["/bomb"] = answer(bomb, Content_Encoding=encoding)
        refused(web, "/bomb", "compresses the response")
    web.pages["/bomb"] = answer(bomb, Transfer_Encoding="gzip")
    refused(web, "/bomb", "does not answer, or closed the connection")
    web.pages["/bomb"] = answer(bomb)
    assert get(web, "/bomb") == bomb  # The fetcher returns the bytes; the decoder checks them.


def test_servers_that_fail_are_told_and_never_quoted(web: Web) -> None:
    for status in (204, 206, 304, 401, 404, 500):
        web.pages["/"] = answer(b"" if status in (204, 304) else b"secret", status, Server="secret")
        with pytest.raises(NotFetched, match=f"answers {status} instead") as error:
            get(web, "/")
        assert "secret" not in str(error.value)
    web.pages["/"] = answer(status=302)
    refused(web, "/", "answers 302 instead")
    for data in (
        b"",
        b"SSH-2.0-secret\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 300_000,
    ):
        web.pages["/"] = raw(data)
        refused(web, "/", "does not answer, or closed the connection")


def test_certificates_are_read_once_and_not_before_they_are_needed(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[ssl.SSLContext] = []

    def make() -> ssl.SSLContext:
        made.append(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
        return made[-1]

    default_tls.cache_clear()
    monkeypatch.setattr("httpcore2.default_ssl_context", make)
    web.pages["/"] = answer(PHOTO)
    several = [fetcher(Names(pictures_example=[[PUBLIC]]), tls=None) for _ in range(3)]
    assert made == []
    for one in several:
        assert asyncio.run(one.fetch(f"http://pictures.example:{web.port}/")) == PHOTO
    assert len(made) == 1
    default_tls.cache_clear()


def test_nobody_listening_is_told() -> None:
    with socket.create_server((PUBLIC, 0)) as probe:
        port = probe.getsockname()[1]
    with pytest.raises(NotFetched, match="does not answer"):
        asyncio.run(fetcher(Names(pictures_example=[[PUBLIC]])).fetch(f"http://pictures.example:{port}/"))


def test_only_so_many_at_once(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    web.pages["/"] = after(0.1, answer(PHOTO))
    monkeypatch.setattr(room, "MOST_AT_ONCE", 2)
    one = fetcher(Names(pictures_example=[[PUBLIC]]))

    async def three() -> list[bytes]:
        url = f"http://pictures.example:{web.port}/"
        running = [asyncio.create_task(one.fetch(url)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await one.fetch(url)
        return [*await asyncio.gather(*running), await one.fetch(url)]

    assert asyncio.run(three()) == [PHOTO] * 3


def test_tls_is_with_the_host_by_its_name(tmp_path: Path) -> None:
    server, trusting = certificates(tmp_path, "pictures.example")
    asked: list[str | None] = []
    server.sni_callback = lambda connection, name, context: asked.append(name)
    names = Names(pictures_example=[[PUBLIC]], other_example=[[PUBLIC]])

    with open_web(server) as web, open_web() as plain:

        def take(host: str, path: str, tls: ssl.SSLContext | None) -> bytes:
            return asyncio.run(fetcher(names, tls=tls).fetch(f"https://{host}:{web.port}{path}"))

        web.pages |= {
            "/": answer(PHOTO),
            "/on": send_on("/"),
            "/down": send_on(f"http://pictures.example:{plain.port}/"),
        }
        plain.pages["/"] = answer(PHOTO)
        assert take("pictures.example", "/", trusting) == PHOTO
        assert take("pictures.example", "/on", trusting) == PHOTO
        assert asked == ["pictures.example"] * 3
        for host, tls in (("other.example", trusting), (PUBLIC, trusting), ("pictures.example", None)):
            with pytest.raises(NotFetched, match="certificate cannot be verified"):
                take(host, "/", tls)
        with pytest.raises(NotFetched, match="from https to http"):
            take("pictures.example", "/down", trusting)
        assert plain.seen == []
        with pytest.raises(NotFetched, match="No secure connection"):
            asyncio.run(fetcher(names, tls=trusting).fetch(f"https://pictures.example:{plain.port}/"))
