"""What the service manager is told by sd_notify, and what it asks for. Knows its variables; knows no daemon."""

import contextlib
import errno
import importlib
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from appliance.errors import ApplianceError, ConfigError
from appliance.observability.logs import fields

log = logging.getLogger(__name__)

PENDING_MAX = 64  # a message a second at most: a manager that is so far behind does not read at all
CLOSE_TIMEOUT_S = 2.0
STATUS_MAX_CHARS = 400
# What is meant for this process alone: a child that had them would speak for it, or take its sockets.
OWN_VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID")


class Notifier:
    """Sends what it is told, in order, from a thread: where the manager does not read, its socket blocks the sender."""

    def __init__(self, send: Callable[[str], object] | None = None) -> None:
        """`send`: takes one message; None where nobody listens."""
        self._send = send
        self._pending: queue.Queue[str | None] = queue.Queue(PENDING_MAX)
        self._thread = threading.Thread(target=self._run, name="notify", daemon=True)
        if self.enabled:
            self._thread.start()

    @property
    def enabled(self) -> bool:
        """Whether anybody listens."""
        return self._send is not None

    def tell(self, **assignments: object) -> None:
        """Send one message of NAME=VALUE lines; nothing where nobody listens, or has not read for a minute."""
        if self.enabled:
            with contextlib.suppress(queue.Full):
                self._pending.put_nowait("\n".join(f"{name}={_line(value)}" for name, value in assignments.items()))

    def failed(self, error: ApplianceError) -> None:
        """Say why the daemon ends: the error number of what went wrong, and in words."""
        number = error.__cause__.errno if isinstance(error.__cause__, OSError) else None
        default = errno.EINVAL if isinstance(error, ConfigError) else errno.EIO
        self.tell(STATUS=error, ERRNO=number or default)

    def close(self) -> None:
        """Return when all has been sent, or after CLOSE_TIMEOUT_S."""
        if self.enabled:
            with contextlib.suppress(queue.Full):
                self._pending.put(None, timeout=CLOSE_TIMEOUT_S)
                self._thread.join(CLOSE_TIMEOUT_S)

    def _run(self) -> None:
        told = False
        while (message := self._pending.get()) is not None:
            try:
                if self._send is not None:
                    self._send(message)
            except OSError as error:
                if not told:
                    log.warning("the service manager can't be told", extra=fields(reason=str(error)))
                told = True


@contextlib.contextmanager
def open_notifier(environ: Mapping[str, str] = os.environ) -> Iterator[Notifier]:
    """Tells the manager that NOTIFY_SOCKET names, and an error that leaves the block too; nobody without it.

    Raises ConfigError where systemd-python is missing: a manager that waits to be told would wait in vain.
    """
    notifier = Notifier(library(environ).notify if environ.get("NOTIFY_SOCKET") else None)
    try:
        yield notifier
    except ApplianceError as error:
        notifier.failed(error)
        raise
    finally:
        notifier.close()


def library(environ: Mapping[str, str]) -> Any:
    """The module systemd.daemon. Raises ConfigError where it is not installed; `environ` says who asks for it."""
    try:
        return importlib.import_module("systemd.daemon")
    except ImportError:
        asked = [name for name in ("NOTIFY_SOCKET", "LISTEN_FDS") if environ.get(name)]
        raise ConfigError(
            f"started by systemd ({', '.join(asked)} set), but systemd-python is not installed: "
            "install edge-chat-appliance[systemd]"
        ) from None


def watchdog_period_s(environ: Mapping[str, str] = os.environ) -> float | None:
    """Seconds within which the manager wants a sign of life again and again; None where it wants none of us."""
    try:
        period_s = int(environ["WATCHDOG_USEC"]) / 1e6
        meant = int(environ.get("WATCHDOG_PID") or os.getpid()) == os.getpid()
    except (KeyError, ValueError):
        return None
    return period_s if meant and period_s > 0 and environ.get("NOTIFY_SOCKET") else None


def microseconds(seconds: float) -> int:
    """As the manager counts."""
    return int(seconds * 1e6)


def monotonic_usec() -> int:
    """Now, as RELOADING=1 has to name it."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


def child_environment() -> dict[str, str]:
    """The environment, without what is meant for this process alone."""
    return {name: value for name, value in os.environ.items() if name not in OWN_VARIABLES}


def _line(value: object) -> str:
    return " ".join(str(value).split())[:STATUS_MAX_CHARS]
