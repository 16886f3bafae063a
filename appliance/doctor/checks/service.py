"""Settings and the daemon: whether it could start, whether it answers, how it has fared. Starts and stops nothing."""

from appliance.config.remedies import start_remedy
from appliance.doctor.checks.port import LOG, SOCKET_ANEW, holder, socket_is_unused
from appliance.doctor.findings import Finding, green, red, unknown, yellow
from appliance.doctor.listening import shown
from appliance.doctor.reach import unreadable
from appliance.doctor.surroundings import SERVICE, SOCKET, Surroundings


def check_settings(here: Surroundings) -> Finding:
    """Whether a start could read them."""
    effective = here.effective
    facts = {"file": None if effective.file is None else str(effective.file), "changed": len(effective.origins)}
    if here.settings_hidden:
        return unknown("settings", f"{here.settings_error}", "run it as root, or as the service's account", **facts)
    if here.settings_error is not None:
        return red("settings", here.settings_error, "mend that, then: appliance config check; the rest is about the "
                   "defaults", **facts)  # fmt: skip
    hidden = None if effective.file is None else unreadable(here, effective.file)
    if hidden is not None:
        return red("settings", f"the service's account {here.service['User']} can't read {hidden}",
                   "settings are no secrets: chmod 0644 the file, 0755 its directory", **facts)  # fmt: skip
    count = len(effective.origins)
    changed = f"{count} setting{'' if count == 1 else 's'} not left at the default"
    return green("settings", f"{effective.file or 'no file'}, {changed}", **facts)


def check_daemon(here: Surroundings) -> Finding:
    """Its own word, and systemd's."""
    unit = here.service
    facts = {
        "unit": {name: unit[name] for name in ("ActiveState", "SubState", "Result", "NRestarts") if name in unit},
        "ready": here.of_status("ready"),
        "reason": here.of_status("reason"),
        "uptime_s": here.of_status("uptime_s"),
        "requests": here.of_status("requests"),
        "losses": here.of_status("engine", "losses"),
        "last_loss": here.of_status("engine", "last_loss"),
    }
    if here.status is None:
        return _silent(here, facts)
    shown = _shown(here)
    if not here.status["ready"]:
        reason = str(here.of_status("reason"))
        why = f": {facts['last_loss']}" if facts["last_loss"] else ""
        if reason == "draining":
            return yellow(
                "daemon", "drains: takes no new requests", "appliance undrain, or wait for its restart", **facts
            )
        if reason == "loading":
            return yellow("daemon", f"loads its model{why}", f"wait a minute; then {LOG}", **facts)
        return red("daemon", f"answers no requests ({reason}){why}", LOG, **facts)
    failure = here.of_status("engine", "last_recycle_failure")
    restarts = unit.get("NRestarts", "0")
    if facts["losses"]:
        return yellow("daemon", f"{shown}; its engine was lost {facts['losses']} times, last: {facts['last_loss']}",
                      f"{LOG}; keep it with: appliance support-bundle", **facts)  # fmt: skip
    if restarts not in ("", "0"):
        return yellow("daemon", f"{shown}; systemd had to restart it {restarts} times", LOG, **facts)
    if failure:
        return yellow("daemon", f"{shown}; its worker could not be replaced: {failure}", LOG, **facts)
    return green("daemon", shown, **facts)


def _silent(here: Surroundings, facts: dict[str, object]) -> Finding:
    """Nobody answers; systemd may know why."""
    unit = here.service
    state, why = unit.get("ActiveState", ""), unit.get("StatusText", "")
    other = holder(here) if state in ("failed", "activating") else None
    if other is not None:
        return red("daemon", f"{SERVICE} can't start, another program has its port: {shown([other.address])}",
                   "what the check of the port says; the service tries again by itself", **facts)  # fmt: skip
    if state == "failed" or unit.get("SubState") == "auto-restart":
        how = f"{unit.get('Result', 'failed')}, exit status {unit.get('ExecMainStatus', 'unknown')}"
        happened = "has failed" if state == "failed" else "fails, and is started again"
        mend = "appliance config check; appliance models verify; then " if unit.get("ExecMainStatus") == "78" else ""
        return red("daemon", f"{SERVICE} {happened} ({how})" + (f": {why}" if why else ""), f"{mend}{LOG}", **facts)
    if state in ("activating", "reloading"):
        return yellow("daemon", f"{SERVICE} starts: {why or unit.get('SubState', '')}",
                      f"wait a minute; then {LOG}", **facts)  # fmt: skip
    if state == "active":
        return red("daemon", f"{SERVICE} runs and does not answer: {here.no_status}", LOG, **facts)
    if socket_is_unused(here):
        return yellow("daemon", f"not running, and {SOCKET} has no socket to start it by", SOCKET_ANEW, **facts)
    if here.is_active(SOCKET):
        return yellow("daemon", f"not running: {here.no_status}", "systemctl start appliance", **facts)
    if state:
        return yellow("daemon", f"{SERVICE} is {state}", "systemctl start appliance", **facts)
    host, port = here.address
    if port == 0:
        return unknown("daemon", here.no_status, "set server.port", **facts)
    return yellow(
        "daemon", f"none answers on {host}:{port}: {here.no_status}", f"start it with: {start_remedy()}", **facts
    )


def _shown(here: Surroundings) -> str:
    model, requests = here.of_status("model", "id"), here.of_status("requests") or {}
    hours = float(here.of_status("uptime_s") or 0) / 3600
    up = f"{hours:.0f} h" if hours >= 1 else f"{hours * 60:.0f} min"
    return f"ready, {model}, up {up}, {requests.get('running', 0)} running, {requests.get('waiting', 0)} waiting"
