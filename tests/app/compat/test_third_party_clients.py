"""Clients that others wrote for remove.bg, as published, against the service: only the URL is changed, or nothing.

Clients that keep the URL in a constant get another one from outside. For those that have it in the middle of their code,
`impostor.py` is `api.remove.bg`.
"""

import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from cutout.app.app import create_app
from cutout.app.auth import accounts
from cutout.app.auth.tokens import Claims
from cutout.app.billing import ledger
from cutout.app.db import migrate
from cutout.app.db.session import Database
from tests.app.api_client import service_settings
from tests.app.compat import third_party
from tests.app.compat.impostor import HOST, Impostor, in_place_of_removebg
from tests.app.compat.third_party import Ran
from tests.app.serving import served
from tests.fakes import fake_engine, open_picture
from tests.web import answer, open_web

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
WIDTH, HEIGHT = 600, 450
PREVIEW = 250_000
GRANTED = 1000


@dataclass
class Place:
    """A service with accounts, a user of it, and a folder with a photo that is also on the web."""

    address: str
    database: Database
    key: str
    folder: Path
    photo_url: str
    impostor: Impostor

    @property
    def photo(self) -> str:
        return str(self.folder / "photo.jpg")

    def balance(self) -> int:
        with self.database.begin() as session:
            assert ledger.discrepancies(session) == {}
            return ledger.balance(session, accounts.by_key(session, self.key).id)

    def python(self, *command: str, **environment: str) -> Ran:
        """Run Python with the clients."""
        clients = str(third_party.python_clients())
        return third_party.run(
            [sys.executable, *command],
            self.folder,
            PYTHONPATH=clients,
            PYTHONUTF8="1",
            REMOVE_BG_API_KEY=self.key,
            **environment,
        )

    def node(self, script: str, inside: bool = False) -> Ran:
        """Run a script in Node.js, for which the service is `api.remove.bg`: by its proxy, or `inside` a namespace."""
        command = [*third_party.node_command(), "-e", script]
        environment = self.impostor.trust if inside else self.impostor.environment
        return third_party.run(
            self.impostor.inside(command) if inside else command,
            self.folder,
            NODE_PATH=str(third_party.node_clients() / "node_modules"),
            PYTHONPATH=str(ROOT),
            **environment,
        )

    def picture(self, name: str) -> Image.Image:
        return open_picture((self.folder / name).read_bytes())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("clients")
    url = f"sqlite:///{folder / 'cutout.db'}"
    database = Database(url)
    migrate.migrate(database)
    with database.begin() as session:
        user = accounts.get_or_create_user(session, Claims("anna"))
        ledger.grant(session, user.id, GRANTED, "grant:anna")
        key, _ = accounts.create_key(session, user, "clients")
    settings = service_settings(url, folder / "data", fetch_allow_networks="127.0.0.1/32")
    # Of one colour, so that no tier moves the edge of the fake network's disc.
    Image.new("RGB", (WIDTH, HEIGHT), (180, 90, 60)).save(folder / "photo.jpg")
    photo = (folder / "photo.jpg").read_bytes()
    with (
        served(create_app(settings, lambda _: fake_engine()), settings) as address,
        open_web(addresses=["127.0.0.1"]) as web,
        in_place_of_removebg(address, folder) as impostor,
    ):
        web.pages["/photo.jpg"] = answer(photo, Content_Type="image/jpeg")
        yield Place(address, database, key, folder, f"http://127.0.0.1:{web.port}/photo.jpg", impostor)
    database.close()


@pytest.fixture
def asked(place: Place) -> list[str]:
    """Return the hosts that clients connect to during this test."""
    place.impostor.asked.clear()
    return place.impostor.asked


def require_preview(picture: Image.Image) -> None:
    """Check a cut-out of the photo at remove.bg's size `preview`: the disc of the fake network, on nothing."""
    width, height = picture.size
    assert 0.97 * PREVIEW < width * height <= PREVIEW
    assert width / height == pytest.approx(WIDTH / HEIGHT, rel=0.01)
    require_disc(picture)


