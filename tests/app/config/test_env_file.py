"""`cutout init`, and files of environment variables as Docker, systemd, sh and `--env-file` read them."""

import os
import re
import stat
from pathlib import Path

import pytest

from cutout.app.cli import main
from cutout.app.cli.console import CommandError
from cutout.app.cli.init import DatabaseKind, Payments, init
from cutout.app.config import env_file, settings
from cutout.app.config.base import SettingsError, environment_name
from cutout.app.config.deployment_file import OTHERS
from tests.bare_host.env_files import as_docker, as_sh, as_systemd

URL = "https://cutout.example.com"
# Choices of a deployment, and what is in the environment of `cutout init`.
DEPLOYMENTS = {
    "embedded": ({}, {}),
    "several hosts": (
        {
            "database": DatabaseKind.POSTGRESQL,
            "database_host": "db.example:5433",
            "redis": "redis://:p%40ss@[2001:db8::1]:6379/0?protocol=3",
            "s3_bucket": "pictures",
            "s3_endpoint": "https://s3.example:9000",
            "device": "cuda",
            "accept_licences": "rmbg-1.4,rmbg-2.0",
            "payments": Payments.SIGNED,
        },
        {"S3_ACCESS_KEY_ID": "AK", "S3_SECRET_ACCESS_KEY": "wJalr/XUtn+FEMI=", "HF_TOKEN": "hf_1"},
    ),
    "in a container": ({}, {"CUTOUT_DATA_DIR": "/data", "CUTOUT_AUTH": "off", "CUTOUT_LOG_FORMAT": "json"}),
}


