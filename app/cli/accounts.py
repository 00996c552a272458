"""`cutout migrate | users | keys | credits`: database migrations, users, API keys and credits."""

import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from cutout.app.cli.console import CommandError, escape, print_list, say
from cutout.app.config.settings import Settings
from cutout.app.config.settings import load as load_settings

if TYPE_CHECKING:  # these imports take half a second, which other commands need not wait
    from sqlalchemy.orm import Session

    from cutout.app.db.session import Database
    from cutout.app.db.tables import User

users = typer.Typer(help="Manage local accounts.", no_args_is_help=True)
keys = typer.Typer(help="Manage API keys.", no_args_is_help=True)
credits = typer.Typer(help="Grant credits; show balance and ledger.", no_args_is_help=True)

Who = Annotated[str, typer.Argument(help="A user's e-mail address, `sub` or id.")]
Password = Annotated[
    str | None,
    typer.Option(help="Other users of this host may see it; without it, the command asks for the password."),
]
FromStdin = Annotated[
    bool, typer.Option("--password-stdin", help="Read the password from stdin, up to the first line break.")
]


@contextmanager
def opened(settings: Settings) -> "Iterator[Database]":
    """Open the database from the settings; turn its errors into a one-line `CommandError`."""
    from sqlalchemy.exc import OperationalError

    from cutout.app.config.data_folder import open_data_folder
    from cutout.app.db.session import Database

    open_data_folder(settings)
    database = Database(settings.database, settings.database_seconds)
    try:
        yield database
    except OperationalError as error:
        if (disk := database.explain_disk(error)) is not None:
            raise CommandError(disk) from error
        reason = " ".join(str(error.orig).split())
        raise CommandError(f"The database does not answer ({reason}). Check DATABASE_URL.") from error
    finally:
        database.close()


@contextmanager
def session() -> "Iterator[Session]":
    """Open a transaction on a database whose schema is that of this version; migrate an embedded one first."""
    from cutout.app.db import migrate as schema

    settings = load_settings()
    with opened(settings) as database:
        if settings.embedded:
            schema.migrate(database)
        schema.require_current(database)
        with database.begin() as session:
            yield session


def migrate() -> None:
    """Migrate the database to the schema of this version."""
    from cutout.app.db import migrate as schema

    with opened(load_settings()) as database:
        before = schema.revision(database)
        after = schema.migrate(database)
    say(
        f"The database is at revision {after}"
        + (" already." if before == after else f", from {before or 'empty'}.")
    )


@users.command("add")
def add_user(
    email: Annotated[str, typer.Argument(help="The e-mail address to log in with.")],
    admin: Annotated[
        bool, typer.Option("--admin", help="May grant credits and see the statistics of all users.")
    ] = False,
    password: Password = None,
    password_stdin: FromStdin = False,
) -> None:
    """Create a local account."""
    from cutout.app.auth import accounts
    from cutout.app.db.tables import Role

    chosen = _password(password, password_stdin)
    with session() as opened_session:
        accounts.create_local(opened_session, email, chosen, Role.ADMIN if admin else Role.USER)
    say(f"Created: {escape(email)}{', an admin' if admin else ''}.")


@users.command("list")
def list_users() -> None:
    """List all users."""
    from sqlalchemy import select

    from cutout.app.db.tables import User

    table = Table("user", "e-mail", "role", "credits", "since", box=None, pad_edge=False)
    table.add_column("id", min_width=36)
    table.add_column("")
    with session() as opened_session:
        for user in opened_session.scalars(select(User).order_by(User.created_at)):
            since = f"{user.created_at:%Y-%m-%d}"
            table.add_row(
                escape(user.subject),
                escape(user.email or ""),
                user.role.value,
                str(user.balance),
                since,
                str(user.id),
                "deleted" if user.deleted_at else "disabled" if user.disabled_at else "",
            )
    print_list(table)


@users.command("password")
def change_password(who: Who, password: Password = None, password_stdin: FromStdin = False) -> None:
    """Change the password of a local account. Logins with the old password end at once; API keys stay valid."""
    from cutout.app.auth import accounts

    chosen = _password(password, password_stdin)
    with session() as opened_session:
        accounts.set_password(opened_session, _find(opened_session, who), chosen)
    say(
        "The password was changed, and logins with the old one have ended. API keys stay valid: revoke those that should not."
    )


@users.command("disable")
def disable_user(who: Who) -> None:
    """Disable an account. Its API keys, tokens, logins and signed URLs stop working at once."""
    from cutout.app.auth import accounts

    with session() as opened_session:
        accounts.disable(opened_session, _find(opened_session, who))
    say(f"Disabled: {escape(who)}.")


@users.command("enable")
def enable_user(who: Who) -> None:
    """Enable an account again."""
    from cutout.app.auth import accounts

    with session() as opened_session:
        accounts.enable(opened_session, _find(opened_session, who))
    say(f"Enabled: {escape(who)}.")


