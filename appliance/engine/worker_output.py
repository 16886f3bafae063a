"""What a worker and its native code print, as log lines. Knows bytes and lines; knows no process."""

import logging
import re
import time
from collections import deque

from appliance.engine.out_of_memory import is_out_of_memory
from appliance.observability.logs import fields

log = logging.getLogger("appliance.worker")

LINE_MAX_BYTES = 4096
BURST_LINES = 200  # a traceback of each of two dozen threads
LINES_PER_S = 20.0
LAST_LINES = 40  # of those left out, told at the end: what native code says as it dies
LAST_WORDS_MAX_CHARS = 200

# A line that begins so, or has a word like it: Python, C++, glibc, faulthandler, OpenVINO, oneDNN.
_LOOKS_BAD = re.compile(
    r"error|exception|traceback|fatal|abort|terminate called|segmentation|assert|warning|fail|invalid|corrupt"
    r"|double free|smashing|out of memory|bad_alloc|cannot|can't",
    re.IGNORECASE,
)


class WorkerOutput:
    """Logs lines, at most BURST_LINES at once and LINES_PER_S for long; says how many it left out."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._rest = b""
        self._cut = False  # whether the line that goes on was told already, as far as it is told
        self._bad = False
        self._left = float(BURST_LINES)
        self._at = time.monotonic()
        self._left_out = 0
        self._held: deque[str] = deque(maxlen=LAST_LINES)
        self.last_words = ""
        """What it printed of memory that ran out."""

    def feed(self, data: bytes) -> None:
        """Take in what was printed."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        # What would only be counted is not looked at: a flood must not hold up the event loop.
        begin = int(self._left) + 1
        end = max(begin, len(lines) - LAST_LINES)
        self._take_all(lines[:begin])
        self._left_out += len(lines[begin:end])
        self._take_all(lines[end:])
        if len(self._rest) > LINE_MAX_BYTES:
            if not self._cut:
                self._take(self._rest)
            self._rest, self._cut = b"", True

    def close(self) -> None:
        """It prints no more: tell what is left, and the last lines of those left out."""
        if self._rest and not self._cut:
            self._take(self._rest)
        self._rest = b""
        held = list(self._held)
        self._tell_left_out(but=len(held))
        for line in held:
            self._log(line)

    def _take_all(self, lines: list[bytes]) -> None:
        for line in lines:
            if not self._cut:
                self._take(line)
            self._cut = False

    def _take(self, line: bytes) -> None:
        text = line[:LINE_MAX_BYTES].decode(errors="replace").rstrip()
        if len(line) > LINE_MAX_BYTES:
            text += " …"
        if not text:
            return
        if is_out_of_memory(text):
            self.last_words = text.strip()[:LAST_WORDS_MAX_CHARS]
        now = time.monotonic()
        self._left = min(BURST_LINES, self._left + (now - self._at) * LINES_PER_S)
        self._at = now
        if self._left < 1:
            self._left_out += 1
            self._held.append(text)
            return
        self._left -= 1
        self._tell_left_out()
        self._log(text)

    def _tell_left_out(self, but: int = 0) -> None:
        if self._left_out > but:
            log.warning("worker prints too much, lines left out", extra=self._fields(lines=self._left_out - but))
        self._left_out = 0
        self._held.clear()

    def _log(self, text: str) -> None:
        """At warning where it looks like trouble, and what is indented below such a line with it."""
        self._bad = _LOOKS_BAD.search(text) is not None or (self._bad and text[0].isspace())
        log.log(logging.WARNING if self._bad else logging.INFO, "worker: %s", text, extra=self._fields())

    def _fields(self, **more: object) -> dict[str, object]:
        return fields(worker_pid=self._pid, **more)
