"""Log lines: an event, then key=value. Knows what a line looks like; never sees prompts or answers."""

import json
import logging
import time
from typing import Any

PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}  # syslog's
COLOURS = {logging.DEBUG: "2", logging.WARNING: "33", logging.ERROR: "31", logging.CRITICAL: "1;31"}

SELDOM: dict[str, Any] = {"appliance_seldom": True}
"""For the `extra` of what clients or the host can make come again and again: `fields(…) | SELDOM`; see Seldom."""


def fields(**values: object) -> dict[str, Any]:
    """The `extra` of a log call: ids, counts and times, never content. The journal shows them in capitals."""
    return {"appliance_fields": values}


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """What it was logged with."""
    return getattr(record, "appliance_fields", {})


class PlainFormatter(logging.Formatter):
    """`event key=value`, for people."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, and the traceback where there is one. What is None is left out."""
        line = _safe(record.getMessage())
        line += "".join(f" {key}={_plain(value)}" for key, value in fields_of(record).items() if value is not None)
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class PrefixedFormatter(PlainFormatter):
    """`<4>event key=value`: a stream that ends in the journal, which takes the number for the priority."""

    def format(self, record: logging.LogRecord) -> str:
        """Each line with its prefix, as each becomes an entry."""
        prefix = f"<{PRIORITIES.get(record.levelno, 6)}>"
        return "\n".join(prefix + line for line in super().format(record).split("\n"))


class ConsoleFormatter(PlainFormatter):
    """`12:00:00.123 info  event key=value`, for people at a terminal."""

    def __init__(self, *, colours: bool = False) -> None:
        """`colours`: of the level, where it is not the usual one."""
        super().__init__()
        self._colours = COLOURS if colours else {}

    def format(self, record: logging.LogRecord) -> str:
        """One line, and the traceback where there is one."""
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        level = f"{record.levelname.lower():7}"
        if record.levelno in self._colours:
            level = f"\x1b[{self._colours[record.levelno]}m{level}\x1b[0m"
        return f"{clock}.{int(record.msecs):03d} {level} {super().format(record)}"


class JsonFormatter(logging.Formatter):
    """One JSON object a line, for machines."""

    def format(self, record: logging.LogRecord) -> str:
        """Keys: time (UTC, ISO 8601), level, logger, event, the fields, message_id, exception."""
        clock = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        entry: dict[str, Any] = {
            "time": f"{clock}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **fields_of(record),
        }
        if hasattr(record, "MESSAGE_ID"):
            entry["message_id"] = record.MESSAGE_ID
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False, default=str)


def _safe(text: str) -> str:
    """Without what a terminal would obey: a client's path and native code's output get here."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _plain(value: object) -> str:
    text = str(value)
    return text if text and text.isprintable() and " " not in text else json.dumps(text, ensure_ascii=True)