@users.command("delete")
def delete_user(
    who: Who, yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False
) -> None:
    """Delete a user with their photos, pictures, batches, keys and plans. This cannot be undone."""
    from cutout.app.bootstrap import storage_from
    from cutout.app.storage.base import StorageError
    from cutout.app.user_deletion import delete_user as delete

    settings = load_settings()
    with session() as opened_session:
        user = _find(opened_session, who)
    if not yes:
        typer.confirm(
            f"Delete {user.subject} ({user.id}), with all pictures and {user.balance} credits?",
            abort=True,
            err=True,
        )
    with opened(settings) as database:
        try:
            deleted = delete(database, storage_from(settings), user.id)
        except StorageError as error:
            raise CommandError(
                f"The account is disabled, but not all of its files were deleted. {error.cause or error} Run the command again."
            ) from error
    say(
        f"Deleted: {escape(who)}, with {deleted.jobs} jobs and {deleted.batches} batches. The ledger and confirmed payments"
        f" stay, without a name, under {user.id}."
    )


@keys.command("add")
def add_key(
    who: Who, name: Annotated[str, typer.Option(help="A name that describes its purpose.")] = "command line"
) -> None:
    """Create an API key and print it to stdout. It is shown only this once."""
    from cutout.app.auth import accounts

    most = load_settings().max_api_keys
    with session() as opened_session:
        try:
            key, _ = accounts.create_key(opened_session, _find(opened_session, who), name, most)
        except accounts.TooManyKeys as error:
            raise CommandError(str(error)) from error
    typer.echo(key)


@keys.command("list")
def list_keys(who: Who) -> None:
    """List a user's API keys."""
    from cutout.app.auth import accounts

    table = Table("id", "key", "name", "created", "", box=None, pad_edge=False)
    with session() as opened_session:
        for key in accounts.keys(opened_session, _find(opened_session, who)):
            state = "revoked" if key.revoked_at else ""
            table.add_row(str(key.id), f"{key.shown}…", escape(key.name), f"{key.created_at:%Y-%m-%d}", state)
    print_list(table)


@keys.command("revoke")
def revoke_key(key_id: Annotated[uuid.UUID, typer.Argument(help="The id that `keys list` shows.")]) -> None:
    """Revoke an API key. It stops working at once."""
    from cutout.app.auth import accounts
    from cutout.app.db.tables import ApiKey, User

    with session() as opened_session:
        key = opened_session.get(ApiKey, key_id)
        if key is None:
            raise CommandError(f"There is no key {key_id}.")
        owner = opened_session.get_one(User, key.user_id)
        accounts.revoke_key(opened_session, owner, key_id)
    say("Revoked.")


@credits.command("grant")
def grant(
    who: Who,
    number: Annotated[int, typer.Argument(help="Number of credits.", min=1)],
    key: Annotated[str | None, typer.Option(help="Idempotency key: the same key never grants twice.")] = None,
    note: Annotated[str, typer.Option(help="Note in the ledger.")] = "",
) -> None:
    """Give credits to a user."""
    from cutout.app.billing import ledger

    with session() as opened_session:
        user = _find(opened_session, who)
        granted = ledger.grant(opened_session, user.id, number, f"grant:{key or uuid.uuid4()}", note)
        balance = ledger.balance(opened_session, user.id)
    say(f"{'Granted' if granted else 'Already granted with this key'}; {escape(who)} has {balance} credits.")


@credits.command("show")
def show(who: Who) -> None:
    """Show a user's balance and the last fifty ledger entries."""
    from cutout.app.billing import ledger

    table = Table("time", "movement", "credits", "key", "note", box=None, pad_edge=False)
    with session() as opened_session:
        user = _find(opened_session, who)
        for entry in ledger.ledger(opened_session, user.id):
            time, moved = (
                f"{entry.created_at:%Y-%m-%d %H:%M:%S}",
                f"{entry.credits:+d}" if entry.credits else "",
            )
            table.add_row(time, entry.movement.value, moved, escape(entry.key), escape(entry.note))
        say(f"{escape(who)} has {user.balance} credits.")
    print_list(table)


def _password(given: str | None, from_stdin: bool) -> str:
    """Return the password of an option, of stdin, or else of the terminal, where it is asked for twice."""
    if given is not None and from_stdin:
        raise CommandError("Give either --password or --password-stdin.")
    if from_stdin:
        return sys.stdin.readline().rstrip("\r\n")
    if given is not None:
        return given
    return str(typer.prompt("Password", hide_input=True, confirmation_prompt=True))


def _find(opened_session: "Session", who: str) -> "User":
    from cutout.app.auth import accounts

    found = accounts.matching(opened_session, who)
    if len(found) == 1:
        return found[0]
    if not found:
        raise CommandError(
            f"There is no user {who}. A platform user exists from their first request on. To create a local account,"
            f" run: cutout users add {who}"
        )
    named = "; ".join(f"{user.id} ({user.subject})" for user in found)
    raise CommandError(f"{len(found)} users match {who}. Use an id instead: {named}")
