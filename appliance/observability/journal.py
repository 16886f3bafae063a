"""Log records as entries of systemd's journal. Knows its native protocol and its names; never blocks for long.

systemd-python's own way to send, sd_journal_sendv, will not do: it holds the GIL while it waits for a journal that does
not read, which stops the event loop whatever thread it is called on, and says nothing where there is no journal.
"""

import logging
import os
import re
import socket
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any

from appliance.observability.logs import PlainFormatter, fields

JOURNAL_SOCKET = "/run/systemd/journal/socket"
IDENTIFIER = "appliance"
SEND_TIMEOUT_S = 1.0
RETRY_S = 5.0  # with SEND_TIMEOUT_S: a journal that does not read costs the log at most a sixth of its time
VALUE_MAX_BYTES = 8192
MESSAGE_MAX_BYTES = 32_768  # with its fields well below what one datagram holds, 208 KiB
NAME_MAX_CHARS = 64  # the journal ignores fields with longer names

# What the journal or JournalHandler means something else by: man systemd.journal-fields.
_TAKEN = re.compile(
    r"(MESSAGE|MESSAGE_ID|PRIORITY|ERRNO|TID|UNIT|USER_UNIT|INVOCATION_ID|USER_INVOCATION_ID|DOCUMENTATION|LOGGER"
    r"|THREAD_NAME|PROCESS_NAME|EXCEPTION_\w*|CODE_\w+|SYSLOG_\w+|OBJECT_\w+|COREDUMP_\w+|[_0-9]\w*|)"
)
# Of what JournalHandler sends: the rest is the record's own affairs, and its EXCEPTION_INFO is no text.
_SENT = re.compile(r"(MESSAGE_ID|PRIORITY|LOGGER|THREAD_NAME|CODE_FILE|CODE_LINE|CODE_FUNC|SYSLOG_IDENTIFIER)")


def stderr_is_journal() -> bool:
    """Whether systemd has connected this process's stderr to the journal."""
    try:
        status = os.fstat(2)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def field_name(key: str) -> str:
    """A journal field for what is logged as `key`; APPLIANCE_… where the journal means something else by it."""
    name = re.sub(r"[^A-Z0-9_]", "_", key.upper())
    return (f"APPLIANCE_{name}" if _TAKEN.fullmatch(name) else name)[:NAME_MAX_CHARS]


def entry(message: str, values: dict[str, Any]) -> bytes:
    """What the native protocol sends for one record, given what JournalHandler says of it."""
    pairs = [("MESSAGE", message, MESSAGE_MAX_BYTES)]
    pairs += [(key, value, VALUE_MAX_BYTES) for key, value in values.items() if _SENT.fullmatch(key)]
    own = values.get("appliance_fields", {})
    pairs += [(field_name(key), value, VALUE_MAX_BYTES) for key, value in own.items() if value is not None]
    return b"".join(_field(name, value, most) for name, value, most in pairs)


def _field(name: str, value: object, max_bytes: int) -> bytes:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    data = text.encode(errors="backslashreplace")
    if len(data) > max_bytes:
        data = data[:max_bytes].decode(errors="ignore").encode()
    if b"\n" in data:
        return b"%b\n%b%b\n" % (name.encode(), len(data).to_bytes(8, "little"), data)
    return b"%b=%b\n" % (name.encode(), data)


class JournalSocket:
    """Where entries go. Not connected: a sandbox may forbid that, and a journal that was started anew has the path."""

    def __init__(self, path: str = JOURNAL_SOCKET) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        # The kernel waits, and no longer than this; Python's own timeout would ask again and again, as a socket without
        # a peer is always ready.
        seconds, rest = divmod(SEND_TIMEOUT_S, 1)
        self._socket.setsockopt(
            socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", int(seconds), int(rest * 1_000_000))
        )

    def send(self, data: bytes) -> None:
        """Send one entry. Raises OSError where there is no journal, or it did not read for SEND_TIMEOUT_S."""
        self._socket.sendto(data, self._path)

    def close(self) -> None:
        """No more is sent."""
        self._socket.close()


class ToJournal:
    """Writes records to the journal, and `otherwise` while it can't be reached. For one thread."""

    def __init__(self, otherwise: Callable[[logging.LogRecord], None], path: str = JOURNAL_SOCKET) -> None:
        """Raises ImportError where systemd-python is not installed."""
        from systemd.journal import JournalHandler

        self._otherwise = otherwise
        self._socket = JournalSocket(path)
        self._handler = JournalHandler(sender_function=self._send, SYSLOG_IDENTIFIER=IDENTIFIER)
        self._handler.setFormatter(PlainFormatter())
        self._errors: list[OSError] = []
        self._retry_at = 0.0
        self._diverted = 0  # since it was lost

    def __call__(self, record: logging.LogRecord) -> None:
        """Write it to one of the two; each change from one to the other is told there."""
        if time.monotonic() >= self._retry_at:
            for due in self._due(record):
                self._errors.clear()
                self._handler.handle(due)
                if self._errors:
                    self._lost(self._errors[0])
                    break
            else:
                self._diverted = 0
                return
        self._diverted += 1
        self._otherwise(record)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _due(self, record: logging.LogRecord) -> Iterator[logging.LogRecord]:
        if self._diverted:
            yield _warning("the journal is there again", lines_on_stderr=self._diverted)
        yield record

    def _lost(self, error: OSError) -> None:
        self._retry_at = time.monotonic() + RETRY_S
        if not self._diverted:
            self._otherwise(_warning("the journal takes no lines, they go to stderr", reason=str(error)))

    def _send(self, message: str, /, **values: Any) -> None:
        """JournalHandler's way out."""
        try:
            self._socket.send(entry(message, values))
        except OSError as error:
            self._errors.append(error)


def _warning(event: str, **values: object) -> logging.LogRecord:
    record = logging.LogRecord(__name__, logging.WARNING, __file__, 0, event, None, None)
    record.__dict__.update(fields(**values))
    return record
