"""How far a measurement is: one line that the next replaces on a terminal, a line a level elsewhere. On stderr only."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from appliance.bench.samples import Level, Sample

if TYPE_CHECKING:
    from rich.status import Status


class LineProgress:
    """For logs and pipes."""

    def stage(self, text: str) -> None:
        """Nobody looks on."""

    def sample(self, sample: Sample) -> None:
        """A line for each request would be too much."""

    def level(self, level: Level) -> None:
        """See Progress."""
        print(f"bench: {_summary(level)}", file=sys.stderr, flush=True)


class TerminalProgress:
    """For people who look on."""

    def __init__(self, status: "Status") -> None:
        self._status = status
        self._stage = ""
        self._done = self._failed = 0

    def stage(self, text: str) -> None:
        """See Progress."""
        self._stage, self._done, self._failed = text, 0, 0
        self._status.update(text)

    def sample(self, sample: Sample) -> None:
        """See Progress."""
        self._done += 1
        self._failed += not sample.answered
        failed = f", {self._failed} failed" if self._failed else ""
        self._status.update(f"{self._stage}: {self._done - self._failed} answered{failed}")

    def level(self, level: Level) -> None:
        """The table tells."""


@contextmanager
def showing_progress() -> Iterator[LineProgress | TerminalProgress]:
    """Progress on standard error for as long as the block lasts; a terminal is left clean."""
    if not sys.stderr.isatty():
        yield LineProgress()
        return
    from rich.console import Console

    with Console(stderr=True).status("") as status:
        yield TerminalProgress(status)


def _summary(level: Level) -> str:
    requests = f"{level.requests} requests" + (f", {level.failed} failed" if level.failed else "")
    clients = "1 client" if level.concurrency == 1 else f"{level.concurrency} clients"
    return f"{level.kind}, {clients}: {requests}, {level.tokens_per_s:.1f} tokens/s"
