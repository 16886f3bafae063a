"""The Engine contract over worker processes: one that serves, another when it is lost or has served its time.

Knows no client and no queue.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from appliance.config import EngineSettings
from appliance.engine.base import EngineListener, EngineState, limits_of
from appliance.engine.ipc import Load, Prepared, Ready, Rejected, Step
from appliance.engine.lookup_mode import LookupMode
from appliance.engine.recovery import CheckModel, FallBack, Recovery
from appliance.engine.recycling import Recycler
from appliance.engine.replacing import Handover, Prove, Replacer, ReplaceReason, drafting_as
from appliance.engine.watched import FailureKind, WatchedWorker
from appliance.observability.events import Event, event
from appliance.observability.logs import fields
from appliance.observability.metrics import Metrics
from appliance.types import Message, Sampling

log = logging.getLogger(__name__)


class EngineClient:
    """One worker process after another. `run` supervises until `stop`; the rest is the Engine contract."""

    def __init__(
        self, load: Load, settings: EngineSettings, metrics: Metrics, handover: Handover | None = None
    ) -> None:
        self.load = load
        """What the next worker is told to load."""
        self.on_serving: Callable[[Load], None] = lambda _: None
        """Called whenever a worker takes over, with what it has loaded, before the listener hears of it."""
        self._settings = settings
        self._metrics = metrics
        self.replacer = Replacer(self, handover or Handover())
        self._recovery = Recovery(settings)
        self._listener: EngineListener
        self._state: EngineState = "loading"
        self._stopping = asyncio.Event()
        self.serving: WatchedWorker | None = None
        """The worker that takes requests; one that it took over from may still finish some."""
        self.starting: WatchedWorker | None = None
        """The one that takes over when it is ready, or has passed its trial."""
        self._workers: dict[WatchedWorker, asyncio.Task[None]] = {}  # all that may still have a process
        self._ended: asyncio.Queue[WatchedWorker | None] = asyncio.Queue()  # each once; None: stop
        self.ever_ready = False
        """Whether any worker has ever been ready."""
        self.canary: tuple[float, float] | None = None
        """When the last canary was answered, on the monotonic clock, and seconds that it took; None before."""
        self.why_away: str | None = None
        """Why no worker takes requests; None while one does, or has never been."""
        self.recycles = 0
        """Workers replaced while they were well."""
        mode = LookupMode(drafting=load.prompt_lookup) if load.watch_drafts else None
        self.recycler = Recycler(self, settings, mode)

    # ---- the Engine contract ----------------------------------------------------------------------------

    @property
    def state(self) -> EngineState:
        """What it is doing now."""
        return self._state

    @property
    def ready(self) -> Ready | None:
        """What the worker that serves said of itself; None until there is one."""
        return None if self.serving is None else self.serving.ready

    @property
    def worker_pid(self) -> int | None:
        """Process id of the worker that serves, else of the one that starts; None where there is none."""
        worker = self.serving or self.starting
        return None if worker is None else worker.pid

    @property
    def given_up(self) -> bool:
        """Whether so many workers were lost that one is tried seldom."""
        return self._recovery.given_up

    @property
    def next_start_s(self) -> float | None:
        """Seconds until a worker is tried again, in the pause after a loss."""
        return self._recovery.next_start_s

    @property
    def losses(self) -> int:
        """Workers lost since the start."""
        return self._recovery.losses

    @property
    def last_loss(self) -> str | None:
        """Why the last one was lost."""
        return self._recovery.last_loss

    def prepare(self, request_id: int, messages: Sequence[Message]) -> None:
        """See Engine."""
        if self._state == "ready" and self.serving is not None:
            self.serving.prepare(request_id, messages)

    def start(self, request_id: int, sampling: Sampling) -> None:
        """See Engine."""
        if self._state == "ready" and self.serving is not None and self.serving.holds(request_id):
            self.serving.start(request_id, sampling)

    def cancel(self, request_id: int) -> None:
        """See Engine."""
        for worker in self._workers:
            if worker.failure is None and worker.holds(request_id):
                worker.cancel(request_id)

    # ---- supervision ------------------------------------------------------------------------------------

    async def run(
        self,
        listener: EngineListener,
        check_model: CheckModel = lambda: None,
        fall_back: FallBack = lambda _: None,
    ) -> None:
        """Keep a worker until `stop`. Raises StartError where none ever got ready in `start_attempts`.

        `check_model` runs on a thread, in the pause before a worker is replaced: a model that was damaged under a
        running daemon would only make one worker after another fail, or answer nonsense. Where it raises a
        ConfigError, and where a model crashes recovery.CRASHES_MAX times before any worker was ever ready, `fall_back`
        is asked, on a thread and with the reason, what to load instead; where it knows nothing, what was raised ends
        `run`.
        """
        self._listener = listener
        self._recovery.check_model, self._recovery.fall_back = check_model, fall_back
        self.launch(self.load)
        recycling = asyncio.create_task(self.recycler.run(check_model))
        try:
            while (worker := await self._ended.get()) is not None:
                self._workers.pop(worker).result()
                if worker.failure is not None:
                    await self._replace_lost(worker)
        finally:
            self._stopping.set()
            recycling.cancel()
            await asyncio.gather(recycling, return_exceptions=True)
            for worker in self._workers:
                worker.stop()
            await asyncio.gather(*self._workers.values())
            self._state = "stopped"

    async def _replace_lost(self, worker: WatchedWorker) -> None:
        """Start another where none is there to take over. Raises what `run` raises."""
        self.why_away = None if self.serving else worker.reason
        self._recovery.lost(worker, manned=self.manned())
        if self.manned():
            return
        if not self.ever_ready:
            self._load_instead(await self._recovery.count_crash(worker.reason))
        self._state = "restarting" if self.ever_ready else "loading"
        self._load_instead(await self._recovery.pause(self._stopping))
        if not self.manned() and not self._stopping.is_set():
            self.launch(self.load)

    def _load_instead(self, other: Load | None) -> None:
        if other is not None:
            self.load = drafting_as(self.load, other)

    def stop(self) -> None:
        """Have `run` end the worker and return."""
        self._stopping.set()
        self._ended.put_nowait(None)

    def kill(self) -> None:
        """End the worker at once, without a word; for a daemon that itself ends at once."""
        for worker in self._workers:
            worker.kill()

    # ---- replacement of a worker that is well (Crew) -----------------------------------------------------

    async def replace(self, load: Load, reason: ReplaceReason, prove: Prove | None = None) -> None:
        """See Replacer."""
        await self.replacer.replace(load, reason, prove)

    @property
    def stopping(self) -> bool:
        """See Crew."""
        return self._stopping.is_set()

    @property
    def workers(self) -> Sequence[WatchedWorker]:
        """All that may still have a process."""
        return list(self._workers)

    def launch(self, load: Load, *, on_trial: bool = False) -> WatchedWorker:
        """See Crew."""
        worker = self.starting = WatchedWorker(load, self._settings, self, on_trial=on_trial)
        self._workers[worker] = life = asyncio.create_task(worker.run())
        life.add_done_callback(lambda _: self._ended.put_nowait(worker))
        return worker

    def manned(self) -> bool:
        """See Crew."""
        return self.serving is not None or self.starting is not None

    def hold_starts(self) -> None:
        """See Crew."""
        self._state = "restarting"
        self.why_away = "a new worker is to take over, and memory allows one at a time"
        self._listener.engine_away()

    def take_requests(self, ready: Ready) -> None:
        """See Crew."""
        self._state = "ready"
        self.why_away = None
        self._listener.engine_ready(limits_of(ready))

    def take_over(self, worker: WatchedWorker, ready: Ready) -> None:
        """See Crew."""
        old, self.serving, self.starting = self.serving, worker, None
        if old is not None:
            old.retire()
            self._metrics.engine_away()
        self.ever_ready = True
        self._metrics.engine_ready(ready.load_s + ready.warm_up_s, ready.rss_bytes)
        log.info(
            "engine ready",
            extra=event(
                Event.READY, worker_pid=worker.pid, load_s=round(ready.load_s, 2), warm_up_s=round(ready.warm_up_s, 2)
            ),
        )
        self.on_serving(worker.load)
        self.take_requests(ready)

    def replaced(self, load: Load, reason: ReplaceReason) -> None:
        """See Crew."""
        self.load = load
        self.recycles += 1
        self._metrics.engine_recycled(reason)

    # ---- from the workers (WorkerOwner) -----------------------------------------------------------------

    def worker_loading(self, worker: WatchedWorker, stage: str) -> None:
        """See WorkerOwner."""
        log.info("engine %s", stage, extra=fields(worker_pid=worker.pid))
        if not self.ever_ready:
            self._state = "warming" if stage == "warming" else "loading"

    def worker_ready(self, worker: WatchedWorker, ready: Ready) -> None:
        """It takes requests from now on, unless it is to be tried first."""
        if not worker.on_trial:
            self.take_over(worker, ready)

    def worker_reported(self, worker: WatchedWorker, report: Step | Prepared | Rejected) -> None:
        """Pass it on."""
        match report:
            case Step():
                if worker is self.serving:
                    self._metrics.step(report.stats)
                    self.recycler.watch(report.stats)
                self._listener.step_done(report)
            case Prepared(id=request_id, prompt_tokens=prompt_tokens):
                self._listener.prompt_prepared(request_id, prompt_tokens)
            case Rejected(id=request_id, message=message):
                self._listener.request_rejected(request_id, message)

    def worker_proved(self, worker: WatchedWorker, canary_s: float) -> None:
        """Count it."""
        self.canary = (time.monotonic(), canary_s)
        self._metrics.canary(canary_s)
        log.debug("engine proved", extra=fields(worker_pid=worker.pid, canary_s=round(canary_s, 3)))

    def worker_failed(self, worker: WatchedWorker, kind: FailureKind) -> None:
        """What it held is lost, and told at once."""
        self._metrics.engine_lost(kind)
        retry_after_s = 1.0  # for what an old worker held, while its successor serves
        if worker is self.serving or (worker is self.starting and self.serving is None):
            retry_after_s = self._recovery.failed(worker.ready_for_s)
        if worker is self.starting:
            self.starting = None
        if worker is self.serving:
            self.serving = None
            self._state = "stalled" if kind == "stalled" else "restarting"
            self.why_away = worker.why or "the worker ended by itself"
            self._metrics.engine_away()
            self._listener.engine_away()
        self._listener.requests_lost(worker.due, retry_after_s)
