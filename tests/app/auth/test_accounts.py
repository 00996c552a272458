"""Authentication: valid and invalid tokens, API keys, passwords."""

import json
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

from cutout.app.auth import accounts
from cutout.app.auth.accounts import AccountError
from cutout.app.auth.jwks import PublishedKeys
from cutout.app.auth.tokens import (
    Claims,
    InvalidToken,
    TokenReader,
    api_key_sha256,
    new_api_key,
    password_mark,
)
from cutout.app.db.session import Database
from cutout.app.db.tables import ApiKey, Role, User
from tests.web import PRIVATE, Visit, open_web, raw

OWN, PLATFORM = "own secret of thirty-two bytes !" * 2, "the platform's, of as many bytes" * 2
SOON = datetime.now(UTC) + timedelta(hours=1)
READER = TokenReader(OWN, secret=PLATFORM, audience="cutout", issuer="https://platform.example")
GOOD = {"sub": "u-1", "exp": SOON, "aud": "cutout", "iss": "https://platform.example"}


def token(secret: str = PLATFORM, algorithm: str = "HS256", **changes: Any) -> str:
    claims = {name: value for name, value in (GOOD | changes).items() if value is not None}
    return jwt.encode(claims, secret, algorithm)


def test_a_good_token_says_who_calls() -> None:
    assert READER.read(token(email="a@b.example", role="admin")) == Claims("u-1", "a@b.example", Role.ADMIN)
    assert READER.read(token(role="owner")) == Claims("u-1", None, Role.USER)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (token(exp=datetime.now(UTC) - timedelta(minutes=5)), "expired"),
        (token(exp=None), "not valid"),
        (token(sub=None), "not valid"),
        (token(sub=""), "does not name a user"),
        (token(aud="another service"), "not valid"),
        (token(aud=None), "not valid"),
        (token(iss="https://elsewhere.example"), "not valid"),
        (token(nbf=datetime.now(UTC) + timedelta(hours=1)), "not valid"),
        (token("another secret of thirty-two bytes" * 2), "not valid"),
        (token(algorithm="HS384"), "not valid"),
        (jwt.encode(GOOD, "", "none"), "not valid"),
        (token(sub="local:admin@shop.example"), "marks local accounts"),
        (jwt.encode(GOOD | {"iss": "cutout"}, PLATFORM, "HS256", headers={"kid": "cutout"}), "not valid"),
        ("no token at all", "not valid"),
        ("", "not valid"),
        ("a.b.c", "not valid"),
    ],
)
def test_a_token_that_proves_nothing_is_refused(bad: str, message: str) -> None:
    with pytest.raises(InvalidToken, match=message):
        READER.read(bad)


def test_a_token_for_another_service_is_refused_also_without_an_audience_of_our_own() -> None:
    reader = TokenReader(OWN, secret=PLATFORM)
    with pytest.raises(InvalidToken):
        reader.read(token())
    assert reader.read(token(aud=None)).subject == "u-1"


def test_without_a_platform_only_our_own_login_counts() -> None:
    reader = TokenReader(OWN)
    with pytest.raises(InvalidToken):
        reader.read(token())
    signed, seconds = reader.sign_login("local:a@b.example", "hash")
    assert seconds > 3600
    assert reader.read(signed) == Claims("local:a@b.example", password_mark=password_mark("hash"))
    with pytest.raises(InvalidToken):
        TokenReader("another secret of thirty-two bytes" * 2).read(signed)


@pytest.fixture
def published() -> Iterator[tuple[str, rsa.RSAPrivateKey]]:
    """Publish a key as a platform does; yield its URL and the private key."""
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    public = RSAAlgorithm.to_jwk(private.public_key(), as_dict=True) | {"kid": "k-1", "use": "sig"}

    class Keys(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"keys": [public]}).encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Keys) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/keys", private
        server.shutdown()


def test_published_keys_check_tokens(published: tuple[str, rsa.RSAPrivateKey]) -> None:
    url, private = published
    reader = TokenReader(OWN, jwks_url=url, audience="cutout")
    good = jwt.encode(GOOD, private, "RS256", headers={"kid": "k-1"})
    assert reader.read(good).subject == "u-1"
    others = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    for forged in (
        jwt.encode(GOOD, others, "RS256", headers={"kid": "k-1"}),
        jwt.encode(GOOD, private, "RS256", headers={"kid": "k-2"}),
        token(),  # Signed with a secret, where only published keys are accepted.
    ):
        with pytest.raises(InvalidToken):
            reader.read(forged)


def test_keys_that_cannot_be_fetched_are_said() -> None:
    reader = TokenReader(OWN, jwks_url="http://127.0.0.1:9/keys", audience="cutout")
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    with pytest.raises(InvalidToken, match="cannot be fetched"):
        reader.read(jwt.encode(GOOD, private, "RS256", headers={"kid": "k-1"}))


def endless(begin: bytes, again: bytes, visit: Visit) -> None:
    try:
        visit.wfile.write(begin)
        while True:
            visit.wfile.write(again)
    except OSError:
        pass


