"""A removal as its caller wishes it, and the parts of the service that it uses."""

import hashlib
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cutout.app.db.session import Database
from cutout.app.db.tables import now
from cutout.app.jobs.lease_renewal import LeaseRenewer
from cutout.app.observability.metrics import Metrics
from cutout.app.observability.tracing import NO_TRACING, Tracing
from cutout.app.removals.executors import RemovalExecutor
from cutout.app.removals.idempotency import described
from cutout.app.removals.refining import Original
from cutout.app.removals.remote import RemotePhoto
from cutout.app.storage.base import Storage
from cutout.inference.limits import DEFAULT_SIZES, SizeLimits
from cutout.inference.options import Options

# How long a repeated request goes on checking whether the first one has finished.
PATIENCE = timedelta(seconds=2)


@dataclass(frozen=True)
class RemovalContext:
    """The parts of the service that a removal uses.

    Times are those of the database's clock, unless `clock` is another than `now`.
    `lease` is the length of the lease on a job that this process works on; `leases` renews it. A request whose key is in
    work already waits `patience` for the first one. `sizes` limits photos. `require_storage` raises StorageError while the storage hangs.
    """

    executor: RemovalExecutor
    storage: Storage
    database: Database
    lease: timedelta
    clock: Callable[[], datetime] = now
    metrics: Metrics = field(default_factory=Metrics)
    leases: LeaseRenewer = field(default_factory=LeaseRenewer)
    patience: timedelta = field(default_factory=lambda: PATIENCE)
    require_storage: Callable[[], None] = lambda: None
    sizes: SizeLimits = DEFAULT_SIZES
    tracing: Tracing = NO_TRACING


@dataclass(frozen=True)
class RemovalRequest:
    """A caller's wish. `fingerprint` identifies photo and options where there is an idempotency `key`.

    `store_url` is where the result goes too, as `ResultStores.check` returns it. `original` is the removal whose result
    is refined. `name` is that of the photo's file, and part of no fingerprint.
    """

    user_id: uuid.UUID
    options: Options
    key: str | None = None
    fingerprint: str = ""
    store_url: str | None = field(default=None, repr=False)
    original: Original | None = None
    name: str | None = None


def request_of(
    user_id: uuid.UUID,
    photo: bytes | RemotePhoto | Original,
    options: Options,
    key: str | None = None,
    store_url: str | None = None,
    name: str | None = None,
) -> RemovalRequest:
    """Return a request, with the fingerprint of its photo, options and store if it has an idempotency key."""
    original = photo if isinstance(photo, Original) else None
    if original is not None:
        name = original.name
    if key is None:
        return RemovalRequest(user_id, options, store_url=store_url, original=original, name=name)
    if isinstance(photo, RemotePhoto):
        sent = b"imageUrl\n" + photo.url.encode()
    else:
        sent = photo if isinstance(photo, bytes) else b"refine\n" + photo.job_id.bytes
    wished = described(options) if store_url is None else f"{described(options)}\nstoreUrl\n{store_url}"
    fingerprint = hashlib.sha256(wished.encode("utf-8", "surrogatepass") + b"\n" + sent).hexdigest()
    return RemovalRequest(user_id, options, key, fingerprint, store_url, original, name)
