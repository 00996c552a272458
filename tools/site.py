"""`python -m tools.site`: build the site of the documentation into `build/site`, with Zensical.

The documents link to each other as they lie in the repository. The site has its own places: this module copies them and
corrects the links. A broken link or anchor is an error.
"""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
CONFIG = ROOT / "zensical.toml"
SOURCE = ROOT / "build" / "site-source"
SITE = ROOT / "build" / "site"
DECISIONS = "decisions/index.md"
# documents of the repository's root, by their place on the site
ROOT_PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}
LINK = re.compile(r"\[(?P<text>(?:[^\[\]]|\[[^\]]*\])*)\]\((?P<target>[^)#:\s]+)(?P<anchor>#[^)\s]*)?\)")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def main() -> None:
    """Assemble and build the site; exit with Zensical's status."""
    assemble(SOURCE)
    config = SOURCE.parent / "zensical.toml"
    # its paths are relative to its own folder
    config.write_text(CONFIG.read_text().replace('"build/', '"'))
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean", "--config-file", str(config)]
    done = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    # Each letter of a warning has a colour of its own, and Zensical ignores NO_COLOR. A traceback follows the warnings.
    print(COLOUR.sub("", done.stdout).partition("Traceback")[0])
    sys.exit(done.returncode)


def pages() -> dict[str, Path]:
    """Return the document of each page of the site, apart from the list of decisions."""
    found = {place: ROOT / name for name, place in ROOT_PAGES.items()}
    return found | {path.relative_to(DOCS).as_posix(): path for path in sorted(DOCS.rglob("*.md"))}


def navigation() -> set[str]:
    """Return the pages that the navigation has."""

    def leaves(entry: Any) -> Iterator[str]:
        if isinstance(entry, str):
            yield entry
        else:
            for value in entry.values() if isinstance(entry, dict) else entry:
                yield from leaves(value)

    return set(leaves(tomllib.loads(CONFIG.read_text())["project"]["nav"]))


def assemble(folder: Path) -> None:
    """Copy all documents and pictures into a folder."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(DOCS, folder)
    there = pages()
    places = {path: place for place, path in there.items()}
    for place, path in there.items():
        (folder / place).write_text(relinked(path.read_text(), path, place, places))
    (folder / DECISIONS).write_text(list_of_decisions(there))


def relinked(text: str, path: Path, place: str, places: dict[Path, str]) -> str:
    """Correct the links of a document for its place on the site.

    A link to a file that the site does not have becomes its text; one that leads nowhere is left for Zensical to find.
    """

    def correct(link: re.Match[str]) -> str:
        target = (path.parent / link["target"]).resolve()
        if target == DOCS / "decisions":
            new = DECISIONS
        elif target in places:
            new = places[target]
        elif target.is_relative_to(DOCS) or not target.exists():
            new = target.relative_to(DOCS).as_posix() if target.is_relative_to(DOCS) else link["target"]
        else:
            return link["text"]
        start = os.path.relpath(new, Path(place).parent)
        # within the text of a link there may be a picture
        return f"[{LINK.sub(correct, link['text'])}]({start}{link['anchor'] or ''})"

    return LINK.sub(correct, text)


def list_of_decisions(there: dict[str, Path]) -> str:
    """Return a page with the title of each decision."""
    lines = ["# Decisions", "", "Records of what was hard to decide, or what a reader will question.", ""]
    for place, path in there.items():
        if place.startswith("decisions/"):
            title = path.read_text().splitlines()[0].removeprefix("# ")
            lines.append(f"- [{title}]({Path(place).name})")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
