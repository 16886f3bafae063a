"""What is measured, behind one face: the daemon, the bare pipeline, llama.cpp's server. Knows no cell and no target."""

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from pathlib import Path
from typing import Literal, Protocol, TypeVar

import aiohttp
import msgspec
import psutil

from appliance.bench.host import ISA_CAP_VARIABLE
from appliance.bench.load import run_level
from appliance.bench.samples import Level, Sample, summarize
from appliance.bench.target import Ending, TargetError
from appliance.bench.workload import Workload
from appliance.client import Client, ClientError, RequestFailed, connect
from appliance.client.answer import Event
from appliance.config import Settings
from appliance.config import load as load_settings
from appliance.protocol.websocket import Delta, Done
from appliance.types import Message
from benchmarks.bare_loop import Order, Ready
from benchmarks.errors import BenchmarkError
from benchmarks.llama_server import LlamaTarget
from benchmarks.processes import Child, Meter, Use, free_port, serving, stop, tied

ROOT = Path(__file__).parents[1]
ISA_CAP = "AVX2_VNNI"
READY_TIMEOUT_S = 180.0
LEVEL_TIMEOUT_S = 900.0
DEADLINE_S = 600.0  # the longest that a request may name by default: on a slow machine too nothing is cut short
REST_TIMEOUT_S = 60.0
REST_S = 0.2
RESTING_CORES = 0.1
REPLY_MAX_BYTES = 1 << 26

T = TypeVar("T")


class Contender(Protocol):
    """Something that answers a workload."""

    name: str

    async def measure(self, workload: Workload, concurrency: int, requests: int) -> tuple[Level, list[Sample]]:
        """Each of `concurrency` clients makes `requests` requests in a closed loop. Raises BenchmarkError."""


class Appliance:
    """What a daemon or a bare loop is started with: one model, and the settings of this environment."""

    def __init__(self, store: Path, model: str, scratch: Path, changes: Mapping[str, object] | None = None) -> None:
        """`changes`: settings by `section.key`; the rest is the environment's, and no settings file counts."""
        self.model = model
        self.config = scratch / "settings.toml"
        self.config.write_text("")
        own = {"models.directory": store, "engine.precision": "f32", **(changes or {})}
        self.environment = dict(os.environ) | {
            f"APPLIANCE__{name.replace('.', '__').upper()}": str(value) for name, value in own.items()
        }
        # As an N100 computes, on whatever x86 this is; without f32 a CPU with AMX then refuses to compile.
        self.isa_cap = ISA_CAP
        self.environment[ISA_CAP_VARIABLE] = self.isa_cap

    @property
    def settings(self) -> Settings:
        """What the daemon makes of it. Raises ConfigError."""
        return load_settings(self.config, environ=self.environment).settings


# ---- the daemon --------------------------------------------------------------------------------------------


class DaemonTarget:
    """One client of the daemon, over a WebSocket of its own: greedy, without a penalty, as the rivals are asked."""

    name = "daemon"

    def __init__(self, client: Client) -> None:
        self.ending: Ending | None = None
        self._client = client

    async def ask(self, messages: list[Message], *, max_tokens: int, seed: int) -> AsyncGenerator[int, None]:
        """See Target. The protocol tells of text, and of tokens at the end."""
        self.ending = None
        text: list[str] = []
        try:
            async with self._client.stream(
                messages,
                max_tokens=max_tokens,
                temperature=0,
                repetition_penalty=1,
                seed=seed,
                deadline_s=DEADLINE_S,
            ) as answer:
                async for event in answer.events():
                    if isinstance(event, Delta):
                        text.append(event.text)
                        yield 1
                    self.ending = _ending(event, text) or self.ending
        except RequestFailed as error:
            raise TargetError(error.code, error.message, retry_after_s=error.retry_after_s) from error
        except ClientError as error:
            raise TargetError("connection", str(error)) from error


def _ending(event: Event, text: list[str]) -> Ending | None:
    if not isinstance(event, Done):
        return None
    if event.finish_reason not in ("stop", "length"):
        raise TargetError(event.finish_reason, "the daemon ended an answer early")
    outcome: Literal["stop", "length"] = "stop" if event.finish_reason == "stop" else "length"
    usage = event.usage
    return Ending(
        outcome=outcome, tokens=usage.completion_tokens, prompt_tokens=usage.prompt_tokens, text="".join(text)
    )


