"""A small reverse proxy that serves a service below a path."""

import http.client
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

# Headers between the proxy and one of its neighbours.
OF_A_CONNECTION = {"connection", "keep-alive", "transfer-encoding"}


@contextmanager
def proxied(address: str, path: str, *, strips: bool) -> Iterator[str]:
    """Serve the service at `address` below `path`, which the proxy takes off if it `strips`; yield the proxy's address."""
    host = urlsplit(address).netloc

    class Handler(BaseHTTPRequestHandler):
        def forward(self) -> None:
            if self.path != path and not self.path.startswith((f"{path}/", f"{path}?")):
                self.send_error(404)
                return
            asked = self.path.removeprefix(path) if strips else self.path
            if not asked.startswith("/"):
                asked = f"/{asked}"
            there = http.client.HTTPConnection(host)
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {
                name: value for name, value in self.headers.items() if name.lower() not in OF_A_CONNECTION
            }
            # Closed also when the browser leaves in the middle of an answer.
            with closing(there):
                there.request(self.command, asked, body, headers)
                with there.getresponse() as answer:
                    self.send_response_only(answer.status)
                    for name, value in answer.getheaders():
                        if name.lower() not in OF_A_CONNECTION:
                            self.send_header(name, value)
                    self.end_headers()
                    while data := answer.read1(65536):
                        self.wfile.write(data)

        do_GET = do_HEAD = do_POST = do_DELETE = forward  # noqa: N815 - names of http.server

        def log_message(self, *_: object) -> None:
            pass

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """Browsers leave connections."""

    with Quiet(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()
