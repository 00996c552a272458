"""Time of each tier compared with the product's target, through the engine and through the HTTP API.

The exit code is 1 if the 95th percentile of a tier is above its ceiling. A tier served by a substitute is measured as
it is served and labelled as such; its time is that of the substitute, not of the promised checkpoint. A second table
estimates the promised checkpoint: its network is timed with random weights, which take the same time.
"""

import logging
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import httpx2
import numpy as np
import torch
import uvicorn

from benchmarks import inputs, standin
from benchmarks.report import Table, publish
from cutout.app.app import create_app
from cutout.app.bootstrap import engine_from
from cutout.app.config import settings
from cutout.inference.backends.cuda import wait_for
from cutout.inference.backends.runners import TorchRunner
from cutout.inference.engine import Engine
from cutout.inference.options import Options
from cutout.inference.tiers import SOLD, Tier
from cutout.models.catalog import find

CEILING_SECONDS = {Tier.BASIC: 5.0, Tier.STANDARD: 10.0, Tier.PROFESSIONAL: 10.0, Tier.INDUSTRY: 10.0}
MEGAPIXELS = 12.0
PHOTOS = 7
LOOKS = 2  # tries, of which the faster counts


def run() -> None:
    """Measure, print and save the results; exit with 1 if a ceiling is missed."""
    photos = [inputs.jpeg(name, MEGAPIXELS) for name in inputs.SUBJECTS]
    engine = engine_from(settings.load())
    engine.warm_up()
    around: dict[Tier, list[float]] = {tier: [] for tier in SOLD}

    def remove(tier: Tier, photo: bytes) -> None:
        start = time.perf_counter()
        cutout = engine.remove(photo, Options(tier=tier))
        around[tier].append(time.perf_counter() - start - cutout.seconds["network"])

    try:
        seconds = {"engine": measure(remove, photos)}
        seconds["http"] = over_http(engine, photos)
    finally:
        engine.close()

    rows, figures, missed = judged(engine, seconds)
    tables = [
        Table(
            f"One {MEGAPIXELS:g}-megapixel JPEG to PNG",
            ["door", "tier", "served by", "median", "95th", "ceiling", ""],
            rows,
        )
    ]
    choices = [serving.choice for serving in engine.serving.values()]
    promised = dict.fromkeys(choice.wanted for choice in choices if choice.substitute)
    if promised:
        tables.append(
            Table(
                "What the promised checkpoints would need on this host: their networks alone, random weights",
                ["checkpoint", "one look", "tier", "looks", "all else", "together", ""],
                [line for wanted in promised for line in needs(engine, wanted, around)],
            )
        )
    publish("targets", tables, {"megapixels": MEGAPIXELS, "photos": PHOTOS, "targets": figures})
    if missed:
        sys.exit(f"Missed: {', '.join(missed)}.")


def judged(
    engine: Engine, seconds: dict[str, dict[Tier, list[float]]]
) -> tuple[list[list[str]], dict[str, dict[str, Any]], list[str]]:
    """Compare the times of each door and tier with the ceilings: table rows, figures, and what misses its ceiling."""
    rows: list[list[str]] = []
    figures: dict[str, dict[str, Any]] = {}
    missed: list[str] = []
    for door, by_tier in seconds.items():
        for tier, values in by_tier.items():
            middle, worst = (float(np.quantile(values, share)) for share in (0.5, 0.95))
            choice = engine.serving[tier].choice
            holds = worst <= CEILING_SECONDS[tier]
            label = (
                f"{choice.checkpoint.name}, substitute for {choice.wanted}"
                if choice.substitute
                else choice.wanted
            )
            rows.append(
                [
                    door,
                    tier.value,
                    label,
                    f"{middle:.2f} s",
                    f"{worst:.2f} s",
                    f"{CEILING_SECONDS[tier]:g} s",
                    "holds" if holds else "MISSED",
                ]
            )
            figures[f"{door}/{tier.value}"] = {
                "checkpoint": choice.checkpoint.name,
                "substitute_for": choice.wanted if choice.substitute else None,
                "recipe": choice.recipe.value,
                "median_s": round(middle, 3),
                "p95_s": round(worst, 3),
                "ceiling_s": CEILING_SECONDS[tier],
                "holds": holds,
            }
            if not holds:
                missed.append(f"{tier.value} by {door}")
    return rows, figures, missed


def needs(engine: Engine, checkpoint: str, around: dict[Tier, list[float]]) -> list[list[str]]:
    """Return table rows for each tier that promises `checkpoint`: how much faster its network would have to be.

    `around` holds each tier's seconds outside the network.
    """
    device = engine.device
    # Half precision on a GPU, as it would be served; torch on a CPU, where ONNX Runtime is up to 1.7 times faster.
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    runner = TorchRunner(standin.network(checkpoint), device, dtype=dtype)
    pixels = torch.zeros(1, 3, *[find(checkpoint).input_size] * 2, device=device)
    seconds = []
    for _ in range(LOOKS):
        start = time.perf_counter()
        runner.run(pixels)
        wait_for(device)
        seconds.append(time.perf_counter() - start)
    look = min(seconds)
    lines = []
    for tier, serving in engine.serving.items():
        if tier in SOLD and serving.choice.wanted == checkpoint:
            looks = 2 if serving.choice.recipe.looks_twice else 1
            rest = median(around[tier])
            left = CEILING_SECONDS[tier] - rest
            verdict = "would hold" if looks * look <= left else "is too slow without any network"
            if 0 < left < looks * look:
                verdict = f"needs a network {looks * look / left:.1f} times as fast: a GPU"
            lines.append(
                [
                    checkpoint,
                    f"{look:.2f} s in torch",
                    tier.value,
                    str(looks),
                    f"{rest:.2f} s",
                    f"{looks * look + rest:.1f} s of {CEILING_SECONDS[tier]:g} s",
                    verdict,
                ]
            )
    return lines


def measure(remove: Callable[[Tier, bytes], None], photos: list[bytes]) -> dict[Tier, list[float]]:
    """Time photos one after another, each in every tier."""
    seconds: dict[Tier, list[float]] = {tier: [] for tier in SOLD}
    for index in range(PHOTOS):
        for tier in SOLD:
            start = time.perf_counter()
            remove(tier, photos[index % len(photos)])
            seconds[tier].append(time.perf_counter() - start)
    return seconds


def over_http(engine: Engine, photos: list[bytes]) -> dict[Tier, list[float]]:
    """Time the same through a real server on loopback, from the upload to the response."""
    with tempfile.TemporaryDirectory() as folder:
        chosen = settings.load(auth="off", data_dir=Path(folder))
        service = create_app(chosen, make_engine=lambda _: engine)
        server = uvicorn.Server(uvicorn.Config(service, port=0, log_config=None, log_level="warning"))
        logging.getLogger().setLevel(logging.WARNING)
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            while not server.started:
                time.sleep(0.05)
            port = server.servers[0].sockets[0].getsockname()[1]
            with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
                return measure(lambda tier, photo: post(client, tier, photo), photos)
        finally:
            server.should_exit = True
            thread.join()


def post(client: httpx2.Client, tier: Tier, photo: bytes) -> None:
    """Request one cut-out."""
    answer = client.post(
        "/api/background-remover/remove",
        files={"image": ("photo.jpg", photo, "image/jpeg")},
        data={"tier": tier.value},
        headers={"Accept": "image/png"},
    )
    answer.raise_for_status()
