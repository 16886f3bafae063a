"""One writer at a time, by flock. Knows a lock file; knows nothing of what it guards."""

import errno
import fcntl
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from appliance.models.durable import give_to_owner_of
from appliance.models.errors import StoreBusy

POLL_S = 0.2


def take_lock(file: Path, *, wait_s: float, on_wait: Callable[[str], None]) -> int:
    """Lock `file`; while another process holds it, wait up to `wait_s` seconds and say once who that is.

    Returns the descriptor to give to `free_lock`; the kernel frees the lock of a process that dies.
    Raises StoreBusy when the time is up, and OSError.
    """
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        _acquire(descriptor, file, wait_s, on_wait)
        with suppress(OSError):  # a full disk must not stop a removal; only the name of the holder is lost
            give_to_owner_of(file.parent, file)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def free_lock(descriptor: int) -> None:
    """Let the next writer in."""
    with suppress(OSError):
        os.ftruncate(descriptor, 0)
    os.close(descriptor)


def _acquire(descriptor: int, file: Path, wait_s: float, on_wait: Callable[[str], None]) -> None:
    deadline = time.monotonic() + wait_s
    said = False
    while not _try_lock(descriptor):
        holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
        whose = f"process {holder}" if holder else "another process"
        if time.monotonic() >= deadline:
            raise StoreBusy(f"{file} is still held by {whose} after {wait_s:g} s; try again later")
        if not said:
            on_wait(f"{whose} is writing to {file.parent}; waiting up to {wait_s:g} s for it to finish")
            said = True
        time.sleep(POLL_S)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise
    return True
