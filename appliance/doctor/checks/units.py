"""Units beside the service itself: those that have failed. Starts and resets nothing."""

from collections.abc import Mapping

from appliance.doctor.findings import Finding, green, red, unknown, yellow
from appliance.doctor.surroundings import MODEL_CHECK, SERVICE, SOCKET, Surroundings


def check_units(here: Surroundings) -> Finding:
    """Which have failed; of the service itself the check of the daemon speaks."""
    if here.units is None:
        return unknown("units", "systemd does not run here", "nothing, where the daemon is started by hand")
    failed = {name: unit for name, unit in here.units.items() if unit.get("ActiveState") == "failed"}
    failed.pop(SERVICE, None)
    if not failed:
        return green("units", "none has failed", failed=[])
    text = "; ".join(f"{name} has failed ({_how(unit)})" for name, unit in failed.items())
    first = next(iter(failed))
    again = "start" if first == SOCKET else "reset-failed"
    remedy = f"journalctl -u {first} -n 20; then: systemctl {again} {first}"
    grave = MODEL_CHECK in failed or (SOCKET in failed and here.status is None)
    return (red if grave else yellow)("units", text, remedy, failed=list(failed))


def _how(unit: Mapping[str, str]) -> str:
    return unit.get("StatusText") or unit.get("Result") or "failed"
