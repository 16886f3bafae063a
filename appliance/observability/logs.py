"""Log lines: an event, then key=value. Knows formats and queues; never sees prompts or answers."""

import json
import logging
import logging.handlers
import queue
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

LOG_QUEUE_MAX_RECORDS = 10_000  # a blocked terminal or journal costs lines, never the event loop


def fields(**values: object) -> dict[str, Any]:
    """The `extra` of a log call: ids, counts and times, never content."""
    return {"appliance_fields": values}


def _fields_of(record: logging.LogRecord) -> dict[str, Any]:
    return getattr(record, "appliance_fields", {})


class ConsoleFormatter(logging.Formatter):
    """`12:00:00.123 info  event key=value`, for people."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, and the traceback where there is one."""
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        line = f"{clock}.{int(record.msecs):03d} {record.levelname.lower():7} {record.getMessage()}"
        line += "".join(f" {key}={_plain(value)}" for key, value in _fields_of(record).items())
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class JsonFormatter(logging.Formatter):
    """One JSON object a line, for machines."""

    def format(self, record: logging.LogRecord) -> str:
        """Keys: time (UTC, ISO 8601), level, logger, event, the fields, exception."""
        clock = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        entry: dict[str, Any] = {
            "time": f"{clock}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **_fields_of(record),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False, default=str)


def _plain(value: object) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if any(c.isspace() for c in text) or not text else text


class _BoundedQueueHandler(logging.handlers.QueueHandler):
    """Drops a record where the queue is full; counts what it dropped."""

    dropped = 0

    def enqueue(self, record: logging.LogRecord) -> None:
        try:
            self.queue.put_nowait(record)
        except queue.Full:
            type(self).dropped += 1

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """Only makes the message final: the formatter on the other thread wants the rest as it is."""
        record.message = record.getMessage()
        record.msg, record.args = record.message, None
        return record


class _StderrHandler(logging.Handler):
    """Writes to whatever sys.stderr is at that moment, so that a progress bar can keep below the lines."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()
        except OSError:
            pass  # a closed terminal is no reason to stop serving


@contextmanager
def logging_to_stderr(level: str, format_name: str) -> Iterator[None]:
    """Log to stderr from a thread of its own for as long as the block lasts. `format_name`: see settings."""
    json_lines = format_name == "json" or (format_name == "auto" and not sys.stderr.isatty())
    handler = _StderrHandler()
    handler.setFormatter(JsonFormatter() if json_lines else ConsoleFormatter())
    records: queue.Queue[logging.LogRecord] = queue.Queue(LOG_QUEUE_MAX_RECORDS)
    listener = logging.handlers.QueueListener(records, handler)
    front = _BoundedQueueHandler(records)
    root = logging.getLogger()
    root.addHandler(front)
    root.setLevel(level.upper())
    listener.start()
    try:
        yield
    finally:
        root.removeHandler(front)
        listener.stop()
