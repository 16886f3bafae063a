"""The events that an operator acts on, with their journal MESSAGE_IDs. Knows names and fields; never logs by itself.

deploy/systemd/appliance.catalog explains each: `journalctl -x` shows it below the line.
"""

from enum import Enum
from typing import Any

from appliance.observability.logs import fields


class Event(Enum):
    """A MESSAGE_ID, which never changes and is never used again, and the fields that the event always has."""

    READY = ("797516857e5f4192ac2e15f605cdec4d", "worker_pid", "load_s", "warm_up_s")
    """A worker has answered its warm-up, and requests go to it."""
    NOT_STARTED = ("e6971471efab430faeba8deced1c37a6", "reason", "exit_status")
    """The daemon can't start, or can't go on, and ends; the reason names what is to be mended."""
    STOPPING = ("fe0ec0ae84944bb6be45e8ee0b664680", "running", "timeout_s")
    """The daemon was asked to end, and drains."""
    DRAINED = ("2b68cf80f1e6421b8a3b81c426cafa63", "running", "waiting")
    """New requests are refused for maintenance, until somebody takes that back."""
    UNDRAINED = "31b61e28784d4644ac90611840fbaffd"
    """Requests are taken again after maintenance."""
    WORKER_LOST = ("92e9298d1f644eb3be981c8db1df5ac7", "reason")
    """A worker died, or was ended because it made no progress; another takes its place."""
    WORKER_OUT_OF_MEMORY = ("0e3c49229bab4d04be0e325f510892c5", "reason")
    """A worker died and said that memory had run out; another takes its place."""
    WORKER_GIVEN_UP = ("6e458968ec644994872e6bbe833175d4", "losses", "within_s", "next_start_s", "reason")
    """Workers keep failing, and are tried seldom."""
    WORKER_RECYCLED = ("543b32bdd85d44dfb13d6e1d6bd1015a", "recycle", "worker_pid")
    """A worker that was well made way for another."""
    WORKER_NOT_RECYCLED = ("c3600b0c1e6840c2b9e3d74f3345b908", "recycle", "reason", "next_try_s")
    """A worker that is due to make way could not."""
    MODEL_SWITCHED = ("2033399fffe845b881da9dcdb8f673bf", "model")
    """Another model answers, as somebody wanted."""
    MODEL_ROLLED_BACK = ("01f5cc6d498d4aaf85dbd6ebc3287c49", "model")
    """The model of before answers again, as somebody wanted."""
    MODEL_NOT_SWITCHED = ("a13fb22f44f14efab4c064557b772517", "model", "reason")
    """A model that somebody wanted does not answer; nothing has changed."""
    MODEL_FALLBACK = ("48bfa9c8c65c4c8988ba0175ed1cf2b0", "model", "instead", "reason")
    """A model can't be served, and another is."""
    MODEL_MARKED_BAD = ("939a74e77cdc4dbda4d2efd32f92a128", "model", "reason")
    """A model is left aside from now on."""
    SETTINGS_RELOADED = ("ae086faa12124d099100d57cf96ce0c4", "changed", "needs_restart")
    """Changed settings were read and those that can change live are in force."""
    SETTINGS_REFUSED = ("eb42db0f543241d3ad8dfdb71ce55751", "reason")
    """Changed settings are wrong; those of before stay in force."""
    QUEUE_FULL = ("878839c8b8404f9ba6d25760cb3e0c3a", "waiting", "client")
    """Requests are refused, as too many wait."""
    WATCHDOG_LATE = ("de19a0f7a2df4824ab77bbb92ffa3b53", "reason", "period_s")
    """The daemon itself was held up, or is stuck, and systemd was not told that it is well."""
    DISK_FULL = ("01e8ce88ae85402198bdcd70399d87a6", "reason")
    """Something could not be written, as a disk or a quota is full."""
    BENCHMARK_REGRESSED = ("e99955e44c6543f08d25892d629d1010", "reason")
    """The self-benchmark found this host slower than it was."""

    def __init__(self, message_id: str, *always: str) -> None:
        self.message_id = message_id
        """32 hexadecimal digits."""
        self.always = always
        """What it is logged with at the least; the catalog's text may name these."""


def event(kind: Event, **values: object) -> dict[str, Any]:
    """The `extra` of a log call that is such an event: `log.info("ready", extra=event(Event.READY, load_s=1.2))`."""
    return fields(**values) | {"MESSAGE_ID": kind.message_id}