@pytest.mark.parametrize(
    ("begin", "again"),
    [
        (b"", 100 * b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\n\r\n[", 1000 * b"1, "),
        (b"HTTP/1.1 302 Found\r\nLocation: /keys\r\nContent-Length: 0\r\n\r\n", b""),
    ],
    ids=["head", "body", "redirects"],
)
def test_a_key_set_without_an_end_is_left_and_not_asked_for_again_at_once(begin: bytes, again: bytes) -> None:
    with open_web(addresses=[PRIVATE]) as web:
        page = partial(endless, begin, again) if again else raw(begin)
        web.pages["/keys"] = page
        keys = PublishedKeys(f"http://{PRIVATE}:{web.port}/keys", seconds=1 if b"100" in again else 60)
        for _ in range(3):
            with pytest.raises(jwt.PyJWKClientConnectionError):
                keys.find("k-1")
        assert len(web.asked) == 1


def test_a_user_is_made_at_first_sight_and_kept_as_the_token_says(database: Database) -> None:
    with database.begin() as session:
        first = accounts.get_or_create_user(session, Claims("u-1", "a@b.example", Role.USER))
    with database.begin() as session:
        again = accounts.get_or_create_user(session, Claims("u-1", None, Role.ADMIN))
        assert (again.id, again.email, again.role) == (first.id, "a@b.example", Role.ADMIN)


def test_what_a_later_token_says_counts_at_once(database: Database) -> None:
    first = accounts.identify(database, Claims("u-1", "a@b.example", Role.ADMIN))
    for claims, email, role in (
        (Claims("u-1", None, Role.ADMIN), "a@b.example", Role.ADMIN),
        (Claims("u-1", None, Role.USER), "a@b.example", Role.USER),
        (Claims("u-1", "new@b.example", Role.USER), "new@b.example", Role.USER),
    ):
        user = accounts.identify(database, claims)
        assert (user.id, user.email, user.role) == (first.id, email, role)
    with pytest.raises(InvalidToken, match="no longer exists"):
        accounts.identify(database, Claims("local:gone@shop.example"))


def test_many_at_first_sight_are_one_user(database: Database) -> None:
    def see(_: int) -> uuid.UUID:
        with database.begin() as session:
            return accounts.get_or_create_user(session, Claims("u-1")).id

    with ThreadPoolExecutor(16) as pool:
        assert len(set(pool.map(see, range(32)))) == 1


def test_a_password_is_checked_and_never_kept(database: Database) -> None:
    with database.begin() as session:
        made = accounts.create_local(session, "Owner@Shop.example", "correct horse", Role.ADMIN)
        assert made.password_hash is not None
        assert made.password_hash.startswith("$argon2id$")
        assert "correct horse" not in made.password_hash
    assert accounts.log_in(database, " owner@shop.EXAMPLE", "correct horse").id == made.id  # type: ignore[union-attr]
    assert accounts.log_in(database, "owner@shop.example", "correct horses") is None
    assert accounts.log_in(database, "nobody@shop.example", "nobody's password") is None
    with database.begin() as session:
        login = Claims(made.subject, password_mark=password_mark(made.password_hash))
        assert accounts.get_or_create_user(session, login).role is Role.ADMIN
        with pytest.raises(InvalidToken, match="no longer exists"):
            accounts.get_or_create_user(session, Claims("local:gone@shop.example"))


def test_a_platforms_user_has_no_password(database: Database) -> None:
    with database.begin() as session:
        accounts.get_or_create_user(session, Claims("u-1", "a@b.example"))
        session.add(User(subject="local:x@b.example", balance=0))
    assert accounts.log_in(database, "x@b.example", "nobody's password") is None


@pytest.mark.parametrize(
    ("email", "password", "message"),
    [
        ("shop.example", "long enough", "not an e-mail"),
        ("a@b.example", "too short", "10 characters"),
        ("b@b.example", "long enough", "already"),
    ],
)
def test_an_account_that_cannot_be_made_is_said(
    database: Database, email: str, password: str, message: str
) -> None:
    with database.begin() as session:
        accounts.create_local(session, "B@b.example", "long enough")
        with pytest.raises(AccountError, match=message):
            accounts.create_local(session, email, password)


def test_an_api_key_works_until_it_is_revoked(database: Database) -> None:
    with database.begin() as session:
        user = accounts.get_or_create_user(session, Claims("u-1"))
        other = accounts.get_or_create_user(session, Claims("u-2"))
        key, row = accounts.create_key(session, user, "laptop")
    with database.begin() as session:
        assert accounts.by_key(session, key).id == user.id
        assert session.get(ApiKey, row.id).sha256 == api_key_sha256(key)  # type: ignore[union-attr]
        assert key.startswith(row.shown)
        assert [one.name for one in accounts.keys(session, user)] == ["laptop"]
        assert not accounts.revoke_key(session, other, row.id)
        assert accounts.by_key(session, key).id == user.id
        assert accounts.revoke_key(session, user, row.id)
        with pytest.raises(InvalidToken, match="revoked"):
            accounts.by_key(session, key)
        with pytest.raises(InvalidToken, match="is unknown"):
            accounts.by_key(session, new_api_key())


def test_a_mistyped_key_is_told_apart_without_a_look_into_the_database() -> None:
    key = new_api_key()
    assert len({new_api_key() for _ in range(50)}) == 50
    typos = [key[:-1], key + "x", key.upper(), key.replace("cutout_", "cutout-"), "", "cutout_", "ключ"]
    typos += [
        key[:place] + ("0" if key[place] != "0" else "1") + key[place + 1 :] for place in range(7, len(key))
    ]
    for typo in typos:
        with pytest.raises(InvalidToken, match="mistyped"):
            api_key_sha256(typo)
