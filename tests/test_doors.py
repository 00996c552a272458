"""The HTTP API, the command line and the Python library make the same options of the same values."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from pydantic.alias_generators import to_camel
from starlette.testclient import TestClient

import cutout
from cutout import library
from cutout.app.app import create_app
from cutout.app.batches.form import Fields
from cutout.app.cli import main
from cutout.app.cli import remove as command
from cutout.app.config import settings as app_settings
from cutout.app.core.errors import InvalidInputError
from cutout.app.http.state import state_of
from cutout.app.net.image_fetcher import ImageFetcher
from cutout.app.notifications.outbox import Outbox
from cutout.app.removals import service as removals
from cutout.inference.errors import InvalidOptions
from cutout.inference.imaging.backgrounds import BlurredPhoto, Gradient, Picture
from cutout.inference.imaging.encode import Format
from cutout.inference.imaging.geometry import Layout, Length, Unit, parse_margin, parse_region
from cutout.inference.imaging.hints import Hints, Point
from cutout.inference.option_values import OptionValues
from cutout.inference.options import Options
from cutout.inference.presets import load_presets
from cutout.inference.tiers import Tier
from tests.fakes import fake_engine, photo_bytes

API = "/api/background-remover/remove"
PHOTO, BEHIND = photo_bytes(), photo_bytes(9, 7, seed=3)
STROKES, MORE_STROKES = photo_bytes(5, 6, seed=4), photo_bytes(8, 2, seed=5)
FILES = ("background_image", "keep_mask", "drop_mask")
AMAZON = load_presets().options(OptionValues(preset="amazon"))

Door = Callable[[dict[str, Any]], Options]


class Told(Exception):
    """A door has made the options."""

    def __init__(self, options: Options) -> None:
        self.options = options


class Refused(Exception):
    """A door refused the values; the message is what the caller reads."""


@dataclass
class Doors:
    """The doors, each as a function from values to options."""

    client: TestClient
    folder: Path
    monkeypatch: pytest.MonkeyPatch
    seen: list[Options] = field(default_factory=list)

    def form(self, values: dict[str, Any]) -> Options:
        files = {"image": PHOTO, **{to_camel(name): values[name] for name in FILES if name in values}}
        return self._ask(data=self._texts(values), files=files)

    def json(self, values: dict[str, Any]) -> Options:
        body = {to_camel(name): value for name, value in values.items()}
        if "backgroundImage" in body:
            self.monkeypatch.setattr(ImageFetcher, "fetch", _give(body.pop("backgroundImage")))
            body["backgroundImageUrl"] = "https://shop.example/behind.png"
        return self._ask(json=body | {"imageUrl": "https://shop.example/a.png"})

    def batch(self, values: dict[str, Any]) -> Options:
        state = state_of(self.client.app)  # type: ignore[arg-type]
        presets = load_presets()
        fields = Fields(state.get(Outbox), None, presets)
        try:
            for name, text in self._texts(values).items():
                fields.take(name, text.encode())
            image = values.get("background_image")
            return fields.form.to_request(presets, None if image is None else Picture.of(image)).options
        except Exception as error:
            raise Refused(str(error)) from error

    def python(self, values: dict[str, Any]) -> Options:
        try:
            library.remove(PHOTO, **{"format": "png", **values})
        except InvalidOptions as error:
            raise Refused(str(error)) from error
        return self.seen.pop()

    def command(self, values: dict[str, Any]) -> Options:
        arguments: list[str] = []
        for name, value in values.items():
            flag = "--" + name.replace("_", "-")
            text = str(value)
            if name in FILES:
                text = str(self.folder / name)
                Path(text).write_bytes(value)
            arguments += [flag] if value is True else [flag, text]
        self.monkeypatch.setattr(sys, "argv", ["cutout", "remove", "a.png", "-o", "out", *arguments])
        said: list[str] = []
        self.monkeypatch.setattr("cutout.app.cli.say", said.append)
        with pytest.raises((SystemExit, Told)) as ended:
            main()
        if isinstance(ended.value, Told):
            return ended.value.options
        raise Refused(" ".join(said))

    @staticmethod
    def _texts(values: dict[str, Any]) -> dict[str, str]:
        sent = {name: value for name, value in values.items() if name not in FILES}
        return {
            to_camel(name): str(value).lower() if isinstance(value, bool) else str(value)
            for name, value in sent.items()
        }

    def _ask(self, **body: Any) -> Options:
        answer = self.client.post(API, **body)
        if not self.seen:
            raise Refused(answer.json()["detail"])
        return self.seen.pop()


def _give(data: bytes) -> Any:
    async def fetch(*_: object) -> bytes:
        return data

    return fetch


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    settings = app_settings.load(data_dir=tmp_path_factory.mktemp("data"), auth="off", host="127.0.0.1")
    app = create_app(settings, make_engine=lambda _: fake_engine())
    with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def doors(service: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Doors:
    """Open all doors, with nothing behind them but a note of the options that arrive."""
    doors = Doors(service, tmp_path, monkeypatch)

    async def remove_one(
        context: Any,
        user: Any,
        photo: Any,
        options: Options,
        key: Any,
        store: Any,
        background: Any,
        name: Any,
    ) -> Any:
        if background is not None:  # at a URL
            options = replace(options, background=await background.fetch(background.url))
        doors.seen.append(options)
        raise InvalidInputError("The options have arrived.")

    class Engine:
        def remove(self, photo: bytes, options: Options) -> Any:
            doors.seen.append(options)
            return type("Cutout", (), {"data": PHOTO})

    def remove_all(settings: Any, sources: Any, out: Any, options: Options, **_: Any) -> None:
        raise Told(options)

    monkeypatch.setattr(removals, "remove_one", remove_one)
    monkeypatch.setattr(library, "_engine", lambda tier: Engine())
    monkeypatch.setattr(command, "_remove_all", remove_all)
    return doors


NAMES = ("form", "json", "batch", "python", "command")
AT_THE_BOTTOM = Layout(trim=True, margin=parse_margin("5% 10px"), scale=0.8, position=(0.5, 1.0))
TABLE: list[tuple[dict[str, Any], Options]] = [
    ({}, Options()),
    ({"tier": "industry"}, Options(tier=Tier.INDUSTRY)),
    ({"format": "jpeg", "quality": 70}, Options(format=Format.JPG, quality=70)),
    ({"format": "auto"}, Options(format=Format.AUTO)),
    ({"format": "zip"}, Options(format=Format.ZIP)),
    ({"format": "mask"}, Options(mask_only=True)),
    ({"mask_only": True, "format": "webp"}, Options(mask_only=True, format=Format.WEBP)),
    ({"background": "#ff000080"}, Options(background=(255, 0, 0, 128))),
    ({"background": "blur(3)"}, Options(background=BlurredPhoto(3.0))),
    (
        {"background": "gradient(white, rgb(1,2,3), 90)"},
        Options(background=Gradient((255, 255, 255), (1, 2, 3), 90.0)),
    ),
    ({"background_image": BEHIND}, Options(background=Picture.of(BEHIND))),
    (
        {"trim": True, "margin": "5% 10px", "scale": "80%", "position": "bottom"},
        Options(layout=AT_THE_BOTTOM),
    ),
    (
        {"canvas": "2000x1500", "roi": "10% 0% 90% 100%", "max_megapixels": 2.5},
        Options(
            layout=Layout(canvas=(2000, 1500), region=parse_region("10% 0% 90% 100%"), max_pixels=2_500_000)
        ),
    ),
    (
        {"box": "10% 0 90% 300px", "keep": "120px 80px, 50% 50%", "drop": "1 2"},
        Options(
            hints=Hints(
                box=parse_region("10% 0 90% 300px"),
                keep=(
                    Point(Length(120), Length(80)),
                    Point(Length(50, Unit.PERCENT), Length(50, Unit.PERCENT)),
                ),
                drop=(Point(Length(1), Length(2)),),
            )
        ),
    ),
    ({"largest_only": True}, Options(hints=Hints(largest_only=True))),
    (
        {"holes": "fill", "min_coverage": 2.5},
        Options(hints=Hints(fill_holes=True, min_coverage=0.025)),
    ),
    ({"holes": "keep", "min_coverage": 0}, Options()),
    ({"within": "10% 0 90% 300px"}, Options(hints=Hints(within=parse_region("10% 0 90% 300px")))),
    ({"shadow": "soft"}, Options(shadow=0.35)),
    ({"shadow": "soft", "shadow_opacity": 60.0}, Options(shadow=0.6)),
    ({"shadow": "soft", "shadow_opacity": 0}, Options(shadow=0.0)),
    ({"keep_shadow": True}, Options(keep_shadow=True)),
    ({"keep_profile": True, "require_subject": True}, Options(keep_profile=True, require_subject=True)),
    ({"preset": "amazon", "format": "jpg"}, AMAZON),
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("values", "options"), TABLE, ids=[str(list(values)) for values, _ in TABLE])
def test_the_same_values_are_the_same_options(
    doors: Doors, name: str, values: dict[str, Any], options: Options
) -> None:
    door: Door = getattr(doors, name)
    made = door(values)
    assert made == options
    if isinstance(made.background, Picture) and name != "batch":
        assert made.background.data == BEHIND


@pytest.mark.parametrize("name", ["form", "python", "command"])
def test_strokes_are_the_same_options_at_every_door_that_takes_them(doors: Doors, name: str) -> None:
    made = getattr(doors, name)({"keep_mask": STROKES, "drop_mask": MORE_STROKES, "background_image": BEHIND})
    assert made.hints == Hints(keep_mask=Picture.of(STROKES), drop_mask=Picture.of(MORE_STROKES))
    assert [one.data for one in made.pictures] == [BEHIND, STROKES, MORE_STROKES]
    for values, says in (
        ({"keep_mask": b"no picture"}, "This file is not a picture"),
        ({"keep_mask": STROKES, "largest_only": True}, "Give only one of the two"),
        ({"keep_mask": STROKES, "drop_mask": STROKES}, "are the same picture"),
    ):
        with pytest.raises(Refused, match=says):
            getattr(doors, name)(values)
    with pytest.raises(Refused, match=CALLED[name]("drop_mask") + ": This file is not a picture"):
        getattr(doors, name)({"drop_mask": b"x"})


def test_doors_that_take_no_strokes_say_so(doors: Doors) -> None:
    with pytest.raises(Refused, match="keepMask"):
        doors.json({"keep_mask": "strokes.png"})
    fields = Fields(state_of(doors.client.app).get(Outbox), None, load_presets())  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="dropMask: the options of a batch hold for every photo"):
        fields.expect("dropMask")


# What each door's caller calls an option.
CALLED: dict[str, Callable[[str], str]] = {
    **dict.fromkeys(("form", "json", "batch"), to_camel),
    "python": str,
    "command": lambda name: "--" + name.replace("_", "-"),
}
WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"background": "reddish"}, "background", "'reddish' is not a colour"),
    ({"margin": "5em", "trim": True}, "margin", "'5em' is not a length"),
    ({"scale": "0%"}, "scale", "'0%' is not a scale"),
    ({"position": "5px"}, "position", "'5px' is not a position"),
    ({"canvas": "0x5"}, "canvas", "'0x5' is not a size"),
    ({"roi": "1 2 3"}, "roi", "'1 2 3' is not a region"),
    ({"box": "1 2 3"}, "box", "'1 2 3' is not a box"),
    ({"box": "50% 0 10% 9"}, "box", "has no pixels"),
    ({"keep": "1 2 3"}, "keep", "'1 2 3' is not a list of points"),
    ({"keep": ", ".join(["1 2"] * 101)}, "keep", "There are 101 points. Give at most 100."),
    ({"drop": "1 2em"}, "drop", "'2em' is not a length"),
    ({"preset": "amazn"}, "preset", "Did you mean amazon? Choose one of: amazon, ebay"),
    ({"preset": "../../etc/passwd"}, "preset", "is not a preset. Choose one of: amazon"),
    ({"shadow_opacity": 5.0}, "shadow_opacity", "has no effect without a shadow"),
    ({"background_image": b"no picture"}, "background_image", "is not a picture"),
]


WRONG_AT = [
    pytest.param(name, *wrong, id=f"{wrong[1]}-{name}")
    for wrong in WRONG
    for name in NAMES
    # A batch checks its picture when its part arrives: see test_backgrounds.
    if (name, wrong[1]) != ("batch", "background_image")
]


@pytest.mark.parametrize(("name", "values", "option", "says"), WRONG_AT)
def test_a_wrong_value_is_named_as_its_caller_calls_it(
    doors: Doors, name: str, values: dict[str, Any], option: str, says: str
) -> None:
    with pytest.raises(Refused) as refused:
        getattr(doors, name)(values)
    called = CALLED[name](option)
    called = {"backgroundImage": "backgroundImageUrl"}.get(called, called) if name == "json" else called
    assert called in str(refused.value)
    assert says in str(refused.value)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"margin": "5%"}, "A margin needs trim"),
        ({"mask_only": True, "background": "red"}, "A mask has neither background nor shadow"),
        ({"format": "zip", "mask_only": True}, "A ZIP has both"),
        ({"format": "mask", "keep_shadow": True}, "A mask has neither background nor shadow"),
        ({"shadow": "soft", "keep_shadow": True}, "Either keep the photo's own shadow or add a soft one"),
        ({"background": "blur", "keep_shadow": True}, "The blurred photo has its own shadow in it"),
        ({"keep": "1 2, 3 4", "drop": "3px 4px"}, "The point 3px 4px is both to keep and to drop"),
        ({"keep": "1 2", "largest_only": True}, "Give only one of the two"),
    ],
)
def test_values_that_contradict_each_other_are_refused(
    doors: Doors, name: str, values: dict[str, Any], says: str
) -> None:
    with pytest.raises(Refused, match=says):
        getattr(doors, name)(values)


def test_python_takes_a_size_as_two_numbers_and_refuses_other_types(doors: Doors) -> None:
    assert doors.python({"canvas": (300, 200)}).layout.canvas == (300, 200)
    for values, says in (
        ({"margin": 5}, "margin: 5 is not text"),
        ({"trim": "yes"}, "trim: 'yes' is not true or false"),
        ({"keep": [(1, 2)]}, r"keep: \[.*\] is not text"),
        ({"quality": 101}, "quality: 101 is not a whole number from 1 to 100"),
        ({"quality": True}, "quality: True is not a whole number"),
        ({"max_megapixels": float("nan")}, "max_megapixels: nan is not a number from 0.01 to 1000"),
        ({"shadow": "hard"}, "shadow: 'hard' is not a shadow. Choose one of: none, soft"),
        ({"tier": "best"}, "tier: 'best' is not a tier. Choose one of: basic"),
    ):
        with pytest.raises(Refused, match=says.replace("(", r"\(")):
            doors.python(values)
    with pytest.raises(TypeError, match="colour"):
        cutout.remove(PHOTO, colour="red")  # type: ignore[call-overload]


def test_a_preset_without_a_format_of_ones_own(doors: Doors) -> None:
    """`format` itself differs by door: an extension, an Accept header or a PIL image stand for one."""
    assert doors.form({"preset": "amazon"}) == doors.json({"preset": "amazon"}) == AMAZON
    assert doors.command({"preset": "amazon"}) == doors.batch({"preset": "amazon"}) == AMAZON
    assert cutout.make_options(preset="amazon") == AMAZON
    cutout.remove(PHOTO, preset="amazon")
    assert doors.seen.pop().format is Format.PNG
