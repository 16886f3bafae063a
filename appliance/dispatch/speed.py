"""How long answers take here, for estimates of waiting time. Knows no request."""

import math

SMOOTHING = 0.2  # weight of the newest answer: about the last ten count


class ServiceTime:
    """Smoothed seconds from start to end of an answer."""

    def __init__(self) -> None:
        self._mean_s: float | None = None

    def add(self, seconds: float) -> None:
        """Count one answer that ran to its end."""
        self._mean_s = seconds if self._mean_s is None else self._mean_s + SMOOTHING * (seconds - self._mean_s)

    def eta_s(self, position: int, slots: int) -> float | None:
        """Seconds until the request at `position` (1 is next) starts, with `slots` running at once; None: unknown."""
        if self._mean_s is None:
            return None
        return round(self._mean_s * position / max(1, slots), 1)

    def retry_after_s(self, slots: int) -> float:
        """Whole seconds after which a place in a full queue is likely, >= 1."""
        return float(math.ceil(self.eta_s(1, slots) or 1.0))
