"""A network between client and daemon that a test can break: a TCP proxy on the loopback."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from urllib.parse import urlsplit


class Network:
    """Carries bytes both ways until it is cut or hung."""

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        self._target = (parts.hostname, parts.port)
        self.url = ""
        self.connections = 0
        """How many were ever carried."""
        self.cut_after_bytes: int | None = None
        """Break each connection by itself after so many bytes towards the client."""
        self._writers: set[asyncio.StreamWriter] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()

    def cut(self) -> None:
        """Break every connection, on both sides."""
        for writer in list(self._writers):
            writer.transport.abort()

    def hang(self) -> None:
        """Carry nothing more over what is connected now, and say so to nobody; new connections are carried."""
        self._flowing.clear()
        self._flowing = asyncio.Event()
        self._flowing.set()

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, to its end."""
        self.connections += 1
        their_reader, their_writer = await asyncio.open_connection(*self._target)
        pair = {writer, their_writer}
        self._writers |= pair
        flowing, most = self._flowing, self.cut_after_bytes
        ways = [
            asyncio.create_task(self._one_way(reader, their_writer, flowing, None)),
            asyncio.create_task(self._one_way(their_reader, writer, flowing, most)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            for one in pair:
                one.transport.abort()
            self._writers -= pair

    async def _one_way(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, flowing: asyncio.Event, most: int | None
    ) -> None:
        carried = 0
        data = b"something"
        while data and (most is None or carried <= most):
            try:
                data = await reader.read(4096)
            except ConnectionError:
                data = b""
            await flowing.wait()  # an end is not told either where nothing flows
            carried += len(data)
            with contextlib.suppress(ConnectionError):
                writer.write(data)
                await writer.drain()


@contextlib.asynccontextmanager
async def open_network(target: str) -> AsyncIterator[Network]:
    """A network to the base URL `target`, for as long as the block lasts."""
    network = Network(target)
    carrying: set[asyncio.Task[None]] = set()

    def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(network.carry(reader, writer))
        carrying.add(task)
        task.add_done_callback(carrying.discard)

    server = await asyncio.start_server(carry, "127.0.0.1", 0)
    network.url = "http://{}:{}".format(*server.sockets[0].getsockname()[:2])
    try:
        yield network
    finally:
        server.close()
        network.cut()
        left = list(carrying)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
