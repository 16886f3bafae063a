"""The control socket itself: one daemon has it, and its owner and root alone may connect. Knows no routes."""

import contextlib
import errno
import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

from appliance.errors import StartError

SOCKET_MODE = 0o600
DIRECTORY_MODE = 0o700
BACKLOG = 8


@contextlib.contextmanager
def bound_socket(path: Path) -> Iterator[socket.socket]:
    """A listening socket at `path`, which is gone at the end of the block.

    What a daemon left that was killed is replaced; a lock beside it, which the kernel frees, tells the one from the
    other. Raises StartError, with the remedy, where another daemon has it or it can't be made.
    """
    lock = -1
    try:
        _make_directory(path.parent)
        lock = os.open(_lock_file(path), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, SOCKET_MODE)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            os.fchmod(listener.fileno(), SOCKET_MODE)  # before it has a name: nobody else ever sees it open
            listener.bind(str(path))
            listener.listen(BACKLOG)
            listener.setblocking(False)
            try:
                yield listener
            finally:
                path.unlink(missing_ok=True)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES) and lock >= 0:
            raise StartError(f"control socket {path}: another daemon has it; set server.control_socket") from None
        reason = error.strerror or error
        raise StartError(f"control socket {path} can't be made: {reason}; set server.control_socket") from None
    finally:
        if lock >= 0:
            os.close(lock)


def _lock_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.lock")


def _make_directory(directory: Path) -> None:
    """Make it, for its owner alone. Raises OSError, also where somebody else could put another socket into it."""
    missing = [place for place in (directory, *directory.parents) if not place.exists()]
    for place in reversed(missing):
        place.mkdir(DIRECTORY_MODE, exist_ok=True)
    for place in (directory, directory.parent):
        found = place.stat()
        if found.st_uid not in (0, os.geteuid()):
            raise PermissionError(errno.EPERM, f"{place} belongs to somebody else")
        if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not found.st_mode & stat.S_ISVTX:
            raise PermissionError(errno.EPERM, f"others may write to {place}")
