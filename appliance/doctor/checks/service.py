"""Settings, the daemon and its port: whether somebody answers, and how it has fared. Starts and stops nothing."""

from appliance.doctor.asking import can_listen_at
from appliance.doctor.findings import Finding, green, red, unknown, yellow
from appliance.doctor.reading import listeners
from appliance.doctor.surroundings import SERVICE, SOCKET, Surroundings

LOG = "journalctl -u appliance -n 50"


def check_settings(here: Surroundings) -> Finding:
    """Whether a start could read them."""
    effective = here.effective
    facts = {"file": None if effective.file is None else str(effective.file), "changed": len(effective.origins)}
    if here.settings_hidden:
        return unknown("settings", f"{here.settings_error}", "run it as root, or as the service's account", **facts)
    if here.settings_error is not None:
        return red("settings", here.settings_error, "mend that, then: appliance config check; the rest is about the "
                   "defaults", **facts)  # fmt: skip
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


def check_port(here: Surroundings) -> Finding:
    """Who has the port, and whether it can be had."""
    server = here.settings.server
    shown = f"{server.host}:{server.port}"
    facts = {"host": server.host, "port": server.port}
    if server.port == 0:
        return unknown("port", "server.port = 0 takes a free one, which only the log tells", "set server.port", **facts)
    if here.status is not None:
        near = ' (this host alone: server.host = "0.0.0.0" is for the LAN)' if _is_local(server.host) else ""
        return green("port", f"{shown}, the appliance's{near}", **facts)
    if _active(here, SOCKET):
        return green("port", f"{shown}, held by {SOCKET}", **facts)
    owners = listeners(here.root, server.port)
    if owners:
        known = {"uid": owners[0]}
        if _active(here, SERVICE):
            return red("port", f"{shown} is held, and what holds it does not answer as the appliance: {here.no_status}",
                       f"ss -ltnp 'sport = :{server.port}' tells who; {LOG}", **facts | known)  # fmt: skip
        return red(
            "port",
            f"{shown} is held by another program (user id {owners[0]})",
            f"ss -ltnp 'sport = :{server.port}' tells which; end it, or set server.port",
            **facts | known,
        )
    problem = can_listen_at(server.host)
    if problem is not None:
        return red("port", f"nothing can listen at {server.host}: {problem}", "set server.host to an address of this "
                   "host, or 0.0.0.0", **facts)  # fmt: skip
    return green("port", f"{shown}, free", **facts)


def _silent(here: Surroundings, facts: dict[str, object]) -> Finding:
    """Nobody answers; systemd may know why."""
    unit = here.service
    state = unit.get("ActiveState", "")
    if state == "failed":
        how = f"{unit.get('Result', 'failed')}, exit status {unit.get('ExecMainStatus', 'unknown')}"
        mend = "appliance config check; appliance models verify; then " if unit.get("ExecMainStatus") == "78" else ""
        return red("daemon", f"{SERVICE} has failed ({how})", f"{mend}{LOG}", **facts)
    if state in ("activating", "reloading"):
        return yellow("daemon", f"{SERVICE} starts: {unit.get('StatusText') or unit.get('SubState', '')}",
                      f"wait a minute; then {LOG}", **facts)  # fmt: skip
    if state == "active":
        return red("daemon", f"{SERVICE} runs and does not answer: {here.no_status}", LOG, **facts)
    if _active(here, SOCKET):
        return yellow("daemon", f"not running: {here.no_status}", "systemctl start appliance", **facts)
    if state:
        return red("daemon", f"{SERVICE} is {state}", "systemctl start appliance", **facts)
    if here.settings.server.port == 0:
        return unknown("daemon", here.no_status, "set server.port", **facts)
    host, port = here.address
    return yellow(
        "daemon", f"none answers on {host}:{port}: {here.no_status}", "start it with: appliance serve", **facts
    )


def _shown(here: Surroundings) -> str:
    model, requests = here.of_status("model", "id"), here.of_status("requests") or {}
    hours = float(here.of_status("uptime_s") or 0) / 3600
    up = f"{hours:.0f} h" if hours >= 1 else f"{hours * 60:.0f} min"
    return f"ready, {model}, up {up}, {requests.get('running', 0)} running, {requests.get('waiting', 0)} waiting"


def _active(here: Surroundings, unit: str) -> bool:
    return (here.units or {}).get(unit, {}).get("ActiveState") == "active"


def _is_local(host: str) -> bool:
    return host == "localhost" or host == "::1" or host.startswith("127.")
