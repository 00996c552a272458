"""Real web servers on loopback addresses, for tests of URLs that clients supply."""

import datetime
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

# The first address plays the public internet in a test that allows it, the second this host's private network.
PUBLIC, PRIVATE = "127.0.0.2", "127.0.0.1"

Page = Callable[["Visit"], None]


class Visit(BaseHTTPRequestHandler):
    """One request, as a page handler sees it."""

    protocol_version = "HTTP/1.1"
    web: "Web"

    def do_POST(self) -> None:
        self.answer(self.rfile.read(int(self.headers["Content-Length"])))

    def do_PUT(self) -> None:
        self.do_POST()

    def do_GET(self) -> None:
        self.answer(None)

    def answer(self, body: bytes | None) -> None:
        with self.web.recording:
            self.web.seen.append((str(self.connection.getsockname()[0]), self.path, dict(self.headers)))
            if body is not None:
                self.web.bodies.append(body)
        self.close_connection = True
        self.web.pages.get(self.path, answer(status=404))(self)

    def do_HEAD(self) -> None:
        self.do_GET()  # with a body, which a client passes over

    def log_message(self, *_: Any) -> None:
        pass


class Web:
    """The same pages on several addresses with one port. `seen` records each request's address, path and headers;
    `bodies` records the bodies that were posted or put, in the same order.
    """

    def __init__(self) -> None:
        self.pages: dict[str, Page] = {}
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        self.bodies: list[bytes] = []
        self.recording = threading.Lock()
        self.port = 0

    @property
    def asked(self) -> list[tuple[str, str]]:
        return [(address, path) for address, path, _ in self.seen]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, address: str, port: int, handler: type[Visit]) -> None:
        self.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        super().__init__((address, port), handler)

    def handle_error(self, *_: Any) -> None:
        """Print nothing: the tests are about callers that close the connection."""


@contextmanager
def open_web(
    tls: ssl.SSLContext | None = None, addresses: Sequence[str] = (PUBLIC, PRIVATE)
) -> Iterator[Web]:
    web = Web()
    handler = type("OneVisit", (Visit,), {"web": web})
    with ExitStack() as stack:
        for address in addresses:
            server = stack.enter_context(_Server(address, web.port, handler))
            web.port = server.server_port
            if tls is not None:
                server.socket = tls.wrap_socket(
                    server.socket, server_side=True, do_handshake_on_connect=False
                )
            thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
            thread.start()
            stack.callback(server.shutdown)
        yield web


def answer(body: bytes = b"", status: int = 200, **headers: str) -> Page:
    """Return a page that answers at once; `Content_Type` stands for `Content-Type`."""

    def page(visit: Visit) -> None:
        visit.send_response(status)
        for name, value in ({"Content_Length": str(len(body))} | headers).items():
            visit.send_header(name.replace("_", "-"), value)
        visit.end_headers()
        visit.wfile.write(body)

    return page


def send_on(to: str, status: int = 302) -> Page:
    return answer(b"", status, Location=to, Set_Cookie="a=b")


def raw(data: bytes) -> Page:
    """Return a page that sends raw bytes, which may be bad HTTP."""

    def page(visit: Visit) -> None:
        visit.wfile.write(data)

    return page


def after(seconds: float, page: Page) -> Page:
    def late(visit: Visit) -> None:
        time.sleep(seconds)
        page(visit)

    return late


def callers(listening: socket.socket) -> int:
    """Return how many connections have arrived, since the last count, at a server that answers none."""
    listening.settimeout(0)
    count = 0
    while True:
        try:
            listening.accept()[0].close()
        except BlockingIOError:
            return count
        count += 1


class Names:
    """Fake name resolution: each name has a list of answers, one per lookup; the last one is repeated."""

    def __init__(self, **answers: Sequence[list[str]]) -> None:
        self._answers = {name.replace("_", "."): list(given) for name, given in answers.items()}
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append(host)
        given = self._answers.get(host)
        if given is None:
            raise OSError("no such host")
        return given.pop(0) if len(given) > 1 else given[0]


def certificates(folder: Path, host: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Create a CA and a host certificate; return the TLS context of the server, and of a client that trusts the CA."""
    day = datetime.timedelta(days=1)
    now = datetime.datetime.now(datetime.UTC)
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in ("authority", host)]

    def issue(subject: int, extension: x509.ExtensionType) -> x509.Certificate:
        draft = x509.CertificateBuilder().subject_name(names[subject]).issuer_name(names[0])
        draft = draft.public_key(keys[subject].public_key()).serial_number(x509.random_serial_number())
        draft = draft.not_valid_before(now - day).not_valid_after(now + day)
        return draft.add_extension(extension, critical=subject == 0).sign(keys[0], hashes.SHA256())

    authority = issue(0, x509.BasicConstraints(ca=True, path_length=None))
    own = issue(1, x509.SubjectAlternativeName([x509.DNSName(host)]))
    pem = serialization.Encoding.PEM
    key = keys[1].private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "server.pem").write_bytes(key + own.public_bytes(pem))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "server.pem")
    return server, ssl.create_default_context(cadata=authority.public_bytes(pem).decode())
