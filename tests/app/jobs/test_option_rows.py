"""Options in the rows of jobs: as they were when read again, and those of earlier versions can still be read."""

import json

from cutout.app.jobs.leases import OPTIONS, write_options
from cutout.inference.imaging.geometry import Layout, parse_margin, parse_region
from cutout.inference.imaging.hints import Hints, parse_points
from cutout.inference.options import Options
from cutout.inference.tiers import Tier

HINTS = Hints(
    box=parse_region("1px 0 90% 100%"),
    keep=parse_points("50% 50%, 3 4.5"),
    drop=parse_points("0 0"),
    largest_only=True,
)


def test_options_with_hints_are_read_as_they_were_written() -> None:
    layout = Layout(trim=True, margin=parse_margin("5% 1px"))
    options = Options(Tier.INDUSTRY, layout=layout, hints=HINTS, keep_shadow=True)
    assert OPTIONS.validate_python(json.loads(json.dumps(write_options(options)))) == options


def test_a_row_of_a_version_without_hints_can_be_read() -> None:
    row = write_options(Options(quality=70))
    del row["hints"], row["keep_shadow"]
    assert OPTIONS.validate_python(row) == Options(quality=70)


def test_requests_with_other_hints_are_told_apart() -> None:
    """An idempotency key stands for the text of the options."""
    hints = [
        Hints(),
        Hints(keep=HINTS.keep),
        Hints(drop=HINTS.keep),
        Hints(box=HINTS.box),
        Hints(largest_only=True),
    ]
    assert len({repr(Options(hints=one)) for one in hints}) == len(hints)
