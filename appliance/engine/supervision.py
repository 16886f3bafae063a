"""Whether the supervision of workers is in a state that ends: for a watchdog over the supervisor. Changes nothing."""

import time
from collections.abc import Callable, Collection
from typing import Protocol

UNWATCHED_MAX_S = 30.0  # looked at twice a second while it lives, killed within 5 s when it ends
UNMANNED_MAX_S = 300.0  # between two workers every byte of a model may be read


class Watched(Protocol):
    """A worker, as far as it matters here."""

    @property
    def pid(self) -> int | None:
        """Process id, once there is a process."""

    @property
    def unwatched_s(self) -> float:
        """Seconds since it was last looked at."""


class Supervisor(Protocol):
    """Who keeps workers."""

    @property
    def workers(self) -> Collection[Watched]:
        """All that may still have a process."""

    @property
    def next_start_s(self) -> float | None:
        """Seconds until a worker is tried again; None where no pause is under way."""


class Supervision:
    """Serving, starting, restarting after a pause, or given up and trying seldom: these end, and nothing else does."""

    def __init__(self, supervisor: Supervisor, clock: Callable[[], float] = time.monotonic) -> None:
        self._supervisor = supervisor
        self._clock = clock
        self._unmanned_since: float | None = None

    def stuck(self) -> str | None:
        """In words, what should have happened by now; None while all is bounded. To be asked again and again."""
        for worker in self._supervisor.workers:
            if worker.unwatched_s > UNWATCHED_MAX_S:
                return f"nobody has looked at worker {worker.pid} for {worker.unwatched_s:.0f} s"
        if self._supervisor.workers or self._supervisor.next_start_s is not None:
            self._unmanned_since = None
            return None
        now = self._clock()
        if self._unmanned_since is None:
            self._unmanned_since = now
        unmanned_s = now - self._unmanned_since
        return f"no worker for {unmanned_s:.0f} s, and none to come" if unmanned_s > UNMANNED_MAX_S else None
