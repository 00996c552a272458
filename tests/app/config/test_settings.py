"""Settings reject unknown, malformed and unsafe values with a clear message."""

import traceback
from decimal import Decimal
from pathlib import Path

import pytest

from cutout.app.config import settings
from cutout.app.config.base import SettingsError
from cutout.inference.tiers import SOLD, Tier


def test_defaults() -> None:
    loaded = settings.load()
    assert (loaded.auth, loaded.host, loaded.port, loaded.device) == ("on", "127.0.0.1", 8000, "auto")
    assert (loaded.max_upload_bytes, loaded.limits.sizes.pixels) == (30_000_000, 50_000_000)


def test_the_environment_is_read_and_overrides_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUTOUT_PORT", "9000")
    monkeypatch.setenv("CUTOUT_ACCEPT_LICENCES", "rmbg-1.4, rmbg-2.0")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    loaded = settings.load(port=9001, host=None)
    assert loaded.port == 9001
    assert loaded.accept_licences == ("rmbg-1.4", "rmbg-2.0")
    assert loaded.models_dir == Path("/somewhere/cutout/models")


def test_the_key_of_cutout_verify_is_no_unknown_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUTOUT_VERIFY_KEY", "ck_1")
    settings.load()


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("CUTOUT_DEVISE", "cpu", "CUTOUT_DEVISE is not a setting; did you mean CUTOUT_DEVICE?"),
        ("CUTOUT_PORT", "eighty", "CUTOUT_PORT: Input should be a valid integer"),
        ("CUTOUT_DEVICE", "tpu", "CUTOUT_DEVICE: Input should be 'auto', 'cuda', 'cpu' or 'huggingface'"),
        ("CUTOUT_MAX_UPLOAD_MB", "0", "CUTOUT_MAX_UPLOAD_MB: Input should be greater than or equal to 1"),
    ],
)
def test_what_is_wrong_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=says.replace("?", r"\?")):
        settings.load()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.com", "127.0.0.1.example.com"])
def test_auth_off_is_refused_on_an_address_others_reach(host: str) -> None:
    with pytest.raises(SettingsError, match="CUTOUT_AUTH=off makes everyone an admin"):
        settings.load(auth="off", host=host)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.9", "::1", "localhost"])
def test_auth_off_is_taken_on_loopback(host: str) -> None:
    assert settings.load(auth="off", host=host).auth == "off"


def test_payments_are_an_admins_word_unless_there_are_no_accounts() -> None:
    assert settings.load().payment_mode == "manual"
    assert settings.load(auth="off").payment_mode == "off"
    assert settings.load(auth="off", payments="manual").payment_mode == "manual"
    assert settings.load(payments="signed", payments_secret="x" * 32).payment_mode == "signed"


def test_plans_are_given_away_only_without_accounts() -> None:
    with pytest.raises(SettingsError, match=r"CUTOUT_PAYMENTS=off .* only allowed with CUTOUT_AUTH=off"):
        settings.load(payments="off")


def test_signed_payments_need_a_secret() -> None:
    with pytest.raises(SettingsError, match="needs the CUTOUT_PAYMENTS_SECRET"):
        settings.load(payments="signed")


def test_what_a_picture_costs_is_one_number_or_one_for_each_tier(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings.load().cost_per_image_rupiah == dict.fromkeys(Tier, Decimal(0))
    monkeypatch.setenv("CUTOUT_COST_PER_IMAGE_RUPIAH", "12.5")
    assert settings.load().cost_per_image_rupiah == dict.fromkeys(SOLD, Decimal("12.5")) | {
        Tier.PREVIEW: Decimal(0)
    }
    monkeypatch.setenv("CUTOUT_COST_PER_IMAGE_RUPIAH", "basic=1, standard=2.5, professional=3, industry=4")
    assert settings.load().cost_per_image_rupiah[Tier.STANDARD] == Decimal("2.5")
    assert settings.load().cost_per_image_rupiah[Tier.PREVIEW] == 0
    monkeypatch.setenv(
        "CUTOUT_COST_PER_IMAGE_RUPIAH", "basic=1,standard=2,professional=3,industry=4,preview=.5"
    )
    assert settings.load().cost_per_image_rupiah[Tier.PREVIEW] == Decimal("0.5")
    for wrong in ("basic=1", "basic=1,standard=2,professional=3,gold=4", "cheap", "basic", "=", "-1", "NaN"):
        monkeypatch.setenv("CUTOUT_COST_PER_IMAGE_RUPIAH", wrong)
        with pytest.raises(SettingsError, match=r"^CUTOUT_COST_PER_IMAGE_RUPIAH"):
            settings.load()


@pytest.mark.parametrize("name", ["CUTOUT_SECRET", "CUTOUT_JWT_SECRET", "CUTOUT_PAYMENTS_SECRET"])
def test_a_short_secret_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "x" * 31)
    with pytest.raises(SettingsError, match=f"{name}: .*fewer than 32 bytes") as caught:
        settings.load()
    assert "xxx" not in str(caught.value)
    monkeypatch.setenv(name, "x" * 32)
    assert "xxx" not in repr(settings.load())


def test_two_ways_to_check_the_same_tokens_are_refused() -> None:
    with pytest.raises(SettingsError, match="set only one"):
        settings.load(jwt_secret="x" * 32, jwks_url="https://platform.example/keys")


def test_a_shared_database_needs_a_shared_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://cutout:hush@db.example/cutout")
    with pytest.raises(SettingsError, match="all need the same CUTOUT_SECRET"):
        settings.load()
    loaded = settings.load(secret="x" * 32)
    assert not loaded.embedded
    assert loaded.database == "postgresql://cutout:hush@db.example/cutout"
    assert "hush" not in repr(loaded)


