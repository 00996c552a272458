"""Storage in a bucket of S3 or of a compatible service.

`obstore` is used rather than boto3: its calls do not block other threads while they wait, it retries by itself, it
finds credentials in the environment, in a profile and on a cloud host as AWS tools do, and it is one wheel without
dependencies.
"""

import re
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

from cutout.app.storage.base import CHUNK_BYTES, Source, StorageError, StorageUnusable

CONNECT_SECONDS, ANSWER_SECONDS = 5, 60
RETRIES, RETRY_SECONDS = 3, 30
# Parts of a stream that are in memory at once: several of one that is written, one of one that is read. Sizes in bytes.
PARTS_AT_ONCE, WRITTEN_PART, READ_PART = 3, 5 << 20, 8 << 20


class S3Storage:
    """Files in one bucket, under `prefix` if one is given. Thread-safe."""

    def __init__(
        self,
        bucket: str,
        *,
        prefix: str = "",
        endpoint: str | None = None,
        region: str | None = None,
        access_key_id: str | None = None,
        secret_access_key: str | None = None,
    ) -> None:
        """Configure access to a bucket; no request is sent yet.

        Args:
            bucket: name of the bucket, which must exist.
            prefix: prefix of all keys, such as "cutout/", for a bucket that holds other files too.
            endpoint: URL of the server, "https://…"; None for Amazon's.
            region: region of the bucket; None for the host's configured one, else us-east-1.
            access_key_id: credentials, together with `secret_access_key`; None to use those configured on the host.
            secret_access_key: see `access_key_id`.

        Raises:
            StorageUnusable: the settings cannot describe a bucket, or only half of the credentials was found.

        """
        self.name = f"s3://{bucket}/{prefix}"
        options = {
            "endpoint": endpoint,
            "region": region,
            "access_key_id": access_key_id,
            "secret_access_key": secret_access_key,
        }
        try:
            self._store = S3Store(
                bucket,
                prefix=prefix or None,
                client_options={
                    "allow_http": True,
                    "connect_timeout": f"{CONNECT_SECONDS}s",
                    "timeout": f"{ANSWER_SECONDS}s",
                },
                retry_config={"max_retries": RETRIES, "retry_timeout": timedelta(seconds=RETRY_SECONDS)},
                **{name: value for name, value in options.items() if value is not None},  # type: ignore[arg-type]
            )
        except BaseError as error:
            raise StorageUnusable(f"{self._cause(error)}. Check the S3_… settings.") from error

    def room(self) -> int | None:
        return None

    def put(self, key: str, data: bytes) -> None:
        try:
            obstore.put(self._store, key, data)
        # A missing bucket raises the built-in FileNotFoundError.
        except (BaseError, FileNotFoundError) as error:
            raise self._unusable(error) from error

    def put_stream(self, key: str, chunks: Iterable[bytes]) -> None:
        with ThreadPoolExecutor(1) as beside:
            source = Source(_made(beside, chunks))
            try:
                # An interrupted upload is aborted, which leaves neither an object nor parts that cost money.
                obstore.put(self._store, key, source, chunk_size=WRITTEN_PART, max_concurrency=PARTS_AT_ONCE)
            except (BaseError, FileNotFoundError) as error:
                if error is source.error:
                    raise
                raise self._unusable(error) from error

    def get(self, key: str) -> bytes | None:
        try:
            return bytes(obstore.get(self._store, key).bytes())
        except FileNotFoundError as error:
            if "NoSuchBucket" in str(error):
                raise self._unusable(error) from error
            return None
        except BaseError as error:
            raise self._unusable(error) from error

    def stream(self, key: str, start: int = 0) -> tuple[int, Iterator[bytes]] | None:
        try:
            meta = obstore.get(self._store, key).meta
        except FileNotFoundError as error:
            if "NoSuchBucket" in str(error):
                raise self._unusable(error) from error
            return None
        except BaseError as error:
            raise self._unusable(error) from error
        return meta["size"], self._chunks(key, start, meta["size"], meta["e_tag"])

    def _chunks(self, key: str, first: int, size: int, tag: str | None) -> Iterator[bytes]:
        # One request per part, because a single response for the whole file would have to be read within
        # ANSWER_SECONDS, however large the file and slow the reader. The ETag keeps all parts to one version.
        for start in range(first, size, READ_PART):
            try:
                part = obstore.get(
                    self._store,
                    key,
                    options={"range": (start, min(start + READ_PART, size)), "if_match": tag},
                ).bytes()
            except (BaseError, FileNotFoundError) as error:
                raise self._unusable(error) from error
            view = memoryview(part)
            for begin in range(0, len(view), CHUNK_BYTES):
                yield bytes(view[begin : begin + CHUNK_BYTES])

    def delete(self, key: str) -> None:
        try:
            obstore.delete(self._store, key)
        except FileNotFoundError:
            pass
        except BaseError as error:
            raise self._unusable(error) from error

    def list_older_than(self, age: timedelta, prefix: str) -> list[str]:
        try:
            return [key for page in self._pages_older_than(age, prefix) for key in page]
        except (BaseError, FileNotFoundError) as error:
            raise self._unusable(error) from error

    def delete_older_than(self, age: timedelta, prefix: str) -> int:
        deleted = 0
        try:
            for page in self._pages_older_than(age, prefix):
                obstore.delete(self._store, page)
                deleted += len(page)
        except (BaseError, FileNotFoundError) as error:
            raise self._unusable(error) from error
        return deleted

    def _pages_older_than(self, age: timedelta, prefix: str) -> Iterator[list[str]]:
        limit = datetime.now(UTC) - age
        for page in obstore.list(self._store, prefix):
            if old := [file["path"] for file in page if file["last_modified"] < limit]:
                yield old

    def _unusable(self, error: Exception) -> StorageError:
        return StorageError(
            "The storage of results does not answer as expected. Try again in a minute.", self._cause(error)
        )

    def _cause(self, error: Exception) -> str:
        # The first line describes the error, but an S3 error code in the XML below is clearer. The rest is internal
        # state of the library.
        code = re.search("<Code>(.*?)</Code>", str(error))
        return f"{self.name}: {code[1] if code else str(error).splitlines()[0]}"


def _made(beside: Executor, chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Produce the chunks in another thread.

    `obstore` cannot be called in the thread in which it requests the chunks, but producing them may read from this
    store.
    """
    iterator = iter(chunks)
    while (chunk := beside.submit(next, iterator, None).result()) is not None:
        yield chunk
