"""A bare host in a folder, on which the commands of docs/install.md run as they are written.

What a test cannot do is replaced by small programs on the PATH: `sudo`, `useradd`, `apt-get`, `install` for other users,
`python3 -m venv`, `pip`, `certbot` and `systemctl`. Each insists on what the real one needs: a package is there only after
`apt-get`, the command only after `pip`, a user only after `useradd`. Everything else is real.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.fakes import PATIENCE, wait_until
from tests.processes import lives

REPOSITORY = Path(__file__).parents[2]
# Programs that every Debian has.
OF_THE_SYSTEM = ("bash", "cat", "env", "grep", "ln", "mkdir", "sed", "sh", "sleep", "tee")
# Absolute paths of the page that are below the host's folder here.
PATHS = re.compile(r"(?<![\w./:$-])/(etc|opt|var)/")

SUDO = """
if [ "$1" = -u ]; then
    grep -qx "$2" "$ROOT/state/users" || { echo "sudo: unknown user $2" >&2; exit 1; }
    shift 2
fi
exec "$@"
"""
USERADD = 'for name; do :; done; echo "$name" >> "$ROOT/state/users"'
APT_GET = """
[ "$1" != update ] || exec touch "$ROOT/state/updated"
[ "$1" = install ] && [ -e "$ROOT/state/updated" ] || { echo "E: Unable to locate package" >&2; exit 100; }
shift
for name; do
    [ "$name" != -y ] || continue
    [ -d "$ROOT/packages/$name" ] || { echo "E: Unable to locate package $name" >&2; exit 100; }
    for file in "$ROOT/packages/$name"/*; do ln -s "$file" "$ROOT/bin"; done
    sh -eu "$ROOT/packages/$name/.configure"
done
"""
INSTALL = """
for word; do
    shift
    case $word in
        -o | -g) name=1 ;;
        *)  if [ -n "${name-}" ]; then
                grep -qx "$word" "$ROOT/state/users" || { echo "install: invalid user '$word'" >&2; exit 1; }
                name=
            else
                set -- "$@" "$word"
            fi ;;
    esac
done
exec INSTALL "$@"
"""
PYTHON3 = """
[ "$1 $2" = "-m venv" ] || { echo "python3: only venv is here" >&2; exit 1; }
mkdir -p "$3/bin" && ln -s "$ROOT/state/pip" "$3/bin/pip"
"""
PIP = """
[ "$1 $2 $3" = "install -c constraints.txt" ] && [ -e constraints.txt ] || { echo "pip: $*" >&2; exit 1; }
case $4 in ".[cpu,npm]" | ".[gpu,npm]") ln -s "$ROOT/state/cutout" "${0%/*}/cutout" ;; *) exit 1 ;; esac
"""
CERTBOT = """
[ "$1 $2 $3" = "certonly --nginx --domain" ] || { echo "certbot: $*" >&2; exit 1; }
mkdir -p "$ROOT/etc/letsencrypt/live/$4"
cp "$ROOT/state/server.pem" "$ROOT/etc/letsencrypt/live/$4/fullchain.pem"
cp "$ROOT/state/server.pem" "$ROOT/etc/letsencrypt/live/$4/privkey.pem"
"""


@dataclass
class BareHost:
    """A host without any of the packages, users and files of the page."""

    root: Path
    packages: dict[str, None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("bin", "state/services", "packages", "run", "log", "etc/systemd/system", "opt", "var"):
            (self.root / name).mkdir(parents=True)
        (self.root / "state/users").write_text("root\n")
        for name in OF_THE_SYSTEM:
            found = shutil.which(name)
            assert found is not None
            (self.root / "bin" / name).symlink_to(found)
        install = shutil.which("install")
        assert install is not None
        systemctl = f'exec {sys.executable} -S -E -m tests.bare_host.systemctl "$ROOT" "$@"'
        own = {
            "bin/sudo": SUDO,
            "bin/useradd": USERADD,
            "bin/apt-get": APT_GET,
            "bin/install": INSTALL.replace("INSTALL", install),
            "bin/systemctl": systemctl,
            "state/pip": PIP,
            "state/cutout": f'exec {sys.executable} -c "from cutout.app.cli import main; main()" "$@"',
        }
        for file, script in own.items():
            self._program(self.root / file, script)
        (self.root / "bin/touch").symlink_to(shutil.which("touch") or "")
        (self.root / "bin/cp").symlink_to(shutil.which("cp") or "")
        self.package("python3-venv", {"python3": PYTHON3})

    def package(
        self,
        name: str,
        programs: Mapping[str, str] = {},
        *,
        configure: str = "",
        service: Sequence[str] = (),
    ) -> None:
        """Offer a package to `apt-get`: shell scripts as its programs, what it does once, and its service's command."""
        folder = self.root / "packages" / name
        folder.mkdir()
        for program, script in programs.items():
            self._program(folder / program, script)
        if not programs:
            (folder / f"{name}.changelog").touch()
        if service:
            (folder / ".service.json").write_text(json.dumps(list(service)))
            configure += f'\nln -s "$ROOT/packages/{name}/.service.json" "$ROOT/state/services/{name}.json"'
        (folder / ".configure").write_text(configure)

    def here(self, text: str) -> str:
        """Return a text with the absolute paths of /etc, /opt and /var below this host's folder."""
        return PATHS.sub(rf"{self.root}/\1/", text)

    def run(self, script: str, environment: Mapping[str, str]) -> str:
        """Run commands in one shell, in the repository's root; return their output.

        Raises:
            AssertionError: one of them failed; the message has the output and the logs of services.

        """
        log = self.root / "log/shell.log"
        with log.open("wb") as out:
            done = subprocess.run(
                ["/bin/bash", "-euxo", "pipefail", "-c", script],
                env={"PATH": str(self.root / "bin"), "ROOT": str(self.root), **environment},
                check=False,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd=REPOSITORY,
                timeout=5 * PATIENCE,
            )
        told = log.read_text(errors="replace")
        services = "\n".join(
            f"--- {file.name}\n{file.read_text(errors='replace')[-3000:]}"
            for file in (self.root / "log").iterdir()
            if file != log
        )
        assert done.returncode == 0, f"{told[-5000:]}\n{services}"
        return told

    def stop(self) -> None:
        """Stop all services, the latest first."""
        for file in sorted((self.root / "run").glob("*.pid"), key=lambda one: one.stat().st_mtime)[::-1]:
            pid = int(file.read_text())
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
            try:
                wait_until(lambda pid=pid: not lives(pid))  # type: ignore[misc]
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)

    def _program(self, file: Path, script: str) -> None:
        file.write_text(f"#!/bin/sh\nset -eu\nROOT={self.root}\n{script.strip()}\n")
        file.chmod(0o755)


@contextmanager
def bare_host(root: Path) -> Iterator[BareHost]:
    """Yield a bare host, and stop at the end what runs on it."""
    host = BareHost(root)
    try:
        yield host
    finally:
        host.stop()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port
