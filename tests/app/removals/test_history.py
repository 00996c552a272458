"""Lists of jobs: their filters, the names of photos, and one line for a photo however often its result was refined."""

import uuid
from typing import Any
from urllib.parse import urlencode

import pytest
from sqlalchemy import select, update

from cutout.app.db.tables import Job, Status
from cutout.app.jobs.queries import Wanted
from tests.app.api_client import ANNA, API, BEN, ApiClient
from tests.app.databases import on_both
from tests.app.http.test_api import problem
from tests.fakes import photo_bytes

PHOTO = photo_bytes()


@pytest.fixture
def rich(shop: ApiClient) -> ApiClient:
    shop.fund("anna", 1000)
    return shop


def removed(shop: ApiClient, name: str = "photo.png", photo: bytes = PHOTO, **fields: str) -> Any:
    files = {"image": (name, photo, "image/png")}
    return shop.client.post(f"{API}/remove", files=files, data=fields, headers=ANNA).json()


def refined(shop: ApiClient, job: dict[str, Any], **fields: str) -> Any:
    answer = shop.client.post(f"{API}/jobs/{job['jobId']}/refine", data=fields, headers=ANNA)
    return answer.raise_for_status().json()


def listed(shop: ApiClient, *fields: tuple[str, str], who: dict[str, str] = ANNA) -> Any:
    return shop.get(f"{API}/jobs?{urlencode(fields)}", who).raise_for_status().json()


def names(shop: ApiClient, *fields: tuple[str, str]) -> list[str | None]:
    return [job["name"] for job in listed(shop, *fields)["jobs"]]


@on_both
def test_filters_go_together(rich: ApiClient) -> None:
    for name, tier in (("a.png", "basic"), ("b.png", "standard"), ("c.png", "industry")):
        removed(rich, name, tier=tier)
    removed(rich, "broken.png", b"no photo")
    with rich.database.begin() as session:
        for name, status, review in (
            ("a.png", Status.CANCELLED, None),
            ("b.png", Status.COMPLETED, True),
            ("c.png", Status.COMPLETED, False),
        ):
            session.execute(update(Job).where(Job.name == name).values(status=status, needs_review=review))
    assert names(rich) == ["broken.png", "c.png", "b.png", "a.png"]
    assert names(rich, ("status", "failed"), ("status", "cancelled")) == ["broken.png", "a.png"]
    assert names(rich, ("tier", "standard"), ("tier", "industry")) == ["c.png", "b.png"]
    assert names(rich, ("needsReview", "true")) == ["b.png"]
    assert names(rich, ("needsReview", "false")) == ["c.png"]
    assert names(rich, ("tier", "basic"), ("status", "failed"), ("search", "BROK")) == ["broken.png"]
    assert names(rich, ("tier", "basic"), ("needsReview", "true")) == []
    assert listed(rich, who=BEN) == {"jobs": [], "more": False}
    for bad in ("status=done", "needsReview=perhaps", "search=a%00b", f"search={201 * 'x'}", "latest=2"):
        problem(rich.get(f"{API}/jobs?{bad}", ANNA), 400, "INVALID_INPUT")
    problem(rich.get(f"{API}/jobs?{'&'.join(7 * ['status=failed'])}", ANNA), 400, "INVALID_INPUT")


@on_both
def test_a_search_is_for_the_text_itself(rich: ApiClient) -> None:
    sent = ["Red_Shoe 100%.png", "redXshoe.png", "a/b\\c.png", "kemeja-é.png"]
    for name in sent:
        removed(rich, name)
    for text, found in (
        ("red_", sent[:1]),
        ("SHOE", [sent[1], sent[0]]),
        ("%", sent[:1]),
        ("/b\\", [sent[2]]),
        ("é", [sent[3]]),
        ("'; --", []),
        ("", sent[::-1]),
    ):
        assert names(rich, ("search", text)) == found, text


def test_pages_say_whether_there_are_more(rich: ApiClient) -> None:
    for number in range(5):
        removed(rich, f"{number}.png")
    seen = []
    for offset, more in ((0, True), (2, True), (4, False)):
        page = listed(rich, ("limit", "2"), ("offset", str(offset)))
        assert page["more"] == more
        seen += [job["name"] for job in page["jobs"]]
    assert seen == ["4.png", "3.png", "2.png", "1.png", "0.png"]
    assert not listed(rich, ("limit", "5"))["more"]


