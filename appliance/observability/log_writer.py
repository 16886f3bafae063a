"""Where log lines go: stderr or the journal, from a thread of its own. Knows queues and sinks; knows no events."""

import contextlib
import logging
import logging.handlers
import os
import queue
import sys
import threading
from collections.abc import Callable, Iterator

from appliance.errors import ConfigError
from appliance.observability.journal import ToJournal, stderr_is_journal
from appliance.observability.logs import ConsoleFormatter, JsonFormatter, PrefixedFormatter, fields_of
from appliance.observability.seldom import SELDOM_S, Seldom

FLUSH_TIMEOUT_S = 2.0
LOG_QUEUE_MAX_RECORDS = 10_000  # a blocked terminal or journal costs lines, never the event loop

Write = Callable[[logging.LogRecord], None]


class _BoundedQueueHandler(logging.handlers.QueueHandler):
    """Drops a record where the queue is full, and tells with the next that fits how many."""

    def __init__(self, records: "queue.Queue[logging.LogRecord | None]") -> None:
        super().__init__(records)
        self._records = records
        self._dropped = 0

    def enqueue(self, record: logging.LogRecord) -> None:
        """Never waits."""
        if self._dropped:
            record.appliance_fields = {**fields_of(record), "log_lines_dropped_before": self._dropped}
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


def _to_stderr(formatter: logging.Formatter) -> Write:
    """To whatever sys.stderr is at that moment, so that a progress bar can keep below the lines."""

    def write(record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError, ValueError):  # a closed terminal is no reason to stop serving
            sys.stderr.write(formatter.format(record) + "\n")
            sys.stderr.flush()

    return write


def _sink(format_name: str) -> Write:
    """What writes one record. Raises ConfigError where the journal is asked for and can't be written to."""
    stream_is_journal = stderr_is_journal()
    if format_name == "journal" or (format_name == "auto" and stream_is_journal):
        lines = _to_stderr(PrefixedFormatter() if stream_is_journal else JsonFormatter())
        try:
            return ToJournal(lines)
        except ImportError as error:
            if format_name == "journal":
                raise ConfigError(
                    f"logging.format is journal, which takes systemd-python ({error}): "
                    "install edge-chat-appliance[systemd], or set another format"
                ) from None
            return lines  # it gets there as text, with its level and without fields
    terminal = sys.stderr.isatty()
    if format_name == "console" or (format_name == "auto" and terminal):
        plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
        return _to_stderr(ConsoleFormatter(colours=terminal and not plain))
    return _to_stderr(JsonFormatter())


def _write_all(records: "queue.Queue[logging.LogRecord | None]", write: Write, seldom: Seldom) -> None:
    """Until None comes."""
    more = True
    while more:
        with contextlib.suppress(queue.Empty):
            record = records.get(timeout=SELDOM_S)
            more = record is not None
            if record is not None:
                write(record)
        for held_back in seldom.overdue(all_of_them=not more):
            write(held_back)
    if isinstance(write, ToJournal):
        write.close()


@contextlib.contextmanager
def open_log(level: str, format_name: str) -> Iterator[None]:
    """Log from a thread of its own for as long as the block lasts. `format_name`: see settings.

    Leaving it waits at most FLUSH_TIMEOUT_S for a reader that has stopped reading. Raises ConfigError.
    """
    write = _sink(format_name)
    records: queue.Queue[logging.LogRecord | None] = queue.Queue(LOG_QUEUE_MAX_RECORDS)
    seldom = Seldom()
    writer = threading.Thread(target=_write_all, args=(records, write, seldom), name="log", daemon=True)
    front = _BoundedQueueHandler(records)
    front.addFilter(seldom)
    root = logging.getLogger()
    before = root.level
    root.addHandler(front)
    root.setLevel(level.upper())
    writer.start()
    try:
        yield
    finally:
        root.removeHandler(front)
        root.setLevel(before)
        with contextlib.suppress(queue.Full):
            records.put(None, timeout=FLUSH_TIMEOUT_S)
            writer.join(FLUSH_TIMEOUT_S)
