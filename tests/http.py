"""HTTP calls to a service on this host, with timeouts long enough for a busy host."""

from contextlib import closing
from http.client import HTTPConnection, HTTPException
from urllib.parse import urlsplit

import httpx2

from tests.fakes import PATIENCE

# One client for all tests, because a new client loads all CA certificates. It keeps no connections alive, since
# services come and go on the same port.
http = httpx2.Client(
    timeout=PATIENCE, verify=False, trust_env=False, limits=httpx2.Limits(max_keepalive_connections=0)
)


def answers_ok(address: str) -> bool:
    """Return whether the health endpoint of a service answers 200."""
    with closing(HTTPConnection(urlsplit(address).netloc, timeout=PATIENCE)) as connection:
        try:
            connection.request("GET", "/api/health")
            return connection.getresponse().status == 200
        except (OSError, HTTPException):
            return False
