"""Result storage on disk and in S3: atomic writes, deletion in time of old files only, and clear errors."""

import itertools
import math
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from cutout.app.app import create_app
from cutout.app.bootstrap import storage_from
from cutout.app.config import settings as app_settings
from cutout.app.db.session import Database
from cutout.app.storage.base import Storage, StorageError, StorageUnusable, require_usable
from cutout.app.storage.local import LocalStorage
from cutout.app.storage.s3 import S3Storage
from tests.app.api_client import ANNA, opened_shop
from tests.app.s3_fixtures import BUCKET, SECRET_KEY, S3Server
from tests.fakes import PATIENCE, fake_engine, open_picture

pytestmark = pytest.mark.slow

MB = 1 << 20

# A cut-off in the future, because S3 has times in whole seconds.
NOW = timedelta(seconds=-2)


@pytest.fixture(params=["disk", "s3", "s3 under a prefix"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "disk":
        return LocalStorage(tmp_path)
    prefix = {"s3_prefix": "cutout/"} if "prefix" in request.param else {}
    return storage_from(app_settings.load(**request.getfixturevalue("s3").settings, **prefix))


def test_what_is_put_is_got_until_it_is_deleted(storage: Storage) -> None:
    require_usable(storage)
    assert storage.get("results/a.png") is None
    storage.put("results/a.png", b"first")
    storage.put("results/a.png", b"second" * 100_000)
    assert storage.get("results/a.png") == b"second" * 100_000
    storage.put("results/empty.png", b"")
    assert storage.get("results/empty.png") == b""
    storage.delete("results/a.png")
    storage.delete("results/a.png")
    assert storage.get("results/a.png") is None


def test_deletion_keeps_to_its_folder_and_to_the_age(storage: Storage) -> None:
    for key in ("results/a.png", "results/b.png", "others/c.png"):
        storage.put(key, b"x")
    assert storage.delete_older_than(timedelta(days=7), "results/") == 0
    assert storage.delete_older_than(NOW, "results/") == 2
    assert [storage.get(key) for key in ("results/a.png", "others/c.png")] == [None, b"x"]


def test_old_files_on_disk_are_deleted_and_a_database_beside_them_is_not(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    storage.put("results/old.png", b"old")
    storage.put("results/new.png", b"new")
    (tmp_path / "cutout.db").write_bytes(b"not a result")
    past = (datetime.now(UTC) - timedelta(days=8)).timestamp()
    for name in ("results/old.png", "cutout.db"):
        os.utime(tmp_path / name, (past, past))
    assert storage.delete_older_than(timedelta(days=7), "results/") == 1
    assert storage.get("results/old.png") is None
    assert storage.get("results/new.png") == b"new"
    assert (tmp_path / "cutout.db").exists()


def test_more_files_than_a_list_of_s3_has_at_once_are_deleted(s3: S3Server) -> None:
    storage = storage_from(app_settings.load(**s3.settings))
    for number in range(60):
        storage.put(f"results/{number}.png", b"x")
    assert storage.delete_older_than(NOW, "results/") == 60
    assert storage.get("results/59.png") is None


def megabytes(count: int, first: int = 0) -> Iterator[bytes]:
    """Generate `count` different blocks of 1 MB."""
    return (number.to_bytes(4, "big") * (MB // 4) for number in range(first, first + count))


def broken(error: BaseException, after: int) -> Iterator[bytes]:
    yield from megabytes(after)
    raise error


def read(storage: Storage, key: str) -> bytes | None:
    """Read a stream to its end, and check its length and that its chunks are small."""
    found = storage.stream(key)
    if found is None:
        return None
    size, chunks = found
    parts = list(chunks)
    assert sum(map(len, parts)) == size
    assert all(0 < len(part) <= MB for part in parts)
    return b"".join(parts)


def test_what_is_put_as_a_stream_is_got_as_one(storage: Storage) -> None:
    assert read(storage, "results/a.zip") is None
    for content in ([], [b""], [b"x"], [b"a", b"", b"b" * 3 * MB], list(megabytes(21))):
        storage.put_stream("results/a.zip", iter(content))
        assert read(storage, "results/a.zip") == storage.get("results/a.zip") == b"".join(content)
    assert storage.list_older_than(NOW, "results/") == ["results/a.zip"]
    storage.put("results/b.png", b"not a stream")
    assert read(storage, "results/b.png") == b"not a stream"


def test_a_stream_goes_on_where_another_broke_off(storage: Storage) -> None:
    content = bytes(range(256)) * 40_000
    storage.put("results/a.zip", content)
    for start in (0, 1, 9_000_001, len(content) - 1, len(content)):
        found = storage.stream("results/a.zip", start)
        assert found is not None
        size, chunks = found
        assert (size, b"".join(chunks)) == (len(content), content[start:])


def test_a_stream_is_made_of_files_of_the_same_storage(storage: Storage) -> None:
    for number in range(3):
        storage.put(f"results/{number}.png", bytes([number]) * 3 * MB)

    def all_in_one() -> Iterator[bytes]:
        for number in range(3):
            yield storage.get(f"results/{number}.png") or b""
        found = storage.stream("results/0.png")
        assert found is not None
        yield from found[1]

    storage.put_stream("results/all.zip", all_in_one())
    assert storage.get("results/all.zip") == b"".join(bytes([number]) * 3 * MB for number in (0, 1, 2, 0))


class Surprise(BaseException):
    """An exception that no code catches."""


@pytest.mark.parametrize("after", [0, 1, 12])
@pytest.mark.parametrize(
    "error",
    [FileNotFoundError("the caller's own"), StorageError("of another place"), ValueError("x"), Surprise()],
    ids=lambda error: type(error).__name__,
)
def test_a_stream_that_breaks_off_leaves_nothing(
    storage: Storage, request: pytest.FixtureRequest, error: BaseException, after: int
) -> None:
    storage.put("results/old.zip", b"what was there before")
    for key in ("results/new.zip", "results/old.zip"):
        with pytest.raises(type(error)) as caught:
            storage.put_stream(key, broken(error, after))
        assert caught.value is error
    assert storage.list_older_than(NOW, "") == ["results/old.zip"]
    assert storage.get("results/old.zip") == b"what was there before"
    if isinstance(storage, S3Storage):
        assert request.getfixturevalue("s3").unfinished_uploads() == 0


def test_a_disk_that_takes_no_more_is_a_storage_error_and_keeps_nothing(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3 * MB, limits[1]))
    try:
        with pytest.raises(StorageError, match=r"cannot be written \(File too large\)"):
            storage.put_stream("results/a.zip", megabytes(9))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_bucket_that_goes_away_meanwhile_is_a_storage_error(s3: S3Server) -> None:
    storage = storage_from(app_settings.load(**s3.settings))

    def until_it_goes() -> Iterator[bytes]:
        yield from megabytes(12)
        s3.stop()
        yield from megabytes(12)

    storage.put_stream("results/a.zip", megabytes(20))
    found = storage.stream("results/a.zip")
    assert found is not None
    next(found[1])
    try:
        with pytest.raises(StorageError) as caught:
            storage.put_stream("results/b.zip", until_it_goes())
        assert s3.address not in str(caught.value)
        with pytest.raises(StorageError):
            list(found[1])
    finally:
        s3.start()


def test_what_is_replaced_while_it_is_read_is_never_mixed_up(storage: Storage) -> None:
    old, new = b"".join(megabytes(20)), b"".join(megabytes(20, first=100))
    storage.put("results/a.zip", old)
    found = storage.stream("results/a.zip")
    assert found is not None
    size, chunks = found
    got = [next(chunks)]
    storage.put_stream("results/a.zip", iter([new]))
    if isinstance(storage, LocalStorage):
        got += chunks
        assert b"".join(got) == old
    else:
        with pytest.raises(StorageError):
            got.extend(chunks)
        assert old.startswith(b"".join(got))
    assert size == len(old)
    assert read(storage, "results/a.zip") == new


def test_a_reader_that_gives_up_keeps_no_file_open(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    storage.put("results/a.zip", b"x" * 3 * MB)

    def still_open() -> bool:
        return any(link.resolve() == tmp_path / "results/a.zip" for link in Path("/proc/self/fd").iterdir())

    for read_before in (0, 1):
        found = storage.stream("results/a.zip")
        assert found is not None
        assert still_open()
        list(itertools.islice(found[1], read_before))
        del found
        assert not still_open()


# It imports nothing but the storage, since torch alone takes seconds.
IN_LITTLE_MEMORY = """
import sys
from pathlib import Path
from cutout.app.storage.local import LocalStorage
from cutout.app.storage.s3 import S3Storage
folder, *s3 = sys.argv[1:]
if s3:
    storage = S3Storage(s3[0], **dict(zip(("endpoint", "access_key_id", "secret_access_key"), s3[1:], strict=True)))
else:
    storage = LocalStorage(Path(folder))
def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
storage.put_stream("results/small.zip", iter([b"x"]))
assert b"".join(storage.stream("results/small.zip")[1]) == b"x"
before = peak()
storage.put_stream("results/large.zip", (bytes(1 << 20) for _ in range(100)))
print(peak() - before)
size, chunks = storage.stream("results/large.zip")
print(size, sum(map(len, chunks)), peak() - before)
"""


@pytest.mark.parametrize("kind", ["disk", "s3"])
def test_a_large_file_takes_little_memory_either_way(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    where = [] if kind == "disk" else list(request.getfixturevalue("s3").settings.values())
    done = subprocess.run(
        [sys.executable, "-c", IN_LITTLE_MEMORY, str(tmp_path), *where],
        capture_output=True,
        text=True,
        timeout=5 * PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    written, size, read, both = map(int, done.stdout.split())
    assert size == read == 100 * MB
    assert max(written, both) < 40_000, "kB above the start"


def test_the_old_are_listed_and_left(storage: Storage) -> None:
    for key in ("uploads/1/a", "uploads/1/b", "uploads/2/c", "others/d"):
        storage.put(key, b"x")
    assert storage.list_older_than(timedelta(days=1), "uploads/") == []
    assert sorted(storage.list_older_than(NOW, "uploads/")) == ["uploads/1/a", "uploads/1/b", "uploads/2/c"]
    assert storage.get("uploads/1/a") == b"x"


def test_a_folder_goes_with_its_last_file(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    for key in ("uploads/1/a", "uploads/1/b", "results/c"):
        storage.put(key, b"x")
    storage.delete("uploads/1/a")
    assert storage.get("uploads/1/b") == b"x"
    storage.delete("uploads/1/b")
    storage.delete("results/c")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results", "uploads"]
    assert list((tmp_path / "uploads").iterdir()) == []
    storage.put("uploads/1/a", b"x")


def test_a_bucket_that_is_not_there_is_no_missing_file(s3: S3Server) -> None:
    storage = S3Storage("another", endpoint=s3.address, access_key_id="a", secret_access_key="b")
    with pytest.raises(StorageError):
        storage.put("results/a.png", b"x")
    with pytest.raises(
        StorageUnusable, match=r"s3://another/.*NoSuchBucket.*Check CUTOUT_DATA_DIR, or the S3_"
    ):
        require_usable(storage)
    with pytest.raises(StorageError):
        storage.get("results/a.png")
    with pytest.raises(StorageError):
        storage.delete_older_than(NOW, "results/")
    with pytest.raises(StorageError):
        storage.list_older_than(NOW, "results/")
    with pytest.raises(StorageError):
        storage.put_stream("results/a.png", iter([b"x"]))
    with pytest.raises(StorageError):
        storage.stream("results/a.png")


def test_a_key_without_the_right_is_refused(s3: S3Server) -> None:
    storage = storage_from(app_settings.load(**s3.settings))
    s3.trust(0)
    try:
        with pytest.raises(StorageUnusable, match="AccessKeyId") as caught:
            require_usable(storage)
    finally:
        s3.trust(math.inf)
    assert SECRET_KEY not in str(caught.value)


def test_half_a_key_of_the_hosts_own_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "half")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY", raising=False)
    with pytest.raises(StorageUnusable, match=r"s3://pictures/: .*SecretAccessKey.*Check the S3_"):
        S3Storage("pictures")


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageUnusable, match="Not a directory"):
        require_usable(LocalStorage(tmp_path / "file"))


def test_a_folder_that_another_thread_makes_meanwhile_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[Path] = []

    def not_yet(folder: Path) -> bool:
        if folder.name == "results" and not looked:
            looked.append(folder)
            folder.mkdir()
            return False
        return os.path.isdir(folder)  # noqa: PTH112 - its own way there is what this stands in for

    monkeypatch.setattr(Path, "is_dir", not_yet)
    LocalStorage(tmp_path).put("results/a.png", b"picture")
    assert looked
    assert LocalStorage(tmp_path).get("results/a.png") == b"picture"


def test_a_service_that_could_keep_nothing_does_not_start(s3: S3Server, tmp_path: Path) -> None:
    settings = app_settings.load(auth="off", data_dir=tmp_path, **s3.settings | {"s3_bucket": "another"})
    service = create_app(settings, lambda _: fake_engine())
    with pytest.raises(StorageUnusable, match="NoSuchBucket"), TestClient(service):
        pass


def test_a_removal_is_kept_in_the_bucket_and_costs_nothing_while_that_is_away(
    database: Database, s3: S3Server, tmp_path: Path
) -> None:
    with opened_shop(database, tmp_path, **s3.settings) as shop:
        client = shop.client
        shop.fund("anna", 6)
        job = shop.remove(ANNA).raise_for_status().json()
        assert not list(tmp_path.rglob("*.png"))
        picture = client.get(job["resultUrl"]).raise_for_status().content
        assert open_picture(picture).mode == "RGBA"
        assert storage_from(app_settings.load(**s3.settings)).get(f"results/{job['jobId']}.png") == picture

        s3.stop()
        answer = shop.remove(ANNA)
        assert (answer.status_code, answer.json()["code"]) == (503, "STORAGE_UNAVAILABLE")
        assert BUCKET not in answer.text
        assert s3.address not in answer.text
        assert client.get(job["resultUrl"]).status_code == 503
        assert shop.balance(ANNA) == 3

        s3.start()
        shop.remove(ANNA).raise_for_status()
        assert shop.balance(ANNA) == 0
