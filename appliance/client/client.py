"""The client: one connection at a time, made again when it is needed. Knows the protocol's requests, no wire."""

import asyncio
import itertools
import random
import ssl
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from msgspec import UNSET, Struct
from msgspec.structs import replace

from appliance.client.address import Address, parse_address
from appliance.client.answer import Answer
from appliance.client.carrier import Carrier
from appliance.client.connection import Connection, open_connection
from appliance.client.errors import ClientError, ConnectFailed, TlsFailed, UnsupportedProtocol
from appliance.client.tls import open_session
from appliance.protocol.websocket import Chat, ChatParams, GoingAway, Hello
from appliance.types import Message


class Options(Struct, frozen=True, kw_only=True):
    """How patient a client is; see `connect`."""

    connect_timeout_s: float
    reconnect_attempts: int
    reconnect_backoff_s: float
    reconnect_backoff_max_s: float
    heartbeat_s: float

    def pause_s(self, attempt: int, retry_after_s: float | None) -> float:
        """Seconds to wait after failed attempt number `attempt`, from 1, and what the server asked for."""
        longest = self.reconnect_backoff_max_s
        pause = min(longest, self.reconnect_backoff_s * 2.0 ** (attempt - 1))
        jittered = random.uniform(pause / 2, pause)  # noqa: S311 # spreads clients, guards nothing
        return max(jittered, min(longest, retry_after_s or 0.0))


class Client:
    """Requests over one socket, many at once; made by `connect`, used from one event loop."""

    def __init__(self, session: aiohttp.ClientSession, address: Address, options: Options) -> None:
        self._session = session
        self._address = address
        self._options = options
        self._ids = itertools.count(1)
        self._connecting = asyncio.Lock()
        self._connection: Connection | None = None
        self._carriers: set[Carrier] = set()
        self._closed = False

    @property
    def url(self) -> str:
        """The WebSocket's URL, without credentials."""
        return self._address.shown

    @property
    def connected(self) -> bool:
        """Whether a connection is up, as far as is known."""
        return self._connection is not None and self._connection.alive

    @property
    def hello(self) -> Hello:
        """What the server said of itself on the last connection: model, limits, session."""
        return self._last.hello

    @property
    def going_away(self) -> GoingAway | None:
        """The announcement that the server of the last connection drains; None where there was none."""
        return self._last.going_away

    @asynccontextmanager
    async def stream(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        repetition_penalty: float | None = None,
        seed: int | None = None,
        stop: str | Sequence[str] | None = None,
        deadline_s: float | None = None,
        resumable: bool = False,
    ) -> AsyncIterator[Answer]:
        """Ask for an answer to `messages`; leaving the block before its end cancels the request.

        What is None is up to the server: the model's sampling, the default deadline. `deadline_s` counts from the
        request's arrival there. A lost connection is made again first.

        `resumable`: an answer whose connection is lost goes on over a new one, with nothing missing and nothing twice;
        ConnectionLost is raised only where there is none within the seconds that the server keeps the answer
        (`hello.limits.resume_grace_s`), or the server has not kept it. A block that is left while there is no
        connection cancels nothing: the server does so itself after that time.

        Raises ConnectFailed, ConnectionLost, and RequestFailed where the request is larger than the server reads;
        the iteration over the answer raises the rest, see Answer.events.
        """
        params = ChatParams(
            max_tokens=_or_unset(max_tokens),
            temperature=_or_unset(temperature),
            top_p=_or_unset(top_p),
            top_k=_or_unset(top_k),
            repetition_penalty=_or_unset(repetition_penalty),
            seed=_or_unset(seed),
            stop=UNSET if stop is None else [stop] if isinstance(stop, str) else list(stop),
        )
        connection = await self._live()
        resumable = resumable and connection.hello.limits.resume_grace_s > 0
        request = Chat(f"r{next(self._ids)}", list(messages), params, _or_unset(deadline_s), resumable)
        carrier = Carrier(connection, request, self._live, self._options.pause_s)
        await carrier.start()
        self._carriers.add(carrier)
        try:
            yield carrier.answer
        finally:
            self._carriers.discard(carrier)
            await carrier.leave()

    async def ping(self, timeout_s: float = 10.0) -> float:
        """Seconds of one round trip through the protocol's own ping.

        Raises ConnectFailed, ConnectionLost, TimeoutError after `timeout_s`.
        """
        connection = await self._live()
        before = time.perf_counter()
        async with asyncio.timeout(timeout_s):
            await connection.ping(f"p{next(self._ids)}")
        return time.perf_counter() - before

    async def reconnect(self) -> None:
        """Make a lost connection again; nothing where it is up.

        Tries reconnect_attempts times with growing pauses. Raises ConnectFailed with the last reason.
        """
        await self._live()

    async def close(self) -> None:
        """End the connection; open answers end with ConnectionLost. Nothing can be asked afterwards."""
        self._closed = True
        for carrier in list(self._carriers):
            await carrier.close()
        if self._connection is not None:
            await self._connection.close()

    async def open(self) -> None:
        """Connect for the first time, in one attempt. Raises ConnectFailed."""
        await self._connect()

    @property
    def _last(self) -> Connection:
        if self._connection is None:
            raise ClientError("the client was never connected")
        return self._connection

    async def _live(self) -> Connection:
        async with self._connecting:  # many streams at once make one connection
            if self._closed:
                raise ClientError("the client is closed")
            if self._connection is not None and self._connection.alive:
                return self._connection
            return await self._connect_patiently()

    async def _connect_patiently(self) -> Connection:
        for attempt in itertools.count(1):
            try:
                return await self._connect()
            except (UnsupportedProtocol, TlsFailed):
                raise
            except ConnectFailed as error:
                if attempt >= self._options.reconnect_attempts:
                    raise
                await asyncio.sleep(self._options.pause_s(attempt, error.retry_after_s))
        raise AssertionError("unreachable")

    async def _connect(self) -> Connection:
        if self._connection is not None:
            await self._connection.discard()
        connection = await open_connection(
            self._session,
            self._address,
            connect_timeout_s=self._options.connect_timeout_s,
            heartbeat_s=self._options.heartbeat_s,
        )
        if self._closed:  # while this was connecting
            await connection.close()
            raise ClientError("the client is closed")
        self._connection = connection
        return connection


