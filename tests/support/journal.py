"""A stand-in for journald: a datagram socket that is read, and entries as they came."""

import contextlib
import os
import socket
import time
from pathlib import Path

WAIT_S = 30.0


def parse(data: bytes) -> dict[str, str]:
    """The fields of one entry of the native protocol; a name that comes twice is a failure."""
    found: dict[str, str] = {}
    while data:
        line, _, data = data.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            size = int.from_bytes(data[:8], "little")
            value, rest = data[8 : 8 + size], data[8 + size :]
            assert rest[:1] == b"\n"
            data = rest[1:]
        assert name.decode() not in found, f"{name!r} twice"
        found[name.decode()] = value.decode()
    return found


class Journal:
    """Reads what is sent to the socket at `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: list[dict[str, str]] = []
        """All that were read."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(os.fspath(path))

    def wait_for(self, message: str, timeout_s: float = WAIT_S) -> dict[str, str]:
        """The first entry not read before whose message begins so."""
        end = time.monotonic() + timeout_s
        while True:
            self._socket.settimeout(max(0.01, end - time.monotonic()))
            try:
                self.entries.append(parse(self._socket.recv(1 << 20)))
            except TimeoutError:
                raise AssertionError(f"no {message!r} in {self.entries}") from None
            if self.entries[-1]["MESSAGE"].startswith(message):
                return self.entries[-1]

    def read_rest(self) -> None:
        """Take in what waits to be read."""
        self._socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                self.entries.append(parse(self._socket.recv(1 << 20)))

    def close(self) -> None:
        """Nobody listens any more."""
        self._socket.close()
        self.path.unlink()
