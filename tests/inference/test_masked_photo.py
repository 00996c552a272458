"""A photo is cut out again from the masks that were kept, without the network."""

import io
import zipfile
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cutout.inference.cutout import Cutout
from cutout.inference.engine import Engine
from cutout.inference.errors import MasksUnusable
from cutout.inference.imaging.encode import Format
from cutout.inference.imaging.geometry import Layout
from cutout.inference.imaging.hints import parse_box, parse_points
from cutout.inference.masked_photo import Maker, MaskedPhoto, Run
from cutout.inference.matting import refinement
from cutout.inference.matting.pipeline import Seen
from cutout.inference.options import Options
from cutout.inference.recently_seen import RecentlySeen
from cutout.inference.recording import LEVELS, Recorder
from cutout.inference.tiers import Tier
from tests.fakes import FakeRunner, fake_engine, photo_bytes

PHOTO = photo_bytes(300, 200)
SPARED = Options(tier=Tier.PROFESSIONAL)


def masked(engine: Engine, options: Options) -> Cutout:
    """Cut a photo out, and keep its masks."""
    return engine.submit(PHOTO, options, keep_masks=True).result()


@pytest.mark.parametrize("tier", Tier)
def test_the_same_picture_comes_without_the_network(tier: Tier) -> None:
    runs = []
    runner = FakeRunner(before=lambda: runs.append(1), radius=0.1)  # small enough for a second look
    with fake_engine(runner) as engine:
        first = masked(engine, Options(tier=tier))
        assert first.masked is not None
        count = len(runs)
        assert count == len(first.masked.runs) == (2 if tier is Tier.INDUSTRY else 1)
        stored = MaskedPhoto.from_bytes(first.masked.to_bytes())
        again = engine.submit(stored, Options(tier=tier)).result()
        assert len(runs) == count
    assert again.data == first.data
    assert again.masked is None
    assert replace(again, masked=first.masked, seconds=first.seconds) == first


def test_other_hints_give_what_a_fresh_run_with_them_gives() -> None:
    hints = replace(SPARED.hints, drop=parse_points("50% 50%"))
    changed = replace(SPARED, hints=hints, format=Format.WEBP, background=(1, 2, 3))
    with fake_engine() as engine:
        first = masked(engine, SPARED)
        assert first.masked is not None
        again = engine.submit(first.masked, changed).result()
        assert again.data == masked(engine, changed).data
    assert again.no_foreground
    assert not first.no_foreground


def test_a_photo_without_a_subject_is_kept_too() -> None:
    with fake_engine(FakeRunner(radius=-1.0)) as engine:
        first = masked(engine, SPARED)
        assert first.masked is not None
        assert [run.levels for run in first.masked.runs] == [None]
        stored = MaskedPhoto.from_bytes(first.masked.to_bytes())
        assert engine.submit(stored, SPARED).result().data == first.data


def test_masks_are_kept_only_where_that_is_asked_for() -> None:
    with fake_engine() as engine:
        assert engine.remove(PHOTO).masked is None
        ((_, one),) = engine.remove_many([("a", lambda: PHOTO)], Options(), keep_masks=True)
        assert isinstance(one, Cutout)
        assert one.masked is not None
        stored = one.masked
        ((_, again),) = engine.remove_many([("a", lambda: stored)], Options())
    assert isinstance(again, Cutout)
    assert again.data == one.data
    assert again.checkpoint == one.checkpoint
    assert "photo=" not in repr(one)


def test_masks_of_another_crop_are_not_used() -> None:
    boxed = replace(SPARED, hints=replace(SPARED.hints, box=parse_box("10% 10% 60% 60%")))
    with fake_engine() as engine:
        first = masked(engine, SPARED)
        assert first.masked is not None
        with pytest.raises(MasksUnusable, match="Send the photo again"):
            engine.submit(first.masked, boxed).result()
        none_left = MaskedPhoto(PHOTO, (), first.masked.maker)
        with pytest.raises(MasksUnusable, match="Send the photo again"):
            engine.submit(none_left, SPARED).result()


def test_a_mask_is_used_as_it_is_kept() -> None:
    values = torch.rand(1, 1, 40, 60, generator=torch.Generator().manual_seed(0))
    recorder = Recorder(lambda _: values)
    seen = recorder.look(torch.zeros(20, 30, 3, dtype=torch.uint8))
    (run,) = recorder.runs()
    assert seen is not None
    assert run.levels is not None
    assert run.levels.dtype == np.uint16
    assert (run.width, run.height) == (30, 20)
    assert torch.equal(seen, torch.from_numpy(run.levels.astype(np.int32)).float()[None, None] / LEVELS)
    assert 0 < (seen - values).abs().max() <= 0.5 / LEVELS + 1e-7


