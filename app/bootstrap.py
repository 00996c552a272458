"""Construction of the application's components from the settings: engine, weights, storage, mailer, and a migrated
database.
"""

import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Literal

from cutout.app.auth import accounts
from cutout.app.billing import ledger
from cutout.app.config.mail import read_sender, read_server
from cutout.app.config.settings import Settings
from cutout.app.config.stores import read_stores
from cutout.app.db import migrate
from cutout.app.db.session import Database
from cutout.app.db.tables import User
from cutout.app.notifications.email import Mailer
from cutout.app.storage.base import Storage, require_usable
from cutout.app.storage.local import LocalStorage
from cutout.app.stores.buckets import Buckets
from cutout.inference.errors import LicenceNotAccepted, ModelUnavailable
from cutout.inference.tiers import SOLD, Choice, Tier, candidates, first_of
from cutout.inference.weights.download import local_file
from cutout.inference.weights.store import sha256
from cutout.models.catalog import CHECKPOINTS, Checkpoint

if TYPE_CHECKING:  # torch takes seconds, which commands without an engine need not wait
    from cutout.inference.engine import Engine

# Not structlog, which prints to stdout until it is configured: the command may write an image there.
log = logging.getLogger(__name__)

LOCAL_ADMIN_CREDITS = 1_000_000


def pull_missing(settings: Settings, tiers: Iterable[Tier], pull: Callable[[Checkpoint], None]) -> None:
    """Ensure that each tier has weights: the first of its checkpoints that is stored here, or can be downloaded.

    Nothing is done if networks run at Hugging Face. If a better checkpoint cannot be downloaded, the reason is logged.

    Raises:
        ModelUnavailable: the device is missing, or a tier has no weights; then the message gives the reason and fix for
            its last checkpoint.
        SettingsError: the settings name a checkpoint that does not exist.

    """
    if device_of(settings) == "huggingface":
        return
    folder = settings.models_folder
    unasked, orders = fetched_unasked(settings), settings.tier_orders
    failed: dict[str, ModelUnavailable] = {}
    for tier in tiers:
        choices = candidates(tier, orders)
        for checkpoint in choices:
            if not folder.licence_accepted(checkpoint):
                continue
            if folder.file(checkpoint).is_file():
                break
            # An order of the operator's own asks for what it names; own weights cannot be downloaded.
            asked = checkpoint in unasked or (tier in orders and checkpoint.like is None)
            if not asked or checkpoint.name in failed:
                continue
            try:
                pull(checkpoint)
            except ModelUnavailable as error:
                failed[checkpoint.name] = error
                if checkpoint is not choices[-1]:
                    log.warning(
                        "%s cannot be downloaded; a substitute may be used: %s", checkpoint.name, error
                    )
            else:
                break
        else:
            if choices[-1].name in failed:  # else opening the engine says what each of them lacks
                raise failed[choices[-1].name]


def copied_at_start(settings: Settings, tier: Tier) -> Choice | None:
    """Return what a start copies from `models_from` for a tier that has no checkpoint here yet, None if nothing.

    A damaged file counts as none.
    """
    folder, orders = settings.models_folder, settings.tier_orders
    reasons: list[str] = []
    for checkpoint in candidates(tier, orders):
        if checkpoint.fetch == "never" and tier not in orders:
            continue
        try:
            folder.check(checkpoint)
        except LicenceNotAccepted as error:
            reasons.append(str(error))
        except ModelUnavailable as error:
            file = local_file(settings.models_from, checkpoint)
            if file is not None and checkpoint.sha256 in (None, sha256(file)):
                return Choice(tier, checkpoint, tuple(reasons), first_of(tier, orders))
            reasons.append(str(error))
    return None


def fetched_unasked(settings: Settings) -> list[Checkpoint]:
    """Return the checkpoints that this host downloads automatically, once their licence is accepted.

    Raises:
        DeviceUnavailable: a GPU was asked for and none can be used.

    """
    when = {"always", "gpu"} if device_of(settings) == "cuda" else {"always"}
    return [checkpoint for checkpoint in CHECKPOINTS.values() if checkpoint.fetch in when]


def device_of(settings: Settings) -> Literal["cuda", "cpu", "huggingface"]:
    """Return where networks run. With `auto`: a local GPU, else Hugging Face if a token is set, else the CPU.

    Raises:
        DeviceUnavailable: a GPU was asked for and none can be used.

    """
    if settings.device == "huggingface":
        return "huggingface"
    if settings.device == "cpu":
        return "cpu"
    from cutout.inference.backends.runners import pick_device

    here = pick_device(settings.device)
    if settings.device == "auto" and here == "cpu" and settings.hf_inference_token is not None:
        return "huggingface"
    return here


