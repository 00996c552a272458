"""Files of environment variables, such as `cutout.env`, in the form that Docker, systemd and sh read alike.

The three differ in quotes, escapes and variables. python-dotenv is a fourth dialect, so a file is not read with it: what
the readers would understand differently is refused here.
"""

import os
import re
from collections.abc import Mapping, MutableMapping
from pathlib import Path

from cutout.app.config.base import SettingsError

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# Characters that sh, too, takes literally in an assignment; a tilde is not among them.
SAFE = re.compile(r"[A-Za-z0-9_@%+,./:=?\[\]-]*")
# Characters that at least two of the readers understand differently.
UNLIKE = re.compile(r"""['"\\$`\x00-\x1f\x7f]""")


def line_of(name: str, value: str) -> str:
    """Return the line that sets a variable, without a line break.

    Raises:
        SettingsError: the value has a character that one of the readers would not take literally.

    """
    if not SAFE.fullmatch(value):
        raise SettingsError(
            f"{name}: Docker, systemd and sh read this value differently, because it has a character other than letters,"
            " digits and _ @ % + , . / : = ? [ ] -; in a URL, write such a character as % and its hexadecimal code, or"
            " leave the variable out and set it where the service is started"
        )
    return f"{name}={value}"


def read(file: Path) -> dict[str, str]:
    """Return the variables that a file sets.

    Raises:
        SettingsError: the file is missing, or a line is none that Docker and systemd read alike. A message never repeats
            a value, which may be a secret.

    """
    try:
        lines = file.read_bytes().decode().split("\n")  # keeps carriage returns, which the readers keep too
    except FileNotFoundError:
        raise SettingsError(
            f"There is no file {file}. Create it with: cutout init --public-url https://… --output {file}"
        ) from None
    except UnicodeDecodeError:
        raise SettingsError(f"{file} is no text in UTF-8.") from None
    except OSError as error:
        raise SettingsError(f"{file} cannot be read ({error.strerror}).") from None
    found: dict[str, str] = {}
    problems = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, is_set, value = line.partition("=")
        problem = _problem(name, bool(is_set), value) or (f"{name} is set twice" if name in found else "")
        if problem:
            problems.append(f"{file}, line {number}: {problem}")
        found[name] = value
    if problems:
        raise SettingsError("\n".join(problems))
    return found


def _problem(name: str, is_set: bool, value: str) -> str:
    """Return what is wrong with a line; empty if nothing is."""
    if not is_set or not NAME.fullmatch(name):
        return (
            "write NAME=value, without `export` and without spaces around the `=`, or begin the line with #"
        )
    if value != value.strip():
        return f"{name} has a space or another invisible character at an end of its value; remove it"
    if UNLIKE.search(value):
        return (
            f"{name} has a quote, a backslash, a $ or a backtick, which Docker, systemd and sh read differently; write"
            " values without quotes, and in a URL such a character as % and its hexadecimal code"
        )
    return ""


def apply(file: Path, environment: MutableMapping[str, str] = os.environ) -> None:
    """Set the variables of a file in the environment; those that are set already, and not empty, stay as they are.

    Raises:
        SettingsError: see `read`.

    """
    for name, value in read(file).items():
        if not environment.get(name):  # Compose passes variables on that are not set as empty ones
            environment[name] = value


def is_public(file: Path) -> bool:
    """Return whether every user of this host may read or change the file."""
    return bool(file.stat().st_mode & 0o007)


def settings_in(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables with their names in capitals, as settings are looked up; empty ones count as unset."""
    return {name.upper(): value for name, value in environment.items() if value}
