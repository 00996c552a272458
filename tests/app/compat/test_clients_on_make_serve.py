"""Clients as published against what `make serve` runs, with the real weights: no account, any key, the real photo."""

import shutil
import sys
from pathlib import Path

import pytest
from PIL import ImageChops, ImageStat

from cutout.inference.cutout import Cutout
from tests.app.compat import third_party
from tests.conftest import DATA
from tests.fakes import open_picture
from tests.web import answer, open_web

pytestmark = [pytest.mark.weights, pytest.mark.slow]

CAT = "chelsea"
PHOTO = DATA / f"{CAT}.jpg"

CLIENTS = """
import base64, sys
from pathlib import Path
from removebg import removebg
from rembgpy import bg
address, photo = sys.argv[1:]
removebg.API_ENDPOINT = bg.base_url = f"{address}/v1.0/removebg"
removebg.RemoveBg("any key", "errors.log").remove_background_from_img_file(photo)
coded = base64.b64encode(Path(photo).read_bytes())
bg.RemBg("any key", "errors.log").remove_b64(coded, nfn="rembgpy.png")
"""


def test_python_clients_cut_the_cat_out(service: str, cutouts: dict[str, Cutout], tmp_path: Path) -> None:
    photo = tmp_path / "cat.jpg"
    photo.write_bytes(PHOTO.read_bytes())
    command = [sys.executable, "-c", CLIENTS, service, str(photo)]
    third_party.run(command, tmp_path, PYTHONPATH=str(third_party.python_clients())).good()
    for name in ("cat.jpg_no_bg.png", "rembgpy.png"):
        require_cat(tmp_path / name, cutouts)


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_the_documented_calls_of_rembg(service: str, cutouts: dict[str, Cutout], tmp_path: Path) -> None:
    with open_web(addresses=["127.0.0.1"]) as web:
        web.pages["/cat.jpg"] = answer(PHOTO.read_bytes())
        url = f"{service}/api/remove?url=http://127.0.0.1:{web.port}/cat.jpg"
        third_party.run(["curl", "-s", url, "-o", "url.png"], tmp_path).good()
    form = ["-F", f"file=@{PHOTO}", f"{service}/api/remove"]
    third_party.run(["curl", "-s", *form, "-o", "file.png"], tmp_path).good()
    for name in ("url.png", "file.png"):
        require_cat(tmp_path / name, cutouts)


def require_cat(file: Path, cutouts: dict[str, Cutout]) -> None:
    """Check that this is the cat that the engine cuts out, whatever the tier."""
    picture, expected = (open_picture(data) for data in (file.read_bytes(), cutouts[CAT].data))
    assert (picture.format, picture.mode, picture.size) == ("PNG", "RGBA", expected.size)
    apart = ImageChops.difference(picture.getchannel("A"), expected.getchannel("A"))
    assert ImageStat.Stat(apart).mean[0] < 2
