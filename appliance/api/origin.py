"""Which browser pages may talk to the appliance. Knows Origin and Host; knows no keys."""

import ipaddress
import socket
from collections.abc import Container
from urllib.parse import urlsplit


def origin_allowed(origin: str | None, host: str, allowed: Container[str], *, secure: bool = False) -> bool:
    """Whether a request with this Origin (None: no browser) to this Host may have a socket.

    `secure`: it came over TLS, and then pages without TLS are none of ours: anybody on the way can write those.

    A page from elsewhere must not talk to a daemon on the visitor's own network. One of ours has an Origin that is the
    Host; but a page that has its own name point to our address (DNS rebinding) has that too, so that a Host counts as
    ours only where nobody else can give the name: an address, localhost, or this machine's own name.
    """
    if origin is None or origin in allowed:
        return True
    schemes = ("https",) if secure else ("http", "https")
    try:
        page = urlsplit(origin)
        return page.scheme in schemes and page.netloc == host and _is_own(page.hostname or "")
    except ValueError:
        return False


def _is_own(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        machine = socket.gethostname().lower()
        return name in ("localhost", machine, f"{machine.partition('.')[0]}.local")
    return True
