"""`cutout remove` with layouts, presets and `auto`: names of results, what is done again, and what to look at."""

import json
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

from cutout.app import bootstrap
from cutout.app.cli import main
from cutout.app.cli.output_record import NAME, digest_of
from cutout.inference import engine as inference
from cutout.inference.imaging.encode import Format
from cutout.inference.imaging.geometry import Layout
from cutout.inference.options import Options
from tests.fakes import FakeRunner, fake_engine, open_picture, photo_bytes


class Bench:
    """The command in this process, on a fake network."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.radius = 0.3
        self.opened = 0
        self.code = 0
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def engine(self, *_: object) -> inference.Engine:
        self.opened += 1
        return fake_engine(FakeRunner(radius=self.radius))

    def __call__(self, *arguments: object) -> str:
        """Run the command; return what it wrote to stderr, and to stdout."""
        self._monkeypatch.setattr(sys, "argv", ["cutout", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        self.code = int(ended.value.code or 0)
        said = self._capsys.readouterr()
        return said.err + said.out


@pytest.fixture
def cutout(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Bench:
    bench = Bench(monkeypatch, capsys)
    monkeypatch.setattr(bootstrap, "engine_from", bench.engine)
    monkeypatch.setattr(bootstrap, "pull_missing", lambda *_: None)
    return bench


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        (folder / name).write_bytes(photo_bytes(seed=len(name)))
    return folder


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != NAME)


def test_options_reach_the_picture(cutout: Bench, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    said = cutout("remove", photos, "-o", out, "--preset", "amazon", "--canvas", "300x200")
    assert "2 of 2 done" in said
    picture = open_picture((out / "a.jpg").read_bytes())
    assert (picture.format, picture.size) == ("JPEG", (300, 200))
    (tmp_path / "red.png").write_bytes(photo_bytes())
    cutout("remove", photos / "a.png", "-o", tmp_path / "x.png", "--preset", "amazon", "--canvas", "30")
    assert open_picture((tmp_path / "x.png").read_bytes()).format == "PNG"
    behind = ("--background-image", tmp_path / "red.png", "--trim", "--margin", "2px")
    cutout("remove", photos / "a.png", "-o", tmp_path / "y.png", *behind)
    assert open_picture((tmp_path / "y.png").read_bytes()).mode == "RGB"
    cutout("remove", photos / "a.png", "-o", tmp_path / "z.zip")
    assert sorted(ZipFile(tmp_path / "z.zip").namelist()) == ["alpha.png", "color.jpg"]


def test_auto_decides_each_name_after_the_work_and_knows_it_the_next_time(
    cutout: Bench, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    cutout("remove", photos, "-o", out, "--format", "auto")
    assert files(out) == ["a.png", "b.png"]
    assert "2 already done" in cutout("remove", photos, "-o", out, "--format", "auto")
    (photos / "a.png").write_bytes(photo_bytes(60, 20))
    assert "1 of 1 done" in cutout("remove", photos, "-o", out, "--format", "auto")
    opened = cutout.opened
    said = cutout("remove", photos, "-o", out, "--format", "auto", "--background", "white")
    assert "2 were made with other options and are made again." in said
    assert files(out) == ["a.jpg", "b.jpg"]  # The PNGs of the same photos are gone.
    assert open_picture((out / "a.jpg").read_bytes()).size == (60, 20)
    assert cutout.opened == opened + 1
    assert "2 already done" in cutout(
        "remove", photos, "-o", out, "--format", "auto", "--background", "white"
    )
    assert cutout.opened == opened + 1


def test_auto_deletes_no_file_that_it_did_not_make(cutout: Bench, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.jpg").write_bytes(b"someone else's")
    (photos / "a.png").write_bytes(photo_bytes())  # newer than that
    cutout("remove", photos, "-o", out, "--format", "auto", "--overwrite")
    assert files(out) == ["a.jpg", "a.png", "b.png"]
    assert (out / "a.jpg").read_bytes() == b"someone else's"


def test_auto_writes_over_no_photo(cutout: Bench, photos: Path) -> None:
    (photos / "c.jpg").write_bytes(photo_bytes(file_format="JPEG"))
    said = cutout("remove", photos / "c.jpg", "-o", photos, "--format", "auto")
    assert "would be overwritten by its own cut-out" in said
    assert cutout.code == 1


def test_other_options_are_other_results(cutout: Bench, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    cutout("remove", photos, "-o", out)
    assert "2 already done" in cutout("remove", photos, "-o", out)
    for more in (("--tier", "industry"), ("--trim",), ("--trim", "--margin", "5%"), ("--shadow", "soft")):
        said = cutout("remove", photos, "-o", out, *more)
        assert "2 were made with other options and are made again." in said
        assert "2 of 2 done" in said
        assert "2 already done" in cutout("remove", photos, "-o", out, *more)
    # As earlier versions wrote them: nobody knows with which options, so they are left alone.
    record = out / NAME
    lines = [json.loads(line) for line in record.read_text().splitlines() if line]
    record.write_text("\n".join(json.dumps(line[:3]) for line in lines))
    opened = cutout.opened
    assert "2 already done" in cutout("remove", photos, "-o", out, "--mask-only")
    assert cutout.opened == opened


def test_the_same_options_have_the_same_digest() -> None:
    assert digest_of(Options()) == digest_of(Options(format=Format.PNG, quality=90))
    different = [Options(), Options(quality=80), Options(layout=Layout(trim=True)), Options(shadow=0.3)]
    assert len(set(map(digest_of, different))) == len(different)
    # It is kept in folders, so it must not change from one version to the next.
    assert digest_of(Options()) == "b42a946e96d23f2e"


def test_what_needs_a_look_is_named_at_the_end(cutout: Bench, photos: Path, tmp_path: Path) -> None:
    cutout.radius = 0.9  # everything is subject
    said = cutout("remove", photos, "-o", tmp_path / "out")
    assert said.count("review: ") == 2
    assert f"review: {photos}/a.png: The subject's outline is uncertain" in said
    cutout.radius = -1.0
    said = cutout("remove", photos, "-o", tmp_path / "none")
    assert "review: " not in said
    assert said.count("No subject was found") == 2
    said = cutout("remove", photos, "-o", tmp_path / "strict", "--require-subject")
    assert (cutout.code, said.count("failed: "), files(tmp_path)) == (1, 2, ["none", "out", "photos"])
    cutout.radius = 0.3
    assert "review: " not in cutout("remove", photos, "-o", tmp_path / "good", "--max-megapixels", "0.01")


def test_presets_are_listed_with_their_sources(
    cutout: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own.toml").write_text('[our-shop]\ntitle = "Ours [1]"\ncanvas = "9x9"\n')
    monkeypatch.setenv("CUTOUT_PRESETS", str(tmp_path / "own.toml"))
    said = cutout("presets")
    assert cutout.code == 0
    for told in ("amazon", "canvas=2000x2000", "https://", "our-shop", "Ours [1]", "canvas=9x9"):
        assert told in said
    said = cutout("remove", tmp_path, "-o", tmp_path / "out", "--preset", "our-shops")
    assert "Did you mean our-shop?" in said
