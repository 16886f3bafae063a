"""Log lines: an event, then key=value. Knows formats and queues; never sees prompts or answers."""

import contextlib
import json
import logging
import logging.handlers
import queue
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

FLUSH_TIMEOUT_S = 2.0
SELDOM_S = 10.0
SELDOM_MAX_EVENTS = 100
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
        line = f"{clock}.{int(record.msecs):03d} {record.levelname.lower():7} {_safe(record.getMessage())}"
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


def _safe(text: str) -> str:
    """Without what a terminal would obey: a client's path and native code's output get here."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _plain(value: object) -> str:
    text = str(value)
    return text if text and text.isprintable() and " " not in text else json.dumps(text, ensure_ascii=True)


class _BoundedQueueHandler(logging.handlers.QueueHandler):
    """Drops a record where the queue is full, and tells with the next that fits how many."""

    def __init__(self, records: "queue.Queue[logging.LogRecord | None]") -> None:
        super().__init__(records)
        self._records = records
        self._dropped = 0

    def enqueue(self, record: logging.LogRecord) -> None:
        """Never waits."""
        if self._dropped:
            record.appliance_fields = {**_fields_of(record), "log_lines_dropped_before": self._dropped}
        try:
            self._records.put_nowait(record)
        except queue.Full:
            self._dropped += 1
        else:
            self._dropped = 0

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """Only makes the message final: the formatter on the other thread wants the rest as it is."""
        record.message = record.getMessage()
        record.msg, record.args = record.message, None
        return record


class Seldom(logging.Filter):
    """Lets an event through once in SELDOM_S, without its traceback, and tells how many were held back."""

    def __init__(self) -> None:
        super().__init__()
        self._told: dict[str, tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to log; events are told apart by their unformatted message."""
        event = str(record.msg)
        since, held = self._told.get(event, (-SELDOM_S, 0))
        now = time.monotonic()
        if now - since < SELDOM_S:
            self._told[event] = (since, held + 1)
            return False
        if len(self._told) < SELDOM_MAX_EVENTS or event in self._told:
            self._told[event] = (now, 0)
        record.exc_info = record.exc_text = None
        record.appliance_fields = {**_fields_of(record), "held_back_before": held}
        return True


def _write(records: "queue.Queue[logging.LogRecord | None]", formatter: logging.Formatter) -> None:
    """Write records to whatever sys.stderr is at that moment, so that a progress bar can keep below the lines."""
    while (record := records.get()) is not None:
        with contextlib.suppress(OSError, ValueError):  # a closed terminal is no reason to stop serving
            sys.stderr.write(formatter.format(record) + "\n")
            sys.stderr.flush()


@contextlib.contextmanager
def logging_to_stderr(level: str, format_name: str) -> Iterator[None]:
    """Log to stderr from a thread of its own for as long as the block lasts. `format_name`: see settings.

    Leaving it waits at most FLUSH_TIMEOUT_S for a reader of stderr that has stopped reading.
    """
    json_lines = format_name == "json" or (format_name == "auto" and not sys.stderr.isatty())
    formatter = JsonFormatter() if json_lines else ConsoleFormatter()
    records: queue.Queue[logging.LogRecord | None] = queue.Queue(LOG_QUEUE_MAX_RECORDS)
    writer = threading.Thread(target=_write, args=(records, formatter), name="log", daemon=True)
    front = _BoundedQueueHandler(records)
    root = logging.getLogger()
    root.addHandler(front)
    root.setLevel(level.upper())
    writer.start()
    try:
        yield
    finally:
        root.removeHandler(front)
        with contextlib.suppress(queue.Full):
            records.put(None, timeout=FLUSH_TIMEOUT_S)
            writer.join(FLUSH_TIMEOUT_S)
