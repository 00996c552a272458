"""Many concurrent uploads to the embedded default: each is served or told when to retry, and memory is bounded.

`python -m tests.app.load` does the same at full size.
"""

import random
from pathlib import Path

import pytest

from tests.app.load import crowd, service
from tests.fakes import photo_bytes

pytestmark = pytest.mark.slow

MB = 1_000_000


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is told as Linux tells it")
def test_a_crowd_is_served_or_told_to_come_again(tmp_path: Path) -> None:
    with service(tmp_path, uploads_at_once_mb=60, max_waiting=20) as (port, pid):
        photos = crowd(port, pid, 100 * [photo_bytes(500, 400, "JPEG")])
        assert photos.unanswered == photos.without_retry_after == photos.no_problems == 0
        assert photos.statuses.keys() == {200, 503}
        assert photos.statuses[200] >= 20
        # They are all in the middle of their uploads before the first of them is done, and then want their turn at once.
        slow = crowd(port, pid, 60 * [photo_bytes(500, 400, "JPEG")], pause=0.5)
        assert slow.unanswered == slow.without_retry_after == slow.no_problems == 0
        assert slow.statuses.keys() <= {200, 503}
        assert slow.statuses[200] >= 20
        # 600 MB, of which the service accepts a tenth.
        files = crowd(port, pid, 60 * [random.Random(0).randbytes(10 * MB)])
        assert files.unanswered == files.without_retry_after == files.no_problems == 0
        assert files.statuses.keys() <= {415, 503}
        assert files.statuses[503] > 0
        assert files.peak_bytes < 250 * MB  # Measured: 60 MB; 480 MB if all is accepted.
        # Other calls are answered during the load, not only after it.
        assert photos.slowest < 0.8 * photos.seconds
