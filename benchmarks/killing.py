"""Batches while workers, the API, Valkey and PostgreSQL are killed: how many still end correctly, and how soon.

In each round two workers process a batch of 60 photos (40 ms per photo, leases of 2 s) when one of them is killed at a
random moment; in half of the rounds another failure is injected too. Killed processes are restarted, as a supervisor
does. Then the result is checked: each photo done once, the ZIP complete, the ledger exact, nothing left behind.
Expected: every batch ends correctly, most of them at most two leases and a worker's start later than undisturbed.
"""

import random
import statistics
import tempfile
from collections import defaultdict
from pathlib import Path

from rich.progress import track

from benchmarks.report import Table, publish
from tests.worker.killing import BrokenPromise, all_kinds, live_through, site

ROUNDS = 50
SEED = 20261125


def run() -> None:
    """Run the rounds on both databases, print and save the results."""
    rows, figures = [], {}
    for database in ("SQLite", "PostgreSQL"):
        seconds: dict[str, list[float]] = defaultdict(list)
        unkept: dict[str, list[str]] = defaultdict(list)
        rng = random.Random(SEED)
        with (
            tempfile.TemporaryDirectory() as folder,
            site(Path(folder), on_postgresql=database == "PostgreSQL") as place,
        ):
            others = [kind for kind in all_kinds(place) if kind != "worker killed"]
            for number in track(range(ROUNDS), f"{database}: killing"):
                kind = others[number // 2 % len(others)] if number % 2 else "worker killed"
                try:
                    seconds[kind].append(live_through(place, rng, kind))
                except BrokenPromise as broken:
                    unkept[kind].append(str(broken))
                    print(f"{database}, round {number}, {kind}: {broken}")
        for kind, took in seconds.items():
            kept, rounds = len(took), len(took) + len(unkept[kind])
            also = kind if kind == "worker killed" else f"worker killed, {kind}"
            rows.append(
                [database, also, f"{kept} of {rounds}", f"{statistics.median(took):.1f}", f"{max(took):.1f}"]
            )
        figures[database] = {"seconds": dict(seconds), "unkept": dict(unkept)}
    table = Table(
        f"Batches of 60 photos on two workers, {ROUNDS} rounds on each database",
        ["database", "fault", "ended correctly", "median, s", "worst, s"],
        rows,
    )
    publish("killing", [table], figures)
