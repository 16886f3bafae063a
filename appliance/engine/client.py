"""The Engine contract over worker processes: one that serves, another when it is lost. Knows no client, no queue."""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable, Sequence

from appliance.config import EngineSettings
from appliance.engine.backoff import Backoff
from appliance.engine.base import EngineLimits, EngineListener, EngineState
from appliance.engine.ipc import Load, Prepared, Ready, Rejected, Step
from appliance.engine.watched import FailureKind, WatchedWorker
from appliance.errors import StartError
from appliance.observability.logs import fields
from appliance.observability.metrics import Metrics
from appliance.types import Message, Sampling

log = logging.getLogger(__name__)

TYPICAL_START_S = 4.0  # import, load and warm-up of a 0.5B model

CheckModel = Callable[[], object]


class EngineClient:
    """One worker process after another. `run` supervises until `stop`; the rest is the Engine contract."""

    def __init__(self, load: Load, settings: EngineSettings, metrics: Metrics) -> None:
        self._load = load
        self._settings = settings
        self._metrics = metrics
        self._listener: EngineListener
        self._check_model: CheckModel
        self._state: EngineState = "loading"
        self._stopping = asyncio.Event()
        self._serving: WatchedWorker | None = None  # takes requests
        self._starting: WatchedWorker | None = None  # takes over when it is ready
        self._workers: dict[WatchedWorker, asyncio.Task[str]] = {}  # all that may still have a process
        self._ended: asyncio.Queue[WatchedWorker | None] = asyncio.Queue()  # each once; None: stop
        self._backoff = Backoff(settings)
        self._pause_s = 0.0
        self._next_start_at: float | None = None
        self._ever_ready = False
        self.canary: tuple[float, float] | None = None
        """When the last canary was answered, on the monotonic clock, and seconds that it took; None before."""
        self.losses = 0
        """Workers lost since the start."""
        self.last_loss: str | None = None
        """Why the last one was lost."""

    # ---- the Engine contract ----------------------------------------------------------------------------

    @property
    def state(self) -> EngineState:
        """What it is doing now."""
        return self._state

    @property
    def ready(self) -> Ready | None:
        """What the worker that serves said of itself; None until there is one."""
        return None if self._serving is None else self._serving.ready

    @property
    def worker_pid(self) -> int | None:
        """Process id of the worker that serves, else of the one that starts; None where there is none."""
        worker = self._serving or self._starting
        return None if worker is None else worker.pid

    @property
    def next_start_s(self) -> float | None:
        """Seconds until a worker is tried again, in the pause after a loss."""
        return None if self._next_start_at is None else max(0.0, self._next_start_at - time.monotonic())

    def prepare(self, request_id: int, messages: Sequence[Message]) -> None:
        """See Engine."""
        if self._state == "ready" and self._serving is not None:
            self._serving.prepare(request_id, messages)

    def start(self, request_id: int, sampling: Sampling) -> None:
        """See Engine."""
        if self._state == "ready" and self._serving is not None and self._serving.holds(request_id):
            self._serving.start(request_id, sampling)

    def cancel(self, request_id: int) -> None:
        """See Engine."""
        for worker in self._workers:
            if worker.failure is None and worker.holds(request_id):
                worker.cancel(request_id)

    # ---- supervision ------------------------------------------------------------------------------------

    async def run(self, listener: EngineListener, check_model: CheckModel = lambda: None) -> None:
        """Keep a worker until `stop`. Raises StartError where none ever got ready in `start_attempts`.

        `check_model` runs on a thread, in the pause before a worker is replaced; what it raises ends `run`: a model
        that was damaged under a running daemon would only make one worker after another fail, or answer nonsense.
        """
        self._listener, self._check_model = listener, check_model
        self._launch(self._load)
        try:
            while (worker := await self._ended.get()) is not None:
                reason = self._workers.pop(worker).result()
                if worker.failure is not None:
                    self._tell_loss(reason)
                    await self._pause()
                    self._restart()
        finally:
            for worker in self._workers:
                worker.stop()
            await asyncio.gather(*self._workers.values())
            self._state = "stopped"

    def _launch(self, load: Load) -> WatchedWorker:
        """Start a worker that takes over when it is ready."""
        worker = self._starting = WatchedWorker(load, self._settings, self)
        self._workers[worker] = life = asyncio.create_task(worker.run())
        life.add_done_callback(lambda _: self._ended.put_nowait(worker))
        return worker

    def _tell_loss(self, reason: str) -> None:
        """Raises StartError where that was one too many before the first was ready."""
        self.losses += 1
        self.last_loss = reason
        log.error("engine worker lost", extra=fields(reason=reason, next_start_s=round(self._pause_s, 2)))
        if self._backoff.given_up:
            log.error(
                "engine keeps failing, tried seldom",
                extra=fields(
                    losses=self._settings.failures_max, within_s=self._settings.failure_window_s,
                    next_start_s=self._pause_s, reason=reason,
                ),
            )  # fmt: skip
        if not self._ever_ready and self.losses >= self._settings.start_attempts:
            raise StartError(f"the engine did not get ready in {self.losses} attempts; the last: {reason}")
        self._state = "restarting" if self._ever_ready else "loading"

    async def _pause(self) -> None:
        """Wait for the next start, at most until `stop`. Raises what the model's check raises."""
        check = asyncio.create_task(asyncio.to_thread(self._check_model))
        self._next_start_at = time.monotonic() + self._pause_s
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), self._pause_s)
        self._next_start_at = None
        await check

    def _restart(self) -> None:
        if not self._stopping.is_set() and self._serving is None and self._starting is None:
            self._launch(self._load)

    def stop(self) -> None:
        """Have `run` end the worker and return."""
        self._stopping.set()
        self._ended.put_nowait(None)

    def kill(self) -> None:
        """End the worker at once, without a word; for a daemon that itself ends at once."""
        for worker in self._workers:
            worker.kill()

    # ---- from the workers (WorkerOwner) -----------------------------------------------------------------

    def worker_loading(self, worker: WatchedWorker, stage: str) -> None:
        """See WorkerOwner."""
        log.info("engine %s", stage, extra=fields(pid=worker.pid))
        if not self._ever_ready:
            self._state = "warming" if stage == "warming" else "loading"

    def worker_ready(self, worker: WatchedWorker, ready: Ready) -> None:
        """It takes requests from now on."""
        self._starting, self._serving = None, worker
        self._state = "ready"
        self._ever_ready = True
        self._metrics.engine_ready(ready.load_s + ready.warm_up_s, ready.rss_bytes)
        log.info(
            "engine ready",
            extra=fields(pid=worker.pid, load_s=round(ready.load_s, 2), warm_up_s=round(ready.warm_up_s, 2)),
        )
        self._listener.engine_ready(
            EngineLimits(
                max_running_requests=ready.max_running_requests,
                kv_blocks=ready.kv_blocks,
                block_tokens=ready.block_tokens,
            )
        )

    def worker_reported(self, worker: WatchedWorker, report: Step | Prepared | Rejected) -> None:
        """Pass it on."""
        match report:
            case Step():
                if worker is self._serving:
                    self._metrics.step(report.stats)
                self._listener.step_done(report)
            case Prepared(id=request_id, prompt_tokens=prompt_tokens):
                self._listener.prompt_prepared(request_id, prompt_tokens)
            case Rejected(id=request_id, message=message):
                self._listener.request_rejected(request_id, message)

    def worker_proved(self, worker: WatchedWorker, canary_s: float) -> None:
        """Count it."""
        self.canary = (time.monotonic(), canary_s)
        self._metrics.canary(canary_s)
        log.debug("engine proved", extra=fields(pid=worker.pid, canary_s=round(canary_s, 3)))

    def worker_failed(self, worker: WatchedWorker, kind: FailureKind) -> None:
        """What it held is lost, and told at once."""
        self._metrics.engine_lost(kind)
        self._pause_s = self._backoff.lost(worker.ready_for_s)
        if worker is self._starting:
            self._starting = None
        else:
            self._serving = None
            self._state = "stalled" if kind == "stalled" else "restarting"
            self._metrics.engine_away()
            self._listener.engine_away()
        self._listener.requests_lost(worker.due, float(math.ceil(self._pause_s + TYPICAL_START_S)))
