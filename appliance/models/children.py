"""Child processes that are read line by line and never outlive their block. Knows nothing of what they do."""

import asyncio
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import IO, Any, TypeVar, cast

from appliance.engine.orphan import PARENT_PID

TICK_S = 0.2  # how late a deadline is noticed
CLOSING_S = 10.0  # between the end of the output and that of the process
TAIL_LINES = 20

Result = TypeVar("Result")


class Child:
    """A running child whose output (both streams) is read as lines."""

    def __init__(self, process: "subprocess.Popen[bytes]", output: IO[bytes]) -> None:
        self._process = process
        self._output = output
        self._began = time.monotonic()

    @property
    def age_s(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._began

    def lines(self) -> Iterator[str | None]:
        """Each line as it comes, and None whenever a tick passed without one; ends with the child's output."""
        pipe = self._output.fileno()
        pending = b""
        while True:
            if not select.select([pipe], [], [], TICK_S)[0]:
                yield None
                continue
            data = os.read(pipe, 65_536)
            if not data:
                break
            *complete, pending = (pending + data).split(b"\n")
            for line in complete:
                yield line.decode("utf-8", "replace").rstrip("\r")
        if pending:
            yield pending.decode("utf-8", "replace")

    def wait(self) -> int:
        """The exit status, negative for a signal. Call it when `lines` has ended."""
        try:
            return self._process.wait(CLOSING_S)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            return self._process.wait()


@contextmanager
def open_child(arguments: Sequence[str], environ: Mapping[str, str]) -> Iterator[Child]:
    """Start `sys.executable` with `arguments`, without a shell, in a process group of its own.

    Leaving the block kills the group, if anything of it is left, and waits for the child.
    """
    process: subprocess.Popen[bytes] | None = None
    try:
        with _signals_held():
            process = subprocess.Popen(  # noqa: S603 # an argument list; what comes from a catalog has been checked
                [sys.executable, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={**environ, PARENT_PID: str(os.getpid())},
                start_new_session=True,
            )
        yield Child(process, cast("IO[bytes]", process.stdout))
    finally:
        if process is not None:
            _end(process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Kill what is left of the child's process group; wait for the child."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


@contextmanager
def _signals_held() -> Iterator[None]:
    """A signal that would raise an exception does so after the block: one inside Popen would leave a child that
    nobody knows of. Does nothing off the main thread, where no signal is handled.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    held = [number for number, handler in before.items() if callable(handler)]
    for number in held:
        signal.signal(number, lambda number, _: came.append(number))
    try:
        yield
    finally:
        for number in held:
            signal.signal(number, before[number])
        if came:
            signal.raise_signal(came[0])


def describe_status(status: int) -> str:
    """An exit status in words: "exit status 2", "ended by SIGKILL"."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"ended by signal {-status}"


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP came: what is open is closed, as with Ctrl-C."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@contextmanager
def terminated_as_exception() -> Iterator[None]:
    """While the block runs, SIGTERM and SIGHUP raise Terminated in the main thread, so that no child is left."""

    def terminate(number: int, _: object) -> None:
        raise Terminated(number)

    before: list[tuple[int, Callable[..., object] | int | None]] = [
        (number, signal.signal(number, terminate)) for number in (signal.SIGTERM, signal.SIGHUP)
    ]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)


def run_until_terminated(work: Coroutine[Any, Any, Result]) -> Result:
    """As asyncio.run; SIGTERM and SIGHUP cancel `work` as Ctrl-C does, and raise Terminated when it has ended.

    What terminated_as_exception raises would tear whatever the event loop does then: one that was starting a child
    waited for ever for it.
    """
    came: list[int] = []

    async def watched() -> Result:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()

        def stop(number: int) -> None:
            came.append(number)
            if task is not None:
                task.cancel()

        for number in before:
            loop.add_signal_handler(number, stop, number)
        return await work

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        return asyncio.run(watched())
    except asyncio.CancelledError:
        if came:
            raise Terminated(came[0]) from None
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
