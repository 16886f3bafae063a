"""server.host and server.port where systemd has made the sockets, which decide. Knows addresses; opens nothing."""

import logging
from collections.abc import Sequence

from appliance.api.activation import InheritedSocket
from appliance.config import Effective
from appliance.observability.logs import fields

log = logging.getLogger(__name__)

ADDRESS_SETTINGS = ("server.host", "server.port")
REMEDY = "optional/appliance.socket.d/lan.conf for the LAN, or systemctl edit appliance.socket"
LOOPBACK = ("127.0.0.1", "::1")


def overruled(inherited: Sequence[InheritedSocket], effective: Effective) -> list[str]:
    """Those that somebody gave and that say otherwise than each of the sockets; none where the sockets are our own."""
    if not inherited:
        return []
    server = effective.settings.server
    addresses: list[tuple[str, int]] = [listener.getsockname()[:2] for listener in inherited]
    agrees = {
        "server.host": server.host in {name for host, _ in addresses for name in _names(host)},
        "server.port": server.port in {0, *(port for _, port in addresses)},
    }
    return [name for name, does in agrees.items() if not does and name in effective.origins]


def tell_overruled(inherited: Sequence[InheritedSocket], effective: Effective) -> None:
    """Log a warning where there are such settings: nothing else says that they do nothing."""
    names = overruled(inherited, effective)
    if names:
        said = {name: getattr(effective.settings.server, name.partition(".")[2]) for name in names}
        log.warning(
            "settings without effect, appliance.socket decides where it listens",
            extra=fields(
                settings=", ".join(f"{name} = {value} ({effective.origins[name]})" for name, value in said.items()),
                listening=", ".join(_shown(listener) for listener in inherited),
                remedy=REMEDY,
            ),
        )


def _names(host: str) -> set[str]:
    """What server.host may say for an address that is listened on."""
    if host in LOOPBACK:
        return {host, "localhost"}
    return {host, "0.0.0.0"} if host == "::" else {host}  # noqa: S104 # told apart, not bound


def _shown(listener: InheritedSocket) -> str:
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
