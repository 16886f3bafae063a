"""Who asks, as far as is known: whom bounds count for, and whom a session belongs to. Knows addresses; no keys yet."""

from aiohttp import web

IPV4_MAPPED = "::ffff:"  # an IPv4 peer, on a socket that systemd opened for both


def client_of(request: web.Request) -> str:
    """The client's name, the same for all that it sends: the address of its end of the connection."""
    return (request.remote or "unknown").removeprefix(IPV4_MAPPED)


def same_client(one: str, other: str) -> bool:
    """Whether two names of `client_of` are one client's, so that each may have what was said to the other."""
    return one == other
