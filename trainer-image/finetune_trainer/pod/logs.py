"""One JSON object a line on standard output, and nothing else there.

`__main__` calls `configure` once. What libraries print goes to standard error, so that a collector
of logs can parse every line of ours.
"""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, TextIO

PLAIN_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""What every record has; the rest was given as `extra`."""


class JsonLines(logging.Formatter):
    """Writes a record as one JSON object: time, level, logger, message and its extra fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line without its end."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: value for name, value in vars(record).items() if name not in PLAIN_FIELDS}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        text = json.dumps(line, ensure_ascii=False, default=str)
        # Half a character of a user's text would otherwise cost the whole line.
        return text.encode("utf-8", "backslashreplace").decode("utf-8")


class Ranked(JsonLines):
    """The lines of a worker: each says its rank."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self._rank = rank

    def format(self, record: logging.LogRecord) -> str:
        """Return the line with the rank."""
        record.rank = self._rank
        return super().format(record)


def configure_worker(*, rank: int) -> None:
    """Mark the lines of this worker, and leave out what rank 0 says as well."""
    for handler in logging.getLogger().handlers:
        handler.setFormatter(Ranked(rank))
    logging.getLogger("finetune_trainer").setLevel(logging.WARNING)


def configure(stream: TextIO) -> None:
    """Send our records to `stream`; whatever else prints goes to standard error."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("finetune_trainer").setLevel(logging.INFO)
    logging.captureWarnings(capture=True)
    sys.stdout = sys.stderr
