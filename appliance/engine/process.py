"""One worker process seen from the front: its channel, its output, its end. Knows frames; decides nothing."""

import asyncio
import contextlib
import signal
import socket
import sys

from appliance.engine.ipc import Command, Frames, Report, frame, report_decoder
from appliance.engine.worker_output import WorkerOutput
from appliance.observability.notify import child_environment

END_TIMEOUT_S = 5.0  # a worker in a long step ends after it; one that is wedged never does
READ_BYTES = 1 << 16
MAYBE_OUT_OF_MEMORY = " (out of memory?)"  # SIGKILL, which the kernel sends then, and others send too


class WorkerProcess:
    """A running worker; made by `open_worker`, over when `end` has returned."""

    def __init__(
        self, process: asyncio.subprocess.Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self._frames = Frames(report_decoder)
        self._output = WorkerOutput(process.pid)
        self._echo = asyncio.create_task(self._log_output())

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def send(self, command: Command) -> None:
        """Write one command; nothing where the worker is gone. The dispatcher bounds what can be under way."""
        if not self._writer.is_closing():
            self._writer.write(frame(command))

    async def receive(self) -> list[Report]:
        """The next reports, at least one; none at the end of the channel. Raises ChannelError."""
        try:
            while data := await self._reader.read(READ_BYTES):
                if reports := list(self._frames.feed(data)):
                    return reports
        except ConnectionError:
            pass  # reads like the end of file that it is
        return []

    def kill(self) -> None:
        """End it at once; nothing where it has ended."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def wait(self) -> None:
        """Return when it has ended by itself, or was killed after END_TIMEOUT_S."""
        try:
            await asyncio.wait_for(self._process.wait(), END_TIMEOUT_S)
        except TimeoutError:
            self.kill()
            await self._process.wait()

    async def end(self) -> str:
        """Close the channel, which ends a healthy worker, and see it gone; returns in words why it ended."""
        self._writer.close()
        await self.wait()
        await asyncio.gather(self._echo, return_exceptions=True)
        last_words = self._output.last_words
        return _cause(self._process.returncode) + (f" after {last_words!r}" if last_words else "")

    async def _log_output(self) -> None:
        """Log what the worker and native code print, line by line."""
        stream = self._process.stdout
        if stream is None:
            raise RuntimeError("the worker was spawned without a pipe for its output")
        try:
            while data := await stream.read(READ_BYTES):
                self._output.feed(data)
        finally:
            self._output.close()


async def open_worker() -> WorkerProcess:
    """Spawn a worker. Raises OSError."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        ours.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=ours)
        try:
            process = await asyncio.create_subprocess_exec(
                # -P: what lies in the directory that the daemon was started in is not to be imported.
                sys.executable, "-P", "-m", "appliance.engine.worker", str(theirs.fileno()),
                pass_fds=(theirs.fileno(),), stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
                env=child_environment(),
            )  # fmt: skip
        except BaseException:
            writer.close()
            raise
    finally:
        theirs.close()
    return WorkerProcess(process, reader, writer)


def _cause(returncode: int | None) -> str:
    """In words, why a process ended."""
    if returncode is not None and returncode < 0:
        try:
            name = signal.Signals(-returncode).name
        except ValueError:
            name = f"signal {-returncode}"
        return f"the worker was ended by {name}" + (MAYBE_OUT_OF_MEMORY if name == "SIGKILL" else "")
    return f"the worker ended with exit status {returncode}"
