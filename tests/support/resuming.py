"""Answers that go on over another socket: cut, resumed, checked. For tests of the daemon with the fake engine."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import msgspec

from tests.support.daemon import Appliance, Peer, until

ENDLESS = "again and again fake:step-ms=2"
LONG: dict[str, Any] = {"params": {"max_tokens": 4000}, "resumable": True}
"""What a resumable chat that outlives its test is sent with."""


class Heard:
    """All that was heard of one request, over however many sockets; each offset has to follow on the text before."""

    def __init__(self, request_id: str) -> None:
        self.id = request_id
        self.chars = 0
        self._parts: list[str] = []
        self.ends: list[dict[str, Any]] = []
        self.others: list[dict[str, Any]] = []

    @property
    def text(self) -> str:
        """The deltas, joined."""
        return "".join(self._parts)

    def take(self, message: dict[str, Any]) -> None:
        """Take a message of the request in; those of others are dropped."""
        if message.get("id") != self.id:
            return
        assert not self.ends, f"{message} after {self.ends}"
        if message["type"] == "delta":
            assert message["offset"] == self.chars, f"gap or repeat at {self.chars}: {message}"
            self._parts.append(message["text"])
            self.chars += len(message["text"])
        elif message["type"] in ("done", "error"):
            self.ends.append(message)
        else:
            self.others.append(message)

    async def hear(self, peer: Peer, *, chars: int) -> None:
        """Listen until that many characters have come, or the end."""
        while self.chars < chars and not self.ends:
            self.take(await peer.receive())

    async def hear_the_end(self, peer: Peer) -> dict[str, Any]:
        """Listen to the end, which is returned."""
        while not self.ends:
            self.take(await peer.receive())
        return self.ends[0]


async def resume(peer: Peer, of: Peer, request_id: str, offset: int) -> None:
    """Ask `peer` for a request that was sent over `of`."""
    await peer.send(type="resume", session=of.hello["session"], id=request_id, offset=offset)


async def cut_and_noticed(appliance: Appliance, peer: Peer) -> None:
    """Break the socket, and wait until the daemon knows."""
    before = len(appliance.daemon.connections)
    peer.cut()
    await until(lambda: len(appliance.daemon.connections) < before)


async def settled(peer: Peer) -> list[dict[str, Any]]:
    """What has come before the answer to a ping, which a daemon that had more to say would have said."""
    await peer.send(type="ping", data="settled")
    return (await peer.until("pong"))[:-1]


@contextlib.asynccontextmanager
async def connected_from(address: str, appliance: Appliance) -> AsyncIterator[Peer]:
    """A peer at another address of the loopback."""
    connector = aiohttp.TCPConnector(local_addr=(address, 0))
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.ws_connect(f"{appliance.url}/v1/ws") as ws,
    ):
        peer = Peer(ws)
        peer.hello = msgspec.json.decode((await ws.receive()).data)
        yield peer
