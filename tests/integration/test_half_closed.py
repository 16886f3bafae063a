"""A peer that says nothing more and reads nothing: its connection ends all the same, and no file stays open for it."""

import asyncio
import base64
import socket

import psutil
import pytest

from tests.support.daemon import Appliance, until

CHAT = b'{"type":"chat","id":"r1","messages":[{"role":"user","content":"%s"}],"params":{"max_tokens":4000}}'


def frame(payload: bytes) -> bytes:
    """One masked text frame, with a mask of zeros."""
    return b"\x81\xff" + len(payload).to_bytes(8, "big") + bytes(4) + payload


def server_sockets(port: int) -> int:
    """This process's sockets whose peer has `port`."""
    return sum(1 for entry in psutil.Process().net_connections("tcp4") if getattr(entry.raddr, "port", None) == port)


async def open_socket(appliance: Appliance, peer: socket.socket) -> None:
    """A WebSocket whose peer's kernel takes little of what is sent."""
    loop = asyncio.get_running_loop()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    peer.setblocking(False)
    await loop.sock_connect(peer, ("127.0.0.1", int(appliance.url.rsplit(":", 1)[1])))
    key = base64.b64encode(bytes(16)).decode()
    upgrade = "GET /v1/ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    upgrade += f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
    await loop.sock_sendall(peer, upgrade.encode())


async def test_a_peer_that_half_closes_and_reads_nothing_holds_no_connection(appliance: Appliance) -> None:
    loop = asyncio.get_running_loop()
    with socket.socket() as peer:
        await open_socket(appliance, peer)
        await loop.sock_sendall(peer, frame(CHAT % (b"w" * 30_000)))
        await until(
            lambda: any(c._transport.get_write_buffer_size() for c in appliance.daemon.connections if c._transport)
        )
        own_port = peer.getsockname()[1]
        assert server_sockets(own_port) == 1
        peer.shutdown(socket.SHUT_WR)
        await until(lambda: server_sockets(own_port) == 0 and not appliance.daemon.connections, 15)


async def test_a_connection_that_ended_by_itself_can_be_aborted(appliance: Appliance) -> None:
    loop = asyncio.get_running_loop()
    with socket.socket() as peer:
        await open_socket(appliance, peer)
        await until(lambda: bool(appliance.daemon.connections))
        (ours,) = appliance.daemon.connections
        transport = ours._transport
        assert transport is not None
        transport.write(bytes(5_000_000))
        transport.close()  # with something still to write
        while await loop.sock_recv(peer, 1 << 20):
            pass
        await until(lambda: ours._request.transport is None)
        with pytest.raises(AttributeError):
            transport.abort()  # why there is Connection.abort
        ours.abort()
