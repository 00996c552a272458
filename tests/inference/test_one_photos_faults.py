"""One photo's cost and errors are its own: its rows count in the budget, and its errors do not affect its batch."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest

from cutout.inference.engine import Engine
from cutout.inference.errors import NetworkFailed, UnsupportedFormat
from cutout.inference.imaging import encode
from cutout.inference.imaging.decode import decode
from cutout.inference.limits import pixels_of
from cutout.inference.options import DEFAULT_OPTIONS
from tests.fakes import fake_engine, photo_bytes
from tests.inference import files


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = fake_engine()
    yield engine
    engine.close()


def test_rows_and_columns_count_in_the_budget(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    assert pixels_of(4000, 3000) < 1.002 * 12_000_000
    assert pixels_of(50_000_000, 1) > 2.5 * 50_000_000
    held: list[int] = []
    hold = engine.budget.hold

    def counted_hold(pixels: int, _: float) -> AbstractContextManager[None]:
        held.append(pixels)
        return hold(pixels)

    monkeypatch.setattr(engine.budget, "hold", counted_hold)
    engine.remove(photo_bytes(90, 2))
    engine.remove(files.tiff(files.scene(), photometric=2))
    assert held == [pixels_of(90, 2), pixels_of(48, 32)]


def test_a_fault_of_a_library_is_the_error_of_one_photo(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = encode.encode

    def encode_or_fail(picture: Any, *rest: Any) -> bytes:
        if picture.shape[1] == 41:
            raise ZeroDivisionError
        return real(picture, *rest)

    monkeypatch.setattr(encode, "encode", encode_or_fail)
    photos = [(width, lambda width=width: photo_bytes(width)) for width in (40, 41, 42)]
    done = dict(engine.remove_many(photos, DEFAULT_OPTIONS))
    assert [isinstance(done[width], NetworkFailed) for width in (40, 41, 42)] == [False, True, False]
    assert not isinstance(done[40], Exception)
    assert not isinstance(done[42], Exception)


def test_what_goes_wrong_before_the_photo_is_there_is_the_readers(engine: Engine) -> None:
    def read() -> bytes:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        dict(engine.remove_many([(1, read)], DEFAULT_OPTIONS))


def test_memory_that_is_full_while_a_header_is_read_is_no_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("cutout.inference.imaging.decode.Image.open", full)
    with pytest.raises(MemoryError):
        decode(photo_bytes())


def test_a_tiff_under_a_swapped_signature_is_not_read_unchecked() -> None:
    """Pillow accepts such a file and would take two minutes for a million strips, which need only 8 MB."""
    data = files.tiff(
        files.scene(), photometric=2, tags={273: (4, [8] * 9), 279: (4, [3] * 9), 278: (4, [4])}
    )
    with pytest.raises(UnsupportedFormat):
        decode(data[:2] + b"\0*" + data[4:])
