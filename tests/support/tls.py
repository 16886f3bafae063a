"""A daemon of this process with TLS, and connections to it that are made by hand."""

import asyncio
import socket
import ssl
from typing import Any

from tests.support.certificates import Site
from tests.support.daemon import Appliance


def over_tls(site: Site, name: str = "server", **server: Any) -> dict[str, Any]:
    """Settings of the section server."""
    return {
        "tls_certificate_file": str(site.directory / f"{name}.pem"),
        "tls_key_file": str(site.directory / f"{name}-key.pem"),
        **server,
    }


def port_of(appliance: Appliance) -> int:
    return int(appliance.url.rpartition(":")[2])


def of_site(site: Site) -> ssl.SSLContext:
    """Trusts the CA as a client does whose system knows it."""
    return ssl.create_default_context(cafile=site.ca)


async def raw(appliance: Appliance, site: Site, context: ssl.SSLContext | None = None) -> ssl.SSLSocket:
    """A connection with its handshake done, which reads as little as it can."""
    peer = socket.socket()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    peer.settimeout(10)
    await asyncio.to_thread(peer.connect, ("127.0.0.1", port_of(appliance)))
    return await asyncio.to_thread(
        (context or of_site(site)).wrap_socket, peer, server_hostname="127.0.0.1", suppress_ragged_eofs=True
    )
