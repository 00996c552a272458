"""Every field of remove.bg's API with every kind of value: what it becomes, or how it is refused."""

import base64
import dataclasses
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from cutout.app.removals.executors import LocalExecutor, RemovalExecutor
from cutout.inference.cutout import Cutout
from cutout.inference.imaging.backgrounds import Picture
from cutout.inference.imaging.encode import Format
from cutout.inference.imaging.geometry import Layout, Length, Margin, Region, Unit
from cutout.inference.options import Options
from cutout.inference.tiers import Tier
from tests.app.compat.compat_client import KINDS, PHOTO, CompatClient, nothing_charged, their_error
from tests.fakes import photo_bytes
from tests.web import PUBLIC, Web, answer

PX, PC = Unit.PIXELS, Unit.PERCENT
MP = 1_000_000
BASIC, BEST = Tier.BASIC, Tier.PROFESSIONAL
# What is asked for where no field says anything else.
USUAL = Options(tier=BASIC, format=Format.AUTO, layout=Layout(max_pixels=MP // 4), require_subject=True)


def layout(**changes: Any) -> dict[str, Any]:
    return {"layout": dataclasses.replace(USUAL.layout, **changes)}


def size(tier: Tier, most: int | None) -> dict[str, Any]:
    return {"tier": tier, **layout(max_pixels=most)}


def margin(*sides: tuple[float, Unit]) -> dict[str, Any]:
    return layout(trim=True, margin=Margin(*(Length(*side) for side in sides)))


def region(*sides: tuple[float, Unit]) -> dict[str, Any]:
    return layout(region=Region(*(Length(*side) for side in sides)))


CROP = {"crop": "true"}
# Fields, and in which of the options they change what.
VALID: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    *(({"size": name}, {}) for name in ("preview", "small", "regular", "PREVIEW")),
    ({"size": "medium"}, size(BEST, 3 * MP // 2)),
    ({"size": "hd"}, size(BEST, 4 * MP)),
    # A PNG has at most 10 megapixels; the other formats 25, and more only with the size that says so.
    *(({"size": name}, size(BEST, 10 * MP)) for name in ("full", "4k", "50MP", "auto")),
    ({"size": "full", "format": "png"}, {"format": Format.PNG} | size(BEST, 10 * MP)),
    ({"size": "full", "format": "jpg"}, {"format": Format.JPG} | size(BEST, 25 * MP)),
    ({"size": "4k", "format": "webp"}, {"format": Format.WEBP} | size(BEST, 25 * MP)),
    ({"size": "50mp", "format": "zip"}, {"format": Format.ZIP} | size(BEST, None)),
    ({"size": "auto", "format": "jpg"}, {"format": Format.JPG} | size(BEST, None)),
    ({"size": "full", "bg_color": "fff"}, {"background": (255, 255, 255)} | size(BEST, 25 * MP)),
    ({"size": "full", "bg_color": "ffffff80"}, {"background": (255, 255, 255, 128)} | size(BEST, 10 * MP)),
    ({"size": "full", "bg_color": "fff", "channels": "alpha"}, {"mask_only": True} | size(BEST, 10 * MP)),
    *(({"type": name}, {}) for name in ("auto", "person", "product", "car", "animal", "graphic", "new")),
    *(({"type_level": name}, {}) for name in ("1", "2", "latest", "none", 2)),
    ({"format": "auto"}, {}),
    ({"format": "png"}, {"format": Format.PNG}),
    ({"format": "jpg"}, {"format": Format.JPG}),
    ({"format": "webp"}, {"format": Format.WEBP}),
    ({"format": "zip"}, {"format": Format.ZIP}),
    ({"roi": "0% 0% 100% 100%"}, {}),
    ({"roi": "0 0 100% 100%"}, {}),
    ({"roi": "10% 0 90% 100%"}, region((10, PC), (0, PX), (90, PC), (100, PC))),
    ({"roi": "1px 2px 30px 20px"}, region((1, PX), (2, PX), (30, PX), (20, PX))),
    *(({"crop": value}, layout(trim=True)) for value in ("true", "1", "yes", "TRUE")),
    *(({"crop": value}, {}) for value in ("false", "0", "no")),
    ({"crop_margin": "10%"}, {}),
    ({**CROP, "crop_margin": "0"}, layout(trim=True)),
    ({**CROP, "crop_margin": "10%"}, margin(*4 * [(10, PC)])),
    ({**CROP, "crop_margin": "500px"}, margin(*4 * [(500, PX)])),
    ({**CROP, "crop_margin": "50% 5px"}, margin((50, PC), (5, PX), (50, PC), (5, PX))),
    ({**CROP, "crop_margin": "1px 2px 3% 4"}, margin((1, PX), (2, PX), (3, PC), (4, PX))),
    ({"scale": "original"}, {}),
    ({"scale": "10%"}, layout(scale=0.1)),
    ({"scale": "100%"}, layout(scale=1.0)),
    ({"scale": "55.5%"}, layout(scale=0.555)),
    ({"position": "original"}, {}),
    ({"position": "center"}, layout(position=(0.5, 0.5))),
    ({"position": "0%"}, layout(position=(0.0, 0.0))),
    ({"position": "100% 25%"}, layout(position=(1.0, 0.25))),
    ({"channels": "rgba"}, {}),
    ({"channels": "alpha"}, {"mask_only": True}),
    ({"channels": "alpha", "format": "zip"}, {"format": Format.ZIP}),
    ({"channels": "alpha", "add_shadow": "true"}, {"mask_only": True}),
    ({"add_shadow": "false"}, {}),
    ({"add_shadow": "true"}, {"shadow": 0.5}),
    ({"add_shadow": "true", "shadow_method": "legacy"}, {"shadow": 0.5}),
    ({"add_shadow": "true", "shadow_opacity": "80"}, {"shadow": 0.8}),
    ({"shadow_type": "drop"}, {"shadow": 0.5}),
    ({"shadow_type": "3D", "shadow_opacity": "100"}, {"shadow": 1.0}),
    ({"shadow_type": "none", "add_shadow": "true"}, {}),
    ({"shadow_opacity": "30"}, {}),
    *(({"semitransparency": value}, {}) for value in ("true", "false", "1", "no")),
    *(({"bg_color": f"{mark}fa0"}, {"background": (255, 170, 0)}) for mark in ("", "#")),
    *(({"bg_color": f"{mark}fa08"}, {"background": (255, 170, 0, 136)}) for mark in ("", "#")),
    *(({"bg_color": f"{mark}81d4fa"}, {"background": (129, 212, 250)}) for mark in ("", "#")),
    *(({"bg_color": f"{mark}81d4fa40"}, {"background": (129, 212, 250, 64)}) for mark in ("", "#")),
    ({"bg_color": "green"}, {"background": (0, 128, 0)}),
    ({"invented": "x", "image_filename": "a.jpg"}, {}),
]
# Of JSON's own types.
JSON_VALUES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"crop": True, "crop_margin": 30}, margin(*4 * [(30, PX)])),
    ({"crop": False, "scale": 50}, layout(scale=0.5)),
    ({"add_shadow": True, "shadow_opacity": 25.5}, {"shadow": 0.255}),
    ({"crop": 1, "semitransparency": False}, layout(trim=True)),
    ({"bg_color": None, "size": None, "crop": None}, {}),
]
INVALID = [
    ("size", ["huge", "0", "full hd"], "invalid_size"),
    ("format", ["avif", "gif", "png8"], "invalid_format"),
    ("roi", ["10% 10%", "a b c d", "1 2 3 4 5", "-1 0 10 10"], "invalid_roi"),
    ("crop", ["maybe", "2"], "invalid_crop"),
    ("crop_margin", ["51%", "501px", "1 2 3", "-1px", "1em", "1 2 3 4 5"], "invalid_crop_margin"),
    ("scale", ["9%", "101%", "-5%", "50px", "big"], "invalid_scale"),
    ("position", ["101%", "-1%", "1px", "here", "1% 2% 3%"], "invalid_position"),
    ("channels", ["rgb", "alpha,rgba"], "invalid_channels"),
    ("add_shadow", ["perhaps"], "invalid_add_shadow"),
    ("shadow_opacity", ["-1", "101", "nan", "dark"], "invalid_shadow_opacity"),
    ("semitransparency", ["some"], "invalid_semitransparency"),
    ("bg_color", ["#ff", "nocolour", "#gggggg", "rgb(999,0,0)"], "invalid_bg_color"),
    ("bg_image_url", ["ftp://a.example/b", "picture", "http://u:p@a.example/"], "invalid_bg_image_url"),
]
# Values that no field has.
NEVER = ["\0", "é😀", 9000 * "9", "a\r\nb"]


