"""A client of the protocol's SDK with a server of its own.

It is imported by the tests that use it: the import takes a while, and each test process collects all files.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from anyio.from_thread import BlockingPortal, start_blocking_portal
from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client

from tests.fakes import PATIENCE, photo_bytes


@dataclass
class Assistant:
    """A client of a server that may use `folder`, in which the file `hold` keeps photos waiting."""

    portal: BlockingPortal
    client: Client
    folder: Path
    hold: Path
    faults: list[Exception]
    progress: list[tuple[float, float | None, str | None]] = field(default_factory=list)

    async def told(self, progress: float, total: float | None, message: str | None) -> None:
        self.progress.append((progress, total, message))

    def start(self, tool: str, **arguments: Any) -> Any:
        """Call a tool, and return the future of its result."""
        call = partial(self.client.call_tool, tool, arguments, PATIENCE, self.told)
        return self.portal.start_task_soon(call)

    def call(self, tool: str, **arguments: Any) -> Any:
        """Call a tool that works; return its answer."""
        result = self.start(tool, **arguments).result()
        assert not result.is_error, result.content
        return result.structured_content

    def refused(self, tool: str, **arguments: Any) -> str:
        """Call a tool that fails; return the message."""
        result = self.start(tool, **arguments).result()
        assert result.is_error
        return str(result.content[0].text)


@contextmanager
def connected(place: Path, models: Path) -> Iterator[Assistant]:
    """Run a server in a folder of its own; yield a client. At the end, check that stdout had only the protocol."""
    folder, hold = place / "allowed", place / "hold"
    folder.mkdir()
    (place / "secret.png").write_bytes(photo_bytes())
    server = StdioServerParameters(
        command=sys.executable,
        args=["-m", "tests.app.cli.mcp_process", str(hold), "mcp", "--folder", str(folder)],
        env={
            "CUTOUT_DEVICE": "cpu",
            "CUTOUT_MODELS_DIR": str(models),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(sys.path),
        },
    )
    faults: list[Exception] = []

    async def handle(message: Any) -> None:
        if isinstance(message, Exception):
            faults.append(message)

    # By default the server would get the stderr of the moment at which the SDK was imported: pytest's, which is no file.
    transport = stdio_client(server, errlog=sys.__stderr__ or sys.stderr)
    client = Client(transport, read_timeout_seconds=PATIENCE, message_handler=handle)
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(client):
        yield Assistant(portal, client, folder, hold, faults)
    assert faults == []  # stdout had nothing but the protocol
