"""`cutout mcp` with a fake network for all tiers but `preview`, whose photos wait while a file exists.

    python -m tests.app.cli.mcp_process HOLD ARGUMENTS...

A photo that waits makes the file HOLD.reached. The network prints to stdout, as a library may.
"""

import sys
import time
from pathlib import Path
from typing import Any

from cutout.app import bootstrap
from cutout.app.cli import main
from cutout.inference.engine import Engine
from cutout.inference.tiers import Tier
from tests.fakes import FakeRunner, fake_engine

real = bootstrap.engine_from


def start(hold: Path) -> None:
    def before() -> None:
        print("noise on stdout", flush=True)  # noqa: T201
        while hold.exists():
            Path(f"{hold}.reached").touch()
            time.sleep(0.01)

    def engine_from(settings: Any, tiers: list[Tier]) -> Engine:
        return real(settings, tiers) if tiers == [Tier.PREVIEW] else fake_engine(FakeRunner(before))

    bootstrap.engine_from = engine_from  # type: ignore[assignment]
    main()


if __name__ == "__main__":
    start(Path(sys.argv.pop(1)))