@pytest.fixture(scope="module")
def asked(compat: CompatClient) -> Iterator[list[Options]]:
    """Return the options of each removal; all of them get the same picture, since the engine has its own tests."""
    seen: list[Options] = []
    executor = compat.shop.state.get(RemovalExecutor)
    assert isinstance(executor, LocalExecutor)
    picture = executor.engine.submit(PHOTO, Options(), caller="test").result()

    async def make(job_id: uuid.UUID, photo: bytes, options: Options, user_id: uuid.UUID) -> Cutout:
        assert photo == PHOTO
        seen.append(options)
        return picture

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(executor, "make", make)
        yield seen


def expected(changes: dict[str, Any]) -> Options:
    return dataclasses.replace(USUAL, **changes)


def test_every_valid_value(compat: CompatClient, asked: list[Options]) -> None:
    for number, (fields, changes) in enumerate(VALID):
        kind = KINDS[number % len(KINDS)]
        response = compat.send(fields, kind=kind)
        assert response.status_code == 200, (kind, fields, response.text)
        assert asked[-1] == expected(changes), (kind, fields)
        level = str(fields.get("type_level", "1"))
        assert response.headers.get("X-Type") == (None if level == "none" else "other"), fields


@pytest.mark.parametrize("kind", KINDS)
def test_many_fields_in_each_kind_of_body(compat: CompatClient, asked: list[Options], kind: str) -> None:
    fields = {"size": "hd", "format": "webp", "crop": "true", "crop_margin": "10% 20px", "scale": "80%"}
    fields |= {"position": "50% 100%", "roi": "0 0 50% 50%", "bg_color": "#fff", "add_shadow": "1"}
    assert compat.send(fields, kind=kind).status_code == 200
    made = margin((10, PC), (20, PX), (10, PC), (20, PX))["layout"]
    half = Region(Length(0), Length(0), Length(50, PC), Length(50, PC))
    assert asked[-1] == Options(
        tier=BEST,
        format=Format.WEBP,
        background=(255, 255, 255),
        shadow=0.5,
        layout=dataclasses.replace(made, max_pixels=4 * MP, scale=0.8, position=(0.5, 1.0), region=half),
        require_subject=True,
    )


