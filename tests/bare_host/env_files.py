"""The readers of a file of environment variables, each by its own rules."""

import subprocess
from pathlib import Path


def as_sh(file: Path) -> dict[str, str]:
    """Return the variables that `set -a; . FILE` sets in a shell."""
    told = subprocess.run(
        ["/bin/sh", "-c", 'set -eu; set -a; . "$1"; env -0', "sh", str(file)],
        env={},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    found = dict(line.split("=", 1) for line in told.split("\0") if line)
    return {name: value for name, value in found.items() if name not in ("PWD", "OLDPWD", "_", "SHLVL")}


def as_docker(text: str) -> dict[str, str]:
    """Return the variables as Docker's `--env-file` takes them: what is behind the first `=`, to the end of the line."""
    found = {}
    for line in text.removeprefix("\ufeff").splitlines():
        line = line.lstrip(" \t")
        if not line or line.startswith("#"):
            continue
        name, is_set, value = line.partition("=")
        assert name, "no variable name on line"
        assert not set(name) & set(" \t"), f"variable {name!r} contains whitespaces"
        if is_set:  # else it is passed on from the caller
            found[name] = value
    return found


def as_systemd(text: str) -> dict[str, str]:
    """Return the variables as systemd's `EnvironmentFile=` takes them: with quotes, escapes and continued lines."""
    found = {}
    text = text.replace("\\\n", "")
    for line in text.splitlines():
        line = line.strip()
        if not line or line[0] in "#;":
            continue
        name, is_set, value = line.partition("=")
        if is_set:  # else the line is ignored, with a warning
            found[name.rstrip()] = _unquoted(value.strip())
    return found


def _unquoted(value: str) -> str:
    """Take off quotes at the start of a value, and backslashes, as systemd does."""
    quote = value[:1] if value[:1] in "'\"" and value else ""
    out, at = "", len(quote)
    while at < len(value):
        char = value[at]
        if quote and char == quote:
            quote = ""
        elif char == "\\" and quote != "'":
            at += 1
            # Between double quotes, a backslash stays before what is not special there.
            kept = "\\" if quote == '"' and value[at : at + 1] not in ('"', "\\", "`", "$") else ""
            out += kept + value[at : at + 1]
        else:
            out += char
        at += 1
    return out
