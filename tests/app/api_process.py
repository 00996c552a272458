"""`python -m tests.app.api_process FOLDER DATABASE…`: one service for each database, on a fake network.

Prints the address of each service on a line once it accepts calls, and serves until it is stopped.
"""

import asyncio
import socket
import sys
from pathlib import Path

from cutout.app.app import create_app
from cutout.app.http.uvicorn_server import server_of
from cutout.inference.limits import Limits
from tests.app.api_client import service_settings
from tests.fakes import fake_engine


async def main(folder: Path, databases: list[str]) -> None:
    """Run the services."""
    running = []
    for url in databases:
        listening = socket.create_server(("127.0.0.1", 0))
        settings = service_settings(url, folder)
        app = create_app(settings, lambda _: fake_engine(limits=Limits(threads=2, waiting=1000)))
        server = server_of(app, settings)
        running.append(asyncio.create_task(server.serve([listening])))
        while not server.started:
            await asyncio.sleep(0.01)
        print(f"http://127.0.0.1:{listening.getsockname()[1]}", flush=True)  # noqa: T201
    await asyncio.gather(*running)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2:]))
