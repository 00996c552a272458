"""Settings refuse what is unknown, malformed or unsafe, in words."""

from pathlib import Path

import pytest

from app import settings
from app.main import create_app
from app.settings import SettingsError


def test_defaults() -> None:
    loaded = settings.load()
    assert (loaded.auth, loaded.host, loaded.port, loaded.device) == ("on", "127.0.0.1", 8000, "auto")
    assert (loaded.max_upload_bytes, loaded.limits.pixels) == (30_000_000, 50_000_000)


def test_the_environment_is_read_and_overrides_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUTOUT_PORT", "9000")
    monkeypatch.setenv("CUTOUT_ACCEPT_LICENCES", "rmbg-1.4, rmbg-2.0")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    loaded = settings.load(port=9001, host=None)
    assert loaded.port == 9001
    assert loaded.accept_licences == ("rmbg-1.4", "rmbg-2.0")
    assert loaded.models_dir == Path("/somewhere/cutout/models")


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("CUTOUT_DEVISE", "cpu", "CUTOUT_DEVISE is no setting; did you mean CUTOUT_DEVICE?"),
        ("CUTOUT_PORT", "eighty", "CUTOUT_PORT: Input should be a valid integer"),
        ("CUTOUT_DEVICE", "tpu", "CUTOUT_DEVICE: Input should be 'auto', 'cuda' or 'cpu'"),
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


def test_the_service_does_not_start_without_a_word_on_accounts() -> None:
    with pytest.raises(SettingsError, match="set CUTOUT_AUTH=off"):
        create_app(settings.load())
