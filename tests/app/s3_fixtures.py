"""A real server of the S3 protocol, on loopback."""

import logging
import socket
from collections.abc import Iterator

import pytest

from tests.http import http

BUCKET = "pictures"
KEY_ID, SECRET_KEY = "the-key", "not-to-be-told"


class S3Server:
    """S3 server that has one empty bucket after each start, always at the same address."""

    def __init__(self) -> None:
        from moto.server import ThreadedMotoServer  # takes a while, and not every test process needs it

        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        self.address = f"http://127.0.0.1:{port}"
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)

    def start(self) -> None:
        self._server.start()
        self.empty()

    def empty(self) -> None:
        http.post(f"{self.address}/moto-api/reset").raise_for_status()
        http.put(f"{self.address}/{BUCKET}").raise_for_status()

    def stop(self) -> None:
        self._server.stop()

    def trust(self, calls: float) -> None:
        """Set how many more calls are accepted without checking their key; 0 refuses all calls."""
        http.post(f"{self.address}/moto-api/reset-auth", content=str(calls)).raise_for_status()

    def unfinished_uploads(self) -> int:
        """Count the multipart uploads that were neither completed nor aborted."""
        found = http.get(f"{self.address}/{BUCKET}?uploads").raise_for_status().text
        return found.count("<Upload>")

    @property
    def settings(self) -> dict[str, str]:
        """Return the service's settings for the bucket."""
        return {
            "s3_bucket": BUCKET,
            "s3_endpoint": self.address,
            "s3_access_key_id": KEY_ID,
            "s3_secret_access_key": SECRET_KEY,
        }


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = S3Server()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def s3(s3_server: S3Server) -> S3Server:
    """Return the server with its one bucket empty."""
    s3_server.empty()
    return s3_server
