"""The Engine contract over a worker process: starts it, watches it, starts a new one. Knows no client, no queue."""

import asyncio
import contextlib
import logging
import math
import random
import time
from collections import deque
from collections.abc import Callable, Sequence

from appliance.config import EngineSettings
from appliance.engine.base import EngineLimits, EngineListener, EngineState
from appliance.engine.ipc import (
    Cancel,
    ChannelError,
    Command,
    Fatal,
    Load,
    Loading,
    Prepare,
    Prepared,
    Ready,
    Rejected,
    Report,
    Start,
    Step,
    Stop,
)
from appliance.engine.process import WorkerProcess, open_worker
from appliance.errors import StartError
from appliance.observability.logs import fields
from appliance.observability.metrics import Metrics
from appliance.types import Message, Sampling

log = logging.getLogger(__name__)

BACKOFF_FIRST_S = 0.25
STEADY_S = 10.0  # a worker that was ready this long starts the backoff anew
TYPICAL_START_S = 4.0  # import, load and warm-up of a 0.5B model


class EngineClient:
    """One worker process after another. `run` supervises until `stop`; the rest is the Engine contract."""

    def __init__(self, load: Load, settings: EngineSettings, metrics: Metrics) -> None:
        self._load = load
        self._settings = settings
        self._metrics = metrics
        self._listener: EngineListener
        self._state: EngineState = "loading"
        self._stopping = asyncio.Event()
        self._worker: WorkerProcess | None = None
        self._due: set[int] = set()  # requests that the worker owes a sign of life for
        self._progress_at = 0.0
        self._backoff_s = BACKOFF_FIRST_S
        self._ready_at: float | None = None
        self._ever_ready = False
        self._why = ""  # why the worker is to end, or said that it ends
        self.ready: Ready | None = None
        """What the current worker said of itself; None until there is one."""
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
    def worker_pid(self) -> int | None:
        """Process id of the worker, while there is one."""
        return self._worker.pid if self._worker is not None else None

    def prepare(self, request_id: int, messages: Sequence[Message]) -> None:
        """See Engine."""
        self._expect(request_id)
        self._send(Prepare(request_id, list(messages)))

    def start(self, request_id: int, sampling: Sampling) -> None:
        """See Engine."""
        self._expect(request_id)
        self._send(Start(request_id, sampling))

    def cancel(self, request_id: int) -> None:
        """See Engine."""
        self._send(Cancel(request_id))

    def _expect(self, request_id: int) -> None:
        if not self._due:
            self._progress_at = time.monotonic()
        self._due.add(request_id)

    def _send(self, command: Command) -> None:
        if self._state == "ready" and self._worker is not None:
            self._worker.send(command)

    # ---- supervision ------------------------------------------------------------------------------------

    async def run(self, listener: EngineListener, check_model: Callable[[], object] = lambda: None) -> None:
        """Keep a worker until `stop`. Raises StartError where none ever got ready in `start_attempts`.

        `check_model` runs on a thread, in the pause before a worker is replaced; what it raises ends `run`: a model
        that was damaged under a running daemon would only make one worker after another fail, or answer nonsense.
        """
        self._listener = listener
        failures = 0
        recent: deque[float] = deque()
        while not self._stopping.is_set():
            reason = await self._one_worker()
            if self._stopping.is_set():
                break
            failures += 1
            self.losses += 1
            self.last_loss = reason
            self._state = "restarting" if self._ever_ready else "loading"
            pause_s = self._pause_s(recent)
            log.error("engine worker lost", extra=fields(reason=reason, next_start_s=round(pause_s, 2)))
            if not self._ever_ready and failures >= self._settings.start_attempts:
                raise StartError(f"the engine did not get ready in {failures} attempts; the last: {reason}")
            check = asyncio.create_task(asyncio.to_thread(check_model))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause_s)
            await check
        self._state = "stopped"

    def _pause_s(self, recent: deque[float]) -> float:
        """Seconds until the next start; `recent`: when workers were lost, which this loss is added to."""
        now = time.monotonic()
        recent.append(now)
        while recent[0] < now - self._settings.failure_window_s:
            recent.popleft()
        if len(recent) >= self._settings.failures_max:
            return self._settings.retry_interval_s
        pause_s = self._backoff_s * random.uniform(0.8, 1.2)  # noqa: S311 # no secret
        self._backoff_s = min(self._backoff_s * 2, self._settings.restart_backoff_max_s)
        return pause_s

    def stop(self) -> None:
        """Have `run` end the worker and return."""
        self._stopping.set()

    def kill(self) -> None:
        """End the worker at once, without a word; for a daemon that itself ends at once."""
        if self._worker is not None:
            self._worker.kill()

    async def _one_worker(self) -> str:
        """Spawn a worker and serve it until it is gone; returns why it is gone."""
        self._why = ""
        try:
            worker = self._worker = await open_worker()
        except OSError as error:
            self._drop("failed_to_start")
            return f"the worker process could not be started: {error}"
        watch = asyncio.create_task(self._watch(worker))
        stop = asyncio.create_task(self._stop_when_asked(worker))
        try:
            worker.send(self._load)
            while reports := await worker.receive():
                for report in reports:
                    self._handle(report)
        except ChannelError as error:
            self._why = f"the worker sent {error}"
        finally:
            self._worker = None
            watch.cancel()
            self._drop("died" if self.ready is not None else "failed_to_start")
            cause = await worker.end()
            stop.cancel()
            await asyncio.gather(watch, stop, return_exceptions=True)
        return self._why or cause

    def _drop(self, kind: str) -> None:
        """What the worker held is lost, and told at once: seeing the process gone may take seconds more."""
        if self._stopping.is_set() or self._state in ("restarting", "stalled"):
            return
        if self._ready_at is not None and time.monotonic() - self._ready_at > STEADY_S:
            self._backoff_s = BACKOFF_FIRST_S
        self._state = "stalled" if kind == "stalled" else "restarting"
        self._ready_at = None
        self.ready = None
        self._due.clear()
        self._metrics.engine_lost(kind)
        self._listener.engine_lost(retry_after_s=float(math.ceil(self._backoff_s + TYPICAL_START_S)))

    def _handle(self, report: Report) -> None:
        if self._why:
            return  # on its way out
        self._progress_at = time.monotonic()
        match report:
            case Step():
                for finish in report.finished:
                    self._due.discard(finish.id)
                self._metrics.step(report.stats)
                self._listener.step_done(report)
            case Prepared(id=request_id, prompt_tokens=prompt_tokens):
                self._due.discard(request_id)
                self._listener.prompt_prepared(request_id, prompt_tokens)
            case Rejected(id=request_id, message=message):
                self._due.discard(request_id)
                self._listener.request_rejected(request_id, message)
            case Loading(stage=stage):
                log.info("engine %s", stage, extra=fields(pid=self.worker_pid))
                if not self._ever_ready:
                    self._state = "warming" if stage == "warming" else "loading"
            case Ready():
                self._set_ready(report)
            case Fatal(message=message):
                self._why = message

    def _set_ready(self, ready: Ready) -> None:
        self.ready = ready
        self._state = "ready"
        self._ever_ready = True
        self._ready_at = time.monotonic()
        self._metrics.engine_ready(ready.load_s + ready.warm_up_s, ready.rss_bytes)
        log.info(
            "engine ready",
            extra=fields(pid=self.worker_pid, load_s=round(ready.load_s, 2), warm_up_s=round(ready.warm_up_s, 2)),
        )
        self._listener.engine_ready(
            EngineLimits(
                max_running_requests=ready.max_running_requests,
                kv_blocks=ready.kv_blocks,
                block_tokens=ready.block_tokens,
            )
        )

    async def _watch(self, worker: WorkerProcess) -> None:
        """Kill a worker that does not get ready in time, or owes progress for too long."""
        load_s, stall_s = self._settings.load_timeout_s, self._settings.stall_timeout_s
        begun = time.monotonic()
        while not self._why:
            await asyncio.sleep(min(1.0, stall_s / 4, load_s / 4))
            now = time.monotonic()
            if self.ready is None and now - begun > load_s:
                self._why = f"not ready within {load_s:g} s (engine.load_timeout_s)"
                self._drop("failed_to_start")
            elif self.ready is not None and self._due and now - self._progress_at > stall_s:
                self._why = f"no progress for {stall_s:g} s (engine.stall_timeout_s)"
                self._drop("stalled")
        worker.kill()

    async def _stop_when_asked(self, worker: WorkerProcess) -> None:
        """Once `stop` is asked for: politely, then not."""
        await self._stopping.wait()
        worker.send(Stop())
        await worker.wait()
