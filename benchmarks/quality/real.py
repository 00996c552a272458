"""The recipes on a folder of real photos with known alpha: `python -m benchmarks quality-real DIR`.

DIR holds the photos, their alphas, and `manifest.json`, a list of objects, or `manifest.csv`, with the fields `photo`
and `alpha` (files, relative to DIR), `group` (such as product, hair or complex) and, optionally, `licence`. An alpha is
a picture of the photo's size, grey or with an alpha channel, of 8 or 16 bits.

The true alpha, as soft as a good network's output, replaces the network's mask: at 1,024² and at half of that. The true
colours of the subject are unknown; blur fusion estimates them from the true alpha (`peers.py`), so that the error of
the edge's colours is only a hint.

A mask that is made from the truth shares its errors: an alpha that lies a pixel beside the photo's edge makes the raw
mask look better than any method that follows the photo. With drawn bottles and boxes of 1 megapixel, an alpha moved by
2 pixels along both axes turns a ratio of 0.40 of the error into 1.27. So photos whose alpha fits are averaged alone as well.
"""

import argparse
import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.quality import alignment, compare, peers
from benchmarks.quality.compare import Pair
from benchmarks.quality.layers import Floats, Scene, levels
from benchmarks.report import Table, as_markdown
from cutout.inference.imaging import decode

SIDES = (1024, 512)
ALIGNED = 0.75  # pixels; an alpha that fits its photo has an offset of at most this, unless its subject is thin bars


@dataclass(frozen=True)
class Entry:
    """One photo of a manifest."""

    photo: Path
    alpha: Path
    group: str
    licence: str


def main(arguments: Sequence[str]) -> None:
    """Measure the folder named on the command line and print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks quality-real", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--pictures", type=Path, help="a folder for pictures of each photo's worst place")
    chosen = parser.parse_args(arguments)
    for one in tables(chosen.folder, chosen.pictures):
        print(as_markdown(one))


def tables(folder: Path, pictures: Path | None = None) -> list[Table]:
    """Measure a folder; return the alphas' offsets, and a table for each size of the mask, by groups and as a whole.

    Raises:
        SystemExit: the manifest or one of its files is missing or invalid, or sizes differ.

    """
    entries = manifest(folder)
    pairs: dict[int, list[Pair]] = {side: [] for side in SIDES}
    offsets = []
    for entry in entries:
        scene = load(entry)
        offsets.append(alignment.offset(decode.decode(scene.photo).rgb, scene.alpha))
        for side in SIDES:
            pairs[side].append(compare.pair(scene, side, pictures, f"{entry.group}-{side}-"))
        print(f"{entry.photo.name} measured", flush=True)
    results = [_offsets(entries, offsets)]
    for side, of_side in pairs.items():
        groups: dict[str, list[Pair]] = {}
        for entry, one in sorted(zip(entries, of_side, strict=True), key=lambda both: both[0].group):
            groups.setdefault(entry.group, []).append(one)
        groups["all"] = of_side
        if aligned := [one for one, offset in zip(of_side, offsets, strict=True) if offset <= ALIGNED]:
            groups[f"alpha within {ALIGNED} pixels of the edge"] = aligned
        results.append(compare.table(f"{len(entries)} real photos, mask at {side}². {compare.UNITS}", groups))
    return results


def _offsets(entries: Sequence[Entry], offsets: Sequence[float]) -> Table:
    rows = [
        [entry.photo.name, entry.group, entry.licence, f"{offset:.2f}"]
        for entry, offset in sorted(zip(entries, offsets, strict=True), key=lambda both: -both[1])
    ]
    return Table(
        "How far the alpha lies beside the photo's edge, median in pixels",
        ["photo", "group", "licence", "offset"],
        rows,
    )


def manifest(folder: Path) -> list[Entry]:
    """Read the manifest of a folder, and check that its files are there.

    Raises:
        SystemExit: see `tables`.

    """
    file = next((one for name in ("json", "csv") if (one := folder / f"manifest.{name}").is_file()), None)
    if file is None:
        raise SystemExit(f"{folder} has neither manifest.json nor manifest.csv.")
    try:
        text = file.read_text("utf-8-sig")
        rows = json.loads(text) if file.suffix == ".json" else list(csv.DictReader(text.splitlines()))
        entries = [
            Entry(folder / row["photo"], folder / row["alpha"], row["group"], row.get("licence") or "")
            for row in rows
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SystemExit(f"{file}: each entry needs photo, alpha and group ({error!r}).") from error
    if not entries:
        raise SystemExit(f"{file} names no photos.")
    for entry in entries:
        for one in (entry.photo, entry.alpha):
            if not one.is_file():
                raise SystemExit(f"{one} is missing; {file} names it.")
    return entries


def load(entry: Entry) -> Scene:
    """Read a photo and its alpha.

    Raises:
        SystemExit: their sizes differ.

    """
    photo = entry.photo.read_bytes()
    rgb = decode.decode(photo).rgb
    alpha = _alpha(entry.alpha)
    if alpha.shape != rgb.shape[:2]:
        sizes = " and ".join(f"{one.shape[1]} × {one.shape[0]}" for one in (rgb, alpha))
        raise SystemExit(f"{entry.photo} and {entry.alpha} differ in size: {sizes}.")
    foreground = peers.blur_fusion(rgb, levels(255 * alpha))
    return Scene(entry.photo.stem, entry.group, photo, alpha, foreground)


def _alpha(file: Path) -> Floats:
    with Image.open(file) as image:
        if image.mode.startswith("I"):
            return np.asarray(image, np.float32) / 65535
        channel = image.getchannel("A") if "A" in image.getbands() else image.convert("L")
        return np.asarray(channel, np.float32) / 255
