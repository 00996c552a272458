"""What ends when a secret of the service is changed, and what goes on: docs/secrets.md."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jwt

from cutout.app.auth import accounts
from cutout.app.billing import ledger, payments
from cutout.app.db.session import Database
from tests.app.api_client import API, ApiClient, opened_shop

EMAIL, PASSWORD = "owner@shop.example", "correct horse"
OLD, NEW = "an old secret, of thirty-two bytes or more", "a new secret, of thirty-two bytes or more"
OTHERS = ("jwt_secret", "metrics_token", "payments_secret")
PAGE = {"X-Cutout-Page": "1", "Origin": "http://cutout.example", "Sec-Fetch-Site": "same-origin"}


@contextmanager
def shop_with(database: Database, folder: Path, **secrets: Any) -> Iterator[ApiClient]:
    with opened_shop(database, folder, login_per_minute=0, **secrets) as shop:
        yield shop


def test_a_new_secret_ends_logins_and_addresses_and_no_key(database: Database, tmp_path: Path) -> None:
    with database.begin() as session:
        user = accounts.create_local(session, EMAIL, PASSWORD)
        ledger.grant(session, user.id, 10, "grant:to-begin-with")
        key = {"X-Api-Key": accounts.create_key(session, user, "shop", 20)[0]}
    login = {"email": EMAIL, "password": PASSWORD}
    with shop_with(database, tmp_path, secret=OLD) as shop:
        token = shop.client.post("/api/auth/login", json=login).raise_for_status().json()["accessToken"]
        shop.client.post("/api/auth/session", json=login, headers=PAGE).raise_for_status()
        cookies = dict(shop.client.cookies)
        job = shop.remove(key).raise_for_status().json()
        assert shop.client.get(job["resultUrl"]).status_code == 200
        balance = shop.balance(key)
    with shop_with(database, tmp_path, secret=NEW) as shop:
        bearer_token = {"Authorization": f"Bearer {token}"}
        assert shop.get(f"{API}/credits", bearer_token).status_code == 401
        for name, value in cookies.items():
            shop.client.cookies.set(name, value)
        assert shop.client.get("/api/auth/session", headers=PAGE).json()["user"] is None
        shop.client.cookies.clear()
        assert shop.client.get(job["resultUrl"]).status_code == 404
        # The picture is there, under a new address; keys, passwords, credits and a repeated request go on.
        again = shop.get(f"{API}/jobs/{job['jobId']}", key).raise_for_status().json()
        assert shop.client.get(again["resultUrl"]).status_code == 200
        assert shop.client.post("/api/auth/login", json=login).status_code == 200
        assert shop.balance(key) == balance < 10


def test_other_secrets_end_only_what_they_sign(database: Database, tmp_path: Path) -> None:
    """The platform's tokens, its payments, and the reading of metrics from another host."""
    tokens = {
        secret: {"Authorization": f"Bearer {jwt.encode({'sub': 'anna', 'exp': 2**33}, secret, 'HS256')}"}
        for secret in (OLD, NEW)
    }
    key: dict[str, str] = {}

    def accepted(shop: ApiClient, payment: str) -> list[tuple[bool, bool, bool]]:
        """Return what the old and the new secret are good for: tokens, metrics, payments."""
        found = []
        for secret, token in tokens.items():
            metrics = shop.client.get("/metrics", headers={"Authorization": f"Bearer {secret}"})
            paid = f"{payment}-{secret.split()[1]}"
            signed = payments.sign(secret, payments.Item(credits=100), 10_000, paid, "anna")
            sold = {"credits": 100, "paymentId": paid, "signature": signed}
            bought = shop.client.post(f"{API}/credits", json=sold, headers=key)
            assert {bought.status_code, metrics.status_code} <= {200, 401, 403}, bought.text
            can_call = shop.get(f"{API}/credits", token).status_code == 200
            found.append((can_call, metrics.status_code == 200, bought.status_code == 200))
        return found

    with shop_with(database, tmp_path, **dict.fromkeys(OTHERS, OLD), payments="signed") as shop:
        shop.get(f"{API}/credits", tokens[OLD]).raise_for_status()
        with database.begin() as session:
            anna = accounts.by_subject(session, "anna")
            assert anna is not None
            key = {"X-Api-Key": accounts.create_key(session, anna, "shop", 20)[0]}
        assert accepted(shop, "before") == [(True, True, True), (False, False, False)]
    with shop_with(database, tmp_path, **dict.fromkeys(OTHERS, NEW), payments="signed") as shop:
        assert accepted(shop, "after") == [(False, False, False), (True, True, True)]
        assert shop.balance(key) == 200
