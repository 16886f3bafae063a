"""Where the appliance really listens, who reaches it there, and who else has the port. Connects to nobody."""

from collections.abc import Sequence

from appliance.doctor.asking import can_listen_at
from appliance.doctor.findings import Finding, green, red, unknown, yellow
from appliance.doctor.listening import Address, Listener, is_local, let_in, listeners, overlaps, shown
from appliance.doctor.surroundings import LOCAL, SERVICE, SLICE, SOCKET, Surroundings

LAN_FILE = "/etc/systemd/system/system-appliance.slice.d/50-lan.conf"
SHOWN_NETWORKS = 3
LOG = "journalctl -u appliance -n 50"
SOCKET_DROP_IN = "optional/appliance.socket.d/lan.conf"
SOCKET_ANEW = "systemctl stop appliance.socket appliance.service; systemctl start appliance.socket appliance.service"


def check_port(here: Surroundings) -> Finding:
    """Who has the port, and whether it can be had."""
    server = here.settings.server
    facts = {"host": server.host, "port": server.port, "socket_unit": here.is_active(SOCKET)}
    if here.status is not None or here.is_active(SOCKET):
        return _listening(here, facts)
    wanted = wanted_addresses(here)
    if (server.host, 0) in wanted:
        return unknown("port", "server.port = 0 takes a free one, which only the log tells", "set server.port", **facts)
    text, port = shown(wanted), wanted[0][1]
    other = holder(here)
    if other is not None and here.is_active(SERVICE):
        return red("port", f"{text} is held, and what holds it does not answer as the appliance: {here.no_status}",
                   f"ss -ltnp 'sport = :{port}' tells who; {LOG}", **facts, uid=other.uid)  # fmt: skip
    if other is not None:
        return red(
            "port",
            f"{text} is held by another program (user id {other.uid})",
            f"ss -ltnp 'sport = :{port}' tells which; end it, or set {_decided_by(here)}",
            **facts,
            uid=other.uid,
        )
    problem = can_listen_at(server.host)
    if problem is not None:
        return red("port", f"nothing can listen at {server.host}: {problem}", "set server.host to an address of this "
                   "host, or 0.0.0.0", **facts)  # fmt: skip
    return green("port", f"{text}, free", **facts)


def wanted_addresses(here: Surroundings) -> tuple[Address, ...]:
    """Where the appliance is to listen: the socket unit decides where it is in use, or was and has failed."""
    unit = (here.units or {}).get(SOCKET, {})
    if unit.get("ActiveState") in ("active", "activating", "failed") and here.socket_addresses:
        return here.socket_addresses
    return ((here.settings.server.host, here.settings.server.port),)


def holder(here: Surroundings) -> Listener | None:
    """Who has an address that the appliance wants, and is neither its daemon nor its socket unit."""
    own = {listener.inode for listener in here.own_listeners} | {listener.inode for listener in _of_unit(here)}
    wanted = wanted_addresses(here)
    return next(
        (
            listener
            for listener in listeners(here.root)
            if listener.inode not in own and any(overlaps(listener.address, address) for address in wanted)
        ),
        None,
    )


def socket_is_unused(here: Surroundings) -> bool:
    """Whether the socket unit is active, and its sockets are not there, or are not the daemon's.

    systemd leaves it so where the unit's addresses change while it is active.
    """
    if not here.is_active(SOCKET) or not here.socket_addresses or not listeners(here.root):
        return False
    of_unit = {listener.inode for listener in _of_unit(here)}
    own = {listener.inode for listener in here.own_listeners}
    return not of_unit or bool(own and not own & of_unit)


def _of_unit(here: Surroundings) -> list[Listener]:
    """The socket unit's: systemd makes them, as root."""
    if not here.is_active(SOCKET):
        return []
    return [
        listener for listener in listeners(here.root) if listener.address in here.socket_addresses and not listener.uid
    ]


def _listening(here: Surroundings, facts: dict[str, object]) -> Finding:
    """What is listened on, by the appliance or by systemd for it."""
    addresses = _addresses(here)
    local = all(is_local(host) for host, _ in addresses)
    facts |= {"listens": [shown([address]) for address in addresses], "this_host_alone": local}
    text = f"{shown(addresses)}, " + ("the appliance's" if here.status is not None else f"held by {SOCKET}")
    if socket_is_unused(here):
        where = f"{shown(addresses)} listens without it" if here.status is not None else "nobody can connect"
        return yellow("port", f"{SOCKET} is active, and its socket, {shown(here.socket_addresses)}, is not in use: "
                      f"{where}", SOCKET_ANEW, **facts)  # fmt: skip
    networks = facts["lets_in"] = _networks(here)
    if not local and networks == []:
        return yellow("port", f"{text}, for other hosts too, and the packets of none are let in",
                      f"{LAN_FILE}, then: systemctl daemon-reload", **facts)  # fmt: skip
    others = f"other hosts too: {_few(networks)}" if networks else f"other hosts too: {SOCKET} says so"
    if not here.is_active(SOCKET):
        alone = 'this host alone: server.host = "0.0.0.0" is for the LAN'
        return green("port", f"{text} ({alone})" if local else f"{text} ({others})" if networks else text, **facts)
    reach = f"this host alone: {SOCKET_DROP_IN} is for the LAN" if local else others
    server = here.settings.server
    ignored = [
        f"{name} = {value}"
        for name, value, used in (
            ("server.host", server.host, any(server.host == host for host, _ in addresses)
             or (not local and server.host in LOCAL)),
            ("server.port", server.port, any(server.port == port for _, port in addresses)),
        )
        if name in here.effective.origins and not used
    ]  # fmt: skip
    if ignored:
        return yellow("port", f"{text} ({reach}); {' and '.join(ignored)} does not count: {SOCKET} decides",
                      f"leave it out of the settings; systemctl edit {SOCKET}, or {SOCKET_DROP_IN}, and then: "
                      f"{SOCKET_ANEW}", **facts)  # fmt: skip
    return green("port", f"{text} ({reach})", **facts)


def _networks(here: Surroundings) -> list[str] | None:
    """Beyond this host, those whose packets pass; None where nothing is refused, or that is not known."""
    unit = SOCKET if here.is_active(SOCKET) else SERVICE
    return let_in([(here.units or {}).get(name, {}) for name in (unit, SLICE)])


def _few(networks: Sequence[str]) -> str:
    more = f" and {len(networks) - SHOWN_NETWORKS} more" if len(networks) > SHOWN_NETWORKS else ""
    return ", ".join(networks[:SHOWN_NETWORKS]) + more


def _addresses(here: Surroundings) -> list[Address]:
    """Where it listens: by its sockets, else by those of the socket unit, else by the table, else by the settings."""
    configured = here.settings.server
    asked = here.address if here.status is not None else (configured.host, configured.port)
    of_table = [listener for listener in listeners(here.root) if overlaps(listener.address, asked)]
    found = list(here.own_listeners) or _of_unit(here) or ([] if here.status is None else of_table)
    if found:
        return sorted({listener.address for listener in found})
    if here.is_active(SOCKET) and here.socket_addresses:
        return list(here.socket_addresses)
    return [(configured.host, configured.port)]


def _decided_by(here: Surroundings) -> str:
    of_settings = wanted_addresses(here) == ((here.settings.server.host, here.settings.server.port),)
    return "server.port" if of_settings else f"another port: systemctl edit {SOCKET}"
