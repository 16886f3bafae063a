"""A fresh worker takes over from the one that serves, beside it or after it. Knows workers; knows no client, no queue.

Where memory allows, the fresh one gets ready beside the old one, which then finishes what it runs and ends. Else the
old one ends first, in a moment without requests.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Literal, Protocol

from msgspec import Struct
from msgspec.structs import replace

from appliance.engine.ipc import Load, Ready
from appliance.engine.memory import room_beside
from appliance.engine.trial import Trial
from appliance.engine.watched import WatchedWorker
from appliance.errors import ReplaceError
from appliance.observability.events import Event, event
from appliance.observability.logs import fields

log = logging.getLogger(__name__)

Prove = Callable[[Trial], Awaitable[None]]

ReplaceReason = Literal["age", "memory", "drafts", "model"]


class Handover(Struct, frozen=True, kw_only=True):
    """How a worker makes way for another."""

    room_beside: Callable[[Load], bool] = room_beside
    """Whether both fit what memory there is now; called on a thread."""
    idle_wait_s: float = 300.0
    """Where they don't: seconds to wait for a moment without requests, until starts are held back."""
    hold_s: float = 30.0
    """Seconds that starts are held back at most: a quarter of the deadline that a request has by default."""


class Crew(Protocol):
    """Whose workers they are."""

    load: Load
    """What the next worker is told to load."""
    serving: WatchedWorker | None
    """The worker that takes requests; one that it took over from may still finish some."""
    starting: WatchedWorker | None
    """The one that takes over when it is ready, or has passed its trial."""
    ever_ready: bool
    """Whether any worker has ever been ready."""

    @property
    def stopping(self) -> bool:
        """Whether all is to end."""

    @property
    def workers(self) -> Sequence[WatchedWorker]:
        """All that may still have a process."""

    def manned(self) -> bool:
        """Whether a worker serves, or one that starts will."""

    def launch(self, load: Load, *, on_trial: bool = False) -> WatchedWorker:
        """Start a worker that takes over when it is ready, or has passed its trial."""

    def hold_starts(self) -> None:
        """Start no request until `take_requests`."""

    def take_requests(self, ready: Ready) -> None:
        """Start requests on the worker that serves, which has said `ready`."""

    def take_over(self, worker: WatchedWorker, ready: Ready) -> None:
        """Requests go to `worker` from now on; the one that served finishes what it runs, and ends."""

    def replaced(self, load: Load, reason: ReplaceReason) -> None:
        """A worker with `load` has taken over, for `reason`."""


def drafting_as(before: Load, load: Load) -> Load:
    """`load` of another model: drafts are taken up and given up by what they gain here, and it finds that as it is."""
    return replace(load, prompt_lookup=before.prompt_lookup)


class Replacer:
    """Replaces the worker of a crew, one at a time."""

    def __init__(self, crew: Crew, handover: Handover) -> None:
        self._crew = crew
        self.handover = handover
        self._replacing = asyncio.Lock()

    async def replace(self, load: Load, reason: ReplaceReason, prove: Prove | None = None) -> None:
        """Have a fresh worker with `load` take over from the one that serves; no request fails of it.

        What waits is prepared again. `prove` tries the fresh one before it takes over, and raises where it is not to.
        Raises ReplaceError, and what `prove` raises; the old one then goes on serving, or, where it had to end first
        or was lost, one like it is started.
        """
        async with self._replacing:
            old = await self._settled() if reason == "model" else self._crew.serving
            if old is None and (reason != "model" or not self._crew.ever_ready):
                raise ReplaceError("the engine is not ready")
            if reason != "model" and load.directory != self._crew.load.directory:
                raise ReplaceError("another model has taken over meanwhile")
            if reason == "model":
                load = drafting_as(self._crew.load, load)
            for retired in [worker for worker in self._crew.workers if worker is not old]:
                await retired.ended.wait()  # at most its requests' deadlines
            beside = old is None or await asyncio.to_thread(self.handover.room_beside, load)
            if not beside and reason == "drafts":
                raise ReplaceError("there is no memory for a second worker, and a faster one is not worth a pause")
            if old is not None and not beside:
                await self._make_way(old, idle_wait_s=0 if reason == "model" else self.handover.idle_wait_s)
            lost = beside and (self._crew.serving is not old or (old is None and self._crew.starting is not None))
            if self._crew.stopping or lost:
                raise ReplaceError("the engine was lost or stopped meanwhile")
            fresh = self._crew.launch(load, on_trial=prove is not None)
            await fresh.settled.wait()
            if fresh.ready is None:
                raise ReplaceError(f"the new worker did not get ready: {fresh.reason}")
            if prove is not None:
                await self._try(fresh, fresh.ready, prove)
            self._crew.replaced(load, reason)
            log.info(
                "engine worker recycled",
                extra=event(
                    Event.WORKER_RECYCLED, recycle=reason, old_worker_pid=None if old is None else old.pid,
                    worker_pid=fresh.pid, beside=beside,
                ),
            )  # fmt: skip

    async def _settled(self) -> WatchedWorker | None:
        """The worker that serves, once one that starts is ready or lost."""
        if self._crew.serving is None and self._crew.starting is not None:
            await self._crew.starting.settled.wait()
        return self._crew.serving

    async def _try(self, fresh: WatchedWorker, ready: Ready, prove: Prove) -> None:
        """Have it take over once it is proved; else end it. Raises ReplaceError, and what `prove` raises."""
        try:
            await prove(Trial(fresh))
            if fresh.failure is not None or self._crew.stopping:
                reason = "the engine is stopped" if fresh.failure is None else fresh.why or fresh.reason or "it ended"
                raise ReplaceError(f"the new worker was lost: {reason}")
        except BaseException:
            if self._crew.starting is fresh:
                self._crew.starting = None
            if fresh.failure is None:  # else its end is seen to as that of any worker that is lost
                fresh.stop()
                await fresh.ended.wait()
                if not self._crew.manned() and not self._crew.stopping:
                    self._crew.launch(self._crew.load)
            raise
        fresh.on_trial = False
        self._crew.take_over(fresh, ready)

    async def _make_way(self, old: WatchedWorker, idle_wait_s: float) -> None:
        """End the worker that serves in a moment without requests. Raises ReplaceError where none comes."""
        try:
            async with asyncio.timeout(idle_wait_s):
                await old.idle()
        except TimeoutError:
            await self._hold_starts(old)
        if self._crew.serving is not old:
            raise ReplaceError("the engine was lost meanwhile")
        self._crew.serving = None
        self._crew.hold_starts()
        old.stop()
        await old.ended.wait()

    async def _hold_starts(self, old: WatchedWorker) -> None:
        """Start nothing until all that runs has ended. Raises ReplaceError, and goes on, where that takes too long."""
        log.info("engine holds starts back", extra=fields(at_most_s=self.handover.hold_s))
        old.forget_waiting()
        self._crew.hold_starts()
        try:
            async with asyncio.timeout(self.handover.hold_s):
                await old.idle()
        except TimeoutError:
            if self._crew.serving is old and old.ready is not None:
                self._crew.take_requests(old.ready)
            hold_s = self.handover.hold_s
            raise ReplaceError(f"what runs did not end in the {hold_s:g} s that starts were held back") from None
