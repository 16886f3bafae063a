"""Whether the clock is right: a sane year, and somebody who keeps it so. Asks the kernel, no server."""

import ctypes
import time
from collections.abc import Callable
from datetime import UTC, datetime

from appliance.doctor.findings import Finding, green, red, unknown, yellow
from appliance.doctor.surroundings import Surroundings

EARLIEST = datetime(2026, 1, 1, tzinfo=UTC)  # this software is younger
LATEST = datetime(2100, 1, 1, tzinfo=UTC)
MAX_ERROR_US = 16_000_000  # the kernel's own bound, beyond which systemd too takes it for not synchronised
REMEDY = "systemctl enable --now systemd-timesyncd, and name a server of the site in /etc/systemd/timesyncd.conf"


class _Timex(ctypes.Structure):
    """The beginning of struct timex, and room for the rest; adjtimex(2)."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_long * 32),
    )


def kernel_synchronised() -> bool | None:
    """Whether the kernel believes its clock to be disciplined; None where it does not tell."""
    timex = _Timex()
    try:
        state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(timex))
    except (OSError, AttributeError):
        return None
    return None if state < 0 else bool(timex.maxerror < MAX_ERROR_US)


def check_clock(
    here: Surroundings,
    *,
    now_s: Callable[[], float] = time.time,
    synchronised: Callable[[], bool | None] = kernel_synchronised,
) -> Finding:
    """TLS, journals and histories go wrong with it; answers do not."""
    now = datetime.fromtimestamp(now_s(), UTC)
    said = now.isoformat(timespec="seconds")
    by_file = (here.root / "run/systemd/timesync/synchronized").exists()
    kept = True if by_file else synchronised()
    facts = {"now": said, "synchronised": kept}
    if not EARLIEST <= now <= LATEST:
        return red("clock", f"it says {said}, which can't be", f"set it with: timedatectl set-time; then {REMEDY}",
                   **facts)  # fmt: skip
    if kept is None:
        return unknown(
            "clock", f"it says {said}; whether it is synchronised is not told", "timedatectl status", **facts
        )
    if not kept:
        return yellow("clock", f"it says {said}, and nobody keeps it right", REMEDY, **facts)
    return green("clock", f"{said}, synchronised", **facts)
