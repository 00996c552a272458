"""Measurements that each side takes of itself. Only the standard library, as this also runs in rembg's environment."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path


def measure(remove: Callable[[bytes], bytes], stages: Callable[[], object] = lambda: None) -> None:
    """Process one photo to warm up and several that count; print seconds, peak memory and size as a line of JSON."""
    photo, out, count = Path(sys.argv[1]).read_bytes(), Path(sys.argv[2]), int(sys.argv[3])
    remove(photo)
    seconds, by_stage = [], []
    for _ in range(count):
        start = time.perf_counter()
        result = remove(photo)
        seconds.append(time.perf_counter() - start)
        by_stage.append(stages())
    out.write_bytes(result)
    print(json.dumps({"seconds": seconds, "peak_mb": peak_mb(), "bytes": len(result), "stages": by_stage}))


def peak_mb() -> float:
    """Return the peak resident memory of this process in MB, as reported by Linux."""
    return _status_mb("VmHWM")


def resident_mb() -> float:
    """Return the resident memory of this process in MB, as reported by Linux."""
    return _status_mb("VmRSS")


def _status_mb(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1]) / 1000
