"""What systemd hears of a running daemon: that it starts, is ready, how it is, that it is well. Decides nothing."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from appliance.api.state import Daemon
from appliance.api.status_line import status_line
from appliance.api.watchdog import watch
from appliance.engine.supervision import Supervision
from appliance.observability.host import resident_memory_bytes
from appliance.observability.notify import Notifier, microseconds

TICK_S = 1.0  # a status a second at most: each is a signal on the host's bus
EXTEND_EVERY_S = 5.0
EXTEND_S = 20.0  # a start that is not heard of for so long has failed
STOP_SPARE_S = 15.0  # beyond the drain: sockets and the worker end


@contextlib.asynccontextmanager
async def told_of(daemon: Daemon, notifier: Notifier, watchdog_s: float | None) -> AsyncIterator[None]:
    """Tell the service manager of the daemon for as long as the block lasts, and pet its watchdog where it has one."""
    chores: list[asyncio.Task[None]] = []
    if notifier.enabled:
        chores.append(asyncio.create_task(report(daemon, notifier)))
    if watchdog_s is not None:
        supervision = Supervision(daemon.engine)
        chores.append(asyncio.create_task(watch(watchdog_s, supervision.stuck, lambda: notifier.tell(WATCHDOG=1))))
    try:
        yield
    finally:
        for chore in chores:
            chore.cancel()
        await asyncio.gather(*chores, return_exceptions=True)


async def report(daemon: Daemon, notifier: Notifier) -> None:
    """Tell of readiness and state until cancelled; READY=1 goes out once, when the first warm-up has answered."""
    told: str | None = None
    told_ready = False
    starting = _Starting(daemon, notifier)
    while True:
        front_bytes = await asyncio.to_thread(resident_memory_bytes) or 0
        line = status_line(daemon, front_bytes)
        if daemon.served.is_set() and not told_ready:
            told_ready = True
            notifier.tell(READY=1, STATUS=line)
        elif line != told:
            notifier.tell(STATUS=line)
        told = line
        if told_ready:
            await asyncio.sleep(TICK_S)
            continue
        starting.extend()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(daemon.served.wait(), TICK_S)


def tell_stopping(daemon: Daemon, notifier: Notifier, drain_s: float) -> None:
    """Tell that the daemon stops, and how long that may take."""
    extend_s = drain_s + STOP_SPARE_S
    running = daemon.dispatcher.running
    notifier.tell(STOPPING=1, STATUS=f"stopping · {running} running", EXTEND_TIMEOUT_USEC=microseconds(extend_s))


class _Starting:
    """Asks for more time while the first worker gets ready, for no longer than supervision allows that to take."""

    def __init__(self, daemon: Daemon, notifier: Notifier) -> None:
        self._notifier = notifier
        engine = daemon.settings.engine
        now = time.monotonic()
        self._ends_at = now + engine.start_attempts * (engine.load_timeout_s + engine.restart_backoff_max_s)
        self._next_at = now

    def extend(self) -> None:
        """Ask, where it is time to."""
        now = time.monotonic()
        if self._next_at <= now < self._ends_at:
            self._next_at = now + EXTEND_EVERY_S
            self._notifier.tell(EXTEND_TIMEOUT_USEC=microseconds(EXTEND_S))
