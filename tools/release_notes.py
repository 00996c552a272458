"""`python -m tools.release_notes [VERSION]`: print the section of a release from `CHANGELOG.md`.

Without a version it is that of `pyproject.toml`.
"""

import re
import sys
from pathlib import Path

from tools.sbom import VERSION

CHANGELOG = Path(__file__).parents[1] / "CHANGELOG.md"
HEADING = re.compile(r"^## \[(?P<version>[^\]]+)\](?: - \d{4}-\d{2}-\d{2})?$", re.MULTILINE)
# links of the changelog are relative to the repository, which those of a release's page are not
LINK = re.compile(r"\]\((?!\w+:|#)")


class NoSuchRelease(Exception):
    """The changelog has no section of this version, or an empty one."""


def main() -> None:
    """Print the notes; exit with an error if there are none."""
    version = sys.argv[1] if len(sys.argv) > 1 else VERSION
    try:
        print(notes(CHANGELOG.read_text(), version))
    except NoSuchRelease as error:
        sys.exit(str(error))


def notes(changelog: str, version: str, base: str = "") -> str:
    """Return the text below the heading of a version.

    `base` is put before relative links: the address of the repository's files at the tag.

    Raises:
        NoSuchRelease: There is no such section, or nothing in it.
    """
    headings = list(HEADING.finditer(changelog))
    for heading, following in zip(headings, [*headings[1:], None], strict=True):
        if heading["version"] == version:
            text = changelog[heading.end() : following.start() if following else None].strip()
            if text:
                return LINK.sub(rf"]({base}", text)
    raise NoSuchRelease(
        f"CHANGELOG.md has nothing under '## [{version}]'. Add the section, then tag the release."
    )


if __name__ == "__main__":
    main()
