"""How long answers take here, measured, for estimates of waiting time. Knows no queue."""

import heapq
import math
from collections.abc import Iterable

SMOOTHING = 0.2  # weight of the newest answer: about the last ten count


class Speed:
    """Smoothed seconds a token and tokens an answer, of answers that ran to their end."""

    def __init__(self) -> None:
        self._token_s: float | None = None
        self._tokens = 0.0

    def add(self, seconds: float, tokens: int) -> None:
        """Count one answer of `tokens` >= 1 tokens that took `seconds` from its start in the engine."""
        if self._token_s is None:
            self._token_s, self._tokens = seconds / tokens, float(tokens)
        self._token_s += SMOOTHING * (seconds / tokens - self._token_s)
        self._tokens += SMOOTHING * (tokens - self._tokens)

    def remaining_s(self, max_tokens: int, produced: int = 0) -> float | None:
        """Seconds that an answer with `produced` tokens has still to go; None before the first was measured.

        One that is past the usual length is expected to use half of what it may still use.
        """
        if self._token_s is None:
            return None
        usual = min(float(max_tokens), self._tokens)
        left = usual - produced if produced < usual else (max_tokens - produced) / 2
        return left * self._token_s


def starts_s(running: Iterable[float], waiting: Iterable[float], slots: int) -> list[float]:
    """Seconds until each of `waiting` starts, served in order by `slots` at once.

    `running` and `waiting` are the seconds that each is expected to take from now, or from its start.
    """
    ends = sorted(running)
    ends += [0.0] * (slots - len(ends))
    heapq.heapify(ends)
    starts = []
    for duration_s in waiting:
        starts.append(heapq.heappop(ends))
        heapq.heappush(ends, starts[-1] + duration_s)
    return starts


def retry_after_s(starts: list[float]) -> float:
    """Whole seconds after which a place in a full queue is likely, >= 1: when the first in it starts."""
    return float(max(1, math.ceil(starts[0]))) if starts else 1.0
