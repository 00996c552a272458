"""A service with accounts and a queue, for tests of the page."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Page

from cutout.app.app import create_app
from cutout.app.auth import accounts
from cutout.app.billing import ledger
from cutout.app.db import migrate
from cutout.app.db.session import Database
from cutout.app.db.tables import Role, User
from cutout.app.http.state import state_of
from cutout.app.storage.base import Storage
from tests.app.api_client import service_settings
from tests.app.serving import served
from tests.fakes import fake_engine
from tests.worker.worker_fixtures import context_of, work_off

ANNA, BEN, PASSWORD = "anna@shop.example", "ben@shop.example", "correct horse battery"
SIGN_IN, SIGNED_IN = "#sign-in[open]", "#who-name:not(:empty)"


@dataclass
class ShopPage:
    """A service at an address, with the accounts Anna, who has 1,000 credits, and Ben, an admin."""

    address: str
    database: Database
    storage: Storage

    def user(self, email: str = ANNA) -> User:
        with self.database.read() as session:
            user = accounts.by_subject(session, accounts.local_subject(email))
        assert user is not None
        return user

    def set_password(self, password: str, email: str = ANNA) -> None:
        """Set a password; sessions with the earlier one end."""
        with self.database.begin() as session:
            user = accounts.by_subject(session, accounts.local_subject(email))
            assert user is not None
            accounts.set_password(session, user, password)

    def work_off(self) -> None:
        """Do what a worker does to all that waits."""
        with context_of(self.database, self.storage) as context:
            work_off(context)


@contextmanager
def opened_shop_page(folder: Path, **changes: object) -> Iterator[ShopPage]:
    """Serve with accounts on a real socket; `changes` are settings."""
    url = f"sqlite:///{folder / 'cutout.db'}"
    database = Database(url)
    migrate.migrate(database)
    with database.begin() as session:
        anna = accounts.create_local(session, ANNA, PASSWORD)
        accounts.create_local(session, BEN, PASSWORD, Role.ADMIN)
        ledger.grant(session, anna.id, 1000, "grant:anna", "welcome")
    settings = service_settings(url, folder / "data", login_per_minute=0, **changes)
    service = create_app(settings, lambda _: fake_engine())
    with served(service, settings) as address:
        yield ShopPage(address, database, state_of(service).get(Storage))
    database.close()


def sign_in(page: Page, email: str = ANNA, password: str = PASSWORD) -> None:
    page.fill("#sign-in [name=email]", email)
    page.fill("#sign-in [name=password]", password)
    page.keyboard.press("Enter")
