"""From the loss of a worker to the next start: after what pause, with which model. Knows no request, starts nothing."""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable

from appliance.config import EngineSettings
from appliance.engine.backoff import Backoff
from appliance.engine.ipc import Load
from appliance.engine.out_of_memory import is_out_of_memory
from appliance.engine.process import MAYBE_OUT_OF_MEMORY
from appliance.engine.watched import WatchedWorker
from appliance.errors import ConfigError, StartError
from appliance.observability.events import Event, event

log = logging.getLogger(__name__)

TYPICAL_START_S = 4.0  # import, load and warm-up of a 0.5B model

CRASHES_MAX = 2  # of one model before it was ever ready: then another is tried, where there is one

CheckModel = Callable[[], object]
FallBack = Callable[[str], Load | None]


class Recovery:
    """Counts losses and tells of them; says when the next worker is due, and whether it is to load another model."""

    def __init__(self, settings: EngineSettings) -> None:
        self.check_model: CheckModel = lambda: None
        """Raises ConfigError where the model is damaged; called on a thread."""
        self.fall_back: FallBack = lambda _: None
        """What to load instead, for a reason in words; called on a thread."""
        self.losses = 0
        """Workers lost since the start."""
        self.last_loss: str | None = None
        """Why the last one was lost."""
        self._settings = settings
        self._backoff = Backoff(settings)
        self._pause_s = 0.0
        self._next_start_at: float | None = None
        self._crashes = 0  # of this model, before any was ever ready

    @property
    def given_up(self) -> bool:
        """Whether so many workers were lost that one is tried seldom."""
        return self._backoff.given_up

    @property
    def next_start_s(self) -> float | None:
        """Seconds until a worker is tried again, in the pause after a loss; None where there is none."""
        return None if self._next_start_at is None else max(0.0, self._next_start_at - time.monotonic())

    def failed(self, ready_for_s: float) -> float:
        """Count a worker that was ready for so many seconds and leaves no other; its process may not be gone yet.

        Returns whole seconds after which another is likely to take requests.
        """
        self._pause_s = self._backoff.lost(ready_for_s)
        return float(math.ceil(self._pause_s + TYPICAL_START_S))

    def lost(self, worker: WatchedWorker, *, manned: bool) -> None:
        """Count and tell of a worker whose process is gone. `manned`: another serves, or is about to."""
        self.losses += 1
        self.last_loss = worker.reason
        if manned:
            log.error("engine worker lost, another serves", extra=_loss(worker))
            return
        log.error("engine worker lost", extra=_loss(worker, next_start_s=round(self._pause_s, 2)))
        if self._backoff.given_up:
            log.error(
                "engine keeps failing, tried seldom",
                extra=event(
                    Event.WORKER_GIVEN_UP, losses=self._settings.failures_max,
                    within_s=self._settings.failure_window_s, next_start_s=self._pause_s, reason=worker.reason,
                ),
            )  # fmt: skip

    async def count_crash(self, reason: str) -> Load | None:
        """Count one of a model before any worker was ever ready; returns what to load instead, None for the same.

        Raises StartError where there is nothing else, after some attempts.
        """
        self._crashes += 1
        attempts = self._settings.start_attempts
        if self._crashes < min(CRASHES_MAX, attempts):
            return None
        other = await asyncio.to_thread(self.fall_back, reason)
        if other is not None:
            self._crashes = 0
        elif self._crashes >= attempts:
            raise StartError(f"the engine did not get ready in {self.losses} attempts; the last: {reason}")
        return other

    async def pause(self, stopping: asyncio.Event) -> Load | None:
        """Wait for the next start, at most until `stopping`; returns what to load instead, None for the same.

        Raises what the model's check raises where there is nothing else.
        """
        check = asyncio.create_task(asyncio.to_thread(self.check_model))
        self._next_start_at = time.monotonic() + self._pause_s
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), self._pause_s)
        self._next_start_at = None
        try:
            await check
        except ConfigError as error:
            other = await asyncio.to_thread(self.fall_back, str(error))
            if other is None:
                raise
            return other
        return None


def _loss(worker: WatchedWorker, **values: object) -> dict[str, object]:
    """How the loss of a worker is logged. SIGKILL is no proof that memory ran out."""
    exhausted = is_out_of_memory(worker.reason.replace(MAYBE_OUT_OF_MEMORY, ""))
    kind = Event.WORKER_OUT_OF_MEMORY if exhausted else Event.WORKER_LOST
    return event(kind, reason=worker.reason, worker_pid=worker.pid, **values)
