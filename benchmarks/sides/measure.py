"""What both sides measure of themselves, with the standard library alone: it runs in rembg's environment too."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path


def measure(remove: Callable[[bytes], bytes], stages: Callable[[], object] = lambda: None) -> None:
    """Do one photo to warm up and several that count; print seconds, peak memory and size as a line of JSON."""
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
    """Return the most memory this process has held, in MB, as Linux counts it."""
    return _status_mb("VmHWM")


def resident_mb() -> float:
    """Return the memory this process holds, in MB, as Linux counts it."""
    return _status_mb("VmRSS")


def _status_mb(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1]) / 1000
