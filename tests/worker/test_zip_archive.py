"""A batch's ZIP: complete, with unchanged images, safe to unpack anywhere, and with every photo in its manifest."""

import hashlib
import io
import json
import shutil
import struct
import subprocess
import sys
import time
import tracemalloc
import unicodedata
import uuid
import zipfile
import zlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutout.app.bootstrap import storage_from
from cutout.app.config import settings as app_settings
from cutout.app.db.tables import Batch, Job, Status
from cutout.app.jobs import queries as stored
from cutout.app.storage.base import Storage
from cutout.app.storage.local import LocalStorage
from cutout.inference.imaging.encode import Format
from cutout.inference.tiers import Tier
from cutout.worker import zip_archive
from cutout.worker.zip_archive import ArchiveError, zip_names
from tests.fakes import PATIENCE, open_picture, photo_bytes

pytestmark = pytest.mark.slow

AT = datetime(2026, 3, 29, 1, 30, 45, tzinfo=UTC)
MB = 1 << 20


def new_batch(**changes: Any) -> Batch:
    columns: dict[str, Any] = {
        "id": uuid.uuid4(),
        "status": Status.PROCESSING,
        "tier": Tier.STANDARD,
        "credits": 456,
        "created_at": AT,
    }
    return Batch(**columns | changes)


def new_job(position: int, name: str | None, status: Status = Status.COMPLETED, **changes: Any) -> Job:
    columns: dict[str, Any] = {"id": uuid.uuid4(), "attempts": 1, "format": "png", "credits": 8}
    return Job(position=position, name=name, status=status, **columns | changes)


def with_picture(storage: Storage, job: Job, picture: bytes) -> Job:
    job.sha256 = hashlib.sha256(picture).hexdigest()
    storage.put(stored.result_key(job.id, Format(job.format), job.attempts), picture)
    return job


def names_of(*names: str | None, file_format: str = "png") -> list[str]:
    jobs = [new_job(position, name, format=file_format) for position, name in enumerate(names)]
    named = zip_names(jobs)
    return [named[job.id] for job in jobs]


