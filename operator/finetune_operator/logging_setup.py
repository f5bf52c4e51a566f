"""Log lines: one structure for ours and for every library's, kopf's included.

`__main__` calls it once, before anything logs. Modules take `structlog.get_logger()` and bind the
object they speak of.
"""

import logging
import logging.config
from typing import Any

import structlog


def set_up_logging(*, form: str, level: str) -> None:
    """Send every logger of the process to standard error.

    Args:
        form: `json` for machines, `console` for people.
        level: the least urgent line that is written.
    """
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    logging.config.dictConfig(_configuration(form=form, level=level, shared=shared))


def _configuration(*, form: str, level: str, shared: list[Any]) -> dict[str, Any]:
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "structured": {
                "()": structlog.stdlib.ProcessorFormatter,
                "foreign_pre_chain": [*shared, structlog.stdlib.ExtraAdder(allow=())],
                "processors": [
                    structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                    *_renderers(form),
                ],
            }
        },
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "structured"}},
        "root": {"handlers": ["stderr"], "level": level},
        "loggers": {
            # kopf tells of each handler's success: one line for each event of each resource.
            "kopf": {"level": more_urgent_level(level, "WARNING")},
            # It warns at every end that we do not wait for its clean-up, which has nothing to clean.
            "kopf._core.reactor.running": {"level": more_urgent_level(level, "ERROR")},
            "aiohttp.access": {"level": more_urgent_level(level, "WARNING")},
        },
    }


def _renderers(form: str) -> list[Any]:
    if form == "console":
        # NB: the pretty traceback would show local variables, and with them tokens and keys.
        return [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
    return [
        structlog.processors.format_exc_info,
        structlog.processors.EventRenamer("message"),
        structlog.processors.JSONRenderer(),
    ]


def more_urgent_level(one: str, other: str) -> str:
    """Return the more urgent of two levels; DEBUG is kept, because it asks for everything."""
    if one == "DEBUG":
        return one
    names = logging.getLevelNamesMapping()
    return max(one, other, key=lambda name: names[name])
