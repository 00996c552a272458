"""Refinements: how long a stroke takes until its picture has arrived, as a view of half a megapixel and in full size.

The service runs in its own process with this host's engine, and one caller sends a stroke after the other. The first view
after a removal decodes the photo and refines what the network saw of it, which later ones find in memory. Processor time
says how much work there is, and other load on the machine adds little to it; the least time is that of the quietest
moment.
"""

import io
import os
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
from PIL import Image, ImageDraw

from benchmarks import inputs
from benchmarks.report import Table, publish
from benchmarks.served import Served, served

MEGAPIXELS = (2.0, 12.0)
TIERS = ("basic", "standard", "professional")
VIEWS, RESULTS, CALLERS = 4, 2, 6
VIEW, FULL = "refine/view", "refine"
# On the astronaut: the helmet goes, the shuttle stays, which floods far, and a small dot on the flag.
Spot = tuple[float, float]
STROKES: dict[str, tuple[str, tuple[Spot, Spot]]] = {
    "drop the helmet": ("dropMask", ((0.78, 0.75), (0.9, 0.85))),
    "keep the shuttle": ("keepMask", ((0.72, 0.12), (0.9, 0.3))),
    "drop a dot": ("dropMask", ((0.1, 0.4), (0.11, 0.4))),
}


def run() -> None:
    """Measure the refinements, print and save the results."""
    with served() as service, httpx2.Client(timeout=600) as client:
        at_once = together(service, client)
        found = [
            measured
            for megapixels in MEGAPIXELS
            for tier in TIERS
            for measured in refined(service, client, megapixels, tier)
        ]
    columns = ["photo", "tier", "stroke", "first view", "view", "least", "processor", "full size", "least", "processor"]  # fmt: skip
    names = ("first_view", "view", "view_least", "view_cpu", "full", "full_least", "full_cpu")
    rows = [
        [f"{one['megapixels']:g} MP", one["tier"], one["stroke"]]
        + [f"{1000 * one[name]:.0f} ms" if name in one else "" for name in names]
        for one in found
    ]
    title = f"A stroke until its picture has arrived: medians of {VIEWS} views and of {RESULTS} results in full size"
    many = Table(
        f"{CALLERS} callers at once, each with these strokes on a photo of {MEGAPIXELS[-1]:g} MP in {TIERS[-1]}",
        ["", "median", "slowest"],
        [["a view", *(f"{1000 * at_once[name]:.0f} ms" for name in ("median", "slowest"))]],
    )
    publish("refine", [Table(title, columns, rows), many], {"refinements": found, "at_once": at_once})


def refined(service: Served, client: httpx2.Client, megapixels: float, tier: str) -> list[dict[str, Any]]:
    """Measure the strokes on a photo of this size in a tier, in seconds."""
    job = removed(service, client, megapixels, tier)
    found: list[dict[str, Any]] = []
    first, _ = timed(service, client, job, VIEW, {})
    for stroke in STROKES:
        views = [timed(service, client, job, VIEW, drawn(stroke)) for _ in range(VIEWS)]
        results = [timed(service, client, job, FULL, drawn(stroke)) for _ in range(RESULTS)]
        one: dict[str, Any] = {"megapixels": megapixels, "tier": tier, "stroke": stroke}
        if not found:
            one["first_view"] = round(first, 4)
        for name, measured in (("view", views), ("full", results)):
            seconds, cpu = zip(*measured, strict=True)
            one[name] = round(statistics.median(seconds), 4)
            one[f"{name}_least"] = round(min(seconds), 4)
            one[f"{name}_cpu"] = round(sum(cpu) / len(cpu), 4)
        found.append(one)
    return found


def together(service: Served, client: httpx2.Client) -> dict[str, float]:
    """Measure views of several callers at once, in seconds."""
    job = removed(service, client, MEGAPIXELS[-1], TIERS[-1])
    timed(service, client, job, VIEW, {})

    def draw(_: int) -> list[float]:
        return [timed(service, client, job, VIEW, drawn(stroke))[0] for stroke in STROKES]

    with ThreadPoolExecutor(CALLERS) as pool:
        seconds = [one for each in pool.map(draw, range(CALLERS)) for one in each]
    return {"median": round(statistics.median(seconds), 4), "slowest": round(max(seconds), 4)}


def removed(service: Served, client: httpx2.Client, megapixels: float, tier: str) -> str:
    """Remove the background of the astronaut; return the id of the job."""
    photo = {"image": ("photo.jpg", inputs.jpeg("astronaut", megapixels), "image/jpeg")}
    url = f"{service.api}/background-remover/remove"
    answer = client.post(url, files=photo, data={"tier": tier}, headers=service.headers)
    return str(answer.raise_for_status().json()["jobId"])


def timed(
    service: Served, client: httpx2.Client, job: str, path: str, files: dict[str, Any]
) -> tuple[float, float]:
    """Refine a result; return the seconds until the picture is here, and those of the service's processor time."""
    url = f"{service.api}/background-remover/jobs/{job}/{path}"
    before, start = processor_seconds(service.process), time.perf_counter()
    answer = client.post(url, files=files or None, headers={**service.headers, "Accept": "image/png"})
    seconds = time.perf_counter() - start
    if answer.is_error:
        raise RuntimeError(answer.text)
    return seconds, processor_seconds(service.process) - before


def processor_seconds(process: int) -> float:
    """Return the processor time that a process has taken, in seconds; Linux alone tells it."""
    fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def drawn(stroke: str) -> dict[str, Any]:
    """Return a stroke as the file that a form has."""
    part, line = STROKES[stroke]
    picture, out = Image.new("L", (1024, 1024)), io.BytesIO()
    ImageDraw.Draw(picture).line([(1024 * x, 1024 * y) for x, y in line], fill=255, width=30)
    picture.save(out, "PNG")
    return {part: ("strokes.png", out.getvalue(), "image/png")}