def written(file: Path, **choices: object) -> dict[str, str]:
    """Write a file; return its variables as all readers take them."""
    init(URL, file, **choices)  # type: ignore[arg-type]
    return env_file.read(file)


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_all_readers_take_a_new_file_alike_and_it_is_a_deployment(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choices, there = DEPLOYMENTS[name]
    for variable, value in there.items():
        monkeypatch.setenv(variable, value)
    file = tmp_path / "cutout.env"
    found = written(file, **choices)
    assert as_sh(file) == as_docker(file.read_text()) == as_systemd(file.read_text()) == found
    assert there.items() - {("CUTOUT_AUTH", "off")} <= found.items()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600

    for variable in there:
        monkeypatch.delenv(variable)
    for variable, value in found.items():
        monkeypatch.setenv(variable, value)
    loaded = settings.load()
    assert (loaded.auth, loaded.public_url) == ("on", URL)
    assert loaded.payment_mode == choices.get("payments", "manual")
    assert loaded.api_engine == ("queue" if "redis" in choices else None)
    assert loaded.embedded == ("database" not in choices)
    if not loaded.embedded:
        assert loaded.database == f"postgresql://cutout:{found['POSTGRES_PASSWORD']}@db.example:5433/cutout"


def test_a_new_file_names_every_setting_with_its_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "cutout.env"
    written(file)
    lines = re.findall(r"^#?([A-Z][A-Z0-9_]+)=(.*)$", file.read_text(), re.MULTILINE)
    names = [name for name, _ in lines]
    known = {environment_name(settings.Settings, name) for name in settings.Settings.model_fields}
    assert len(names) == len(set(names))
    assert set(names) == known | set(OTHERS)
    for name, value in lines:  # the lines that are comments hold as well
        monkeypatch.setenv(name, value)
    settings.load()


def test_secrets_are_fresh_and_a_file_is_never_written_over(tmp_path: Path) -> None:
    first, second = (
        written(tmp_path / name, database=DatabaseKind.POSTGRESQL, payments=Payments.SIGNED) for name in "ab"
    )
    secrets = (
        "CUTOUT_SECRET",
        "CUTOUT_METRICS_TOKEN",
        "CUTOUT_PAYMENTS_SECRET",
        "POSTGRES_PASSWORD",
    )
    assert len({one[name] for one in (first, second) for name in secrets}) == 2 * len(secrets)
    before = (tmp_path / "a").read_bytes()
    with pytest.raises(CommandError, match="exists and was left as it is"):
        written(tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == before


@pytest.mark.parametrize(
    ("choices", "there", "says"),
    [
        ({"s3_endpoint": "not a url", "s3_bucket": "b"}, {}, "S3_ENDPOINT"),
        ({}, {"CUTOUT_MAIL_FROM": "Cutout <a@b.example>"}, "CUTOUT_MAIL_FROM"),
        ({}, {"HF_TOKEN": "hf_$1"}, "HF_TOKEN: Docker, systemd and sh"),
        (
            {"database": DatabaseKind.POSTGRESQL, "database_host": "db/cutout?sslmode=require"},
            {},
            "host:port",
        ),
        ({}, {"CUTOUT_SECRT": "x"}, "did you mean CUTOUT_SECRET"),
    ],
)
def test_nothing_is_written_that_could_not_be_read(
    choices: dict[str, str], there: dict[str, str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in there.items():
        monkeypatch.setenv(name, value)
    with pytest.raises((SettingsError, CommandError), match=re.escape(says)):
        written(tmp_path / "cutout.env", **choices)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "line",
    [
        'HF_TOKEN="hunter2"',
        "HF_TOKEN='hunter2'",
        "HF_TOKEN=hunter2\\",
        "HF_TOKEN=${hunter2}",
        "HF_TOKEN=`hunter2`",
        "HF_TOKEN=hunter2 ",
        "HF_TOKEN=hunter2\r",
        "HF_TOKEN = hunter2",
        "export HF_TOKEN=hunter2",
        "hunter2",
        "HF_TOKEN=one\nHF_TOKEN=hunter2",
    ],
)
def test_a_line_that_readers_take_differently_is_refused_without_its_value(line: str, tmp_path: Path) -> None:
    file = tmp_path / "cutout.env"
    file.write_bytes(f"# a comment\n\n{line}\nCUTOUT_PORT=8001\n".encode())
    with pytest.raises(SettingsError, match=r"cutout\.env, line [34]: ") as refused:
        env_file.read(file)
    assert "hunter2" not in str(refused.value)


def test_the_password_of_a_database_that_is_there_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POSTGRES_PASSWORD", "p@/ss")
    found = written(tmp_path / "cutout.env", database=DatabaseKind.POSTGRESQL)
    assert found["POSTGRES_PASSWORD"] == "p@/ss"
    assert found["DATABASE_URL"] == "postgresql://cutout:p%40%2Fss@127.0.0.1:5432/cutout"


def test_commands_read_the_file_and_the_environment_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "cutout.env"
    file.write_text(f"CUTOUT_DATA_DIR={tmp_path}/of-the-file\nCUTOUT_MODELS_DIR={tmp_path}/models\n")
    file.chmod(0o644)

    def models_folder() -> tuple[str, str]:
        monkeypatch.setattr("sys.argv", ["cutout", "--env-file", str(file), "models", "path"])
        with pytest.raises(SystemExit):
            main()
        return capsys.readouterr()

    for name in ("CUTOUT_DATA_DIR", "CUTOUT_MODELS_DIR"):  # so that they are restored at the end
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    out, err = models_folder()
    assert out.strip() == f"{tmp_path}/models"
    assert f"every user of this host can read {file}" in err
    assert os.environ["CUTOUT_DATA_DIR"] == f"{tmp_path}/of-the-file"
    monkeypatch.setenv("CUTOUT_MODELS_DIR", "")
    assert models_folder()[0].strip() == f"{tmp_path}/models"
    monkeypatch.setenv("CUTOUT_MODELS_DIR", f"{tmp_path}/mine")
    assert models_folder()[0].strip() == f"{tmp_path}/mine"


def test_a_missing_file_says_how_to_make_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["cutout", "--env-file", str(tmp_path / "no.env"), "users", "list"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert "cutout init --public-url" in capsys.readouterr().err