def test_without_one_the_database_and_the_secret_are_this_hosts_own(tmp_path: Path) -> None:
    loaded = settings.load(data_dir=tmp_path)
    assert loaded.embedded
    assert loaded.database == f"sqlite:///{tmp_path / 'cutout.db'}"
    made = loaded.secret_or_own()
    assert len(made) >= 32
    assert settings.load(data_dir=tmp_path).secret_or_own() == made
    assert (tmp_path / "secret").stat().st_mode & 0o077 == 0
    assert [file.name for file in tmp_path.iterdir()] == ["secret"]


def test_half_of_a_bucket_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match="S3_ENDPOINT is set and S3_BUCKET is not"):
        settings.load(s3_endpoint="https://s3.example")
    monkeypatch.setenv("S3_BUCKET", "pictures")
    monkeypatch.setenv("S3_ACCESS_KEY_ID", "the-key")
    with pytest.raises(SettingsError, match="set both or neither"):
        settings.load()
    monkeypatch.setenv("S3_SECRET_ACCESS_KEY", "hush")
    assert "hush" not in repr(settings.load())


@pytest.mark.parametrize(
    "endpoint", ["ftp://s3.example", "http://", "not an address", "https://s3.example:99999"]
)
def test_an_endpoint_that_is_no_web_address_is_refused(endpoint: str) -> None:
    with pytest.raises(SettingsError, match="S3_ENDPOINT"):
        settings.load(s3_bucket="pictures", s3_endpoint=endpoint)


PASSWORD = "hunter2-Pa55"


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("DATABASE_URL", f"mysql://user:{PASSWORD}@host/db"),
        ("DATABASE_URL", f"user:{PASSWORD}@host/db"),
        ("DATABASE_URL", f"postgresql:/user:{PASSWORD}@host/db"),
        ("DATABASE_URL", f"postgresql://user:{PASSWORD}"),
        ("DATABASE_URL", f"postgresql://user:{PASSWORD}/db"),
        ("DATABASE_URL", f"postgresql://user:@@{PASSWORD}@host/db"),
        ("DATABASE_URL", f"postgresql://user:x@{PASSWORD}@host:5432/db"),
        ("DATABASE_URL", f"postgresql://user:secret@host:{PASSWORD}/db"),
        ("DATABASE_URL", f"postgresql+asyncpg://user:{PASSWORD}@host/db"),
        ("DATABASE_URL", f"sqlite://user:{PASSWORD}@host/x.db"),
        ("DATABASE_URL", f"{PASSWORD}://host/db"),
        ("REDIS_URL", f"redis://:{PASSWORD}"),
        ("REDIS_URL", f"redis://:12/{PASSWORD}@host"),
        ("REDIS_URL", f"redis://:12#{PASSWORD}@host"),
        ("REDIS_URL", f"redis://:12?{PASSWORD}@host"),
        ("REDIS_URL", f"redis://[{PASSWORD}@host"),
        ("REDIS_URL", f"redis://host?db={PASSWORD}"),
        ("REDIS_URL", f"http://:{PASSWORD}@host"),
        ("CUTOUT_SMTP_URL", f"smtp://user:{PASSWORD}"),
        ("CUTOUT_SMTP_URL", f"smtp://user:12/{PASSWORD}@host"),
        ("CUTOUT_SMTP_URL", f"http://user:{PASSWORD}@host"),
        ("S3_ENDPOINT", f"https://user:{PASSWORD}@host"),
        ("S3_ENDPOINT", f"user:{PASSWORD}@host"),
        ("S3_ENDPOINT", f"https://user:{PASSWORD}"),
        ("CUTOUT_PUBLIC_URL", f"https://user:{PASSWORD}@host"),
        ("CUTOUT_PUBLIC_URL", f"https://user:{PASSWORD}"),
        ("CUTOUT_HF_ENDPOINT", f"https://user:{PASSWORD}@host"),
        ("CUTOUT_HF_ENDPOINT", f"https://user:{PASSWORD}"),
        ("CUTOUT_JWKS_URL", f"https://user:{PASSWORD}@host/keys"),
        ("CUTOUT_JWKS_URL", f"https://user:{PASSWORD}"),
    ],
)
def test_a_password_in_a_broken_address_is_not_shown(
    name: str, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, address)
    with pytest.raises(SettingsError) as caught:
        settings.load(secret="x" * 32)
    assert str(caught.value).startswith(f"{name}: ")
    assert "Pa55" not in "".join(traceback.format_exception(caught.value))
    assert "Pa55" not in repr(caught.value)


@pytest.mark.parametrize("kind", ["mysql", "mariadb+pymysql", "oracle"])
def test_a_database_of_another_kind_is_told_which_are_supported(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", f"{kind}://user:{PASSWORD}@host/db")
    with pytest.raises(
        SettingsError, match=f"{kind.partition('+')[0]} is not supported: PostgreSQL and SQLite"
    ):
        settings.load()


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("DATABASE_URL", "postgresql://user:p%40ss%2Fword@db.example:5432/cutout?sslmode=require"),
        ("DATABASE_URL", "postgres://user:pa$$w0rd#1@[2001:db8::1]/cutout"),
        ("DATABASE_URL", "postgresql://postgres:@/postgres?host=/var/run/postgresql"),
        ("DATABASE_URL", "sqlite:////var/lib/cutout/cutout.db"),
        ("REDIS_URL", "redis://user:p%40ss@cache.example:6379/1"),
        ("REDIS_URL", "rediss://:p@ss@cache.example?ssl_cert_reqs=none"),
        ("REDIS_URL", "unix:///run/valkey/socket?db=2"),
    ],
)
def test_addresses_as_people_write_them_are_taken(
    name: str, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, address)
    settings.load(secret="x" * 32)
