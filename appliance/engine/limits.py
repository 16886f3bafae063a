"""Which limits of a control group suit a memory budget. Knows arithmetic; sets nothing."""

from msgspec import Struct

from appliance.engine.memory import MIB

WITH_SUCCESSOR = (2.0, 2.25)  # a worker that takes over warms up beside the one that answers
ALONE = (1.25, 1.5)  # one ends before the other starts
SHARE_WITH_SUCCESSOR = 0.75  # of the machine's memory at most, so that nothing else is squeezed out


class MemoryLimits(Struct, frozen=True):
    """What MemoryHigh= and MemoryMax= of a service are to be."""

    high_bytes: int
    """From here on the kernel takes pages back, and slows the service down."""
    max_bytes: int
    """Here it ends the largest process, which is the worker."""
    successor: bool
    """Whether a second worker has room beside the first."""


def memory_limits(budget_bytes: int, machine_bytes: int) -> MemoryLimits:
    """Limits, in whole MiB, for a service that takes `budget_bytes` at most with one worker, on such a machine."""
    successor = budget_bytes * WITH_SUCCESSOR[1] <= machine_bytes * SHARE_WITH_SUCCESSOR
    high, most = WITH_SUCCESSOR if successor else ALONE
    return MemoryLimits(_whole_mib(budget_bytes * high), _whole_mib(budget_bytes * most), successor)


def _whole_mib(size_bytes: float) -> int:
    return int(-(-size_bytes // MIB) * MIB)
