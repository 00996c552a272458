"""Results in a bucket of S3, or of anything that speaks its protocol.

`obstore` rather than boto3: its calls leave other threads alone while they wait, it retries by itself, it finds keys in
the environment, in a profile and on a cloud host as every AWS tool does, and it is one wheel without dependencies.
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
# What is in memory of a stream: so many parts of one that is written, and one of one that is read.
PARTS_AT_ONCE, WRITTEN_PART, READ_PART = 3, 5 << 20, 8 << 20


class S3Storage:
    """Files of one bucket, under `prefix` if one is given. Safe to use from any number of threads."""

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
        """Prepare to reach a bucket; nothing is asked of it yet.

        Args:
            bucket: its name; it has to be there.
            prefix: of all keys, such as "cutout/", where the bucket holds other things too.
            endpoint: the server's address, "https://…"; None for Amazon's own.
            region: where the bucket is; None for what the host says, else us-east-1.
            access_key_id: with `secret_access_key`, the key; None where the host has one for all tools.
            secret_access_key: see above.

        Raises:
            StorageUnusable: this cannot be a bucket, or half a key was found.

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
        # "not found" is a missing bucket, and a built-in error
        except (BaseError, FileNotFoundError) as error:
            raise self._unusable(error) from error

    def put_stream(self, key: str, chunks: Iterable[bytes]) -> None:
        with ThreadPoolExecutor(1) as beside:
            source = Source(_made(beside, chunks))
            try:
                # An upload that breaks off is aborted: there is no object then, and no parts that cost money.
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
        # Part by part: one answer for the whole file would have to be read within ANSWER_SECONDS, however large the file
        # and however slow the reader. The tag keeps the parts to one file.
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
            "The store of results does not answer as it should. Try again in a minute.", self._cause(error)
        )

    def _cause(self, error: Exception) -> str:
        # Its first line says what happened, unless S3 itself does, in XML below; the rest is the library's own state.
        code = re.search("<Code>(.*?)</Code>", str(error))
        return f"{self.name}: {code[1] if code else str(error).splitlines()[0]}"


def _made(beside: Executor, chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Make the chunks in another thread: where `obstore` asks for them it cannot be called, and to make them may take
    files out of this same store.
    """
    iterator = iter(chunks)
    while (chunk := beside.submit(next, iterator, None).result()) is not None:
        yield chunk
