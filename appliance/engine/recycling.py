"""When a worker has served its time and another takes over. Knows ages, sizes and speeds; knows no request."""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Protocol

from msgspec.structs import replace

from appliance.config import EngineSettings
from appliance.engine.ipc import Load
from appliance.engine.lookup_mode import LookupMode
from appliance.engine.replacing import ReplaceReason
from appliance.engine.watched import WatchedWorker
from appliance.errors import ApplianceError
from appliance.observability.events import Event, event
from appliance.observability.logs import fields
from appliance.types import EngineStats

log = logging.getLogger(__name__)

LOOK_S = 1.0


class Replaceable(Protocol):
    """Whose worker is replaced."""

    @property
    def serving(self) -> WatchedWorker | None:
        """The worker that takes requests."""

    async def replace(self, load: Load, reason: ReplaceReason) -> None:
        """Have another worker take over. Raises ReplaceError."""


class Recycler:
    """Replaces the worker that serves when it is too old or too large, or when one of the other kind would be faster:
    one that drafts from prompts, or one that doesn't.
    """

    def __init__(self, engine: Replaceable, settings: EngineSettings, mode: LookupMode | None) -> None:
        """`mode`: what the first worker does; None where it is not to change."""
        self._engine = engine
        self._settings = settings
        self._mode = mode
        self._mode_due = False
        self._too_small_told = False
        self.last_failure: str | None = None
        """Why the last attempt failed; None once one has succeeded."""

    def watch(self, stats: EngineStats) -> None:
        """Take in what the worker that serves said of a step."""
        if self._mode is not None and stats.draft_gain is not None:
            self._mode_due = self._mode.watch(stats.draft_gain, stats.step_s, time.monotonic())

    async def run(self, check_model: Callable[[], object]) -> None:
        """Recycle until cancelled. An attempt that fails is told, and made again after a growing pause.

        `check_model` runs on a thread before each; what it raises is a failure of the attempt, since whoever serves
        has the model in memory.
        """
        pause_s = self._settings.restart_backoff_max_s
        age_s = self._settings.max_worker_age_s
        while True:
            await asyncio.sleep(min(LOOK_S, age_s / 4) if age_s else LOOK_S)
            worker = self._engine.serving
            reason = None if worker is None else self._due(worker)
            if worker is None or reason is None:
                continue
            try:
                await asyncio.to_thread(check_model)
                await self._replace(worker.load, reason)
            except Exception as error:
                self.last_failure = str(error)
                log.error(  # noqa: TRY400 # a traceback only where it helps
                    "engine worker not recycled",
                    extra=event(
                        Event.WORKER_NOT_RECYCLED, recycle=reason, reason=self.last_failure, next_try_s=pause_s
                    ),
                    exc_info=None if isinstance(error, ApplianceError) else error,  # a defect: but who serves is well
                )
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, self._settings.retry_interval_s)
            else:
                self.last_failure = None
                pause_s = self._settings.restart_backoff_max_s

    async def _replace(self, load: Load, reason: ReplaceReason) -> None:
        if reason != "drafts" or self._mode is None:
            await self._engine.replace(load, reason)
            return
        try:
            await self._engine.replace(replace(load, prompt_lookup=not load.prompt_lookup), reason)
            self._mode.changed(time.monotonic())
        finally:
            self._mode_due = False  # the old worker has said it again meanwhile

    def _due(self, worker: WatchedWorker) -> ReplaceReason | None:
        age_s, most_bytes = self._settings.max_worker_age_s, self._settings.max_rss_bytes
        if age_s and worker.ready_for_s > age_s:
            return "age"
        if most_bytes and worker.rss_bytes > most_bytes and worker.ready is not None:
            if worker.ready.rss_bytes <= most_bytes:
                return "memory"
            if not self._too_small_told:  # replacing it would bring another of that size, again and again
                self._too_small_told = True
                log.error(
                    "engine.max_rss_bytes is less than a fresh worker takes, and is left aside",
                    extra=fields(max_rss_bytes=most_bytes, fresh_rss_bytes=worker.ready.rss_bytes),
                )
        return "drafts" if self._mode_due else None