@on_both
def test_each_photo_is_listed_once_with_its_newest_result(rich: ApiClient) -> None:
    one, two = removed(rich, "one.png"), removed(rich, "two.png")
    states = [refined(rich, one) for _ in range(3)]
    assert [state["name"] for state in states] == ["one.png"] * 3
    removed(rich, "broken.png", b"no photo")
    (broken,) = listed(rich, ("status", "failed"))["jobs"]

    def latest(*fields: tuple[str, str]) -> list[str]:
        return [job["jobId"] for job in listed(rich, ("latest", "true"), *fields)["jobs"]]

    assert latest() == [broken["jobId"], states[2]["jobId"], two["jobId"]]
    assert latest(("limit", "1"), ("offset", "1"), ("search", "o")) == [states[2]["jobId"]]
    assert len(listed(rich)["jobs"]) == len(listed(rich, ("latest", "false"))["jobs"]) == 6

    def change(job: dict[str, Any], **columns: object) -> None:
        with rich.database.begin() as session:
            session.execute(update(Job).where(Job.id == uuid.UUID(job["jobId"])).values(**columns))

    # The filters are for the newest result, so an older one does not come back where that one does not fit.
    change(states[2], needs_review=False)
    change(states[1], needs_review=True)
    assert latest(("needsReview", "true")) == []
    # A refinement that failed is no result.
    change(states[2], status=Status.FAILED)
    assert latest() == [broken["jobId"], states[1]["jobId"], two["jobId"]]
    for state in states[:2]:
        change(state, status=Status.FAILED)
    assert latest() == [broken["jobId"], two["jobId"], one["jobId"]]


@on_both
def test_an_index_finds_the_refinements(rich: ApiClient) -> None:
    removed(rich)
    with rich.database.read() as session:
        query = select(Job.id).where(*Wanted(latest=True).conditions())
        text = str(query.compile(rich.database.engine, compile_kwargs={"literal_binds": True}))
        explain = "EXPLAIN QUERY PLAN" if rich.database.engine.dialect.name == "sqlite" else "EXPLAIN"
        connection = session.connection()
        if explain == "EXPLAIN":  # it would read so few rows without an index
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
            connection.exec_driver_sql("SET LOCAL enable_hashjoin = off")
            connection.exec_driver_sql("SET LOCAL enable_mergejoin = off")
        plan = "\n".join(str(tuple(row)) for row in connection.exec_driver_sql(f"{explain} {text}"))
    assert "ix_background_removal_jobs_refined_from_created_at_id" in plan
    if explain != "EXPLAIN":  # else it would read all older refinements of a photo for each of them
        assert "(refined_from=? AND created_at>?)" in plan


@on_both
def test_names_are_kept_as_sent_and_harm_nothing(rich: ApiClient) -> None:
    hostile = [
        "../../etc/passwd",
        "a\0b.png",
        "x" * 3000,
        "<img src=x>.png",
        "\u202egnp.exe",
        " ",
        "50%_.png",
    ]
    for name in hostile:
        head = f'form-data; name="image"; filename="{name}"'.encode()
        body = b"--b\r\nContent-Disposition: " + head + b"\r\n\r\n" + PHOTO + b"\r\n--b--\r\n"
        headers = ANNA | {"Content-Type": "multipart/form-data; boundary=b"}
        job = rich.client.post(f"{API}/remove", content=body, headers=headers).raise_for_status().json()
        assert job["name"] == name.replace("\0", "\N{REPLACEMENT CHARACTER}")[:1000]
    assert names(rich) == [
        name.replace("\0", "\N{REPLACEMENT CHARACTER}")[:1000] for name in reversed(hostile)
    ]
    nameless = rich.client.post(
        f"{API}/remove",
        content=b'--b\r\nContent-Disposition: form-data; name="image"\r\n\r\n' + PHOTO + b"\r\n--b--\r\n",
        headers=ANNA | {"Content-Type": "multipart/form-data; boundary=b"},
    )
    assert nameless.raise_for_status().json()["name"] is None
    # The name of a file does not make another removal of it.
    keyed = ANNA | {"Idempotency-Key": "order-1"}
    same = [
        rich.client.post(f"{API}/remove", files={"image": (name, PHOTO)}, headers=keyed).json()["jobId"]
        for name in ("first.png", "second.png")
    ]
    assert same[0] == same[1]
