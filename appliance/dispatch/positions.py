"""Where waiting requests stand and when each is likely to start. Knows queue and speed; starts and ends none."""

import asyncio
from collections.abc import Mapping

from appliance.dispatch.fair_queue import FairQueue
from appliance.dispatch.speed import Speed, retry_after_s, starts_s
from appliance.dispatch.ticket import State, Ticket
from appliance.types import Timings


class Positions:
    """Tells those who wait in `queue`, while `running` are answered, of their place whenever it changes."""

    def __init__(self, queue: FairQueue, running: Mapping[int, Ticket]) -> None:
        self.slots: int | None = None
        """How many are answered at once; None while there is no engine to start requests on."""
        self._queue = queue
        self._running = running
        self._speed = Speed()
        self._due = False

    def answered(self, timings: Timings, completion_tokens: int) -> None:
        """Learn from an answer that ran to its end how long answers take."""
        self._speed.add((timings.total_ms - timings.queue_ms) / 1000, max(1, completion_tokens))

    def etas_s(self) -> list[float] | None:
        """Seconds until each waiting request starts, in order; None while it can't be told."""
        if self.slots is None:
            return None
        running = [self._speed.remaining_s(t.max_tokens, t.completion_tokens) for t in self._running.values()]
        waiting = [self._speed.remaining_s(t.request.sampling.max_tokens) for t in self._queue]
        if None in running or None in waiting:
            return None
        return starts_s([s for s in running if s is not None], [s for s in waiting if s is not None], self.slots)

    def retry_after_s(self) -> float:
        """Whole seconds after which a place in the queue, which is full, is likely."""
        return retry_after_s(self.etas_s() or [])

    def changed(self) -> None:
        """Tell positions once, after all that happens in this turn of the event loop."""
        if not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self._tell)

    def _tell(self) -> None:
        """Requests that wait for more than their own tokenization hear where they stand."""
        self._due = False
        etas_s = self.etas_s()
        for place, ticket in enumerate(self._queue):
            if ticket.state is State.WAITING or self.slots is None:
                ticket.queued(place + 1, None if etas_s is None else round(etas_s[place], 1))
