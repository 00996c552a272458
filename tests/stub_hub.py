"""A stub of the model hub with the parts that downloads use, and its errors."""

import hashlib
import os
from http.server import BaseHTTPRequestHandler

CONTENT = os.urandom(300_000)
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """Serves one file as the model hub does; `mode` selects a fault."""

    mode = "fine"

    def do_HEAD(self) -> None:
        self.answer(b"")

    def do_GET(self) -> None:
        self.answer(CONTENT)

    def answer(self, body: bytes) -> None:
        if self.mode in ("GatedRepo", "RepoNotFound"):
            self.send_response(403 if self.mode == "GatedRepo" else 401)
            self.send_header("X-Error-Code", self.mode)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        announced = "0" * 64 if self.mode == "other content" else hashlib.sha256(CONTENT).hexdigest()
        self.send_response(200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{announced}"')
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass
