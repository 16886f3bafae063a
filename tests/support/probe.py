"""Tries what a service must not be able to do, and prints what came of each as JSON. Run by the hosts' own Python.

Each attempt is a name and an argument; the answer is "" where it worked, else the name of the error.
"""

import ctypes
import errno
import importlib
import json
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

TIMEOUT_S = 3.0  # of a packet that nobody answers
ACCEPT_TIMEOUT_S = 30.0
MSG_FASTOPEN = 0x20000000
CLONE_NEWUSER = 0x10000000
SYS_IO_URING_SETUP = 425  # on all architectures


def write(path: str) -> None:
    """Make a file and leave it there."""
    with Path(path, "probe").open("x") as file:
        file.write("probe")


def read(path: str) -> None:
    """Read a file, or list a directory."""
    if Path(path).is_dir():
        next(Path(path).iterdir(), None)
    else:
        Path(path).read_bytes()


def run(command: str) -> str:
    """What a program prints."""
    return subprocess.run(command.split(), capture_output=True, check=True, text=True).stdout.strip()


def status(name: str) -> str:
    """A line of this process's /proc/self/status."""
    lines = (line.partition(":") for line in Path("/proc/self/status").read_text().splitlines())
    return next(value.strip() for found, _, value in lines if found == name)


def become_root(_: str) -> None:
    """setuid(0)."""
    os.setuid(0)


def make_set_uid(path: str) -> None:
    """A set-user-ID program of its own."""
    program = Path(path, "set-uid")
    program.touch()
    program.chmod(0o4755)
    program.unlink()


def user_namespace(_: str) -> None:
    """unshare(CLONE_NEWUSER), in a child."""
    _in_child(lambda: _call("unshare", CLONE_NEWUSER))


def io_uring(_: str) -> None:
    """io_uring_setup: with no parameters it fails with EFAULT where it is allowed at all."""
    _call("syscall", SYS_IO_URING_SETUP, 1, 0)


def processes(_: str) -> str:
    """Users whose processes are to be seen."""
    seen = {entry.stat().st_uid for entry in Path("/proc").iterdir() if entry.name.isdecimal()}
    return " ".join(map(str, sorted(seen)))


def families(_: str) -> str:
    """Kinds of sockets that can be made, of some that a service does not need."""
    wanted = {"netlink": (socket.AF_NETLINK, socket.SOCK_RAW), "packet": (socket.AF_PACKET, socket.SOCK_DGRAM)}
    wanted |= {"vsock": (socket.AF_VSOCK, socket.SOCK_STREAM), "inet": (socket.AF_INET, socket.SOCK_STREAM)}
    made = []
    for name, kind in wanted.items():
        try:
            socket.socket(*kind).close()
        except OSError:
            continue
        made.append(name)
    return " ".join(made)


def connect(target: str) -> None:
    """Open a TCP connection."""
    socket.create_connection(_address(target), TIMEOUT_S).close()


def connect_from(route: str) -> None:
    """Open a TCP connection from one of several own addresses: SOURCE>HOST:PORT."""
    source, _, target = route.partition(">")
    socket.create_connection(_address(target), TIMEOUT_S, source_address=(source, 0)).close()


def connect_fast(target: str) -> None:
    """Open a TCP connection without connect(): with data in its first packet."""
    with socket.socket() as attempt:
        for limit in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
            attempt.setsockopt(socket.SOL_SOCKET, limit, struct.pack("ll", int(TIMEOUT_S), 0))
        attempt.sendto(b"probe", MSG_FASTOPEN, _address(target))


def connect_unix(path: str) -> None:
    """Connect to a Unix socket."""
    with socket.socket(socket.AF_UNIX) as attempt:
        attempt.connect(path)


def send(target: str) -> None:
    """Send a datagram."""
    with socket.socket(type=socket.SOCK_DGRAM) as attempt:
        attempt.sendto(b"probe", _address(target))


def journal(size: str) -> None:
    """Send a message of that many characters to the journal, with a field."""
    library: Any = importlib.import_module("systemd.journal")
    library.send("x" * int(size), PROBE_CHARS=size)


def notify(status: str) -> None:
    """Tell the service manager."""
    library: Any = importlib.import_module("systemd.daemon")
    if not library.notify(f"STATUS={status}"):
        raise OSError(errno.ENOENT, "nobody listens")


def accept(target: str) -> str:
    """Accept one connection, on HOST:PORT or on the socket that systemd handed over; say from where."""
    with socket.create_server(_address(target)) if target else socket.socket(fileno=3) as server:
        server.settimeout(ACCEPT_TIMEOUT_S)
        Path("/run/appliance/accepting").touch()
        connection, peer = server.accept()
        connection.close()
        return str(peer[0]).removeprefix("::ffff:")


def _address(target: str) -> tuple[str, int]:
    host, _, port = target.rpartition(":")
    return host, int(port)


def _call(name: str, *arguments: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc[name](*arguments) == -1:
        raise OSError(ctypes.get_errno(), name)


def _in_child(attempt: Callable[[], None]) -> None:
    child = os.fork()
    if child == 0:
        status = 0
        try:
            attempt()
        except OSError as error:
            status = error.errno or 255
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    if number := os.waitstatus_to_exitcode(status):
        raise OSError(number, "in the child")


def _outcome(name: str, argument: str) -> str:
    try:
        return globals()[name](argument) or ""
    except TimeoutError:
        return "timeout"
    except subprocess.CalledProcessError as error:
        return f"exit {error.returncode}"
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))


if __name__ == "__main__":
    attempts = [attempt.partition("=") for attempt in sys.argv[1:]]
    print(json.dumps({f"{name}={argument}": _outcome(name, argument) for name, _, argument in attempts}))