def require_disc(picture: Image.Image) -> None:
    alpha = picture.getchannel("A")
    width, height = picture.size
    assert alpha.getpixel((0, 0)) == 0
    assert alpha.getpixel((width // 2, height // 2)) == 255
    left, top, right, bottom = alpha.point(lambda level: 255 * (level > 127)).getbbox() or (0, 0, 0, 0)
    assert right - left == pytest.approx(0.6 * width, abs=4)
    assert bottom - top == pytest.approx(0.6 * height, abs=4)


# Clients whose URL is a constant.

REMOVEBG = """
import base64, sys
from pathlib import Path
from removebg import removebg
address, key, photo, url = sys.argv[1:]
removebg.API_ENDPOINT = f"{address}/v1.0/removebg"
client = removebg.RemoveBg(key, "errors.log")
"""


def removebg(place: Place, script: str, key: str | None = None) -> Ran:
    arguments = [place.address, key or place.key, place.photo, place.photo_url]
    return place.python("-c", REMOVEBG + script, *arguments)


def test_removebg_from_a_file_a_url_and_base64(place: Place) -> None:
    before = place.balance()
    removebg(
        place,
        """
client.remove_background_from_img_file(photo)
client.remove_background_from_img_url(url, new_file_name="url.png", bg_color="ff0000")
coded = base64.b64encode(Path(photo).read_bytes())
client.remove_background_from_base64_img(coded, size="4k", new_file_name="base64.png")
""",
    ).good()
    require_preview(place.picture("photo.jpg_no_bg.png"))
    on_red = place.picture("url.png").convert("RGB")
    assert on_red.size == place.picture("photo.jpg_no_bg.png").size
    assert on_red.getpixel((2, 2)) == pytest.approx((255, 0, 0), abs=3)
    assert place.picture("base64.png").size == (WIDTH, HEIGHT)
    require_disc(place.picture("base64.png"))
    assert place.balance() < before
    assert (place.folder / "errors.log").read_text() == ""


def test_removebg_with_a_wrong_key_raises_what_it_always_raised(place: Place) -> None:
    before = place.balance()
    ran = removebg(place, "client.remove_background_from_img_file(photo)", "wrong")
    assert ran.code == 1
    assert "requests.exceptions.HTTPError: 403 Client Error" in ran.err
    assert place.balance() == before


REMBGPY = """
import base64, sys
from pathlib import Path
from rembgpy import bg
address, key, photo, url = sys.argv[1:]
bg.base_url = f"{address}/v1.0/removebg"
client = bg.RemBg(key, "rembgpy.log")
"""


def test_rembgpy_sends_every_option_of_remove_bg(place: Place) -> None:
    ran = place.python(
        "-c",
        REMBGPY
        + """
coded = base64.b64encode(Path(photo).read_bytes())
print(client.remove_img(url, nfn="plain.png"))
client.remove_img(url, crop="10px", size="full", nfn="cropped.png")
client.remove_b64(coded, scale="50%", position="0% 100%", type="car", nfn="placed.png")
client.remove_b64(coded, bg="white", bg_type="color", format="jpg", shadow=True, nfn="white.jpg")
client.remove_b64(coded, channels="alpha", semitransparency=False, type_level="latest", nfn="alpha.png")
""",
        place.address,
        place.key,
        place.photo,
        place.photo_url,
    )
    assert ran.good() == "[*] Process finished.\n"
    require_preview(place.picture("plain.png"))
    cropped = place.picture("cropped.png").getchannel("A")
    assert cropped.getbbox() == pytest.approx((10, 10, cropped.width - 10, cropped.height - 10), abs=1)
    assert 0.6 * WIDTH < cropped.width < 0.75 * WIDTH
    placed = place.picture("placed.png").getchannel("A")
    left, top, right, bottom = placed.getbbox() or (9, 9, 9, 9)
    assert max(right / placed.width, (bottom - top) / placed.height) == pytest.approx(0.5, abs=0.02)
    assert left == pytest.approx(0, abs=4)
    assert bottom == pytest.approx(placed.height, abs=4)
    assert place.picture("white.jpg").format == "JPEG"
    assert place.picture("alpha.png").mode == "L"


REMOVE_BG_API = """
import sys
import remove_bg_api
address, key, photo, url = sys.argv[1:]
remove_bg_api.API_URL = f"{address}/v1.0"
"""


def test_remove_bg_api_follows_its_balance_by_the_credits_that_the_header_says(place: Place) -> None:
    before = place.balance()
    ran = place.python(
        "-c",
        REMOVE_BG_API
        + """
client = remove_bg_api.RemoveBg(key)
print(client.account.balance())
client.remove_bg_file(photo, raw=False, out_path="api.png")
print(client.account.balance(), client.account.free_api_calls())
client.account.refresh_balance()
print(client.account.balance(), sorted(client.account.get_balance_dict()))
for bad in {"image_url": "x"}, {"image_url": url, "size": "huge"}:
    try:
        client.remove_bg_url(bad["image_url"], data=bad)
    except remove_bg_api.Errors.ApiErrorCode400 as error:
        print(type(error).__name__)
""",
        place.address,
        place.key,
        place.photo,
        place.photo_url,
    )
    start, after, refreshed, *errors = ran.good().splitlines()
    assert int(start) == before
    charged = before - place.balance()
    assert charged > 0
    assert after == f"{before - charged} 0"
    assert refreshed == f"{before - charged} ['enterprise', 'payg', 'subscription', 'total']"
    assert errors == ["ApiErrorCode400"] * 2
    require_preview(place.picture("api.png"))


# Clients with the URL in their code: the service is api.remove.bg.


def test_removebg_cli_as_a_command(place: Place, asked: list[str]) -> None:
    before = place.balance()
    command = ["-m", "removebg_cli"]
    account = place.python(*command, "--account", **place.impostor.environment).good()
    assert f"总 Credits: {before}" in account
    options = ["-o", "made/cli.webp", "-f", "webp", "-s", "preview", "-c", "--shadow"]
    told = place.python(*command, "photo.jpg", *options, **place.impostor.environment).good()
    charged = before - place.balance()
    assert charged > 0
    assert f"消耗 {charged} credits" in told
    assert place.picture("made/cli.webp").format == "WEBP"
    white = place.python(*command, "photo.jpg", "-b", "white", **place.impostor.environment)
    white.good()
    assert place.picture("photo-nobg.png").convert("RGB").getpixel((0, 0)) == (255, 255, 255)
    assert set(asked) == {f"{HOST}:443"}


def test_removebg_cli_shows_the_title_of_an_error(place: Place, asked: list[str]) -> None:
    (place.folder / "no-photo.jpg").write_bytes(b"This is not a photo.")
    ran = place.python("-m", "removebg_cli", "no-photo.jpg", **place.impostor.environment)
    assert ran.code == 1
    assert "API错误 [400]" in ran.out
    assert asked == [f"{HOST}:443"]


REMOVEBGPLUS = """
import base64, sys
from pathlib import Path
from removebgplus.removebg import APIError, RemoveBg
key, photo, url = sys.argv[1:]
client = RemoveBg(key)
client.remove_from_file(photo, "plus-file.png")
client.remove_from_url(url, "plus-url.png")
try:
    client.remove_from_base64(base64.b64encode(Path(photo).read_bytes()).decode(), "plus-base64.png")
except APIError as error:
    print(error)
"""


def test_removebgplus_and_the_field_that_it_misspells(place: Place, asked: list[str]) -> None:
    command = ["-c", REMOVEBGPLUS, place.key, place.photo, place.photo_url]
    ran = place.python(*command, **place.impostor.environment)
    status, _, body = ran.good().partition(" - ")
    # It sends `image_base64`, which remove.bg does not know either.
    assert status == "400"
    assert json.loads(body)["errors"][0]["code"] == "missing_source"
    for name in ("plus-file.png", "plus-url.png"):
        require_disc(place.picture(name))
    assert asked == [f"{HOST}:443"] * 3


NODE = """
const client = require("remove.bg");
const fs = require("fs");
const [apiKey, path, url] = {arguments};
const base64img = fs.readFileSync(path, {{encoding: "base64"}});
(async () => {{
  const told = [];
  told.push(await client.removeBackgroundFromImageFile({{apiKey, path, outputFile: "node-file.png"}}));
  told.push(await client.removeBackgroundFromImageUrl({{
    apiKey, url, outputFile: "node-url.png", crop: true, crop_margin: "20px", scale: "100%",
  }}));
  told.push(await client.removeBackgroundFromImageBase64({{
    apiKey, base64img, outputFile: "node-base64.png", size: "full", bg_color: "81d4fa77", type: "product",
  }}));
  told.push(await client.removeBackgroundFromImageFile({{
    apiKey, path, size: "huge"
  }}).catch(errors => errors));
  told.push(await client.removeBackgroundFromImageUrl({{apiKey: "wrong", url}}).catch(errors => errors));
  for (const one of told) if (one.base64img) one.base64img = one.base64img.length;
  console.log(JSON.stringify(told));
}})();
"""


def test_npm_remove_bg_with_a_file_a_url_and_base64(place: Place) -> None:
    before = place.balance()
    script = NODE.format(arguments=json.dumps([place.key, place.photo, place.photo_url]))
    from_file, from_url, from_base64, huge, stranger = json.loads(place.node(script, inside=True).good())
    picture = place.picture("node-file.png")
    require_preview(picture)
    assert (int(from_file["resultWidth"]), int(from_file["resultHeight"])) == picture.size
    assert from_file["detectedType"] == "other"
    charged = [int(one["creditsCharged"]) for one in (from_file, from_url, from_base64)]
    assert min(charged) > 0
    assert place.balance() == before - sum(charged)
    cropped = place.picture("node-url.png").getchannel("A")
    assert cropped.getbbox() == pytest.approx((20, 20, cropped.width - 20, cropped.height - 20), abs=1)
    tinted = place.picture("node-base64.png")
    assert tinted.size == (WIDTH, HEIGHT)
    assert tinted.getpixel((0, 0)) == pytest.approx((0x81, 0xD4, 0xFA, 0x77), abs=2)
    assert [error["code"] for error in huge] == ["invalid_size"]
    assert stranger[0]["title"]


def test_npm_removebg_wrapper(place: Place, asked: list[str]) -> None:
    script = f"""
const wrapper = require("removebg-wrapper");
wrapper.rbFromImageFile({json.dumps(place.photo)}, {json.dumps(place.key)});
wrapper.rbFromImageUrl({json.dumps(place.photo_url)}, {json.dumps(place.key)});
"""
    ran = place.node(script)
    assert ran.good() + ran.err == ""
    for name in ("output.png", "output-2.png"):
        require_disc(place.picture(name))
    assert asked == [f"{HOST}:443"] * 2


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_the_calls_of_the_documentation_of_remove_bg_and_photoroom(place: Place, asked: list[str]) -> None:
    key, trust = f"X-API-Key: {place.key}", place.impostor.environment
    command = ["curl", "-sS", "-H", key, "-F", "image_file=@photo.jpg", "-F", "size=auto", "-f"]
    third_party.run(
        [*command, f"https://{HOST}/v1.0/removebg", "-o", "no-bg.png"], place.folder, **trust
    ).good()
    require_disc(place.picture("no-bg.png"))
    assert place.picture("no-bg.png").size == (WIDTH, HEIGHT)
    assert asked == [f"{HOST}:443"]
    url = f"{place.address}/v1/segment"
    command = ["curl", "-sS", "-f", "--request", "POST", "--url", url, "--header", f"x-api-key: {place.key}"]
    command += ["--form", "image_file=@photo.jpg", "--form", "size=preview", "--output", "segment.png"]
    third_party.run(command, place.folder).good()
    require_disc(place.picture("segment.png"))


FETCH = """
const fs = require("fs");
const [address, key, path] = {arguments};
(async () => {{
  const form = new FormData();
  form.append("image_file", new Blob([fs.readFileSync(path)]), "photo.jpg");
  form.append("size", "auto");
  form.append("crop", true);
  form.append("bg_color", undefined);
  const answer = await fetch(address + "/v1.0/removebg", {{
    method: "POST", headers: {{"X-Api-Key": key}}, body: form,
  }});
  fs.writeFileSync("fetch.png", Buffer.from(await answer.arrayBuffer()));
  console.log(answer.status, answer.headers.get("content-type"));
}})();
"""


def test_fetch_of_node_and_browsers_whose_forms_have_undefined_as_text(place: Place) -> None:
    script = FETCH.format(arguments=json.dumps([place.address, place.key, place.photo]))
    assert place.node(script).good() == "200 image/png\n"
    cropped = place.picture("fetch.png").getchannel("A")
    assert cropped.getbbox() == (0, 0, *cropped.size)
