"""How do this package's log lines look to a machine?"""

from __future__ import annotations

import json
import logging
from datetime import datetime, timezone

#: Where every line of this package comes from, by its logger's name.
OURS = __package__
#: What a line may carry beside its text, as attributes of its record.
KEYS = ("event", "pool", "runner", "runners", "reason", "count", "seconds")


class JsonFormatter(logging.Formatter):
    """Writes each record as one JSON object a line; for any handler of the user's own, too.

    `text`, where given, is what formats the records of other packages.
    """

    def __init__(self, text: logging.Formatter | None = None) -> None:
        super().__init__()
        self._text = text

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        if self._text is not None and record.name.partition(".")[0] != OURS:
            return self._text.format(record)
        fields = {
            "at": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **{key: vars(record)[key] for key in KEYS if key in vars(record)},
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, default=str)


def write_json() -> None:
    """Let the handlers there are write lines of this package as JSON, and others as they did."""
    for handler in (*logging.getLogger().handlers, *logging.getLogger(OURS).handlers):
        if not isinstance(handler.formatter, JsonFormatter):
            handler.setFormatter(JsonFormatter(handler.formatter or logging.Formatter()))
