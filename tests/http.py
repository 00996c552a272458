"""Calls to a service on this host, which may take long to answer while the host has other work."""

from contextlib import closing
from http.client import HTTPConnection, HTTPException
from urllib.parse import urlsplit

import httpx2

from tests.fakes import PATIENCE

# One for all: a client reads all authorities' certificates when it is made. It keeps no connections, since services come
# and go on the same port.
http = httpx2.Client(
    timeout=PATIENCE, verify=False, trust_env=False, limits=httpx2.Limits(max_keepalive_connections=0)
)


def answers_ok(address: str) -> bool:
    """Tell whether a service can make pictures."""
    with closing(HTTPConnection(urlsplit(address).netloc, timeout=PATIENCE)) as connection:
        try:
            connection.request("GET", "/api/health")
            return connection.getresponse().status == 200
        except (OSError, HTTPException):
            return False