def api_engine_of(settings: Settings) -> Literal["local", "queue"]:
    """Return what makes single photos. By default workers do if they are started here on a GPU.

    Two engines on a GPU would hold weights and graphs twice, and slow each other down.

    Raises:
        DeviceUnavailable: a GPU was asked for and none can be used.

    """
    if settings.api_engine is not None:
        return settings.api_engine
    return "queue" if settings.workers_here > 0 and device_of(settings) == "cuda" else "local"


def engine_from(settings: Settings, tiers: Iterable[Tier] = tuple(Tier)) -> "Engine":
    """Open the engine that the settings describe.

    Raises:
        ModelUnavailable: the device or weights are missing, no provider serves a tier remotely, or `strict_models`
            refuses a substitute.
        SettingsError: the settings name a checkpoint that does not exist.

    """
    device = device_of(settings)
    if device == "huggingface":
        from cutout.inference.huggingface.dispatcher import open_remote  # imported only if needed

        engine = open_remote(settings.access, tiers, settings.limits, orders=settings.tier_orders)
    else:
        from cutout.inference.opening import open_engine

        engine = open_engine(
            settings.models_folder,
            device,
            tiers=tiers,
            precision=settings.precision,
            # A device that is set to the CPU has no use for it; one that turns out to be the CPU must not pass over it.
            gpu_backend="auto" if settings.device == "cpu" else settings.gpu_backend,
            limits=settings.limits,
            orders=settings.tier_orders,
        )
    if settings.strict_models:
        try:
            refuse_substitutes(engine)
        except ModelUnavailable:
            engine.close()
            raise
    return engine


def refuse_substitutes(engine: "Engine") -> None:
    """Raise ModelUnavailable if a tier that is sold is served by a substitute for its checkpoint."""
    substitutes = [
        serving.choice
        for tier, serving in engine.serving.items()
        if serving.choice.substitute and tier in SOLD
    ]
    if substitutes:
        reasons = dict.fromkeys(reason for choice in substitutes for reason in choice.passed_over)
        tiers = ", ".join(choice.tier.value for choice in substitutes)
        raise ModelUnavailable(
            f"CUTOUT_STRICT_MODELS=1 forbids substitutes, but {tiers} would use one: {'; '.join(reasons)}"
        )


def storage_from(settings: Settings) -> Storage:
    """Return the storage that the settings describe.

    Raises:
        StorageUnusable: the bucket's settings are invalid.

    """
    if settings.s3_bucket is None:
        return LocalStorage(settings.data_dir.expanduser())
    from cutout.app.storage.s3 import S3Storage  # imported only if needed

    secret = settings.s3_secret_access_key
    return S3Storage(
        settings.s3_bucket,
        prefix=settings.s3_prefix,
        endpoint=settings.s3_endpoint,
        region=settings.s3_region,
        access_key_id=settings.s3_access_key_id,
        secret_access_key=secret.get_secret_value() if secret else None,
    )


def buckets_from(settings: Settings) -> Buckets:
    """Return the buckets in which users may have their results stored.

    Raises:
        SettingsError: the file of `CUTOUT_STORES` is malformed, or names what it must not.

    """
    if settings.stores is None:
        return Buckets()
    return Buckets(
        read_stores(
            settings.stores.expanduser(),
            settings.s3_bucket,
            settings.s3_endpoint,
            settings.s3_access_key_id,
        )
    )


def prepare(settings: Settings, database: Database, storage: Storage) -> None:
    """Migrate an embedded database, and check that the schema is current and the storage is writable.

    Raises:
        SchemaMismatch: the database has a different schema; the message says what to run.
        StorageUnusable: results cannot be stored; the message says why.

    """
    if settings.embedded:
        migrate.migrate(database)
    migrate.require_current(database)
    require_usable(storage)
    if isinstance(storage, LocalStorage):
        storage.mark()


def mailer_from(settings: Settings) -> Mailer | None:
    """Return the mailer that the settings describe; None if no mail server or sender is set."""
    if settings.smtp_url is None or settings.mail_from is None:
        return None
    return Mailer(read_server(settings.smtp_url.get_secret_value()), read_sender(settings.mail_from))


def local_admin(database: Database) -> User:
    """Return the only user of a service without authentication, an admin with credits; create them if needed."""
    with database.begin() as session:
        user = accounts.get_or_create_local_admin(session)
        ledger.grant(session, user.id, LOCAL_ADMIN_CREDITS, "grant:local-admin", "for this machine")
    return user
