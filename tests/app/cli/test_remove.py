"""`cutout remove` on a fake network: its results, resuming, errors and reports."""

import io
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from cutout.app import bootstrap
from cutout.app.cli import main, remove
from cutout.app.cli.output_record import NAME, Seen
from cutout.app.cli.plan import plan
from cutout.inference.engine import Engine
from cutout.inference.imaging.encode import Format
from tests.animations import animation_of, durations_of, moving_disc
from tests.fakes import fake_engine, open_picture, photo_bytes, thin_picture

pytestmark = pytest.mark.slow

Run = Callable[..., int]
opened: list[Engine] = []


@pytest.fixture(autouse=True)
def _fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def engine_from(*_: object) -> Engine:
        opened.append(fake_engine())
        return opened[-1]

    opened.clear()
    monkeypatch.setattr(bootstrap, "engine_from", engine_from)
    monkeypatch.setattr(bootstrap, "pull_missing", lambda *_: None)
    yield
    for engine in opened:
        assert engine.is_closed  # The command closed the engine that it opened.


@pytest.fixture
def cutout(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command line in this process; return the exit code."""

    def run(*arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", ["cutout", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            main()
        return int(caught.value.code or 0)

    return run


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for place in ("a.png", "b.png", "deep/er/c.png", ".hidden/d.png"):
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_bytes(photo_bytes(seed=len(place)))
    return folder


def files(folder: Path) -> set[str]:
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return found - {NAME}


def test_a_folder_keeps_its_structure(cutout: Run, photos: Path, tmp_path: Path) -> None:
    assert cutout("remove", photos, "-o", tmp_path / "out") == 0
    assert files(tmp_path / "out") == {"a.png", "b.png", "deep/er/c.png"}
    assert open_picture((tmp_path / "out" / "a.png").read_bytes()).mode == "RGBA"


def test_run_again_it_does_only_what_is_missing(
    cutout: Run, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    cutout("remove", photos, "-o", out)
    (out / "a.png").unlink()
    kept = (out / "b.png").stat().st_mtime_ns
    capsys.readouterr()
    assert cutout("remove", photos, "-o", out) == 0
    said = capsys.readouterr().err
    assert "1 of 1 done" in said
    assert "2 already done" in said
    assert (out / "b.png").stat().st_mtime_ns == kept

    runs = len(opened)
    assert cutout("remove", photos, "-o", out) == 0
    assert len(opened) == runs  # There was nothing to do, so no model was loaded.

    later = time.time() + 10
    os.utime(photos / "b.png", (later, later))  # The photo has been edited since.
    assert cutout("remove", photos, "-o", out) == 0
    assert (out / "b.png").stat().st_mtime_ns != kept

    kept = (out / "b.png").stat().st_mtime_ns
    (photos / "b.png").write_bytes(photo_bytes(30, 40))  # Another photo, with an earlier date.
    os.utime(photos / "b.png", (later - 1000, later - 1000))
    assert cutout("remove", photos, "-o", out) == 0
    assert open_picture((out / "b.png").read_bytes()).size == (30, 40)
    assert cutout("remove", photos, "-o", out) == 0
    assert "3 already done" in capsys.readouterr().err

    (out / NAME).write_text((out / NAME).read_text()[:-9] + "\n[1]\nnull\n{}\n")  # As a kill may leave it.
    assert cutout("remove", photos, "-o", out) == 0
    (out / NAME).unlink()  # As earlier versions left their results.
    assert cutout("remove", photos, "-o", out) == 0
    assert "3 already done" in capsys.readouterr().err

    capsys.readouterr()
    cutout("remove", photos, "-o", out, "--overwrite")
    assert "3 of 3 done" in capsys.readouterr().err


def test_failures_are_named_at_the_end_and_the_rest_is_done(
    cutout: Run, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "a.png").write_bytes(photo_bytes()[:100])
    (photos / "empty.jpg").touch()
    (photos / "list.txt").write_text("not a photo")
    assert cutout("remove", photos, "-o", tmp_path / "out") == 1
    assert files(tmp_path / "out") == {"b.png", "deep/er/c.png"}
    said = capsys.readouterr().err
    assert "2 of 4 done" in said
    assert f"failed: {photos}/a.png: The picture is truncated or damaged" in said
    assert f"failed: {photos}/empty.jpg: The file is empty" in said
    assert "1 files do not look like photos and were skipped (.txt)" in said


def test_a_strip_that_no_network_can_use_is_refused(
    cutout: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "strip.png").write_bytes(thin_picture(5_000_000, 2))
    assert cutout("remove", tmp_path / "strip.png", "-o", tmp_path / "out.png") == 1
    assert "CUTOUT_MAX_SIDE" in capsys.readouterr().err
    assert not (tmp_path / "out.png").exists()


def test_what_was_not_taken_as_it_stands_is_said(
    cutout: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = [Image.new("RGB", (40, 30), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    assert cutout("remove", tmp_path / "moving.gif", "-o", tmp_path / "out") == 0
    assert f"note: {tmp_path}/moving.gif: The file is an animation; its first frame was used." in (
        capsys.readouterr().err
    )


def test_every_frame_of_an_animation_if_that_is_asked_for(cutout: Run, tmp_path: Path) -> None:
    (tmp_path / "moving.gif").write_bytes(animation_of(moving_disc(3), "GIF"))
    for out, wanted in (("out", "out/moving.webp"), ("a.gif", "a.gif"), ("b.png", "b.png")):
        assert cutout("remove", tmp_path / "moving.gif", "-o", tmp_path / out, "--animation", "all") == 0
        assert durations_of((tmp_path / wanted).read_bytes()) == [40, 40, 40]


def test_one_photo_to_a_file_whose_name_tells_the_format(cutout: Run, photos: Path, tmp_path: Path) -> None:
    for name, kind in (("x.webp", "WEBP"), ("y.jpeg", "JPEG"), ("z.avif", "AVIF"), ("sub/w.png", "PNG")):
        assert cutout("remove", photos / "a.png", "-o", tmp_path / name) == 0
        assert open_picture((tmp_path / name).read_bytes()).format == kind
    assert (
        cutout("remove", photos / "a.png", "-o", tmp_path / "v.png", "--mask-only", "--tier", "industry") == 0
    )
    assert open_picture((tmp_path / "v.png").read_bytes()).mode == "L"
    assert (
        cutout("remove", photos / "a.png", "-o", tmp_path / "u", "--format", "jpg", "--background", "red")
        == 0
    )
    corner = open_picture((tmp_path / "u" / "a.jpg").read_bytes()).getpixel((0, 0))
    assert isinstance(corner, tuple)
    assert corner[0] > 240


def test_a_pipe(
    cutout: Run, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(photo_bytes())))
    assert cutout("remove", "-", "-o", "-") == 0
    assert open_picture(capfdbinary.readouterr().out).mode == "RGBA"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["{photos}/nothing.png", "-o", "{out}"], "nothing.png does not exist"),
        (["{photos}/a.png", "-o", "{photos}/a.png"], "would be overwritten by its own cut-out"),
        (["{photos}/deep", "-o", "{photos}"], "is inside the output folder"),
        (["{photos}/a.png", "-o", "-"], "works only with one photo from a pipe"),
        (["-", "{photos}/a.png", "-o", "{out}"], "it must be the only input"),
        (["{photos}/a.png", "-o", "{out}.tiff"], "written as png, webp, jpg, avif, gif, zip, not as tiff"),
        (["{photos}/a.png", "-o", "{out}.HEIC"], "Choose one of these, such as"),
        (["-", "-o", "{out}.psd"], "not as psd"),
        (
            ["{photos}/a.png", "-o", "{out}.jpg", "--format", "png"],
            "has the extension of jpg, but --format is png",
        ),
        (["{photos}", "-o", "{out}", "--background", "rgb(999,0,0)"], "'rgb(999,0,0)' is not a colour"),
        (["{photos}", "-o", "{out}.zip"], "For several, choose a folder"),
        (["{photos}", "-o", "{out}", "--margin", "5%"], "A margin needs trim"),
        (["{photos}", "-o", "{out}", "--canvas", "2000 by 10"], "--canvas: '2000 by 10' is not a size"),
        (
            ["{photos}", "-o", "{out}", "--preset", "amazn"],
            "--preset: 'amazn' is not a preset. Did you mean amazon?",
        ),
        (
            ["{photos}", "-o", "{out}", "--background-image", "{photos}/none"],
            "--background-image: {photos}/none cannot",
        ),
        (
            ["{photos}", "-o", "{out}", "--background-image", "{photos}/a.png", "--background", "red"],
            "only one of",
        ),
        (["{photos}", "-o", "{out}", "--shadow-opacity", "5"], "Add --shadow soft"),
        (["{photos}", "-o", "{out}", "--background", "reddish"], "'reddish' is not a colour"),
        (["{photos}", "-o", "{out}", "--device", "tpu"], "CUTOUT_DEVICE: Input should be"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_any_work(
    cutout: Run,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    says: str,
) -> None:
    before = {name: (photos / name).read_bytes() for name in files(photos)}
    places = {"photos": photos, "out": tmp_path / "out"}
    assert cutout("remove", *(argument.format(**places) for argument in arguments)) != 0
    said = capsys.readouterr().err
    assert says.format(**places) in said
    assert said.count("\n") == 1
    assert {name: (photos / name).read_bytes() for name in files(photos)} == before


def test_a_full_disk_stops_with_one_line(
    cutout: Run,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(remove, "write_whole", full)
    assert cutout("remove", photos, "-o", tmp_path / "out") == 1
    assert (
        "is full. Free some space there, or set -o to a folder on another disk. Run the same command again"
        in capsys.readouterr().err
    )


def test_names_that_would_meet_keep_their_suffix(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png", "b.jpg", "sub/a.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    out = tmp_path / "out"
    targets = {str(task.target.relative_to(out)) for task in plan([tmp_path], out, Format.PNG).tasks}
    assert targets == {"a.jpg.png", "a.png.png", "b.png", "sub/a.png"}


def test_results_inside_the_photos_folder_are_not_taken_for_photos(cutout: Run, photos: Path) -> None:
    for _ in range(2):
        assert cutout("remove", photos, "-o", photos / "out") == 0
    assert files(photos / "out") == {"a.png", "b.png", "deep/er/c.png"}


def test_watching_does_what_arrives_and_stops_on_ctrl_c(
    cutout: Run, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    looks = 0

    def sleep(_: float) -> None:
        nonlocal looks
        looks += 1
        if looks == 1:
            (photos / "late.png").write_bytes(photo_bytes()[:50])  # still being copied
        elif looks == 2:
            (photos / "late.png").write_bytes(photo_bytes())
        elif looks > 10:
            raise KeyboardInterrupt

    monkeypatch.setattr(remove.time, "sleep", sleep)  # type: ignore[attr-defined]
    assert cutout("remove", photos, "-o", out, "--watch") == 130
    assert files(out) == {"a.png", "b.png", "deep/er/c.png", "late.png"}


# --- Names of results -------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".tiff", ".bmp", ".heic", ".hif", ".mpo", ".apng", ".psd", ".jxl"])
def test_no_file_is_written_under_a_false_name(
    cutout: Run,
    photos: Path,
    tmp_path: Path,
    suffix: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / f"out{suffix}"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(photo_bytes())))
    for source in (photos / "a.png", "-"):
        assert cutout("remove", source, "-o", out) == 1
        assert f"written as png, webp, jpg, avif, gif, zip, not as {suffix[1:]}." in capsys.readouterr().err
        assert cutout("remove", source, "-o", out, "--format", "png") == 1
    assert not out.exists()
    assert not opened


@pytest.mark.parametrize("source", ["{photos}/a.png", "-"])
def test_a_name_and_a_format_that_differ_are_refused(
    cutout: Run, photos: Path, tmp_path: Path, source: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, wanted in (("x.jpg", "png"), ("x.jfif", "webp"), ("x.png", "avif")):
        assert cutout("remove", source.format(photos=photos), "-o", tmp_path / name, "--format", wanted) == 1
        assert f"--format is {wanted}" in capsys.readouterr().err
        assert not (tmp_path / name).exists()
    assert not opened


def test_other_names_of_jpeg_are_written_as_jpeg(cutout: Run, photos: Path, tmp_path: Path) -> None:
    for name in ("x.jfif", "x.jpe", "x.JPEG"):
        assert cutout("remove", photos / "a.png", "-o", tmp_path / name, "--format", "jpg") == 0
        assert open_picture((tmp_path / name).read_bytes()).format == "JPEG"


# --- Files of folders -------------------------------------------------------------------------------


def test_every_spelling_of_a_format_is_a_photo(cutout: Run, tmp_path: Path) -> None:
    names = ("a.jfif", "b.jpe", "c.hif", "d.mpo", "e.JFIF", "f.dib")
    (tmp_path / "photos").mkdir()
    for name in names:
        (tmp_path / "photos" / name).write_bytes(photo_bytes())
    assert cutout("remove", tmp_path / "photos", "-o", tmp_path / "out") == 0
    assert files(tmp_path / "out") == {f"{name[0]}.png" for name in names}


def test_linked_folders_are_followed_once(
    cutout: Run, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    disk = tmp_path / "disk"
    (disk / "more").mkdir(parents=True)
    for name in ("e.png", "more/f.png"):
        (disk / name).write_bytes(photo_bytes())
    (photos / "aa").symlink_to(photos / "deep")  # The folder is also reached under its own name.
    (photos / "one").symlink_to(disk)
    (photos / "two").symlink_to(disk)
    (photos / "deep" / "up").symlink_to(photos)
    (photos / "higher").symlink_to(tmp_path)
    (disk / "more" / "round").symlink_to(disk)
    (photos / "self").symlink_to(photos / "self")
    (photos / "gone.png").symlink_to(tmp_path / "gone.png")
    (photos / "g.png").symlink_to(disk / "e.png")
    assert cutout("remove", photos, "-o", tmp_path / "out") == 0
    made = {"a.png", "b.png", "deep/er/c.png", "one/e.png", "one/more/f.png", "g.png"}
    assert files(tmp_path / "out") == made
    said = capsys.readouterr().err
    assert f"3 folders or links are processed under another path and were skipped ({photos}/aa, " in said
    assert "2 folders or links form a loop and were skipped" in said
    assert "2 folders or links are broken and were skipped" in said


def test_a_folder_that_cannot_be_read_is_said(
    cutout: Run,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    scandir = os.scandir

    def locked(folder: Path) -> object:
        if folder.name == "deep":
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr("cutout.app.cli.plan.os.scandir", locked)
    assert cutout("remove", photos, "-o", tmp_path / "out") == 0
    assert "1 folders or links cannot be read (Permission denied) and were skipped" in capsys.readouterr().err


# --- Photos that were replaced ----------------------------------------------------------------------


def replace_by_older(photo: Path, *, days: int = 2) -> None:
    """Replace a photo by another one with an earlier date."""
    photo.write_bytes(photo_bytes(60, 20, seed=9))
    then = time.time() - days * 86_400
    os.utime(photo, (then, then))


def size_of(file: Path) -> tuple[int, int]:
    return open_picture(file.read_bytes()).size


@pytest.mark.parametrize("before_the_record", [False, True])
def test_a_photo_replaced_by_an_older_one_is_done_again(
    cutout: Run, photos: Path, tmp_path: Path, before_the_record: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    cutout("remove", photos, "-o", out)
    if before_the_record:
        (out / NAME).unlink()
        runs = len(opened)
        cutout("remove", photos, "-o", out)
        assert len(opened) == runs  # The dates of photo and cut-out were enough.
    replace_by_older(photos / "deep/er/c.png")
    capsys.readouterr()
    cutout("remove", photos, "-o", out)
    assert "1 of 1 done" in capsys.readouterr().err
    assert size_of(out / "deep/er/c.png") == (60, 20)
    runs = len(opened)
    cutout("remove", photos, "-o", out)
    assert len(opened) == runs


def test_a_photo_that_failed_is_tried_again(cutout: Run, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    cutout("remove", photos, "-o", out)
    (photos / "a.png").write_bytes(b"damaged")
    os.utime(photos / "a.png", (1e9, 1e9))
    assert cutout("remove", photos, "-o", out) == 1
    assert cutout("remove", photos, "-o", out) == 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: b"",
        lambda text: text[:-20],
        lambda text: b"\xff\0{]" * 30 + b"\n" + text,
        lambda text: b'["a.png", 5, 1e999]\n[["a.png"], 1, 2]\n[1]\n{"file": "a.png", "size": 1}\n' + text,
        lambda text: b"[" * 100_000,
    ],
)
def test_a_damaged_record_costs_nothing_but_its_lines(
    cutout: Run, photos: Path, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    out = tmp_path / "out"
    cutout("remove", photos, "-o", out)
    (out / NAME).write_bytes(damage((out / NAME).read_bytes()))
    runs = len(opened)
    assert cutout("remove", photos, "-o", out) == 0
    assert len(opened) == runs
    for photo in ("a.png", "b.png", "deep/er/c.png"):
        replace_by_older(photos / photo)
    assert cutout("remove", photos, "-o", out) == 0
    assert {size_of(out / photo) for photo in ("a.png", "b.png", "deep/er/c.png")} == {(60, 20)}


def test_times_of_whole_seconds_may_differ_a_little() -> None:
    second = 1_000_000_000
    stamp = Seen(5, 7 * second + 1)
    assert stamp.is_same(Seen(5, 7 * second + 1))
    assert stamp.is_same(Seen(5, 6 * second))  # As a FAT drive stores it.
    assert not stamp.is_same(Seen(5, 7 * second + 2))
    assert not stamp.is_same(Seen(5, 5 * second))
    assert not stamp.is_same(Seen(6, 7 * second + 1))
