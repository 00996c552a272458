"""Structured log lines, with the ids of the request they belong to."""

import logging
import sys
from typing import Literal

import structlog

# They tell of each call, and in more detail than is good of what was sent and answered.
NOISY = ("httpx", "httpx2", "httpcore", "httpcore2", "multipart", "python_multipart")


def configure(log_format: Literal["console", "json"]) -> None:
    """Send every log line, the libraries' included, through one form to stderr."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: list[structlog.typing.Processor]
    if log_format == "json":
        renderer = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    else:
        renderer = [
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(),
                # The default prints local variables too, and with them what belongs to users.
                exception_formatter=structlog.dev.plain_traceback,
            )
        ]

    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    # It tells of its own set-up each time the revision is asked for.
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
