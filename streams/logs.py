"""Logs of a worker: lines for people, or one JSON object a line with what it is about as fields.

A record's `extra` becomes fields (topic, partition, offset, ...), and so do the facts of an error of ours. Python's
own formatter class and msgspec are all it takes.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Any

import msgspec

from featurestore.errors import FeatureStoreError

# What every record has; anything else was given as `extra`.
_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
# Mode, beneath Faust, puts an empty one into each record.
_NOT_TOLD = frozenset({"extra", "data", "stack"})
_PLAIN = (str, int, float, bool, type(None), list, tuple, dict)


class JsonLines(logging.Formatter):
    """One object a record: at, level, logger, message, its fields, and the traceback where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        said: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        error = record.exc_info[1] if record.exc_info else None
        for each in (*(record.args if isinstance(record.args, tuple) else ()), error):
            if isinstance(each, FeatureStoreError):
                said |= {"error": type(each).__name__, **_told(vars(each))}
        said |= _told({name: value for name, value in vars(record).items() if name not in _OWN | _NOT_TOLD})
        if record.exc_info:
            said["traceback"] = self.formatException(record.exc_info)
        return msgspec.json.encode(said, enc_hook=str).decode()


def _told(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if isinstance(value, _PLAIN) and not name.startswith("_")}


def json_logging(level: str) -> dict[str, Any]:
    """A configuration for `logging.config.dictConfig`: JSON lines on standard output."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"json": {"()": JsonLines}},
        "handlers": {"lines": {"class": "logging.StreamHandler", "stream": "ext://sys.stdout", "formatter": "json"}},
        "root": {"level": level, "handlers": ["lines"]},
    }
