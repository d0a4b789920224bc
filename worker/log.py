"""Logging: events with fields, free of secrets."""

import logging
import sys
from collections.abc import Iterable, MutableMapping
from typing import Any

import structlog

from worker.platforms import platforms
from worker.settings import secrets, settings

_MASK = "***"


def redact(text: str, values: Iterable[str]) -> str:
    """Give a text without the secret values."""
    # The longest first: of one that begins like another, the rest would stay.
    for value in sorted(values, key=len, reverse=True):
        text = text.replace(value, _MASK)
    return text


def configure_logging(level: str | None = None) -> None:
    """Send structured events to standard error, coloured only on a terminal.

    `level` is the settings' one where it is not given.
    """
    hidden = secrets(platforms())
    render = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())

    def render_without_secrets(logger: object, name: str, event: MutableMapping[str, Any]) -> str:
        # Only the finished line shows what lists, exceptions and bytes hold.
        return redact(render(logger, name, event), hidden)

    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            render_without_secrets,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping().get(
                (level or settings().log_level).upper(), logging.INFO
            )
        ),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
