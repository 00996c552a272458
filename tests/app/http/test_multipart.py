"""Parsing of multipart forms: complete, broken and hostile."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cutout.app.http.multipart import (
    LONGEST_HEADER_BYTES,
    MOST_HEADERS,
    BrokenForm,
    Head,
    Part,
    PartTooLarge,
    read_disposition,
    read_parts,
)

pytestmark = pytest.mark.slow

TYPE = "multipart/form-data; boundary=cut"
MOST_BYTES = 1000
ENOUGH = settings(max_examples=300, deadline=None, derandomize=True, database=None)


def form_of(parts: Iterable[tuple[str, bytes]], boundary: str = "cut") -> bytes:
    """Encode a form as a client does; each part is the text after `form-data` and its data."""
    body = b"".join(
        f"--{boundary}\r\nContent-Disposition: form-data{head}\r\n\r\n".encode() + data + b"\r\n"
        for head, data in parts
    )
    return body + f"--{boundary}--\r\n".encode()


def read(body: bytes, cuts: Iterable[int] = (), content_type: str = TYPE) -> list[Part]:
    """Parse a form that arrives in pieces."""
    edges = [0, *sorted({min(cut, len(body)) for cut in cuts}), len(body)]

    async def pieces() -> AsyncIterator[bytes]:
        for start, end in itertools.pairwise(edges):
            yield body[start:end]

    async def all_of_it() -> list[Part]:
        return [part async for part in read_parts(pieces(), content_type, lambda head: MOST_BYTES)]

    return asyncio.run(all_of_it())


@ENOUGH
@given(
    st.lists(st.binary(max_size=60).filter(lambda data: b"\r\n--cut" not in data), max_size=5),
    st.lists(st.integers(0, 600)),
)
def test_a_form_is_the_same_however_it_is_cut(datas: list[bytes], cuts: list[int]) -> None:
    body = form_of((f'; name="images"; filename="{number}"', data) for number, data in enumerate(datas))
    assert read(body, cuts) == [Part(Head("images", str(number)), data) for number, data in enumerate(datas)]


@ENOUGH
@given(st.data())
def test_a_form_that_is_none_is_refused_as_such(data: st.DataObject) -> None:
    good = form_of([('; name="tier"', b"basic"), ('; name="images"; filename="a.jpg"', b"\r\n--cu" * 9)])
    body = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(body)))
        end = data.draw(st.integers(start, min(len(body), start + 8)))
        body[start:end] = data.draw(
            st.binary(max_size=8) | st.sampled_from([b"\r\n", b"--cut", b"--", b";", b'"'])
        )
    cuts = data.draw(st.lists(st.integers(0, len(body)), max_size=4))
    try:
        parts = read(bytes(body), cuts)
    except (BrokenForm, PartTooLarge):
        return
    assert all(len(part.data) <= MOST_BYTES for part in parts)


@ENOUGH
@given(st.binary(max_size=120))
def test_no_name_of_a_file_breaks_the_reading(value: bytes) -> None:
    for start in (b"", b'form-data; name="images"; filename=', b"form-data; name=images; filename*="):
        try:
            head = read_disposition(start + value)
        except BrokenForm:
            continue
        for text in (head.name, head.file_name or ""):
            text.encode()  # It contains no lone surrogates.


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ('filename="two words.jpg"', "two words.jpg"),
        ("filename=bare.jpg", "bare.jpg"),
        ('filename="日本語 ñ.png"', "日本語 ñ.png"),
        ("filename*=UTF-8''%E6%97%A5%20%e2%82%ac.png", "日 €.png"),
        ("filename=\"plain.png\"; filename*=UTF-8''%C3%B1.png", "ñ.png"),
        ("filename*=iso-8859-1'en'%A3.png", "£.png"),
        (r'filename="C:\photos\one.jpg"', r"C:\photos\one.jpg"),
        ('filename="../../etc/passwd"', "../../etc/passwd"),
        (r'filename="a \"quoted\"; one.jpg"', 'a "quoted"; one.jpg'),
        ('filename="line\nand\x07bell\x7f"', "line\nand\x07bell\x7f"),
        ('filename=""', ""),
        ("filename", ""),
    ],
)
def test_names_of_files_are_read_as_they_were_sent(value: str, name: str) -> None:
    assert read_disposition(f'form-data; name="images"; {value}'.encode()) == Head("images", name)


@pytest.mark.parametrize("value", ["filename*=b; filename*0=c", f"filename*{5000 * '9'}=a"])
def test_a_header_that_cannot_be_read_is_no_form(value: str) -> None:
    with pytest.raises(BrokenForm, match="cannot be read"):
        read_disposition(f'form-data; name="images"; {value}'.encode())


def test_what_is_no_text_in_a_name_is_replaced() -> None:
    assert read_disposition(b'form-data; name="images"; filename="a\xff.jpg"').file_name == "a\ufffd.jpg"
    assert read_disposition(b'form-data; name="images"').file_name is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no form",
        form_of([('; name="tier"', b"basic")])[:-4],
        form_of([('; name="tier"', b"basic")])[:30],
        form_of([("", b"basic")]),
        form_of([('; filename="a.jpg"', b"")]),
        form_of([('; name="tier"', b"basic")], boundary="other"),
        form_of([('; name="tier"' + "\r\nX: y" * MOST_HEADERS, b"basic")]),
        form_of([(f'; name="tier"; filename="{"x" * LONGEST_HEADER_BYTES}"', b"basic")]),
        b"--cut\r\nbad header\r\n\r\n\r\n--cut--\r\n",
    ],
)
def test_what_is_no_form_is_said(body: bytes) -> None:
    for cuts in ((), range(len(body))):
        with pytest.raises(BrokenForm):
            read(body, cuts)


@pytest.mark.parametrize(
    "content_type",
    ["", "application/json", "multipart/form-data", "multipart/form-data; boundary=", "multipart/mixed; boundary=cut",
     f"multipart/form-data; boundary={'c' * 300}"],
)  # fmt: skip
def test_a_form_says_that_it_is_one(content_type: str) -> None:
    with pytest.raises(BrokenForm):
        read(form_of([('; name="tier"', b"basic")]), content_type=content_type)


def test_a_part_is_as_large_as_it_may_be() -> None:
    head = '; name="images"; filename="a.jpg"'
    (part,) = read(form_of([(head, b"x" * MOST_BYTES)]))
    assert len(part.data) == MOST_BYTES
    with pytest.raises(PartTooLarge) as caught:
        read(form_of([(head, b"x" * (MOST_BYTES + 1))]), range(0, 2000, 7))
    assert (caught.value.head, caught.value.most_bytes) == (Head("images", "a.jpg"), MOST_BYTES)


def test_nothing_is_read_ahead() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        body = form_of(3 * [('; name="images"; filename="a"', b"x")])
        for start in range(0, len(body), 10):
            taken.append(start)
            yield body[start : start + 10]

    async def first() -> None:
        parts = read_parts(pieces(), TYPE, lambda head: MOST_BYTES)
        await anext(parts)
        await parts.aclose()  # type: ignore[attr-defined]

    taken: list[int] = []
    asyncio.run(first())
    assert len(taken) < 12
