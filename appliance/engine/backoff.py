"""How long to wait before a worker that was lost is replaced. Knows times and settings; knows no worker."""

import random
import time
from collections import deque
from collections.abc import Callable

from appliance.config import EngineSettings

BACKOFF_FIRST_S = 0.25
STEADY_S = 10.0  # a worker that was ready this long starts the backoff anew


class Backoff:
    """Growing pauses, and a long one after many losses within a window."""

    def __init__(self, settings: EngineSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self._next_s = BACKOFF_FIRST_S
        self._recent: deque[float] = deque()

    def lost(self, ready_for_s: float) -> float:
        """Count a loss; returns seconds until the next start. `ready_for_s`: how long the lost one was ready."""
        now = self._clock()
        self._recent.append(now)
        while self._recent[0] < now - self._settings.failure_window_s:
            self._recent.popleft()
        if ready_for_s > STEADY_S:
            self._next_s = BACKOFF_FIRST_S
        if self.given_up:
            return self._settings.retry_interval_s
        pause_s = self._next_s * random.uniform(0.8, 1.2)  # noqa: S311 # no secret
        self._next_s = min(self._next_s * 2, self._settings.restart_backoff_max_s)
        return pause_s

    @property
    def given_up(self) -> bool:
        """Whether so many were lost that only one is tried each engine.retry_interval_s."""
        return len(self._recent) >= self._settings.failures_max
