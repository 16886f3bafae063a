"""The service manager's watchdog: petted while the event loop is on time and nothing is stuck. Knows no engine."""

import asyncio
import logging
from collections.abc import Callable

from appliance.observability.events import Event, event
from appliance.observability.logs import SELDOM

log = logging.getLogger(__name__)

PETS_A_PERIOD = 4
LATE_S = 2.0  # clients notice much less; what is rarely this late misses one of four pets, and nothing comes of it


async def watch(period_s: float, stuck: Callable[[], str | None], pet: Callable[[], None]) -> None:
    """Pet again and again within `period_s` until cancelled; not in a turn that came late, nor while `stuck` says why.

    A loop that is blocked pets nobody; one that is always late has to count as blocked.
    """
    pause_s = period_s / PETS_A_PERIOD
    late_max_s = min(LATE_S, pause_s)
    loop = asyncio.get_running_loop()
    due = loop.time()
    while True:
        late_s = loop.time() - due
        reason = f"the event loop is {late_s:.1f} s late" if late_s > late_max_s else stuck()
        if reason is None:
            pet()
        else:
            extra = event(Event.WATCHDOG_LATE, reason=reason, period_s=period_s) | SELDOM
            log.error("watchdog not petted", extra=extra)
        due = loop.time() + pause_s
        await asyncio.sleep(pause_s)
