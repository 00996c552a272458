"""`python -m benchmarks.sides.service PORT [MILLISECONDS]`: the service, on this host's engine or one that only waits.

With MILLISECONDS every photo takes its network so long and no core; what is left is what HTTP and the engine cost.
"""

import sys
import tempfile
import time
from pathlib import Path

import torch
import uvicorn

from app import settings
from app.main import create_app
from app.startup import engine_from
from benchmarks import standin
from inference.engine import Engine


def main(port: int, milliseconds: float | None) -> None:
    """Serve until the process is ended."""

    def make_engine(chosen: settings.Settings) -> Engine:
        if milliseconds is None:
            return engine_from(chosen)
        work = lambda pixels: time.sleep(milliseconds / 1000 * len(pixels))
        runner = standin.DiscRunner(work, torch.device("cpu"), "sleep")
        return standin.engine(runner, "isnet-general", chosen.limits)

    with tempfile.TemporaryDirectory() as folder:
        service = create_app(settings.load(auth="off", data_dir=Path(folder)), make_engine)
        uvicorn.run(service, port=port, log_config=None, log_level="warning")


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else None)