class Daemon:
    """A running `appliance serve`."""

    name = "daemon"

    def __init__(self, child: Child, log: Path) -> None:
        self.url = child.url
        self.front: Use | None = None
        """What the front process took for the last level."""
        self.resident_bytes: dict[str, int] = {}
        """Of the `front` process and of the engine `worker` (both, while one replaces the other) at its end."""
        self._pid = child.pid
        self._log = log

    async def measure(self, workload: Workload, concurrency: int, requests: int) -> tuple[Level, list[Sample]]:
        """See Contender; a socket for each client, open before the first question. The daemon rests afterwards."""
        async with contextlib.AsyncExitStack() as stack:
            targets = [DaemonTarget(await stack.enter_async_context(connect(self.url))) for _ in range(concurrency)]
            meter = Meter(self._pid)
            measured = await run_level(
                targets.__getitem__, workload, concurrency, requests=requests, duration_s=None, warm_up=0
            )
            self.front = meter.read()
            self.resident_bytes = self._resident_bytes()  # now: a worker that grew may be replaced when it rests
        await self._rest()
        return measured

    def _resident_bytes(self) -> dict[str, int]:
        try:
            front = psutil.Process(self._pid)
            workers = [int(child.memory_info().rss) for child in front.children()]
            return {"front": int(front.memory_info().rss), "worker": sum(workers)}
        except psutil.NoSuchProcess as error:
            raise BenchmarkError(f"process {error.pid} of the daemon is gone; its log: {self._log}") from None

    async def _rest(self) -> None:
        """Wait until the daemon rests: a worker that is loaded beside the other must not slow whoever comes next.

        Raises BenchmarkError where it does not within REST_TIMEOUT_S.
        """
        end = time.monotonic() + REST_TIMEOUT_S
        while time.monotonic() < end:
            before = self._cpu_s()
            await asyncio.sleep(REST_S)
            after = self._cpu_s()
            if len(after) == 2 and before.keys() == after.keys():
                busy_s = sum(after.values()) - sum(before.values())
                if busy_s < RESTING_CORES * REST_S:
                    return
        raise BenchmarkError(f"the daemon did not come to rest within {REST_TIMEOUT_S:.0f} s; its log: {self._log}")

    def _cpu_s(self) -> dict[int, float]:
        """Seconds that the daemon's processes have computed so far, by process id."""
        try:
            front = psutil.Process(self._pid)
            times = {process.pid: process.cpu_times() for process in (front, *front.children())}
        except psutil.NoSuchProcess:
            return {}
        return {pid: float(one.user + one.system) for pid, one in times.items()}


@contextlib.asynccontextmanager
async def open_daemon(appliance: Appliance, log: Path) -> AsyncIterator[Daemon]:
    """`appliance serve`, ready, for as long as the block lasts. Raises BenchmarkError."""
    port = free_port()
    command: list[str | Path] = [sys.executable, "-P", "-m", "appliance", "serve", "--config", appliance.config]
    async with serving(
        [*command, "--model", appliance.model, "--host", "127.0.0.1", "--port", str(port)],
        port=port,
        health_path="/readyz",
        environment=appliance.environment,
        log=log,
        timeout_s=READY_TIMEOUT_S,
    ) as child:
        yield Daemon(child, log)


# ---- the bare loop -----------------------------------------------------------------------------------------


class BareLoop:
    """The process of bare_loop.py."""

    name = "bare loop"

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self._process = process
        self._log = log

    async def wait_until_ready(self) -> None:
        """Raises BenchmarkError where it ends first, or takes too long."""
        await self._reply(Ready, READY_TIMEOUT_S)

    async def measure(self, workload: Workload, concurrency: int, requests: int) -> tuple[Level, list[Sample]]:
        """See Contender."""
        if self._process.stdin is None:
            raise BenchmarkError("the bare loop was started without a pipe")
        order = Order(workload=workload, concurrency=concurrency, requests=requests)
        try:
            self._process.stdin.write(msgspec.json.encode(order) + b"\n")
            await self._process.stdin.drain()
        except ConnectionError:
            raise BenchmarkError(f"the bare loop is gone; its log: {self._log}") from None
        samples = await self._reply(list[Sample], LEVEL_TIMEOUT_S)
        return summarize(self.name, workload.kind, concurrency, samples), samples

    async def _reply(self, kind: type[T], timeout_s: float) -> T:
        if self._process.stdout is None:
            raise BenchmarkError("the bare loop was started without a pipe")
        try:
            async with asyncio.timeout(timeout_s):
                line = await self._process.stdout.readline()
        except TimeoutError:
            raise BenchmarkError(f"no word of the bare loop for {timeout_s:.0f} s; its log: {self._log}") from None
        if not line:
            raise BenchmarkError(f"the bare loop has ended; its log: {self._log}")
        return msgspec.json.decode(line, type=kind)


@contextlib.asynccontextmanager
async def open_bare_loop(appliance: Appliance, log: Path) -> AsyncIterator[BareLoop]:
    """The bare pipeline, warm, for as long as the block lasts. Raises BenchmarkError."""
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            *tied([sys.executable, "-m", "benchmarks.bare_loop", appliance.config, appliance.model]),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            cwd=ROOT,
            env=appliance.environment,
            start_new_session=True,
            limit=REPLY_MAX_BYTES,
        )
    try:
        bare = BareLoop(process, log)
        await bare.wait_until_ready()
        yield bare
    finally:
        await stop(process)


# ---- llama.cpp ---------------------------------------------------------------------------------------------


class Llama:
    """A running llama-server, whose slots are as many as it will have clients."""

    def __init__(self, name: str, child: Child) -> None:
        self.name = name
        self._url = child.url

    async def measure(self, workload: Workload, concurrency: int, requests: int) -> tuple[Level, list[Sample]]:
        """See Contender."""
        timeout = aiohttp.ClientTimeout(total=None)
        # A connection for each request, well below a millisecond: the server closes them after a stream.
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
            targets = [LlamaTarget(self.name, self._url, session) for _ in range(concurrency)]
            return await run_level(
                targets.__getitem__, workload, concurrency, requests=requests, duration_s=None, warm_up=0
            )
