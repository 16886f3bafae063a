"""The front side of the engine: spawns the worker, watches it, starts a new one. Knows no client and no queue."""

import asyncio
import contextlib
import logging
import math
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Sequence

from msgspec import Struct

from appliance.engine.base import EngineLimits, EngineListener, EngineState
from appliance.engine.ipc import (
    Cancel,
    ChannelError,
    Command,
    Fatal,
    Frames,
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
    frame,
    report_decoder,
)
from appliance.errors import StartError
from appliance.observability.logs import fields
from appliance.observability.metrics import Metrics
from appliance.types import Message, Sampling

log = logging.getLogger(__name__)
worker_log = logging.getLogger("appliance.worker")

BACKOFF_FIRST_S = 0.25
STEADY_S = 60.0  # a worker that lived this long starts the backoff anew
TYPICAL_START_S = 4.0  # import, load and warm-up of a 0.5B model
STOP_TIMEOUT_S = 5.0  # a worker in a long step ends after it; one that is wedged never does
STDERR_LINE_MAX_BYTES = 8192


class Supervision(Struct, frozen=True, kw_only=True):
    """How long the supervisor waits for what; seconds, from the settings of the same names."""

    load_timeout_s: float
    stall_timeout_s: float
    start_attempts: int
    restart_backoff_max_s: float


