"""One worker from its start to its end: loaded, watched, told of, ended. Knows no queue and no other worker."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Literal, Protocol

from appliance.config import EngineSettings
from appliance.engine.ipc import (
    Canary,
    CanaryAnswer,
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
from appliance.engine.progress import Progress
from appliance.types import Message, Sampling

LOOK_S = 0.5  # how late a stall may be seen

FailureKind = Literal["died", "stalled", "failed_to_start"]


class WorkerOwner(Protocol):
    """Who is told of a worker, from the event loop, in order."""

    def worker_loading(self, worker: "WatchedWorker", stage: str) -> None:
        """It loads, or warms up."""

    def worker_ready(self, worker: "WatchedWorker", ready: Ready) -> None:
        """It has warmed up, and holds no request."""

    def worker_reported(self, worker: "WatchedWorker", report: Step | Prepared | Rejected) -> None:
        """It has something of a request that it holds."""

    def worker_proved(self, worker: "WatchedWorker", canary_s: float) -> None:
        """It was idle, and has brought a token after so many seconds."""

    def worker_failed(self, worker: "WatchedWorker", kind: FailureKind) -> None:
        """It is lost, with `due`; told at once, since seeing its process gone may take seconds more."""


class WatchedWorker:
    """A worker process that is ended when it does not get ready in time, or owes progress for too long."""

    def __init__(self, load: Load, settings: EngineSettings, owner: WorkerOwner, *, on_trial: bool = False) -> None:
        self.load = load
        self.on_trial = on_trial
        """Whether it may not take requests yet, and whoever tries it hears what it says."""
        self.hear: Callable[[Step | Prepared | Rejected], None] = lambda _: None
        """Who that is."""
        self._settings = settings
        self._owner = owner
        self._process: WorkerProcess | None = None
        self._progress = Progress(settings.stall_timeout_s)
        self._stopping = asyncio.Event()
        self._why = ""  # why it is to end, or said that it ends
        self.failure: FailureKind | None = None
        """How it was lost; None while it was not, and where its end was asked for."""
        self.ready: Ready | None = None
        """What it said of itself once it was warm."""
        self.ready_at = 0.0
        """On the monotonic clock, once it was ready."""
        self.rss_bytes = 0
        """Its resident memory as it last said."""
        self.settled = asyncio.Event()
        """Set once it is ready, or its process is gone."""
        self.ended = asyncio.Event()
        """Set once its process is gone."""
        self.reason = ""
        """Why its process is gone."""
        self._retired = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._canary_asked_at = 0.0
        self._looked_at = time.monotonic()

    @property
    def pid(self) -> int | None:
        """Process id, once there is a process."""
        return None if self._process is None else self._process.pid

    @property
    def why(self) -> str:
        """Why it is lost, as far as that is known before its process is gone; else empty."""
        return self._why

    @property
    def due(self) -> list[int]:
        """Requests that are lost with it."""
        return self._progress.due

    @property
    def ready_for_s(self) -> float:
        """Seconds since it got ready; 0 before."""
        return 0.0 if self.ready is None else time.monotonic() - self.ready_at

    @property
    def unwatched_s(self) -> float:
        """Seconds since it was looked at, for a stall or a start that takes too long; or since it was made."""
        return time.monotonic() - self._looked_at

    # ---- requests ---------------------------------------------------------------------------------------

    def holds(self, request_id: int) -> bool:
        """Whether it has this request, prepared or running."""
        return self._progress.holds(request_id)

    def prepare(self, request_id: int, messages: Sequence[Message]) -> None:
        """Have it render and tokenize a prompt."""
        self._progress.prepare(request_id)
        self._idle.clear()
        self._send(Prepare(request_id, list(messages)))

    def start(self, request_id: int, sampling: Sampling) -> None:
        """Have it answer a request that it has prepared."""
        self._progress.start(request_id)
        self._idle.clear()
        self._send(Start(request_id, sampling))

    def cancel(self, request_id: int) -> None:
        """Have it stop or forget a request that it holds."""
        self._progress.cancel(request_id)
        self._send(Cancel(request_id))

    def forget_waiting(self) -> None:
        """Have it keep what runs and forget what waits, which is prepared elsewhere, or again."""
        for request_id in self._progress.forget_waiting():
            self._send(Cancel(request_id))
        self._note_idle()

    async def idle(self) -> None:
        """Return when it owes nothing, or is lost."""
        while self._progress.busy and self.failure is None:
            await self._idle.wait()

    def _note_idle(self) -> None:
        if not self._progress.busy:
            self._idle.set()
            if self._retired:
                self.stop()

    def _send(self, command: Command) -> None:
        if self._process is not None:
            self._process.send(command)

    # ---- life -------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Start it and serve it until its process is gone; `reason` then says why."""
        try:
            self.reason = await self._live()
        finally:
            self.settled.set()
            self.ended.set()

    async def _live(self) -> str:
        try:
            process = self._process = await open_worker()
        except OSError as error:
            self._fail("failed_to_start")
            return f"the worker process could not be started: {error}"
        watch = asyncio.create_task(self._watch(process))
        stop = asyncio.create_task(self._stop_when_asked(process))
        try:
            process.send(self.load)
            while not self._why and (reports := await process.receive()):
                for report in reports:
                    self._handle(report)
        except ChannelError as error:
            self._why = f"the worker sent {error}"
        finally:
            watch.cancel()
            self._fail("died" if self.ready is not None else "failed_to_start")
            cause = await process.end()
            stop.cancel()
            await asyncio.gather(watch, stop, return_exceptions=True)
        return self._why or cause

    def stop(self) -> None:
        """Have `run` end it, politely at first, and return; that is no failure."""
        self._stopping.set()

    def retire(self) -> None:
        """Have it finish what runs, which each request's deadline bounds, and end."""
        self._retired = True
        self.forget_waiting()

    def kill(self) -> None:
        """End it at once, without a word."""
        if self._process is not None:
            self._process.kill()

    def _handle(self, report: Report) -> None:
        if self._why or not self._progress.note(report) or (self._stopping.is_set() and isinstance(report, Ready)):
            return  # on its way out, or an answer to what is no longer asked
        match report:
            case Step() | Prepared() | Rejected():
                if isinstance(report, Step):
                    self.rss_bytes = report.stats.rss_bytes or self.rss_bytes
                self._note_idle()
                if self.on_trial:
                    self.hear(report)
                else:
                    self._owner.worker_reported(self, report)
            case Loading(stage=stage):
                self._owner.worker_loading(self, stage)
            case Ready():
                self.ready, self.ready_at, self.rss_bytes = report, time.monotonic(), report.rss_bytes
                self.settled.set()
                self._owner.worker_ready(self, report)
            case CanaryAnswer(tokens=tokens, rss_bytes=rss_bytes):
                self.rss_bytes = rss_bytes
                if tokens:
                    self._owner.worker_proved(self, time.monotonic() - self._canary_asked_at)
            case Fatal(message=message):
                self._why = message

    def _fail(self, kind: FailureKind) -> None:
        if self.failure is None and not self._stopping.is_set():
            self.failure = kind
            self._idle.set()
            self._owner.worker_failed(self, kind)

    async def _watch(self, process: WorkerProcess) -> None:
        """Kill it when it does not get ready in time, or owes progress for too long."""
        load_s = self._settings.load_timeout_s
        look_s = min(LOOK_S, self._settings.stall_timeout_s / 4, load_s / 4)
        canary_s = self._settings.canary_interval_s
        begun = looked_at = self._looked_at = time.monotonic()
        late = False
        while not self._why:
            await asyncio.sleep(look_s)
            before, looked_at = looked_at, time.monotonic()
            self._looked_at = looked_at
            if not late and looked_at - before > 2 * look_s:
                late = True  # this process was stopped or busy: what the worker sent meanwhile is to be read first
                continue
            late = False
            stalled = self._progress.stalled()
            if self.ready is None and looked_at - begun > load_s:
                self._why = f"not ready within {load_s:g} s (engine.load_timeout_s)"
                self._fail("failed_to_start")
            elif stalled is not None:
                self._why = stalled
                self._fail("stalled")
            elif self.ready is not None and canary_s and self._progress.unproved_s() >= canary_s:
                self._canary_asked_at = looked_at
                self._progress.ask_canary()
                process.send(Canary())
        process.kill()

    async def _stop_when_asked(self, process: WorkerProcess) -> None:
        """Once `stop` is asked for: politely, then not."""
        await self._stopping.wait()
        process.send(Stop())
        await process.wait()
