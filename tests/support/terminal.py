"""Commands on a pseudo-terminal, and the person in front of it: what is shown, what is pressed. Knows no command."""

import asyncio
import contextlib
import os
import subprocess
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

WAIT_S = 20.0  # a bound for a test that fails
CTRL_C, CTRL_D, CTRL_P = "\x03", "\x04", "\x10"
T = TypeVar("T")


class Terminal:
    """The person's side of a pseudo-terminal."""

    def __init__(self, master: int, process: Process) -> None:
        self._master = master
        self._process = process
        self._unread = ""
        self._news = asyncio.Event()
        asyncio.get_running_loop().add_reader(master, self._read)

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self._master, text.encode())

    async def expect(self, text: str) -> str:
        """What was shown up to and with `text`, since the last time."""
        try:
            async with asyncio.timeout(WAIT_S):
                await self.shown(text)
        except TimeoutError:
            raise AssertionError(f"{text!r} was not shown; this was: {self._unread!r}") from None
        return self._take(text)

    async def shown(self, text: str) -> None:
        """Return when `text` is among what was shown and not yet expected."""
        while text not in self._unread:
            self._news.clear()
            await self._news.wait()

    def _take(self, text: str) -> str:
        end = self._unread.index(text) + len(text)
        shown, self._unread = self._unread[:end], self._unread[end:]
        return shown

    async def press_ctrl_c_until(self, waiting: Callable[[], Awaitable[T]]) -> T:
        """Press Ctrl-C at the prompt, and again where it went unnoticed.

        CPython's input() misses a signal that comes between its showing of the prompt and its sleep, a matter of
        microseconds, and notices the next one. A person presses again, and never is as quick as a test.
        """
        while True:
            self.type(CTRL_C)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    return await waiting()

    async def ended(self) -> int:
        """The exit status."""
        async with asyncio.timeout(WAIT_S):
            return await self._process.wait()

    async def close(self) -> None:
        """End what still runs."""
        asyncio.get_running_loop().remove_reader(self._master)
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
        os.close(self._master)

    def _read(self) -> None:
        try:
            data = os.read(self._master, 4096)
        except OSError:  # the other side is closed
            data = b""
        if not data:
            asyncio.get_running_loop().remove_reader(self._master)
        self._unread += data.decode("utf-8", "replace")
        self._news.set()


@contextlib.asynccontextmanager
async def on_a_terminal(command: Sequence[str], environment: Mapping[str, str]) -> AsyncIterator[Terminal]:
    """`command` on a terminal of its own, where Ctrl-C is a signal; ended on leaving."""
    master, slave = os.openpty()
    process = await asyncio.create_subprocess_exec(
        *command, env=environment, preexec_fn=lambda: os.login_tty(slave), close_fds=False
    )
    os.close(slave)
    terminal = Terminal(master, process)
    try:
        yield terminal
    finally:
        await terminal.close()


def shown_on_a_terminal(command: Sequence[str], environment: Mapping[str, str]) -> tuple[int, bytes]:
    """Exit status of `command`, and what it wrote to standard output, which is a terminal."""
    master, slave = os.openpty()
    with os.fdopen(master, "rb", buffering=0) as screen:
        process = subprocess.Popen(command, env=environment, stdout=slave)
        os.close(slave)
        shown = b""
        try:
            while piece := screen.read(4096):
                shown += piece
        except OSError:
            pass  # the terminal's other side is closed
        return process.wait(timeout=60), shown
