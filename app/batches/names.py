"""File names of results, from the names of the photos in a batch."""

import itertools
import re
import unicodedata
from collections.abc import Sequence

NAME_BYTES = 200
# The longest extension of a result, with its point.
ENDING_BYTES = len(".webp")

SEPARATORS = re.compile(r"[/\\]")
# Characters that Windows does not allow in names, and names that it reserves for devices, with any extension.
FORBIDDEN = re.compile(r'[<>:"|?*]')
DEVICE = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])\s*(\.|$)", re.IGNORECASE)
# "Mr. Smith" has no extension.
EXTENSION = re.compile(r"\.[A-Za-z0-9]{1,5}$")
AT_THE_ENDS = re.compile(r"^[\s.]+|[\s.]+$")
# Control characters, lone surrogates, line and paragraph separators; and bidirectional controls, with which "gnp.exe"
# can be displayed as "exe.png".
UNSEEN = {"Cc", "Cs", "Zl", "Zp"}
TURNING = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


def unique_stems(photos: Sequence[tuple[str, int]]) -> list[str]:
    """Return the names of results without extension, one for each photo's name and position in its batch.

    They are safe to unpack on any system, at most `NAME_BYTES` long with an extension, and unique even if case is
    ignored. All photos of a batch together give the names, so none depends on which of them succeed.
    """
    stems: list[str] = []
    taken: set[str] = set()
    for name, position in photos:
        for number in itertools.count(1):
            ending = f" ({number})" if number > 1 else ""
            stem = _safe_stem(name, position, NAME_BYTES - ENDING_BYTES - len(ending)) + ending
            if (same := unicodedata.normalize("NFC", stem.casefold())) not in taken:
                break
        taken.add(same)
        stems.append(stem)
    return stems


def _safe_stem(name: str, position: int, most_bytes: int) -> str:
    last = SEPARATORS.split(name)[-1]
    seen = "".join(
        one
        for one in last
        if unicodedata.category(one) not in UNSEEN and unicodedata.bidirectional(one) not in TURNING
    )
    stem = EXTENSION.sub("", AT_THE_ENDS.sub("", FORBIDDEN.sub("_", seen)))
    # One byte is reserved for the "_" that may be prefixed below.
    cut = unicodedata.normalize("NFC", stem).encode()[: most_bytes - 1].decode(errors="ignore")
    safe = AT_THE_ENDS.sub("", cut)
    if DEVICE.match(safe):
        return f"_{safe}"
    return safe or f"image-{position + 1:04}"
