"""How much of what a hub sends is there, counted in the place of a progress bar. Knows sizes; asks nobody anything."""

import time
from collections.abc import Callable
from typing import Self

from appliance.models.hub.refusals import Refused
from appliance.models.hub.wire import Received

TICK_S = 0.1  # between two reports of progress


class Meter:
    """What came of the files, as tqdm would be told. Raises where the hub sends more than it announced."""

    def __init__(self, tell: Callable[[Received], None]) -> None:
        self._tell = tell
        self.received = 0
        """In this process, all tries together."""
        self._size = 0
        self._before = 0  # bytes of the files before this one
        self._done = 0
        self._told_at = 0.0

    def expect(self, size_bytes: int) -> None:
        """The next file has so many."""
        self._before += self._size
        self._size, self._done = size_bytes, 0

    def begin(self, *, initial: int = 0, **_: object) -> Self:
        """In the place of tqdm's constructor."""
        self._done = initial
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to close."""

    def update(self, count: float = 1) -> None:
        """`count` more bytes; fewer, where the library begins anew."""
        self._done += int(count)
        self.received += max(0, int(count))
        if self._done > self._size:
            raise Refused(
                f"the hub sends more than the {self._size:,} bytes that it announced; try again, or set HF_ENDPOINT to "
                "another mirror",
                "mismatch",
            )
        if time.monotonic() - self._told_at >= TICK_S or self._done == self._size:
            self._told_at = time.monotonic()
            self._tell(Received(self._before + self._done))
