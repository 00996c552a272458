"""Escape text for a terminal or a log, so that it cannot control the terminal."""

import logging
import re

# C0 and C1 controls, line and paragraph separators, characters that change the text direction, and lone surrogates
# (bytes of a file name that are not UTF-8).
CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str, keep: str = "") -> str:
    r"""Return a text with its control characters escaped, as in `\x1b`, `\n` and `\u202e`; those in `keep` stay."""
    return CONTROLS.sub(lambda found: found[0] if found[0] in keep else _written_out(found[0]), text)


def _written_out(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


class PrintableFormatter(logging.Formatter):
    """Log formatter that writes only the message, with its control characters escaped."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record), keep="\n" if record.exc_info else "")