@pytest.fixture(params=["disk", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "disk":
        return LocalStorage(tmp_path)
    return storage_from(app_settings.load(**request.getfixturevalue("s3").settings))


def test_a_batch_of_sixty_comes_out_whole_with_a_manifest_of_all(storage: Storage, tmp_path: Path) -> None:
    jobs, pictures = [], {}
    for position in range(60):
        name = ("cat.JPG", "Фото кота.jpeg", "猫の写真.heic", "été à la mer.png")[position % 4]
        if position % 10 == 9:
            failed: dict[str, Any] = {
                "error_code": "INVALID_IMAGE",
                "error_detail": "This is no picture. Send a photo.",
            }
            jobs.append(new_job(position, name, Status.FAILED, **failed))
            continue
        picture = photo_bytes(seed=position)
        facts: dict[str, Any] = {
            "width": 40,
            "height": 30,
            "model": "isnet-general",
            "backend": "fake",
            "substitute": True,
            "no_foreground": position == 3,
            "subject": {"left": 1, "top": 2, "width": 3, "height": 4},
            "coverage": 0.25,
            "uncertainty": 0.5,
            "needs_review": True,
            "notes": ["Turned upright."],
            "milliseconds": 100 + position,
        }
        job = with_picture(storage, new_job(position, name, attempts=position % 3, **facts), picture)
        jobs.append(job)
        pictures[job.id] = picture
    jobs.append(new_job(60, "late.png", Status.CANCELLED))
    batch = new_batch(credits=61 * 8)

    size = zip_archive.store(storage, batch, jobs[::-1])
    data = storage.get(stored.archive_key(batch.id))
    assert data is not None
    assert len(data) == size
    names = zip_names(jobs)
    assert set(names) == set(pictures)
    with zipfile.ZipFile(io.BytesIO(data)) as opened:
        assert opened.testzip() is None
        assert opened.namelist() == [*names.values(), "manifest.json"]
        for job_id, picture in pictures.items():
            assert opened.read(names[job_id]) == picture
        assert open_picture(opened.read("cat.png")).size == (40, 30)
        manifest = json.loads(opened.read("manifest.json"))
    images = manifest.pop("images")
    assert manifest == {
        "batchId": str(batch.id),
        "tier": "standard",
        "status": "partial",
        "counts": {"completed": 54, "failed": 6, "cancelled": 1},
        "createdAt": "2026-03-29T01:30:45Z",
        "creditsCharged": 54 * 8,
        "creditsReturned": 7 * 8,
    }
    assert [image["position"] for image in images] == list(range(61))
    assert images[5] == {
        "position": 5,
        "name": "Фото кота.jpeg",
        "file": "Фото кота (2).png",
        "status": "completed",
        "sha256": hashlib.sha256(pictures[jobs[5].id]).hexdigest(),
        "bytes": len(pictures[jobs[5].id]),
        "width": 40,
        "height": 30,
        "model": "isnet-general",
        "backend": "fake",
        "substitute": True,
        "noForeground": False,
        "subject": {"left": 1, "top": 2, "width": 3, "height": 4},
        "coverage": 0.25,
        "uncertainty": 0.5,
        "needsReview": True,
        "notes": ["Turned upright."],
        "processingMs": 105,
        "store": None,
        "error": None,
    }
    for image in images[9::10]:
        assert image["status"] == "failed"
        assert image["error"] == {"code": "INVALID_IMAGE", "detail": "This is no picture. Send a photo."}
        assert image["file"] is image["sha256"] is image["bytes"] is None
    assert (images[60]["name"], images[60]["status"], images[60]["error"]) == ("late.png", "cancelled", None)
    for image, job in zip(images, jobs, strict=True):
        assert image["file"] == names.get(job.id)
        assert image["sha256"] == job.sha256
    unpacked_by_others(data, {names[job_id]: picture for job_id, picture in pictures.items()}, tmp_path)


def unpacked_by_others(data: bytes, files: dict[str, bytes], tmp_path: Path) -> None:
    """Unpack a ZIP with the available programs, and check the result."""
    file = tmp_path / "batch.zip"
    file.write_bytes(data)
    commands = {"python": [sys.executable, "-m", "zipfile", "-e", str(file), str(tmp_path / "python")]}
    if unzip := shutil.which("unzip"):
        commands["unzip"] = [unzip, "-q", str(file), "-d", str(tmp_path / "unzip")]
    for program, command in commands.items():
        subprocess.run(
            command,
            capture_output=True,
            timeout=PATIENCE,
            check=True,
            env={"LC_ALL": "C.UTF-8", "TZ": "Asia/Jakarta"},
        )
        out = {path.name: path for path in (tmp_path / program).iterdir()}
        assert set(out) == {*files, "manifest.json"}
        for name, picture in files.items():
            assert out[name].read_bytes() == picture
        if program != "python":
            assert {path.stat().st_mtime for path in out.values()} == {AT.timestamp()}


def test_the_same_batch_gives_the_same_bytes_wherever_it_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = LocalStorage(tmp_path)
    batch = new_batch()
    jobs = [with_picture(storage, new_job(n, "cat.jpg"), photo_bytes(seed=n)) for n in range(3)]
    made = set()
    try:
        for zone in ("UTC", "Asia/Jakarta"):
            monkeypatch.setenv("TZ", zone)
            time.tzset()
            zip_archive.store(storage, batch, jobs)
            made.add(storage.get(stored.archive_key(batch.id)))
    finally:
        monkeypatch.undo()
        time.tzset()
    assert len(made) == 1
    with zipfile.ZipFile(tmp_path / stored.archive_key(batch.id)) as opened:
        # ZIP times have steps of two seconds.
        assert {entry.date_time for entry in opened.infolist()} == {(2026, 3, 29, 1, 30, 44)}


def test_each_entry_tells_its_size_ahead_and_that_its_name_is_utf8(tmp_path: Path) -> None:
    """A program that unpacks during the download knows only the local headers of the entries."""
    storage = LocalStorage(tmp_path)
    batch, pictures = new_batch(), [photo_bytes(seed=seed) for seed in range(2)]
    jobs = [
        with_picture(storage, new_job(position, name), picture)
        for position, (name, picture) in enumerate(zip(["猫.jpg", "été.jpg"], pictures, strict=True))
    ]
    zip_archive.store(storage, batch, jobs)
    data = storage.get(stored.archive_key(batch.id)) or b""
    for picture, name in zip(pictures, ("猫.png", "été.png"), strict=True):
        header = struct.unpack("<4s5H3L2H", data[:30])
        signature, _, flags, method, _, _, checksum, packed, size, name_bytes, extra_bytes = header
        assert (signature, flags, method) == (b"PK\3\4", 0x800, zipfile.ZIP_STORED)
        assert (checksum, packed, size) == (zlib.crc32(picture), len(picture), len(picture))
        assert data[30 : 30 + name_bytes].decode() == name
        start = 30 + name_bytes + extra_bytes
        assert data[start : start + size] == picture
        data = data[start + size :]


def test_a_zip_of_more_than_four_gigabytes_is_one(tmp_path: Path) -> None:
    """As if 5 GB of images had been written already; on disk they are a sparse file."""
    storage = LocalStorage(tmp_path)
    jobs = [with_picture(storage, new_job(n, "cat.jpg"), photo_bytes(seed=n)) for n in range(2)]
    end = zip_archive._End()
    end.start = 5 << 30
    with (tmp_path / "large.zip").open("wb") as file:
        file.truncate(end.start)
        file.seek(end.start)
        file.writelines(zip_archive.parts_of(end, storage, new_batch(), jobs, {}))
        assert file.tell() == end.start
    with zipfile.ZipFile(tmp_path / "large.zip") as opened:
        assert opened.namelist() == ["cat.png", "cat (2).png", "manifest.json"]
        assert all(entry.header_offset >= 5 << 30 for entry in opened.infolist())
        assert opened.read("cat (2).png") == photo_bytes(seed=1)


@pytest.mark.parametrize("harm", ["gone", "another"])
def test_a_picture_that_is_not_what_was_made_leaves_no_zip(storage: Storage, harm: str) -> None:
    batch = new_batch()
    jobs = [with_picture(storage, new_job(n, "cat.jpg"), photo_bytes(seed=n)) for n in range(5)]
    key = stored.result_key(jobs[3].id, Format.PNG, jobs[3].attempts)
    if harm == "gone":
        storage.delete(key)
    else:
        storage.put(key, photo_bytes(seed=99))
    with pytest.raises(ArchiveError) as lost:
        zip_archive.store(storage, batch, jobs)
    assert lost.value.job_id == jobs[3].id
    assert storage.get(stored.archive_key(batch.id)) is None
    assert len(storage.list_older_than(timedelta(seconds=-2), "")) == (4 if harm == "gone" else 5)

    # An archive that another worker built earlier is unchanged.
    storage.put(stored.archive_key(batch.id), b"built before")
    with pytest.raises(ArchiveError):
        zip_archive.store(storage, batch, jobs)
    assert storage.get(stored.archive_key(batch.id)) == b"built before"


def test_a_batch_without_a_picture_has_a_manifest(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    batch = new_batch(credits=16)
    jobs = [new_job(n, "cat.jpg", Status.FAILED, error_code="INTERNAL", error_detail=None) for n in range(2)]
    assert zip_archive.store(storage, batch, jobs) > 0
    with zipfile.ZipFile(tmp_path / stored.archive_key(batch.id)) as opened:
        assert opened.namelist() == ["manifest.json"]
        manifest = json.loads(opened.read("manifest.json"))
    assert (manifest["status"], manifest["creditsCharged"], manifest["creditsReturned"]) == ("failed", 0, 16)
    assert [image["error"]["code"] for image in manifest["images"]] == ["INTERNAL", "INTERNAL"]


def test_one_picture_at_a_time_is_in_memory(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    jobs = [with_picture(storage, new_job(n, "cat.jpg"), bytes([n]) * 4 * MB) for n in range(30)]
    tracemalloc.start()
    try:
        assert zip_archive.store(storage, new_batch(), jobs) > 120 * MB
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20 * MB


@pytest.mark.parametrize(
    ("sent", "named"),
    [
        ("cat.JPG", "cat.png"),
        ("cat", "cat.png"),
        ("cat.tar.gz", "cat.tar.png"),
        ("Mr. Smith", "Mr. Smith.png"),
        ("/home/anna/../cat.jpg", "cat.png"),
        ("C:\\Users\\anna\\cat.jpg", "cat.png"),
        ("..\\..", "image-0001.png"),
        ("folder/", "image-0001.png"),
        (".hidden.jpg", "hidden.png"),
        ("  cat . .jpg . ", "cat.png"),
        ("ca\0t\r\n.jpg", "cat.png"),
        ('<a>:"b"|c?*.jpg', "_a___b__c__.png"),
        ("gnp\u202egpj.exe", "gnpgpj.png"),
        ("\ud800cat.jpg", "cat.png"),
        ("CON.jpg", "_CON.png"),
        ("com¹.tar.gz", "_com¹.tar.png"),
        ("console.jpg", "console.png"),
        ("e\u0301te\u0301.jpg", "été.png"),
        ("می\u200cخواهم.jpg", "می\u200cخواهم.png"),
        ("👩\u200d🚀.jpg", "👩\u200d🚀.png"),
        ("manifest.json", "manifest.png"),
        ("...", "image-0001.png"),
        ("", "image-0001.png"),
        (None, "image-0001.png"),
        ("й" * 300, "й" * 97 + ".png"),
    ],
)
def test_a_name_is_the_senders_own_and_safe(sent: str | None, named: str) -> None:
    assert names_of(sent) == [named]


def test_names_are_told_apart_in_the_order_sent() -> None:
    assert names_of("cat.jpg", "CAT.png", "cat (2).jpg", "cat.webp", "a/cat", None) == [
        "cat.png",
        "CAT (2).png",
        "cat (2) (2).png",
        "cat (3).png",
        "cat (4).png",
        "image-0006.png",
    ]
    assert names_of("cat.jpg", "cat.jpg", file_format="webp") == ["cat.webp", "cat (2).webp"]
    long = names_of(*["x" * 400] * 12)
    assert [len(name) for name in long] == [198] * 12


def test_a_name_does_not_depend_on_which_photos_succeed() -> None:
    jobs = [
        new_job(0, "cat.jpg", Status.FAILED),
        new_job(1, "cat.jpg"),
        new_job(2, "cat.jpg", Status.CANCELLED),
    ]
    assert zip_names(jobs) == {jobs[1].id: "cat (2).png"}


# Dangerous parts of names, and other characters.
PIECES = st.sampled_from(
    [
        *("/", "\\", ".", "..", " ", " (2)", ":", "?", "\0", "\x7f", "\u202e", "\u2066", "\u2028", "\ud83d"),
        *(
            "\u3000",
            "\u00a0",
            "\u200d",
            "\u0301",
            "\u212a",
            "\u037e",
            "e",
            "é",
            "É",
            "ß",
            "ﬁ",
            "🚀",
            "cat",
            "CAT",
        ),
        *("con", "AUX", "lpt1", "manifest", ".json", ".jpg", "x" * 99, "й" * 60),
    ]
)
DEVICES = {
    "CON",
    "PRN",
    "AUX",
    "NUL",
    *(f"{port}{number}" for port in ("COM", "LPT") for number in range(10)),
}
NAMES = st.none() | st.text(max_size=30) | st.lists(PIECES, max_size=12).map("".join)


@given(st.lists(NAMES, max_size=12), st.sampled_from(list(Format)))
def test_no_name_can_do_harm(sent: Sequence[str | None], file_format: Format) -> None:
    named = names_of(*sent, file_format=file_format.value)
    assert len({name.casefold() for name in named}) == len({name.lower() for name in named}) == len(sent)
    for name in named:
        stem = name.removesuffix(f".{file_format.value}")
        assert stem
        assert stem != name
        assert len(name.encode()) <= 200
        assert name == unicodedata.normalize("NFC", name)
        assert not set(name) & set('/\\<>:"|?*')
        assert not any(unicodedata.category(one) in ("Cc", "Cs") for one in name)
        assert not any(one in name for one in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
        assert not name.startswith((".", " "))
        assert not stem.endswith((".", " "))
        assert name.split(".")[0].rstrip().upper() not in DEVICES
        assert name.lower() != "manifest.json"


@given(st.text(st.characters(categories=["L", "Nd"]), min_size=1, max_size=40))
def test_a_harmless_name_stays_as_it_is(stem: str) -> None:
    stem = unicodedata.normalize("NFC", f"x{stem}")
    assert names_of(f"{stem}.jpg") == [f"{stem}.png"]
