"""The daemon as a process of its own, as an operator starts it."""

import asyncio
import contextlib
import functools
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

WAIT_S = 30.0
COMMAND_MAX_S = 60.0
ACTIVATE = Path(__file__).with_name("activate.py")


class Served:
    """A running `appliance serve` and its log."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self.process = process
        self.log: list[dict[str, Any]] = []
        self.plain: list[str] = []
        self._rest = b""
        assert process.stderr is not None
        os.set_blocking(process.stderr.fileno(), False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(process.stderr, selectors.EVENT_READ)

    def wait_for(self, event: str, timeout_s: float = WAIT_S) -> dict[str, Any]:
        """The first log line of that event which has not been waited for before."""
        end = time.monotonic() + timeout_s
        while True:
            for entry in self.log:
                if entry["event"] == event and "seen" not in entry:
                    entry["seen"] = True
                    return entry
            assert self._read(end), f"no {event!r} in {self.log} {self.plain}"

    def wait_for_plain(self, beginning: str, timeout_s: float = WAIT_S) -> str:
        """The first line that is no JSON and begins so."""
        end = time.monotonic() + timeout_s
        while True:
            found = next((line for line in self.plain if line.startswith(beginning)), None)
            if found is not None:
                return found
            assert self._read(end), f"no {beginning!r} in {self.plain}"

    def _read(self, end: float) -> bool:
        """Take in what has come; False at the end of the stream, or of the time."""
        if not self._selector.select(max(0.0, end - time.monotonic())):
            return False
        assert self.process.stderr is not None
        data = self.process.stderr.read()
        *lines, self._rest = (self._rest + (data or b"")).split(b"\n")
        for line in lines:
            if line.startswith(b"{"):
                self.log.append(json.loads(line))
            else:
                self.plain.append(line.decode())
        return bool(data)

    def end(self, timeout_s: float = WAIT_S) -> int:
        """Wait for the process to end; its exit status."""
        end = time.monotonic() + timeout_s
        while self._read(end):
            pass
        return self.process.wait(max(0.1, end - time.monotonic()))

    @functools.cached_property
    def url(self) -> str:
        """Base URL, from the log."""
        url: str = self.wait_for("listening")["url"]
        return url

    def worker_pid(self) -> int:
        """Process id of the engine worker that got ready."""
        pid: int = self.wait_for("engine ready")["worker_pid"]
        return pid


def environment(home: Path, **settings: object) -> dict[str, str]:
    """An environment with an empty home, and settings as SECTION__KEY."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("APPLIANCE__", "XDG_"))}
    kept.pop("PYTHONUNBUFFERED", None)  # operators have it not, and it hides what goes wrong at the last flush
    runtime = home / "run"
    runtime.mkdir(0o700, exist_ok=True)
    own = {f"APPLIANCE__{name.upper()}": str(value) for name, value in settings.items()}
    return kept | {"HOME": str(home), "XDG_RUNTIME_DIR": str(runtime)} | own


def run(home: Path, *arguments: str, **settings: object) -> "subprocess.CompletedProcess[str]":
    """A command of the appliance, run to its end in such an environment."""
    command = [sys.executable, "-m", "appliance", *arguments]
    return subprocess.run(
        command, env=environment(home, **settings), capture_output=True, text=True, timeout=COMMAND_MAX_S
    )


async def run_beside(command: Sequence[str], variables: Mapping[str, str]) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of a command for which this process has something to do."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=variables
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), COMMAND_MAX_S)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


@contextlib.contextmanager
def serving(
    home: Path, *arguments: str, before: Sequence[str] = (), sockets: Sequence[socket.socket] = (), **settings: object
) -> Iterator[Served]:
    """`appliance serve`, started in `home`, on a free port, logging JSON; killed on leaving where it still runs.

    `before`: a command to start it with, such as prlimit. `sockets`: handed over as systemd does it.
    """
    handed = [listener.fileno() for listener in sockets]
    if handed:
        before = [sys.executable, str(ACTIVATE), ",".join(map(str, handed)), *before]
    command = [*before, sys.executable, "-P", "-m", "appliance", "serve", "--port", "0", *arguments]
    with subprocess.Popen(
        command, cwd=home, env=environment(home, **settings), stderr=subprocess.PIPE,
        start_new_session=True, pass_fds=handed,
    ) as process:  # fmt: skip
        try:
            yield Served(process)
        finally:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            process.wait(WAIT_S)
