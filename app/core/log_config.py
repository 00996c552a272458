"""Structured logging; each line carries the ids of the request it belongs to.

No line contains what users uploaded, what was made of it, or values of database rows: not as a value, not in the
message of an exception, not in a traceback.
"""

import logging
import re
import sys
import traceback
from collections.abc import Mapping
from typing import Literal, TextIO

import stamina.instrumentation
import structlog

from cutout.app.core.printable import CONTROLS, printable

# These loggers report each call, with too much detail about request and response contents.
NOISY = ("httpx", "httpx2", "httpcore", "httpcore2", "multipart", "python_multipart")
# PostgreSQL adds the values of the refused row in these lines.
ROW = re.compile(r"^(DETAIL|CONTEXT): .*?(?=\n\[SQL|\n\n|\n(?:HINT|CONTEXT): |\Z)", re.DOTALL | re.MULTILINE)
# A bytes literal, as the message of an exception may repeat it.
BYTES = re.compile(r"""\bb(['"])(?:\\.|(?!\1).){16,}?\1""")
LONGEST_LINE = 1000
# Types whose values are logged unchanged.
PLAIN = (bool, int, float, type(None))

log = structlog.get_logger()


def configure(log_format: Literal["console", "json"]) -> None:
    """Send every log line, including those of libraries, through one format to stderr."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: list[structlog.typing.Processor]
    if log_format == "json":
        renderer = [
            structlog.processors.ExceptionRenderer(_traceback),
            structlog.processors.StackInfoRenderer(),
            without_payloads,
            structlog.processors.JSONRenderer(),
        ]
    else:
        renderer = [
            structlog.processors.StackInfoRenderer(),
            without_payloads,
            without_controls,
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(),
                # The default also prints local variables, which may contain users' data.
                exception_formatter=_print_traceback,
            ),
        ]

    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    # Stamina's own hook logs the arguments of the retried call.
    stamina.instrumentation.set_on_retry_hooks([log_retry])
    # Alembic logs its set-up each time the revision is read.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.INFO)
    # The service logs each request itself, with its ids.
    logging.getLogger("uvicorn.access").disabled = True
    for noisy in NOISY:
        logging.getLogger(noisy).setLevel(logging.WARNING)


def log_retry(details: stamina.instrumentation.RetryDetails) -> None:
    """Log a retry: its name, count and timing, and the type of the error."""
    log.warning(
        "retrying",
        what=details.name,
        retry=details.retry_num,
        cause=type(details.caused_by).__name__,
        in_seconds=round(details.wait_for, 2),
        after_seconds=round(details.waited_so_far, 2),
    )


def without_payloads(
    _: structlog.typing.WrappedLogger, __: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Log processor that replaces bytes by their length and shortens long text."""
    return {name: value if name == "exc_info" else _harmless(value) for name, value in event.items()}


def without_controls(
    _: structlog.typing.WrappedLogger, __: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Log processor that escapes characters which would control the terminal.

    Event and stack may have several lines; continuation lines are indented so that none looks like a new log line.
    """
    return {
        name: _in_lines(value) if name in ("event", "stack") else _quoted(value)
        for name, value in event.items()
    }


class _Quoted:
    """A string that the console renderer shows as its `repr`."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return repr(self._text)


def _in_lines(value: object) -> object:
    return printable(value, keep="\n").replace("\n", "\n    ") if isinstance(value, str) else value


def _quoted(value: object) -> object:
    return _Quoted(value) if isinstance(value, str) and CONTROLS.search(value) else value


def _harmless(value: object) -> object:
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, str):
        return _shortened(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"<{len(value)} bytes>"
    if isinstance(value, Mapping):
        return {str(name): _harmless(one) for name, one in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_harmless(one) for one in value]
    return _shortened(repr(value))


def _shortened(text: str) -> str:
    text = BYTES.sub("<bytes>", ROW.sub(r"\1: (left out)", text))
    return "\n".join(
        line if len(line) <= LONGEST_LINE else f"{line[:LONGEST_LINE]}… ({len(line)} characters)"
        for line in text.split("\n")
    )


def _traceback(exc_info: structlog.typing.ExcInfo) -> str:
    return "".join(traceback.format_exception(*exc_info)).rstrip("\n")


def _print_traceback(sio: TextIO, exc_info: structlog.typing.ExcInfo) -> None:
    sio.write(f"\n{_in_lines(_shortened(_traceback(exc_info)))}")
