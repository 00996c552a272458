"""`from cutout import remove`: what it takes and gives, and that the wheel has all of it under one name."""

import importlib.metadata
import io
import os
import runpy
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import cutout
import cutout.version
from cutout import library
from cutout.inference.weights.store import ModelsFolder
from tests.animations import animation_of, durations_of, moving_disc
from tests.conftest import DATA
from tests.fakes import fake_engine, photo_bytes

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _fake_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    engine = fake_engine()
    monkeypatch.setattr(library, "_engine", lambda tier: engine)
    yield
    engine.close()


def photo() -> Image.Image:
    return Image.open(io.BytesIO(photo_bytes(60, 40)))


@pytest.mark.parametrize(
    "given",
    [
        photo_bytes(60, 40),
        photo(),
        photo().convert("CMYK"),
        photo().convert("P"),
        photo().convert("L"),
        np.asarray(photo().convert("RGB")),
        np.asarray(photo().convert("L")),
    ],
    ids=["bytes", "PIL", "CMYK", "palette", "grey", "array", "grey array"],
)
def test_it_takes_bytes_images_and_arrays(given: Any) -> None:
    picture = cutout.remove(given)
    assert (picture.mode, picture.size) == ("RGBA", (60, 40))


def test_every_frame_of_an_animation_if_that_is_asked_for() -> None:
    moving = animation_of(moving_disc(3), "GIF")
    assert durations_of(cutout.remove(moving, animation="all", format="webp")) == [40, 40, 40]
    assert getattr(cutout.remove(moving, animation="all"), "n_frames", 1) == 3
    assert getattr(cutout.remove(moving), "n_frames", 1) == 1


def test_it_takes_paths_and_gives_bytes(tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(photo_bytes(60, 40))
    for path in (tmp_path / "photo.png", str(tmp_path / "photo.png")):
        data = cutout.remove(path, format="webp", tier="professional", background="#ff0000")
        assert Image.open(io.BytesIO(data)).format == "WEBP"
    assert cutout.remove(tmp_path / "photo.png", mask_only=True).mode == "L"
    with pytest.raises(FileNotFoundError):
        cutout.remove(tmp_path / "none.png")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"tier": "best"}, "'best' is not a tier. Choose one of: basic, standard"),
        ({"format": "psd"}, "'psd' is not a format. Choose one of: png"),
        ({"background": "see-through"}, "is not a colour"),
    ],
)
def test_wrong_options_are_named(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(cutout.CutoutError, match=message):
        cutout.remove(photo_bytes(), **wrong)


def test_an_array_that_is_no_picture_is_an_error() -> None:
    for array in (np.zeros((4, 4, 3)), np.zeros((4, 4, 2), np.uint8), np.zeros(4, np.uint8)):
        with pytest.raises(cutout.CutoutError, match="is not a picture"):
            cutout.remove(array)


def test_names_are_imported_at_their_first_use() -> None:
    """Commands without an engine, and `cutout worker` until it becomes the worker, do not wait for torch either."""
    script = (
        "import cutout, cutout.app.bootstrap, cutout.app.cli, cutout.app.jobs.queue, sys;"
        "print('torch' in sys.modules, cutout.Tier.BASIC, *cutout.__all__)"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert told.split()[:2] == ["False", "basic"]
    for name in told.split()[2:]:
        assert getattr(cutout, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        cutout.nothing  # noqa: B018


@pytest.mark.weights
@pytest.mark.slow
def test_the_wheel_has_one_package_and_works_alone(tmp_path: Path, small_weights: ModelsFolder) -> None:
    """The wheel is built from a clean copy and unpacked into an empty folder, as an installation does."""
    source, wheels, site = tmp_path / "source", tmp_path / "wheels", tmp_path / "site"
    for name in ("cutout", "app", "inference", "models", "worker"):
        shutil.copytree(
            ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    # What pip calls for a wheel, without pip.
    build = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
    wheels.mkdir()
    subprocess.run([sys.executable, "-c", build, str(wheels)], cwd=source, check=True, capture_output=True)
    (wheel,) = wheels.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"cutout", "cutout_server"}
    for name in (
        "app/web/static/index.html",
        "app/db/migrations/script.py.mako",
        "inference/presets.toml",
        "inference/selftest/samples/photo.jpg",
        "inference/selftest/samples/refined.png",
        "py.typed",
        "worker/__main__.py",
    ):
        assert f"cutout/{name}" in names
    zipfile.ZipFile(wheel).extractall(site)

    script = (
        "import runpy, sys, cutout; picture = cutout.remove(sys.argv[1], tier='preview');"
        "picture.save(sys.argv[2]); print(cutout.__file__, cutout.library.__file__);"
        # The worker in the same process, since what it imports takes seconds.
        "sys.argv[1:] = ['--help']; runpy.run_module('cutout.worker', run_name='__main__', alter_sys=True)"
    )
    environment = os.environ | {
        "PYTHONPATH": str(site),
        "CUTOUT_DEVICE": "cpu",
        "CUTOUT_MODELS_DIR": str(small_weights.path),
    }
    out = tmp_path / "out.png"
    command = [sys.executable, "-c", script, str(DATA / "astronaut.jpg"), str(out)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    files, *usage = done.stdout.splitlines()
    assert all(path.startswith(str(site)) for path in files.split())
    assert "--queues" in "".join(usage)
    alpha = np.asarray(Image.open(out))[..., 3]
    assert 0.2 < (alpha > 128).mean() < 0.9


def test_a_checkout_that_is_not_installed_has_a_version_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    assert cutout.version.__file__ is not None
    assert runpy.run_path(cutout.version.__file__)["__version__"] == "0+source"
