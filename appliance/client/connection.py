"""One socket from its hello to its end: routes what comes to the answers by id. Knows nothing of reconnecting."""

import asyncio
import contextlib
import logging
import os

import aiohttp
import msgspec
from msgspec import Struct

from appliance.client.address import Address
from appliance.client.answer import Answer
from appliance.client.errors import ConnectFailed, ConnectionLost, RequestFailed, TlsFailed, UnsupportedProtocol
from appliance.client.tls import tls_problem
from appliance.errors import BadMessage
from appliance.observability.logs import fields
from appliance.protocol.websocket import (
    PROTOCOL_VERSION,
    Cancel,
    Chat,
    ClientMessage,
    Delta,
    Done,
    Error,
    GoingAway,
    Hello,
    Ping,
    Pong,
    Queued,
    Resume,
    ServerMessage,
    Started,
    decode_server_message,
    encode,
)

CLOSE_TIMEOUT_S = 2.0  # for the server's close frame; a server that needs longer is not waited for
CANCEL_TIMEOUT_S = 2.0  # to get a cancel into the socket; behind a blocked socket the heartbeat decides
SILENT = "it closed the connection without an answer"
ENDED = (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSING, aiohttp.WSMsgType.CLOSED)

log = logging.getLogger(__name__)


class Connection:
    """A live socket; made by `open_connection`."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, hello: Hello) -> None:
        self.hello = hello
        self.going_away: GoingAway | None = None
        self._socket = socket
        self._answers: dict[str, Answer] = {}
        self._pongs: dict[str, asyncio.Future[None]] = {}
        self._closing = False
        self._lost: str | None = None
        self._closed_with: int | None = None
        self._reader = asyncio.create_task(self._read(), name="appliance-client-reader")

    @property
    def alive(self) -> bool:
        """Whether requests can be sent; False as soon as the end was noticed."""
        return self._lost is None and not self._closing and not self._socket.closed

    async def start(self, answer: Answer, request: Chat) -> None:
        """Send a request whose events go to `answer` from now on.

        Raises ConnectionLost, and RequestFailed where the request is larger than what the server reads: sent, it would
        cost the connection and with it every other answer.
        """
        size, bound = len(encode(request).encode()), self.hello.limits.max_message_bytes
        if size > bound:
            raise RequestFailed("prompt_too_long", f"the request has {size} bytes; the server takes {bound}")
        self._answers[answer.id] = answer
        try:
            await self._send(request)
        except BaseException:
            self._answers.pop(answer.id, None)
            raise

    async def resume(self, answer: Answer, session: str) -> None:
        """Have `answer`, which was asked for in an earlier `session`, go on here. Raises ConnectionLost."""
        self._answers[answer.id] = answer
        try:
            await self._send(Resume(session, answer.id, answer.received_chars))
        except BaseException:
            self._answers.pop(answer.id, None)
            raise

    async def leave(self, answer: Answer) -> None:
        """The consumer is gone: cancel the request where it is live, and drop what still comes for it."""
        answer.close()
        if self._answers.pop(answer.id, None) is not None:
            with contextlib.suppress(ConnectionLost, TimeoutError):
                async with asyncio.timeout(CANCEL_TIMEOUT_S):
                    await self._send(Cancel(answer.id))

    async def cancel(self, request_id: str) -> None:
        """Ask for the end of a request; nothing where it is no longer live. Raises ConnectionLost."""
        if request_id in self._answers:
            await self._send(Cancel(request_id))

    async def ping(self, data: str) -> None:
        """Return when the server has answered a ping with `data`. Raises ConnectionLost."""
        pong = self._pongs[data] = asyncio.get_running_loop().create_future()
        try:
            await self._send(Ping(data))
            await pong
        finally:
            self._pongs.pop(data, None)

    async def close(self) -> None:
        """Close the socket; open answers end with ConnectionLost."""
        self._closing = True
        await self._socket.close()
        await self._reader

    async def discard(self) -> None:
        """Close a socket that was lost, if it is not yet; resumable answers go on over another."""
        await self._socket.close()
        await self._reader

    async def _send(self, message: ClientMessage) -> None:
        if not self.alive:
            raise ConnectionLost(self._lost or "the connection is closed")
        try:
            await self._socket.send_str(encode(message))
        except (aiohttp.ClientError, OSError) as error:
            raise ConnectionLost(f"the connection broke while sending: {error}") from error

    async def _read(self) -> None:
        reason = None
        try:
            while True:
                frame = await self._socket.receive()
                if frame.type is aiohttp.WSMsgType.TEXT:
                    self._route(decode_server_message(frame.data))
                elif frame.type is aiohttp.WSMsgType.BINARY:
                    raise BadMessage("server sent a binary frame")
                elif frame.type in ENDED:
                    # aiohttp forgets the code where it can't answer the frame: of TLS the end comes together with it.
                    self._closed_with = frame.data if frame.type is aiohttp.WSMsgType.CLOSE else None
                    break
        except BadMessage as error:
            reason = str(error)
            await self._socket.close(code=aiohttp.WSCloseCode.PROTOCOL_ERROR)
        finally:
            self._end(reason or self._why_ended())

    def _why_ended(self) -> str:
        if self._closing:
            return "the client was closed"
        if self._closed_with is not None:
            return f"the server closed the connection ({self._closed_with})"
        match self._socket.exception():
            case aiohttp.ServerTimeoutError():
                return "the server gives no sign of life"
            case None:
                return f"the server closed the connection ({self._socket.close_code or 'without a reason'})"
            case error:
                return f"the connection broke: {error}"

    def _end(self, reason: str) -> None:
        self._lost = reason
        answers = list(self._answers.values())
        self._answers.clear()
        for answer in answers:
            if self._closing:
                answer.fail(ConnectionLost(reason))
            else:
                answer.lost(reason)
        for pong in self._pongs.values():
            if not pong.done():
                pong.set_exception(ConnectionLost(reason))

    def _route(self, message: ServerMessage | None) -> None:
        match message:
            case Queued() | Started() | Delta():
                if answer := self._answers.get(message.id):
                    answer.accept(message)
            case Done():
                if answer := self._answers.pop(message.id, None):
                    answer.accept(message)
            case Error(id=request_id, code=code):
                answer = self._answers.pop(request_id, None) if request_id is not None else None
                if answer is not None and code == "unknown_id":
                    answer.fail(ConnectionLost("the connection was lost, and the server has not kept the answer"))
                elif answer is not None:
                    answer.fail(RequestFailed(code, message.message, retry_after_s=message.retry_after_s))
                else:  # unknown_id is what a cancel gets that crossed the end of its request
                    level = logging.DEBUG if code == "unknown_id" else logging.WARNING
                    log.log(level, "server error: %s", message.message, extra=fields(code=code))
            case GoingAway():
                self.going_away = message
            case Pong(data=data):
                if (pong := self._pongs.get(data)) and not pong.done():
                    pong.set_result(None)
            case Hello():
                self.hello = message
            case None:
                log.debug("message of an unknown type")


async def open_connection(
    session: aiohttp.ClientSession, address: Address, *, connect_timeout_s: float, heartbeat_s: float
) -> Connection:
    """Connect and read the hello, all within `connect_timeout_s`.

    Raises ConnectFailed; UnsupportedProtocol where the server speaks another version, TlsFailed where it is TLS.
    """
    try:
        async with asyncio.timeout(connect_timeout_s):
            socket = await session.ws_connect(
                address.url, heartbeat=heartbeat_s, timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_TIMEOUT_S)
            )
            try:
                return Connection(socket, await _read_hello(socket, address))
            except BaseException:
                await socket.close()
                raise
    except TimeoutError:
        raise ConnectFailed(f"{address.shown} does not answer within {connect_timeout_s:g} s") from None
    except aiohttp.WSServerHandshakeError as error:
        raise _turned_away(error, address) from error
    except aiohttp.ClientSSLError as error:
        raise TlsFailed(f"can't connect to {address.shown}: {tls_problem(error)}") from error
    except (aiohttp.ClientError, OSError) as error:
        raise ConnectFailed(f"can't connect to {address.shown}: {_in_words(error, address)}") from error


class _Opening(Struct):
    """What tells the version of a hello whose other fields this version may not know."""

    type: str | None = None
    protocol: int | None = None


async def _read_hello(socket: aiohttp.ClientWebSocketResponse, address: Address) -> Hello:
    frame = await socket.receive()
    if frame.type is not aiohttp.WSMsgType.TEXT:
        raise ConnectFailed(f"{address.shown} closed the connection before its hello ({socket.close_code})")
    try:
        opening = msgspec.json.decode(frame.data, type=_Opening)
        if opening.type == "hello" and opening.protocol != PROTOCOL_VERSION:
            raise UnsupportedProtocol(
                f"{address.shown} speaks protocol version {opening.protocol}; this client speaks {PROTOCOL_VERSION}"
            )
        message = decode_server_message(frame.data)
    except (msgspec.DecodeError, BadMessage, RecursionError) as error:
        raise UnsupportedProtocol(f"{address.shown} is no appliance: {error}") from None
    match message:
        case Hello():
            return message
        case Error():
            raise ConnectFailed(
                f"{address.shown} turned the client away: {message.message} ({message.code})",
                retry_after_s=message.retry_after_s,
            )
        case _:
            raise UnsupportedProtocol(f"{address.shown} is no appliance: its first message is no hello")


def _turned_away(error: aiohttp.WSServerHandshakeError, address: Address) -> ConnectFailed:
    reasons = {
        401: "it wants an API key",
        403: "it does not allow this client",
        404: "nothing speaks the protocol there",
        503: "it takes no connections now, or can't start; its operator knows, or finds the reason in its journal",
    }
    reason = reasons.get(error.status, error.message)
    retry_after = error.headers.get("Retry-After", "") if error.headers else ""
    return ConnectFailed(
        f"{address.shown} answers HTTP {error.status}: {reason}",
        retry_after_s=float(retry_after) if retry_after.isdecimal() else None,
    )


def _in_words(error: Exception, address: Address) -> str:
    """The operating system's own words where it has some: "Connection refused"."""
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return SILENT if address.url.startswith("wss") else f"{SILENT}; where it speaks TLS, ask by https://"
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    if isinstance(error, aiohttp.ClientConnectorError):
        return error.os_error.strerror or str(error.os_error) or SILENT
    return str(error) or type(error).__name__
