"""A service on this machine in the place of `api.remove.bg`, for clients whose host cannot be changed.

A client that heeds HTTPS_PROXY gets a proxy that leads this one name to the service; any other host is refused. One that
does not runs in a network namespace, whose hosts file has the name. Both speak TLS with a test certificate, whose authority
they trust. The client itself is as published: it looks the name up, checks the certificate and sends the name in `Host`, as
it does behind a company's own DNS entry.
"""

import asyncio
import ssl
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from tests.app.compat.inside import pump
from tests.fakes import PATIENCE
from tests.namespaces import skip_unless_allowed
from tests.web import certificates

HOST = "api.remove.bg"
OWN_NETWORK = ["unshare", "--map-root-user", "--mount", "--net", "sh", "-ec"]
TRIAL = "ip link set lo up; mount --bind /etc/hosts /etc/hosts"


@dataclass
class Impostor:
    """The running service under that name; `asked` has the hosts and ports that clients asked the proxy for."""

    folder: Path
    port: int = 0
    asked: list[str] = field(default_factory=list)

    @property
    def trust(self) -> dict[str, str]:
        """The variables by which Python's requests, Node.js and curl trust the certificate."""
        file = str(self.folder / "authority.pem")
        return dict.fromkeys(("REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "CURL_CA_BUNDLE"), file)

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which clients find the proxy and trust the certificate."""
        return self.trust | {"HTTPS_PROXY": f"http://127.0.0.1:{self.port}", "NO_PROXY": "127.0.0.1"}

    def inside(self, command: Sequence[str]) -> list[str]:
        """Return the command that runs this one in a namespace; skip the test where this host allows none."""
        skip_unless_allowed([*OWN_NETWORK, TRIAL])
        hosts = self.folder / "hosts"
        hosts.write_text(f"127.0.0.1 localhost {HOST}\n")
        script = f'ip link set lo up; mount --bind {hosts} /etc/hosts; exec "$@"'
        pair = [str(self.folder / "out.socket"), str(self.folder / "server.pem")]
        within = [sys.executable, "-m", "tests.app.compat.inside", *pair, *command]
        return [*OWN_NETWORK, script, "inside", *within]


@contextmanager
def in_place_of_removebg(service: str, folder: Path) -> Iterator[Impostor]:
    """Lead `api.remove.bg` to the service at this address, for as long as the block lasts."""
    tls, trusting = certificates(folder, HOST)
    [authority] = trusting.get_ca_certs(binary_form=True)
    impostor = Impostor(folder)
    (folder / "authority.pem").write_text(ssl.DER_cert_to_PEM_cert(authority))
    loop = asyncio.new_event_loop()
    servers = loop.run_until_complete(_listen(impostor, tls, service))
    impostor.port = servers[0].sockets[0].getsockname()[1]
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield impostor
    finally:
        asyncio.run_coroutine_threadsafe(_end(servers), loop).result(PATIENCE)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(PATIENCE)
        loop.close()


async def _listen(impostor: Impostor, tls: ssl.SSLContext, service: str) -> list[asyncio.Server]:
    upstream = urlsplit(service)

    async def lead(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, requests = await asyncio.open_connection(upstream.hostname, upstream.port)
        await asyncio.gather(pump(reader, requests), pump(answers, writer))

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        wanted = head.split(maxsplit=2)[1].decode()
        impostor.asked.append(wanted)
        if wanted != f"{HOST}:443":
            writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
            writer.close()
            return
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await writer.drain()
        await writer.start_tls(tls)
        await lead(reader, writer)

    return [
        await asyncio.start_server(connect, "127.0.0.1", 0),
        await asyncio.start_unix_server(lead, impostor.folder / "out.socket"),
    ]


async def _end(servers: Sequence[asyncio.Server]) -> None:
    for server in servers:
        server.close()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
