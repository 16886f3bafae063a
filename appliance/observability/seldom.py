"""Repeated log lines, told now and then. Knows events by their unformatted text; knows no clock but the monotonic."""

import logging
import threading
import time

from appliance.observability.logs import fields_of

SELDOM_S = 10.0
SELDOM_MAX_EVENTS = 100


class _Told:
    """One event: when it was last told, and what was held back since."""

    def __init__(self) -> None:
        self.at = -SELDOM_S
        self.held = 0
        self.last: logging.LogRecord | None = None


class Seldom(logging.Filter):
    """Of records marked SELDOM, lets each event through at once and then once in SELDOM_S, with how many more came.

    `overdue` has what nobody would tell else, as it did not come again. Of more than SELDOM_MAX_EVENTS events at
    once, the further ones are all let through: texts are written in the code, so that there are never as many.
    """

    def __init__(self) -> None:
        super().__init__()
        self._told: dict[tuple[str, str], _Told] = {}
        self._lock = threading.Lock()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to log it now."""
        if not getattr(record, "appliance_seldom", False):
            return True
        with self._lock:
            event = (record.name, str(record.msg))
            told = self._told.get(event)
            if told is None:
                if len(self._told) >= SELDOM_MAX_EVENTS:
                    return True
                told = self._told[event] = _Told()
            if time.monotonic() - told.at < SELDOM_S:
                told.held += 1
                told.last = record
                return False
            _tell(told, record, told.held)
            return True

    def overdue(self, *, all_of_them: bool = False) -> list[logging.LogRecord]:
        """The last of each event of which some were held back for SELDOM_S, or at all, and nothing was told since."""
        with self._lock:
            now = time.monotonic()
            due = [t for t in self._told.values() if all_of_them or now - t.at >= SELDOM_S]
            found = [(told, told.last, told.held - 1) for told in due if told.last is not None]
            for told, last, held in found:
                _tell(told, last, held)
            self._told = {event: told for event, told in self._told.items() if now - told.at < SELDOM_S}
            return [last for _, last, _ in found]


def mark_seldom(record: logging.LogRecord) -> bool:
    """A filter for a logger of somebody else: each of its events seldom, and without a traceback."""
    record.appliance_seldom = True
    record.exc_info = record.exc_text = None
    return True


def _tell(told: _Told, record: logging.LogRecord, more: int) -> None:
    if more > 0:
        record.appliance_fields = {**fields_of(record), "more_like_it": more}
    told.at, told.held, told.last = time.monotonic(), 0, None
