"""`python -m tests.app.net.own_network`: fetches with this system's own resolver, which asks the test's name server.

It must run in its own network namespace, which has ADDRESSES besides localhost. A web server answers on each of them,
so every address that is not refused is reached. The last line of output is JSON: the result for each name, and which
addresses received a request for which path.
"""

import asyncio
import json
import ssl
from collections import Counter
from collections.abc import Iterable
from ipaddress import ip_network
from typing import Any

from dnslib import AAAA, CNAME, QTYPE, RCODE, RR, A, DNSRecord
from dnslib.server import BaseResolver, DNSLogger, DNSServer

from cutout.app.net.image_fetcher import ImageFetcher, NotFetched
from cutout.app.net.safe_http import SafeHttpClient
from cutout.app.net.url_policy import Network, UrlPolicy, system_lookup
from tests.web import Web, answer, open_web, send_on

PUBLIC, PUBLIC_6 = "93.184.215.14", "2606:2800:21f:cb07::14"
PRIVATE, PRIVATE_6, METADATA, NAT64 = "10.0.0.1", "fd00::1", "169.254.169.254", "64:ff9b::7f00:1"
ADDRESSES = [PUBLIC, PUBLIC_6, PRIVATE, PRIVATE_6, METADATA, NAT64]

# Each name has a list of answers, one per query; the last one is repeated.
NAMES = {
    "public.example": [[PUBLIC]],
    "public-6.example": [[PUBLIC_6]],
    "loopback.example": [["127.0.0.1"]],
    "private.example": [[PRIVATE]],
    "metadata.example": [[METADATA]],
    "loopback-6.example": [["::1"]],
    "mapped.example": [["::ffff:7f00:1"]],
    "nat64.example": [[NAT64]],
    "private-6.example": [[PRIVATE_6]],
    "both.example": [[PUBLIC, PRIVATE]],
    "both-kinds.example": [[PUBLIC, PRIVATE_6]],
    "alias.example": [["localhost"]],
    "turns.example": [[PUBLIC], [PRIVATE]],
    "turns-on-the-way.example": [[PUBLIC], [PRIVATE]],
}
# Targets of the web server's redirects.
ONWARDS = ["private.example", "metadata.example", "nat64.example", "alias.example", PRIVATE, "localhost"]
EVERYWHERE = [ip_network("0.0.0.0/0"), ip_network("::/0")]


class Hostile(BaseResolver):  # type: ignore[misc]
    """Name server that answers from NAMES with a TTL of 0, so that each lookup asks again."""

    def __init__(self) -> None:
        self.asked: Counter[tuple[str, str]] = Counter()

    def resolve(self, request: DNSRecord, handler: object) -> DNSRecord:
        name, kind = str(request.q.qname).rstrip("."), QTYPE[request.q.qtype]
        turns = NAMES.get(name)
        reply = request.reply()
        if turns is None:
            reply.header.rcode = RCODE.NXDOMAIN
            return reply
        for given in turns[min(self.asked[name, kind], len(turns) - 1)]:
            if given == "localhost":
                reply.add_answer(RR(name, QTYPE.CNAME, rdata=CNAME(given), ttl=0))
                if kind == "A":
                    reply.add_answer(RR(given, QTYPE.A, rdata=A("127.0.0.1"), ttl=0))
            elif kind == ("AAAA" if ":" in given else "A"):
                data = AAAA(given) if kind == "AAAA" else A(given)
                reply.add_answer(RR(name, request.q.qtype, rdata=data, ttl=0))
        self.asked[name, kind] += 1
        return reply


def fetch(web: Web, host: str, path: str, allowed: Iterable[Network] = ()) -> dict[str, Any]:
    """Fetch with the default lookup; return the outcome and the requests that arrived."""
    web.seen.clear()
    fetcher = ImageFetcher(
        SafeHttpClient(UrlPolicy(allowed), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)), 1_000_000, 5
    )
    try:
        said = asyncio.run(fetcher.fetch(f"http://{host}:{web.port}{path}")).decode()
    except NotFetched as error:
        said = str(error)
    return {"said": said, "asked": web.asked}


def main() -> None:
    """Fetch from each name, and through each redirect."""
    resolver = Hostile()
    server = DNSServer(resolver, "127.0.0.1", 53, logger=DNSLogger("-request,-reply"))
    server.start_thread()
    told: dict[str, Any] = {}
    with open_web(addresses=["127.0.0.1", "::1", *ADDRESSES]) as web:
        web.pages["/"] = answer(b"photo")
        web.pages["/again"] = send_on("/")
        for host in ONWARDS:
            web.pages[f"/to/{host}"] = send_on(f"http://{host}:{web.port}/")
        for host in NAMES:
            path = "/again" if host == "turns-on-the-way.example" else "/"
            told[host] = fetch(web, host, path)
            told[host]["questions"] = resolver.asked[host, "A"]
            told[host]["later"] = fetch(web, host, path)
            told[host]["allowed"] = fetch(web, host, path, EVERYWHERE)
            told[host]["found"] = asyncio.run(system_lookup(host, web.port))
        for host in ONWARDS:
            told[f"/to/{host}"] = fetch(web, "public.example", f"/to/{host}")
        told["nobody.example"] = fetch(web, "nobody.example", "/", EVERYWHERE)
    server.stop()
    print(json.dumps(told))  # noqa: T201


if __name__ == "__main__":
    main()
