"""How far an operation is, told to somebody. Knows texts and byte counts; knows no terminal library."""

import time
from collections.abc import Callable
from typing import Protocol

from appliance.models.errors import MB

LINE_INTERVAL_S = 10.0  # a line at least this often while something goes on
LINE_STEPS = 4  # and one for each quarter of what has a known size
LINE_LEAST_S = 2.0  # but not closer than this


class Progress(Protocol):
    """Whoever shows how far an operation is."""

    def stage(self, label: str, total_bytes: int | None = None) -> None:
        """A step begins, such as "smollm2-135m-instruct: downloading"; None: nobody can tell how long it is."""

    def advance(self, done_bytes: int = 0, total_bytes: int | None = None) -> None:
        """The step goes on; called several times a second, without bytes where they say nothing."""

    def count(self, done: int, total: int) -> None:
        """The step goes on, and so many of its pieces are done, which are no bytes."""

    def note(self, line: str) -> None:
        """Something that people should read whatever happens next."""


class Silent:
    """Shows nothing."""

    def stage(self, label: str, total_bytes: int | None = None) -> None:
        """Nothing."""

    def advance(self, done_bytes: int = 0, total_bytes: int | None = None) -> None:
        """Nothing."""

    def count(self, done: int, total: int) -> None:
        """Nothing."""

    def note(self, line: str) -> None:
        """Nothing."""


class Lines:
    """Plain lines for logs and pipes: one as a step begins, one for each quarter, one each 10 s, 2 s apart."""

    def __init__(self, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._write = write
        self._clock = clock
        self._label = ""
        self._began = self._last = 0.0
        self._step = 0

    def stage(self, label: str, total_bytes: int | None = None) -> None:
        """A line with the label."""
        self._label = label
        self._began = self._last = self._clock()
        self._step = 0
        self._write(f"{label} ({total_bytes / MB:.1f} MB)" if total_bytes else label)

    def advance(self, done_bytes: int = 0, total_bytes: int | None = None) -> None:
        """A line where a quarter is full or the last line is long ago."""
        now = self._clock()
        step = done_bytes * LINE_STEPS // total_bytes if total_bytes else 0
        if now - self._last < (LINE_LEAST_S if step > self._step else LINE_INTERVAL_S):
            return
        self._step, self._last = max(step, self._step), now
        if total_bytes:
            self._write(f"{self._label} {done_bytes / MB:.1f} of {total_bytes / MB:.1f} MB")
        else:
            self._write(f"{self._label}, {now - self._began:.0f} s")

    def count(self, done: int, total: int) -> None:
        """A line where a quarter is full or the last line is long ago."""
        now = self._clock()
        step = done * LINE_STEPS // total if total else 0
        if now - self._last < (LINE_LEAST_S if step > self._step else LINE_INTERVAL_S):
            return
        self._step, self._last = max(step, self._step), now
        self._write(f"{self._label}, {done / total:.0%}" if total else f"{self._label}, {now - self._began:.0f} s")

    def note(self, line: str) -> None:
        """The line."""
        self._write(line)
