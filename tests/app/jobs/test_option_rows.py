"""Options in the rows of jobs: as they were when read again, and those of earlier versions can still be read."""

import json

from cutout.app.jobs.leases import OPTIONS, write_options
from cutout.inference.imaging.backgrounds import Picture
from cutout.inference.imaging.geometry import Layout, parse_margin, parse_region
from cutout.inference.imaging.hints import Hints, parse_points
from cutout.inference.options import Options
from cutout.inference.tiers import Tier

HINTS = Hints(
    box=parse_region("1px 0 90% 100%"),
    keep=parse_points("50% 50%, 3 4.5"),
    drop=parse_points("0 0"),
    largest_only=True,
    keep_mask=Picture.of(b"strokes"),
    drop_mask=Picture.of(b"more strokes"),
    fill_holes=True,
    min_coverage=0.25,
    within=parse_region("1px 0 50% 50%"),
)


def test_options_with_hints_are_read_as_they_were_written() -> None:
    layout = Layout(trim=True, margin=parse_margin("5% 1px"))
    options = Options(Tier.INDUSTRY, layout=layout, hints=HINTS, keep_shadow=True)
    row = json.dumps(write_options(options))
    assert "data" not in row, "pictures are in the storage"
    assert OPTIONS.validate_python(json.loads(row)) == options


def test_a_row_of_a_version_without_hints_can_be_read() -> None:
    row = write_options(Options(quality=70))
    del row["hints"], row["keep_shadow"]
    assert OPTIONS.validate_python(row) == Options(quality=70)
    row = json.loads(json.dumps(write_options(Options(hints=Hints(keep=HINTS.keep)))))
    for name in ("keep_mask", "drop_mask", "fill_holes", "min_coverage", "within"):
        del row["hints"][name]
    assert OPTIONS.validate_python(row) == Options(hints=Hints(keep=HINTS.keep))


def test_requests_with_other_hints_are_told_apart() -> None:
    """An idempotency key stands for the text of the options."""
    hints = [
        Hints(),
        Hints(keep=HINTS.keep),
        Hints(drop=HINTS.keep),
        Hints(box=HINTS.box),
        Hints(largest_only=True),
        Hints(keep_mask=HINTS.keep_mask),
        Hints(keep_mask=HINTS.drop_mask),
        Hints(drop_mask=HINTS.keep_mask),
        Hints(fill_holes=True),
        Hints(min_coverage=0.25),
        Hints(within=HINTS.box),
    ]
    assert len({repr(Options(hints=one)) for one in hints}) == len(hints)
