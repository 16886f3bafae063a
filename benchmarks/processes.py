"""Child processes: started on a free port, waited for until healthy, stopped and waited for. Knows no contender."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import aiohttp
import psutil
from msgspec import Struct

from benchmarks.errors import BenchmarkError

TIED = Path(__file__).with_name("tied.py")
STOP_TIMEOUT_S = 30.0
POLL_S = 0.05
LOG_TAIL_LINES = 20


def tied(command: Sequence[str | Path]) -> list[str]:
    """`command`, made to end with this process however that one ends."""
    return [sys.executable, "-P", str(TIED), *map(str, command)]


def free_port() -> int:
    """A TCP port of the loopback that nobody listens on now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


class Child(Struct, frozen=True):
    """A process of ours that serves HTTP."""

    pid: int
    url: str


class Use(Struct, frozen=True, kw_only=True):
    """What one process took, over a measurement."""

    cpu_cores: float
    """Mean cores kept busy: 0.05 is 5 % of one."""
    rss_bytes: int
    """Resident at its end."""


class Meter:
    """What a process takes from now on."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._began_s = time.perf_counter()
        self._cpu_s = self._cpu()

    def read(self) -> Use:
        """CPU since this was made, memory now. Raises psutil.NoSuchProcess."""
        passed_s = time.perf_counter() - self._began_s
        return Use(
            cpu_cores=(self._cpu() - self._cpu_s) / passed_s,
            rss_bytes=int(self._process.memory_info().rss),
        )

    def _cpu(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)


@contextlib.asynccontextmanager
async def serving(
    command: Sequence[str | Path],
    *,
    port: int,
    health_path: str,
    environment: Mapping[str, str],
    log: Path,
    timeout_s: float,
) -> AsyncIterator[Child]:
    """Run `command`, which listens on `port` of the loopback, for as long as the block lasts.

    The block begins when a GET of `health_path` is answered 200, at the latest after `timeout_s`; at its end the
    process gets SIGTERM, after STOP_TIMEOUT_S SIGKILL, and is waited for. Its output goes to `log`.

    Raises BenchmarkError, with the end of the log, where it ends before it is healthy or takes too long.
    """
    url = f"http://127.0.0.1:{port}"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *tied(command),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=dict(environment),
            start_new_session=True,  # a Ctrl-C is for us, who then stop it
        )
    try:
        await _wait_until_healthy(process, url + health_path, Path(command[0]).name, log, timeout_s)
        yield Child(process.pid, url)
    finally:
        await stop(process)


async def stop(process: asyncio.subprocess.Process) -> None:
    """SIGTERM, after STOP_TIMEOUT_S SIGKILL to its whole session; returns when it has been waited for."""
    try:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await process.wait()
    finally:  # also where this wait is cancelled
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


async def _wait_until_healthy(
    process: asyncio.subprocess.Process, url: str, name: str, log: Path, timeout_s: float
) -> None:
    end = time.monotonic() + timeout_s
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
        while not await _is_healthy(session, url):
            if process.returncode is not None:
                raise BenchmarkError(f"{name} ended with status {process.returncode}; {_tail(log)}")
            if time.monotonic() > end:
                raise BenchmarkError(f"{name} was not ready after {timeout_s:.0f} s; {_tail(log)}")
            await asyncio.sleep(POLL_S)


async def _is_healthy(session: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with session.get(url) as response:
            return response.status == 200
    except (OSError, aiohttp.ClientError, TimeoutError):
        return False


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
    return f"the end of its log, {log}:\n" + "\n".join(lines)