def test_values_of_json(compat: CompatClient, asked: list[Options]) -> None:
    for fields, changes in JSON_VALUES:
        response = compat.send(fields, kind="json")
        assert response.status_code == 200, (fields, response.text)
        assert asked[-1] == expected(changes), fields


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_undefined_or_empty_is_not_there(
    compat: CompatClient, asked: list[Options], kind: str
) -> None:
    names = [*dict.fromkeys(name for fields, _ in VALID for name in fields), "image_url", "bg_image_url"]
    names += ["image_file", "bg_image_file"] if kind != "multipart" else ["bg_image_file", "image_file_b64"]
    for value in ("undefined", "", " Undefined ", "null"):
        response = compat.send(dict.fromkeys(names, value), kind=kind)
        assert response.status_code == 200, (value, response.text)
        assert asked[-1] == USUAL


def test_every_invalid_value(compat: CompatClient, asked: list[Options]) -> None:
    before = len(asked)
    with nothing_charged(compat):
        for number, (name, values, code) in enumerate(INVALID):
            for kind in KINDS:
                assert name in their_error(compat.send({name: values[0]}, kind=kind), 400, code)
            for value in [*values[1:], *NEVER]:
                kind = "json" if name == "bg_image_url" else KINDS[number % len(KINDS)]
                title = their_error(compat.send({name: value, **CROP} | {name: value}, kind=kind), 400, code)
                assert name in title, (name, value)
                assert len(title) < 1001
        odd: list[Any] = [[1], {"a": 1}, [[[]]]]
        for value in odd:
            for name, _, code in INVALID:
                their_error(compat.send({name: value}, kind="json"), 400, code)
    assert len(asked) == before


def test_where_the_photo_comes_from(compat: CompatClient, asked: list[Options], web: Web) -> None:
    web.pages["/photo.png"] = answer(PHOTO)
    url = f"http://{PUBLIC}:{web.port}/photo.png"
    plain = base64.b64encode(PHOTO).decode()
    lines = base64.encodebytes(PHOTO).decode()
    urlsafe = base64.urlsafe_b64encode(PHOTO).decode().rstrip("=")
    for kind in KINDS:
        for fields in (
            {"image_url": url},
            *(
                {"image_file_b64": text}
                for text in (plain, lines, urlsafe, f"data:image/png;base64,{plain}", f" \n{plain}\n")
            ),
        ):
            response = compat.send(fields, kind=kind, photo=None)
            assert response.status_code == 200, (kind, fields, response.text)
    # As `curl -d image_file_b64=$(base64 photo)` sends it: without escaping.
    raw = compat.shop.client.post(
        compat.url,
        content=f"size=auto&image_file_b64={plain}".encode(),
        headers={"X-Api-Key": compat.key, "Content-Type": "application/x-www-form-urlencoded"},
    )
    assert raw.status_code == 200, raw.text
    assert b"+" in plain.encode()


def test_pictures_in_the_background(compat: CompatClient, asked: list[Options], web: Web) -> None:
    behind = photo_bytes(seed=7)
    web.pages["/behind.png"] = answer(behind)
    url = f"http://{PUBLIC}:{web.port}/behind.png"
    assert compat.send(files={"bg_image_file": behind}).status_code == 200
    assert asked[-1] == expected({"background": Picture.of(behind)})
    for kind in KINDS:
        assert compat.send({"bg_image_url": url, "size": "full"}, kind=kind).status_code == 200
        background = asked[-1].background
        assert isinstance(background, Picture)
        assert background.data == behind
        assert asked[-1].layout.max_pixels == 25 * MP  # nothing is transparent, so it is no PNG
    # A mask has no background.
    assert compat.send({"bg_image_url": url, "channels": "alpha"}).status_code == 200
    assert asked[-1] == expected({"mask_only": True})
