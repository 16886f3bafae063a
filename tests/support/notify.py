"""A service manager's end of NOTIFY_SOCKET: what a daemon tells, message by message."""

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

WAIT_S = 30.0

Told = dict[str, str]


class Manager:
    """Collects what comes."""

    def __init__(self, path: Path, listener: socket.socket) -> None:
        self.path = path
        self.told: list[Told] = []
        self._listener = listener

    def read(self, timeout_s: float = 0.0) -> Told | None:
        """The next message within `timeout_s`; None where there is none."""
        self._listener.settimeout(timeout_s)
        try:
            text = self._listener.recv(1 << 16).decode()
        except (TimeoutError, BlockingIOError):
            return None
        told = dict(line.split("=", 1) for line in text.splitlines())
        self.told.append(told)
        return told

    def wait_for(self, wanted: Callable[[Told], object], timeout_s: float = WAIT_S) -> Told:
        """The next message that is `wanted`."""
        end = time.monotonic() + timeout_s
        while (left_s := end - time.monotonic()) > 0:
            told = self.read(left_s)
            if told is not None and wanted(told):
                return told
        raise AssertionError(f"not told; but {self.told}")

    def status(self, *words: str) -> str:
        """The next status with all of `words` in it."""
        return self.wait_for(lambda told: all(word in told.get("STATUS", "") for word in words))["STATUS"]

    def drain(self) -> list[Told]:
        """All that has come by now."""
        seen = []
        while (told := self.read()) is not None:
            seen.append(told)
        return seen


@contextlib.contextmanager
def service_manager(directory: Path) -> Iterator[Manager]:
    """One that listens in `directory`."""
    path = directory / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(path))
        yield Manager(path, listener)
