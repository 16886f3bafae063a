"""A daemon in this process, on a free port, with a real worker process behind it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from appliance.api.app import listening
from appliance.api.state import Daemon
from appliance.cli.serve import FAKE_MODEL
from appliance.client.address import Address
from appliance.client.tls import open_session, trusting
from appliance.config import Settings
from appliance.config.certificate import open_certificate
from appliance.models.choosing import Choice
from appliance.types import ServedModel

WAIT_S = 30.0


def settings(**sections: dict[str, Any]) -> Settings:
    """Defaults for tests (a free port, the fake engine), with changes by section."""
    base: dict[str, dict[str, Any]] = {"server": {"port": 0}, "engine": {"pipeline": "fake"}}
    for section, values in sections.items():
        base[section] = base.get(section, {}) | values
    return msgspec.convert(base, Settings)


async def until(condition: Callable[[], bool], timeout_s: float = WAIT_S) -> None:
    """Wait for `condition`, polled each millisecond; TimeoutError after `timeout_s`."""
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.001)


class Appliance:
    """What a test sees of a running daemon."""

    def __init__(self, daemon: Daemon, url: str, session: aiohttp.ClientSession) -> None:
        self.daemon = daemon
        self.url = url
        self.session = session

    @contextlib.asynccontextmanager
    async def connect(self, **options: Any) -> AsyncIterator["Peer"]:
        """A raw WebSocket peer that has read the hello."""
        async with self.session.ws_connect(f"{self.url}/v1/ws", **options) as ws:
            peer = Peer(ws)
            peer.hello = await peer.receive()
            assert peer.hello["type"] == "hello"
            yield peer

    async def get(self, path: str) -> tuple[int, Any]:
        """Status and JSON of a GET."""
        async with self.session.get(self.url + path) as response:
            return response.status, await response.json()

    async def metric(self, name: str) -> float:
        """The sum of a metric's samples, as scraped."""
        async with self.session.get(f"{self.url}/metrics") as response:
            lines = (await response.text()).splitlines()
        values = [float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith((f"{name} ", f"{name}{{"))]
        assert values, f"no metric {name}"
        return sum(values)

    async def ready(self) -> None:
        """Wait until the engine is ready."""
        await until(lambda: self.daemon.engine.state == "ready")


class Peer:
    """One WebSocket, message by message."""

    hello: dict[str, Any]

    def __init__(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        self.ws = ws

    def cut(self) -> None:
        """Break the connection, as a network does that fails."""
        connection = self.ws._response.connection
        assert connection is not None
        assert connection.transport is not None
        connection.transport.abort()

    async def send(self, **message: Any) -> None:
        """Send one JSON object."""
        await self.ws.send_json(message)

    async def chat(self, request_id: str, text: str, **extra: Any) -> None:
        """Send a chat of one user message."""
        await self.send(type="chat", id=request_id, messages=[{"role": "user", "content": text}], **extra)

    async def receive(self) -> dict[str, Any]:
        """The next message, within WAIT_S."""
        message = await self.ws.receive(WAIT_S)
        assert message.type is aiohttp.WSMsgType.TEXT, message
        decoded: dict[str, Any] = msgspec.json.decode(message.data)
        return decoded

    async def until(self, *types: str, request_id: str | None = None) -> list[dict[str, Any]]:
        """Messages up to the first of one of `types` (and that id, where one is named)."""
        seen = []
        while True:
            seen.append(await self.receive())
            if seen[-1]["type"] in types and request_id in (None, seen[-1].get("id")):
                return seen

    async def answer(self, request_id: str) -> tuple[str, dict[str, Any]]:
        """The text of a request, offsets checked, and its terminal event; messages of others are dropped."""
        text = ""
        while True:
            message = await self.receive()
            if message.get("id") != request_id:
                continue
            if message["type"] == "delta":
                assert message["offset"] == len(text)
                text += message["text"]
            if message["type"] in ("done", "error"):
                return text, message


async def connect(session: aiohttp.ClientSession, url: str) -> Peer:
    """A raw WebSocket peer that has read the hello, which is the first message."""
    peer = Peer(await session.ws_connect(f"{url}/v1/ws"))
    peer.hello = await peer.receive()
    assert peer.hello["type"] == "hello"
    return peer


class Ends:
    """Every event of the requests on one socket, read until told to stop; a second end of a request is a failure."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self.texts: dict[str, str] = {}
        self.queued: set[str] = set()
        self.ends: dict[str, dict[str, Any]] = {}

    async def until(self, *request_ids: str) -> None:
        """Read until all of them have ended."""
        while not set(request_ids) <= set(self.ends):
            await self._read()

    async def until_queued(self, *request_ids: str) -> None:
        """Read until all of them are known to wait, with their prompts tokenized where the engine is ready."""
        while not set(request_ids) <= self.queued:
            await self._read()

    async def _read(self) -> None:
        message = await self._peer.receive()
        request_id = str(message.get("id"))
        assert request_id not in self.ends, f"after its end: {message}"
        match message["type"]:
            case "queued":
                self.queued.add(request_id)
            case "delta":
                assert message["offset"] == len(self.texts.get(request_id, ""))
                self.texts[request_id] = self.texts.get(request_id, "") + message["text"]
            case "done" | "error":
                self.ends[request_id] = message

    def codes(self, *request_ids: str) -> list[str]:
        """How each of them ended: the error's code, or the finish reason."""
        return [self.ends[i].get("code") or self.ends[i]["finish_reason"] for i in request_ids]


def trusted(settings: Settings) -> Address:
    """Somewhere whose certificate is that of the settings."""
    file = settings.server.tls_certificate_file
    return Address("", "", trusting(Path(file)) if file else None)


@contextlib.asynccontextmanager
async def running(
    settings: Settings, model: ServedModel = FAKE_MODEL, choice: Choice | None = None
) -> AsyncIterator[Appliance]:
    """A daemon that listens and supervises its engine; ended, with its worker, on leaving.

    `choice`: of which store it serves `model`, and can serve others.
    """
    daemon = Daemon(settings, model, choice, certificate=await asyncio.to_thread(open_certificate, settings.server))
    async with listening(daemon) as url, open_session(trusted(settings)) as session:
        engine = asyncio.create_task(daemon.engine.run(daemon.dispatcher, daemon.check_model, daemon.fall_back))
        try:
            yield Appliance(daemon, url, session)
        finally:
            daemon.engine.stop()
            await engine
            if daemon.switching is not None:
                await daemon.switching.close()