@asynccontextmanager
async def connect(
    url: str | Address,
    *,
    tls: ssl.SSLContext | None = None,
    connect_timeout_s: float = 5.0,
    reconnect_attempts: int = 5,
    reconnect_backoff_s: float = 0.2,
    reconnect_backoff_max_s: float = 5.0,
    heartbeat_s: float = 15.0,
) -> AsyncIterator[Client]:
    """A client of the appliance at `url`, such as `http://127.0.0.1:8080`; leaving the block closes it.

    `tls`: whom to trust, for https:// and wss://; None: whom this system trusts, or the file that SSL_CERT_FILE names.
    `connect_timeout_s`: seconds for one attempt, up to and with the hello. A lost connection is made again when the
    next answer is asked for: `reconnect_attempts` attempts, pauses that double from `reconnect_backoff_s` to
    `reconnect_backoff_max_s` seconds, each shortened at random by up to half. `heartbeat_s`: seconds of silence
    before the server is asked for a sign of life, for which it has half of that again.

    Raises BadAddress; ConnectFailed where the first attempt fails, UnsupportedProtocol and TlsFailed among it.
    """
    address = parse_address(url)
    if tls is not None:
        address = replace(address, tls=tls)
    options = Options(
        connect_timeout_s=connect_timeout_s,
        reconnect_attempts=reconnect_attempts,
        reconnect_backoff_s=reconnect_backoff_s,
        reconnect_backoff_max_s=reconnect_backoff_max_s,
        heartbeat_s=heartbeat_s,
    )
    async with open_session(address) as session:
        client = Client(session, address, options)
        try:
            await client.open()
            yield client
        finally:
            await client.close()


def _or_unset(value: Any) -> Any:
    return UNSET if value is None else value
