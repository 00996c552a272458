"""A service on this machine in the place of `api.remove.bg`, for clients whose host cannot be changed.

The client gets a proxy (HTTPS_PROXY) that leads this one name to the service, over TLS with a test certificate, and a
certificate authority to trust. The client itself is as published: it looks for the name, checks the certificate and sends
it in `Host`, as it does behind a company's own DNS entry. Any other host is refused.
"""

import asyncio
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from tests.fakes import PATIENCE
from tests.web import certificates

HOST = "api.remove.bg"


@dataclass
class Impostor:
    """The running proxy; `asked` has the host and port of each connection, `authority` the file of the authority."""

    authority: Path
    port: int = 0
    asked: list[str] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which clients in Python and Node.js, and curl, find the proxy and trust the certificate."""
        file = str(self.authority)
        trust = dict.fromkeys(("REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "CURL_CA_BUNDLE"), file)
        return trust | {"HTTPS_PROXY": f"http://127.0.0.1:{self.port}", "NO_PROXY": "127.0.0.1"}


@contextmanager
def in_place_of_removebg(service: str, folder: Path) -> Iterator[Impostor]:
    """Lead `api.remove.bg` to the service at this address, for as long as the block lasts."""
    tls, trusting = certificates(folder, HOST)
    [authority] = trusting.get_ca_certs(binary_form=True)
    impostor = Impostor(folder / "authority.pem")
    impostor.authority.write_text(ssl.DER_cert_to_PEM_cert(authority))
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(_listen(impostor, tls, service))
    impostor.port = server.sockets[0].getsockname()[1]
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield impostor
    finally:
        asyncio.run_coroutine_threadsafe(_end(server), loop).result(PATIENCE)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(PATIENCE)
        loop.close()


async def _listen(impostor: Impostor, tls: ssl.SSLContext, service: str) -> asyncio.Server:
    upstream = urlsplit(service)

    async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
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
        answers, requests = await asyncio.open_connection(upstream.hostname, upstream.port)
        await asyncio.gather(_pump(reader, requests), _pump(answers, writer))

    return await asyncio.start_server(meet, "127.0.0.1", 0)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    except OSError:  # one side has gone, as clients do that never close a connection
        pass
    finally:
        writer.close()


async def _end(server: asyncio.Server) -> None:
    server.close()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