class EngineClient:
    """One worker process after another. `run` supervises until `stop`; the rest is the Engine contract."""

    def __init__(self, load: Load, supervision: Supervision, metrics: Metrics) -> None:
        self._load = load
        self._supervision = supervision
        self._metrics = metrics
        self.listener: EngineListener | None = None
        """Told of everything; to be set before `run`."""
        self._state: EngineState = "loading"
        self._stopping = asyncio.Event()
        self._writer: asyncio.StreamWriter | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._due: set[int] = set()  # requests that the worker owes a sign of life for
        self._progress_at = 0.0
        self._ever_ready = False
        self._fatal = ""
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
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    def prepare(self, request_id: int, messages: Sequence[Message]) -> None:
        """See Engine."""
        if self._state == "ready":
            self._expect(request_id)
            self._send(Prepare(request_id, list(messages)))

    def start(self, request_id: int, sampling: Sampling) -> None:
        """See Engine."""
        if self._state == "ready":
            self._expect(request_id)
            self._send(Start(request_id, sampling))

    def cancel(self, request_id: int) -> None:
        """See Engine."""
        if self._state == "ready":
            self._send(Cancel(request_id))

    # ---- supervision ------------------------------------------------------------------------------------

    @property
    def _tell(self) -> EngineListener:
        if self.listener is None:
            raise RuntimeError("the engine runs and nobody listens")
        return self.listener

    async def run(self) -> None:
        """Keep a worker until `stop`. Raises StartError where none ever got ready in `start_attempts`."""
        backoff_s, failures = BACKOFF_FIRST_S, 0
        while not self._stopping.is_set():
            begun = time.monotonic()
            reason = await self._one_worker()
            if self._stopping.is_set():
                break
            failures += 1
            if not self._ever_ready and failures >= self._supervision.start_attempts:
                raise StartError(f"the engine did not get ready in {failures} attempts; the last: {reason}")
            if time.monotonic() - begun > STEADY_S:
                backoff_s = BACKOFF_FIRST_S
            self._lost(reason, backoff_s)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), backoff_s * random.uniform(0.8, 1.2))  # noqa: S311 # no secret
            backoff_s = min(backoff_s * 2, self._supervision.restart_backoff_max_s)
        self._state = "stopped"

    def stop(self) -> None:
        """Have `run` end the worker and return."""
        self._stopping.set()

    def kill(self) -> None:
        """End the worker at once, without a word; for a daemon that itself ends at once."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                self._process.kill()
                os.waitpid(self._process.pid, 0)  # the event loop's own watcher may be quicker

    def _lost(self, reason: str, backoff_s: float) -> None:
        kind = "stalled" if self._state == "stalled" else "died" if self.ready is not None else "failed_to_start"
        self.losses += 1
        self.last_loss = reason
        self._state = "restarting"
        self.ready = None
        self._due.clear()
        self._metrics.engine_lost(kind)
        log.error("engine worker lost", extra=fields(reason=reason, backoff_s=backoff_s))
        self._tell.engine_lost(retry_after_s=float(math.ceil(backoff_s + TYPICAL_START_S)))

    async def _one_worker(self) -> str:
        """Spawn a worker and serve it until it is gone; returns why it is gone."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        ours.setblocking(False)
        self._fatal = ""
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "appliance.engine.worker", str(theirs.fileno()),
                pass_fds=(theirs.fileno(),), stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, limit=STDERR_LINE_MAX_BYTES,
            )  # fmt: skip
        except OSError as error:
            ours.close()
            return f"the worker process could not be started: {error}"
        finally:
            theirs.close()
        self._process = process
        echo = asyncio.create_task(_echo(process))
        reader, writer = await asyncio.open_connection(sock=ours)
        self._writer = writer
        watch = asyncio.create_task(self._watch(process))
        stop = asyncio.create_task(self._stop_worker(process))
        try:
            self._send(self._load)
            await self._read(reader)
        finally:
            self._writer = None
            writer.close()
            watch.cancel()
            await _end(process)
            stop.cancel()
            await asyncio.gather(watch, stop, echo, return_exceptions=True)
        return self._fatal or _cause(process.returncode)

    async def _read(self, reader: asyncio.StreamReader) -> None:
        frames = Frames(report_decoder)
        try:
            while data := await reader.read(1 << 16):
                for report in frames.feed(data):
                    self._handle(report)
        except ConnectionError:
            pass  # reads like the end of file that it is
        except ChannelError as error:
            self._fatal = f"the worker sent {error}"

    def _handle(self, report: Report) -> None:
        self._progress_at = time.monotonic()
        match report:
            case Step():
                for finish in report.finished:
                    self._due.discard(finish.id)
                self._metrics.step(report.stats)
                self._tell.step_done(report)
            case Prepared(id=request_id, prompt_tokens=prompt_tokens):
                self._due.discard(request_id)
                self._tell.prompt_prepared(request_id, prompt_tokens)
            case Rejected(id=request_id, message=message):
                self._due.discard(request_id)
                self._tell.request_rejected(request_id, message)
            case Loading(stage=stage):
                self._state = "warming" if stage == "warming" else "loading"
                log.info("engine %s", self._state, extra=fields(pid=self.worker_pid))
            case Ready():
                self._set_ready(report)
            case Fatal(message=message):
                self._fatal = message

    def _set_ready(self, ready: Ready) -> None:
        self.ready = ready
        self._state = "ready"
        self._ever_ready = True
        self._metrics.engine_ready(ready.load_s + ready.warm_up_s, ready.rss_bytes)
        log.info(
            "engine ready",
            extra=fields(pid=self.worker_pid, load_s=round(ready.load_s, 2), warm_up_s=round(ready.warm_up_s, 2)),
        )
        self._tell.engine_ready(
            EngineLimits(
                max_running_requests=ready.max_running_requests,
                kv_blocks=ready.kv_blocks,
                block_tokens=ready.block_tokens,
            )
        )

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        """Kill a worker that does not get ready in time, or owes progress for too long."""
        interval_s = min(1.0, self._supervision.stall_timeout_s / 4, self._supervision.load_timeout_s / 4)
        begun = time.monotonic()
        while True:
            await asyncio.sleep(interval_s)
            now = time.monotonic()
            if self._state != "ready":
                if now - begun > self._supervision.load_timeout_s:
                    self._fatal = f"not ready within {self._supervision.load_timeout_s:g} s (engine.load_timeout_s)"
                    break
            elif self._due and now - self._progress_at > self._supervision.stall_timeout_s:
                self._state = "stalled"
                self._fatal = f"no progress for {self._supervision.stall_timeout_s:g} s (engine.stall_timeout_s)"
                break
        with contextlib.suppress(ProcessLookupError):
            process.kill()

    async def _stop_worker(self, process: asyncio.subprocess.Process) -> None:
        """Once `stop` is asked for: politely, then not."""
        await self._stopping.wait()
        self._send(Stop())
        try:
            await asyncio.wait_for(process.wait(), STOP_TIMEOUT_S)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()

    def _expect(self, request_id: int) -> None:
        if not self._due:
            self._progress_at = time.monotonic()
        self._due.add(request_id)

    def _send(self, command: Command) -> None:
        if self._writer is not None:
            self._writer.write(frame(command))


async def _echo(process: asyncio.subprocess.Process) -> None:
    """Log what the worker and native code print, line by line."""
    stream = process.stdout
    if stream is None:  # pragma: no cover # it is always a pipe
        return
    while True:
        try:
            line = await stream.readline()
        except ValueError:
            continue  # longer than STDERR_LINE_MAX_BYTES: dropped, the buffer is empty again
        if not line:
            return
        worker_log.warning("worker: %s", line.decode(errors="replace").rstrip(), extra=fields(pid=process.pid))


async def _end(process: asyncio.subprocess.Process) -> None:
    """Wait for a worker whose channel has ended; kill it where it lingers."""
    try:
        await asyncio.wait_for(process.wait(), STOP_TIMEOUT_S)
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def _cause(returncode: int | None) -> str:
    """In words, why a process ended."""
    if returncode is not None and returncode < 0:
        try:
            name = signal.Signals(-returncode).name
        except ValueError:
            name = f"signal {-returncode}"
        return f"the worker was ended by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
    return f"the worker ended with exit status {returncode}"