@pytest.mark.parametrize(
    "data",
    [b"", b"no ZIP", MaskedPhoto(b"x", (), Maker("a", False, "b")).to_bytes()[:-9]],
    ids=["empty", "text", "cut"],
)
def test_what_is_no_such_file_is_refused(data: bytes) -> None:
    with pytest.raises(MasksUnusable):
        MaskedPhoto.from_bytes(data)


def test_a_file_with_damaged_bytes_is_refused_or_read() -> None:
    packed = MaskedPhoto(
        b"photo", (Run(8, 6, np.zeros((6, 8), np.uint16)),), Maker("a", False, "cpu")
    ).to_bytes()
    refused = 0
    for place in range(len(packed)):
        for value in {0, 255, packed[place] ^ 1} - {packed[place]}:
            damaged = bytearray(packed)
            damaged[place] = value
            try:
                MaskedPhoto.from_bytes(bytes(damaged))
            except MasksUnusable:
                refused += 1
    assert refused > len(packed)


def test_a_damaged_mask_is_refused() -> None:
    levels = np.arange(600, dtype=np.uint16).reshape(20, 30)
    packed = MaskedPhoto(b"photo", (Run(30, 20, levels),), Maker("a", True, "b")).to_bytes()
    (run,) = MaskedPhoto.from_bytes(packed).runs
    assert run.levels is not None
    assert np.array_equal(run.levels, levels)
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(packed)) as whole, zipfile.ZipFile(out, "w") as damaged:
        for name in whole.namelist():
            damaged.writestr(name, b"short" if name == "0" else whole.read(name))
    with pytest.raises(MasksUnusable):
        MaskedPhoto.from_bytes(out.getvalue())


@pytest.fixture
def refined(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that gets one entry for each refinement of a mask."""
    counted: list[int] = []
    refine = refinement.refine

    def counting(rgb: Tensor, *others: Any, **named: Any) -> tuple[Tensor, Tensor]:
        counted.append(rgb.numel())
        return refine(rgb, *others, **named)

    monkeypatch.setattr(refinement, "refine", counting)
    return counted


def test_the_next_refinement_of_a_photo_computes_only_what_changes(refined: list[int]) -> None:
    dropping = replace(SPARED, hints=replace(SPARED.hints, drop=parse_points("50% 50%")))
    with fake_engine() as engine:
        first = masked(engine, SPARED)
        assert first.masked is not None
        stored = MaskedPhoto.from_bytes(first.masked.to_bytes())
        results = [engine.submit(stored, options).result() for options in (dropping, SPARED, dropping)]
        assert len(refined) == 1
        assert results[0].no_foreground
        assert results[1].data == first.data
        # With another view or another recipe nothing is known of it.
        with pytest.raises(MasksUnusable):
            engine.submit(stored, replace(SPARED, layout=Layout(region=parse_box("0 0 50% 50%")))).result()
        engine.submit(stored, replace(SPARED, tier=Tier.INDUSTRY)).result()
        assert len(refined) == 2


def test_photos_of_batches_take_no_space(refined: list[int]) -> None:
    with fake_engine() as engine:
        ((_, one),) = engine.remove_many([("a", lambda: PHOTO)], SPARED, keep_masks=True)
        assert isinstance(one, Cutout)
        assert one.masked is not None
        for _ in range(2):
            assert engine.submit(one.masked, SPARED).result().data == one.data
    assert len(refined) == 2


def seen_of(pixels: int, side: int = 1) -> Seen:
    alpha = torch.zeros(1, pixels)
    return Seen(torch.zeros(1, 1, side, side), alpha, torch.zeros(1, pixels, dtype=torch.uint8))


def test_what_was_not_asked_for_longest_makes_room() -> None:
    recent = RecentlySeen(500)  # a pixel takes five bytes
    for key in "abc":
        recent.put(key, seen_of(40))
        recent.get("a")
    assert recent.get("b") is None
    assert recent.get("a") is not None
    assert recent.get("c") is not None
    recent.put("large", seen_of(100))
    assert recent.get("large") is None
    assert recent.get("a") is not None
    recent.put("mask alone", Seen(torch.zeros(1, 1, 2, 2)))
    assert recent.get("mask alone") is None


def test_small_photos_count_with_their_masks() -> None:
    recent = RecentlySeen(100_000)
    for key in range(10):
        recent.put(key, seen_of(1, side=100))  # of 40,000 bytes
    assert [key for key in range(10) if recent.get(key) is not None] == [8, 9]
    recent.put("part", Seen(torch.zeros(1, 1, 1, 1), torch.zeros(200, 200)[:1, :1]))  # of 160,000 bytes
    assert recent.get("part") is None
