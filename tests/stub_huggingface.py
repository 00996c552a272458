"""A local stub of Hugging Face as Cutout uses it (hub, router to providers, dedicated endpoint), with faults."""

import base64
import hashlib
import io
import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from tests.fakes import PATIENCE, disc_mask

Levels = npt.NDArray[np.uint8]

TOKEN = "hf_ThisTokenIsASecretOfTheTests"
FAL_MODEL = "fal-ai/bria/background/remove"
FAL_PLACE = "/fal-ai/bria/requests/0815"
FAL = {"fal-ai": {"status": "live", "providerId": FAL_MODEL, "task": "image-segmentation"}}
# As found at Hugging Face: one model is served by a provider, the other by none.
MAPPINGS: dict[str, dict[str, Any]] = {"briaai/RMBG-1.4": {}, "briaai/RMBG-2.0": FAL}
LONGEST_SECONDS = PATIENCE


@dataclass(frozen=True)
class Fault:
    """A fault in the answer to a call. `seconds` is sent as a header or in the body, or is the pause between the bytes
    of a slow body; a `header` sends the time in its own words.
    """

    kind: str = "fine"
    status: int = 200
    seconds: float | None = None
    header: str | None = None


FINE = Fault()


def status(code: int) -> Fault:
    return Fault("status", code)


def loading(seconds: float | None = None) -> Fault:
    return Fault("loading", 503, seconds)


def limited(seconds: float | None = None) -> Fault:
    return Fault("limited", 429, seconds)


# Responses with status 200 that are no mask.
GARBAGE = tuple(
    map(Fault, ("no json", "no list", "empty list", "no mask", "no base64", "no picture", "half a picture"))
)
# Broken connections.
BROKEN = (Fault("cut"), Fault("cut off"))
ENDLESS = (Fault("silent"), Fault("drip", seconds=0.01), Fault("drip of headers", seconds=0.01))
# Correct responses in different forms.
FORMS = tuple(map(Fault, ("fine", "cut-out", "luminance", "of 16 bits", "several")))


@dataclass(frozen=True)
class Call:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    at: float


@dataclass
class Stub:
    """A running stub. Each call for an image gets the next fault of the image's script, and no fault after its end.

    `scripts` are assigned to images in the order in which they first arrive; `look` is the network.
    """

    url: str
    scripts: Iterator[Sequence[Fault]] = field(default_factory=lambda: iter(()))
    look: Callable[[Image.Image], Levels] = lambda photo: disc(photo.width)
    mappings: dict[str, dict[str, Any]] = field(default_factory=lambda: dict(MAPPINGS))
    calls: list[Call] = field(default_factory=list)
    hub_status: int = 200
    polls: int = 2  # Polls until a request in fal-ai's queue is done.
    result: Any = None  # Result that replaces fal-ai's correct one.
    stopping: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _left: dict[str, list[Fault]] = field(default_factory=dict)
    _queued: tuple[bytes, int] = (b"", 0)

    def meets(self, *faults: Fault) -> None:
        """Set the faults for the next image, and forget everything before."""
        with self._lock:
            self._left.clear()
            self.calls.clear()
        self.scripts = iter([faults])

    def reset(self) -> None:
        """Forget all settings and recorded calls."""
        self.meets()
        fresh = Stub(self.url)
        self.look, self.mappings, self.hub_status = fresh.look, fresh.mappings, fresh.hub_status
        self.polls, self.result = fresh.polls, fresh.result

    def asked(self, method: str = "POST") -> list[Call]:
        return [call for call in self.calls if call.method == method]

    def next_fault(self, picture: bytes) -> Fault:
        known = hashlib.sha256(picture).hexdigest()
        with self._lock:
            if known not in self._left:
                self._left[known] = list(next(self.scripts, ()))
            return self._left[known].pop(0) if self._left[known] else FINE


