"""All checks at once, each within its time. Knows no check."""

import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from appliance import __version__
from appliance.doctor.checks import CHECKS, Check
from appliance.doctor.findings import Finding, Report, unknown, worst
from appliance.doctor.surroundings import Surroundings

LIMIT_S = 15.0  # for all of them together; what the checks ask others has tighter bounds


def examine(here: Surroundings, *, checks: Mapping[str, Check] = CHECKS, limit_s: float = LIMIT_S) -> Report:
    """Run `checks`, each on a thread of its own; one that fails, or takes longer than `limit_s`, is unknown.

    A thread that hangs, as on a file system whose server is gone, does not keep the process from ending.
    """
    found: dict[str, Finding] = {}
    threads = {
        name: threading.Thread(target=_run, args=(name, check, here, found.__setitem__), name=name, daemon=True)
        for name, check in checks.items()
    }
    end = time.monotonic() + limit_s
    for thread in threads.values():
        thread.start()
    for thread in threads.values():
        thread.join(max(0.0, end - time.monotonic()))
    late = f"found out nothing within {limit_s:g} s"
    findings = tuple(
        found.get(name) or unknown(name, late, "look for a disk or a network file system that hangs: dmesg")
        for name in checks
    )
    return Report(
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        version=__version__,
        status=worst(findings),
        findings=findings,
    )


def _run(name: str, check: Check, here: Surroundings, put: Callable[[str, Finding], None]) -> None:
    try:
        put(name, check(here))
    except PermissionError as error:
        put(name, unknown(name, f"{error.filename} may not be read by this account", "run it as root"))
    except Exception as error:  # a check that fails must not hide what the others found
        put(name, unknown(name, f"the check failed: {type(error).__name__}: {error}"[:300],
                          "that is a defect: report it with appliance support-bundle"))  # fmt: skip
