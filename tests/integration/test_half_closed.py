"""A peer that says nothing more and reads nothing: its connection ends all the same, and no file stays open for it."""

import asyncio
import base64
import logging
import socket
import struct
import sys

import psutil
import pytest

from appliance.observability.logs import fields_of
from tests.support.daemon import Appliance, until

RESETS = 5
CHAT = b'{"type":"chat","id":"r1","messages":[{"role":"user","content":"%s"}],"params":{"max_tokens":4000}}'


def frame(payload: bytes) -> bytes:
    """One masked text frame, with a mask of zeros."""
    return b"\x81\xff" + len(payload).to_bytes(8, "big") + bytes(4) + payload


def server_sockets(port: int) -> int:
    """This process's sockets whose peer has `port`."""
    return sum(1 for entry in psutil.Process().net_connections("tcp4") if getattr(entry.raddr, "port", None) == port)


def upgrade() -> bytes:
    """The request for a WebSocket."""
    key = base64.b64encode(bytes(16)).decode()
    request = "GET /v1/ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    return f"{request}Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()


async def open_socket(appliance: Appliance, peer: socket.socket) -> None:
    """A WebSocket whose peer's kernel takes little of what is sent."""
    loop = asyncio.get_running_loop()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    peer.setblocking(False)
    await loop.sock_connect(peer, ("127.0.0.1", int(appliance.url.rsplit(":", 1)[1])))
    await loop.sock_sendall(peer, upgrade())


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


async def test_a_peer_that_is_gone_before_the_answer_to_its_upgrade_is_no_error(
    appliance: Appliance, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for _ in range(RESETS):
        # All of it before the daemon, on this same event loop, sees any.
        with socket.create_connection(("127.0.0.1", int(appliance.url.rsplit(":", 1)[1]))) as peer:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closing it is a reset
            peer.sendall(upgrade())
    gone = "peer gone before its answer"
    # From Python 3.12 on aiohttp answers in the turn in which it reads: nobody is gone yet, and the socket closes.
    ends = (gone, "connection closed")
    await until(lambda: sum(record.getMessage() in ends for record in caplog.records) == RESETS)
    told = [record for record in caplog.records if record.getMessage() == gone]
    assert {(record.levelno, record.exc_info, fields_of(record)["path"]) for record in told} <= {
        (logging.DEBUG, None, "/v1/ws")
    }
    assert told or sys.version_info >= (3, 12)
    await until(lambda: not appliance.daemon.connections)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