def disc(size: int, radius: float = 0.3) -> Levels:
    """Return the mask that the fake network finds, in 8 bits as a provider sends it."""
    levels: Levels = (disc_mask(size, radius) * 255).round().byte().numpy()
    return levels


def png(levels: Levels) -> bytes:
    out = io.BytesIO()
    Image.fromarray(levels).save(out, "PNG", compress_level=1)
    return out.getvalue()


def cut_out(photo: Image.Image, mask: Levels) -> bytes:
    return png(np.dstack([np.asarray(photo.convert("RGB").resize(mask.shape[::-1])), mask]))


@contextmanager
def running() -> Iterator[Stub]:
    """Run a stub on its own port."""
    handler = type("OneHandler", (Handler,), {})
    with _Server(("127.0.0.1", 0), handler) as server:
        stub = Stub(f"http://127.0.0.1:{server.server_port}")
        handler.stub = stub  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield stub
        finally:
            stub.stopping.set()
            server.shutdown()


class _Server(ThreadingHTTPServer):
    request_queue_size = 64

    def handle_error(self, request: object, client_address: object) -> None:
        """Print nothing: callers may close the connection at any time."""


class Handler(BaseHTTPRequestHandler):
    """Answers for all three services. Its error messages repeat the request, as those of careless servers do."""

    protocol_version = "HTTP/1.1"
    stub: Stub

    def do_GET(self) -> None:
        self.note(b"")
        path, stub = self.path.partition("?")[0], self.stub
        if path == "/api/whoami-v2":
            self.answer_json(stub.hub_status, {"name": "anna"})
        elif path.startswith("/api/models/"):
            repository = path.removeprefix("/api/models/")
            if stub.hub_status != 200 or repository not in stub.mappings:
                self.answer_json(stub.hub_status if stub.hub_status != 200 else 404, {}, unknown=True)
            else:
                mapping = stub.mappings[repository]
                self.answer_json(200, {"id": repository, "inferenceProviderMapping": mapping})
        elif path == f"/fal-ai{FAL_PLACE}/status":
            jpeg, polls = stub._queued
            stub._queued = jpeg, polls - 1
            self.answer_json(200, {"status": "IN_PROGRESS" if polls > 0 else "COMPLETED"})
        elif path == f"/fal-ai{FAL_PLACE}":
            result = stub.result
            if result is None:
                picture = Image.open(io.BytesIO(stub._queued[0]))
                url = f"data:image/png;base64,{encoded(cut_out(picture, stub.look(picture)))}"
                result = {"image": {"url": url}}
            self.answer_json(200, result)
        else:
            self.answer_json(404, {})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.note(body)
        if self.path.startswith("/fal-ai/"):
            sent = json.loads(body)["image_url"].partition("data:image/jpeg;base64,")[2]
            jpeg = base64.b64decode(sent, validate=True)
            fault = self.stub.next_fault(jpeg)
            if fault.kind == "fine":
                self.stub._queued = jpeg, self.stub.polls
                place = f"https://queue.fal.run{FAL_PLACE}"
                self.answer_json(200, {"request_id": "0815", "response_url": place, "status": "IN_QUEUE"})
                return
        else:
            jpeg, fault = body, self.stub.next_fault(body)
        self.meet(fault, Image.open(io.BytesIO(jpeg)))

    def meet(self, fault: Fault, picture: Image.Image) -> None:
        """Send a mask, or what the fault makes of it."""
        header = fault.header or (None if fault.seconds is None else f"{fault.seconds:g}")
        match fault.kind:
            case "status":
                self.answer_json(fault.status, {})
            case "loading":
                known = {} if fault.seconds is None else {"estimated_time": fault.seconds}
                self.answer_json(503, {"error": "Model is loading"} | known)
            case "limited":
                self.answer_json(429, {}, {"Retry-After": header} if header is not None else None)
            case "silent":
                self.stub.stopping.wait(LONGEST_SECONDS)
                self.close_connection = True
            case "drip" | "drip of headers":
                assert fault.seconds is not None
                self.drip(fault.kind, fault.seconds)
            case "cut":
                self.close_connection = True  # Close without sending a byte.
            case "cut off":
                self.send_response(200)
                self.send_header("Content-Length", "100000")
                self.end_headers()
                self.wfile.write(b'[{"label": "')
                self.close_connection = True
            case "no json":
                self.answer(200, b"<html>Welcome</html>")
            case "no list":
                self.answer_json(200, {"label": "mask"})
            case "empty list":
                self.answer_json(200, [])
            case "no mask":
                self.answer_json(200, [{"label": "mask"}])
            case "no base64":
                self.answer_json(200, [{"mask": "§§§"}])
            case "no picture":
                self.answer_masks(b"no picture")
            case "half a picture":
                whole = png(self.stub.look(picture))
                self.answer_masks(whole[: len(whole) // 2])
            case "cut-out":
                self.answer_masks(cut_out(picture, self.stub.look(picture)))
            case "luminance":
                grey = self.stub.look(picture)
                self.answer_masks(png(np.dstack([grey, grey, grey])))
            case "of 16 bits":
                out = io.BytesIO()
                Image.fromarray(self.stub.look(picture).astype(np.uint16) * 257).save(out, "PNG")
                self.answer_masks(out.getvalue())
            case "several":
                mask = self.stub.look(picture)
                self.answer_masks(png(255 - mask), png(mask), png(np.zeros_like(mask)))
            case _:
                self.answer_masks(png(self.stub.look(picture)))

    def answer_masks(self, *files: bytes) -> None:
        """Send masks; the second of several is the best one."""
        scores = [0.5, 1.0, 0.25] if len(files) > 1 else [None]
        masks = zip(files, scores, strict=True)
        self.answer_json(
            200, [{"label": "m", "score": score, "mask": encoded(file)} for file, score in masks]
        )

    def answer_json(
        self, code: int, body: Any, headers: dict[str, str] | None = None, *, unknown: bool = False
    ) -> None:
        if code != 200:
            told = self.headers.get("Authorization") or ""
            body = {"error": f"not for {told}", **body} if isinstance(body, dict) else body
            headers = {"X-Error-Message": f"no {told}", **(headers or {})}
            if unknown and code == 404:
                headers["X-Error-Code"] = "RepoNotFound"
        self.answer(code, json.dumps(body).encode(), headers)

    def answer(self, code: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(code)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def drip(self, kind: str, seconds: float) -> None:
        """Send a little at a time, without end."""
        if kind == "drip":
            self.send_response(200)
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            piece = b" "
        else:
            self.wfile.write(b"HTTP/1.1 200 OK\r\n")
            piece = b"X-More: 1\r\n"
        ends = time.monotonic() + LONGEST_SECONDS
        with suppress(OSError):
            while time.monotonic() < ends and not self.stub.stopping.wait(seconds):
                self.wfile.write(piece)
        self.close_connection = True

    def note(self, body: bytes) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.stub.calls.append(Call(self.command, self.path, headers, body, time.monotonic()))

    def log_message(self, *_: object) -> None:
        pass


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def random_script(chance: random.Random) -> list[Fault]:
    """Return a random script of up to five faults, none of which waits for more than some milliseconds."""
    seconds = chance.uniform(0, 0.05)
    kinds = [
        loading(seconds),
        loading(),
        loading(30),
        limited(seconds),
        limited(),
        limited(30),
        *map(status, (400, 401, 402, 403, 404, 413, 422, 500, 502, 504, 599)),
        *GARBAGE,
        *BROKEN,
        *ENDLESS,
        *FORMS,
    ]
    # These are as likely as all others together, so that many calls succeed.
    likely = [loading(seconds), limited(seconds), status(500), *BROKEN, *FORMS]
    return [chance.choice(chance.choice((kinds, likely))) for _ in range(chance.randrange(6))]
