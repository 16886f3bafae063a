"""Who listens where on this host, by the kernel's table, and what a socket unit asks for. Connects to nobody."""

import re
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path

from msgspec import Struct

from appliance.doctor.reading import text

LISTENS = "0A"  # the state, as the kernel writes it
WORD = 8  # hexadecimal digits, in this machine's order of bytes

Address = tuple[str, int]


class Listener(Struct, frozen=True):
    """One listening TCP socket."""

    host: str
    port: int
    uid: int
    """Of who made it: 0 for one of a socket unit."""
    inode: int

    @property
    def address(self) -> Address:
        """Where it listens."""
        return self.host, self.port


def listeners(root: Path) -> list[Listener]:
    """All of this network namespace."""
    found = []
    for name in ("tcp", "tcp6"):
        for line in (text(root / "proc/net" / name) or "").splitlines()[1:]:
            fields = line.split()
            if len(fields) > 9 and fields[3] == LISTENS:
                host, _, port = fields[1].rpartition(":")
                found.append(Listener(_host(host), int(port, 16), int(fields[7]), int(fields[9])))
    return found


def inodes_of(root: Path, pid: int) -> frozenset[int] | None:
    """Those of the sockets that process `pid` has open; None where this account may not look."""
    try:
        links = [str(entry.readlink()) for entry in (root / "proc" / str(pid) / "fd").iterdir()]
    except OSError:  # or it has just ended
        return None
    found = (re.fullmatch(r"socket:\[(\d+)\]", link) for link in links)
    return frozenset(int(match[1]) for match in found if match)


def asked_for(listen: str) -> tuple[Address, ...]:
    """The TCP addresses of a socket unit's property Listen, such as "[::]:8080 (Stream)", a line each."""
    found = re.findall(r"^(\S+):(\d+) \(Stream\)$", listen, re.MULTILINE)
    return tuple((host.strip("[]").partition("%")[0], int(port)) for host, port in found)


def let_in(units: Iterable[Mapping[str, str]]) -> list[str] | None:
    """The networks beyond this host that a unit's IPAddressAllow= lets in, or one's of the slices that it is in.

    None where no unit has an IPAddressDeny=.
    """
    found = list(units)
    if not any(unit.get("IPAddressDeny") for unit in found):
        return None
    networks = {ip_network(word, strict=False) for unit in found for word in unit.get("IPAddressAllow", "").split()}
    beyond = [network for network in networks if not network.is_loopback]
    return [str(network) for network in sorted(beyond, key=lambda network: (network.version, int(network[0])))]


def overlaps(address: Address, other: Address) -> bool:
    """Whether not both can be had; a name is taken for any address."""
    one, two = _ip(address[0]), _ip(other[0])
    same = one is None or two is None or one == two or one.is_unspecified or two.is_unspecified
    return same and address[1] == other[1]


def is_local(host: str) -> bool:
    """Whether only this host reaches it."""
    found = _ip(host)
    return host == "localhost" if found is None else found.is_loopback


def shown(addresses: Iterable[Address]) -> str:
    """As people write them."""
    return ", ".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in addresses)


def _host(digits: str) -> str:
    words = [bytes.fromhex(digits[at : at + WORD])[::-1] for at in range(0, len(digits), WORD)]
    return str(ip_address(b"".join(words)))


def _ip(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None
