"""One client's socket: its messages, its live requests, its end. Knows the protocol and dispatch."""

import asyncio
import contextlib
import logging
import secrets
import socket

from aiohttp import WSCloseCode, WSMessage, WSMsgType, web

from appliance import __version__
from appliance.api.clients import client_of
from appliance.api.events import Event, Messages, error_message
from appliance.api.kept_answer import Delivery, KeptAnswer
from appliance.api.keys import SECURED
from appliance.api.outbox import Outbox
from appliance.api.requests import chat_request
from appliance.api.state import Daemon
from appliance.dispatch import CancelReason, Ticket
from appliance.errors import BadMessage, BadRequest, DuplicateId, InternalError, RateLimited, RequestError, UnknownId
from appliance.observability.logs import SELDOM, fields
from appliance.protocol import websocket as wire

log = logging.getLogger(__name__)

PING_MAX_CHARS = 256
SEND_BUFFER_BYTES = 1 << 16  # of the kernel, for one client: what is beyond waits in the bounded outbox
FLUSH_POLL_S = 0.05
CLOSE_TIMEOUT_S = 2.0  # for a peer to take the close frame; then the connection is aborted


class Connection:
    """Reads until the socket ends; then what it asked for is cancelled, or kept where it is resumable."""

    def __init__(self, daemon: Daemon, ws: web.WebSocketResponse, request: web.Request) -> None:
        self._daemon = daemon
        self._ws = ws
        self._request = request
        self._transport = request.transport
        self._secured = None if self._transport is None else request.app[SECURED].get(self._transport)
        self.client = client_of(request)
        """Whom bounds count for."""
        self._session = secrets.token_urlsafe(24)
        self._live: dict[str, Ticket] = {}
        self._outbox = Outbox(ws, daemon.settings.server.outbox_max_messages, self._too_slow, self._gone)
        self._closing: asyncio.Task[None] | None = None
        if self._transport is not None:
            sock: socket.socket | None = self._transport.get_extra_info("socket")
            if sock is not None:  # of TLS it is gone a moment before anybody hears of that
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)

    async def run(self) -> None:
        """Serve the socket until its end, whoever ends it."""
        writer = asyncio.create_task(self._outbox.run())
        writer.add_done_callback(self._writer_ended)
        self._outbox.put(self._hello())
        left_s = self._daemon.dispatcher.drain_left_s
        if left_s is not None:
            self.going_away(left_s)
        try:
            async for message in self._ws:
                self._receive(message)
                await asyncio.sleep(0)  # frames that came together are read without a pause: let the writers have one
        finally:
            self._outbox.close()
            self._let_go("disconnected")
            writer.cancel()
            closing = [self._closing] if self._closing is not None else []
            await asyncio.gather(writer, *closing, return_exceptions=True)
            await self._part()
            log.debug("connection closed", extra=fields(client=self.client, code=self._ws.close_code))

    def going_away(self, deadline_s: float) -> None:
        """Tell the client that the daemon drains."""
        self._outbox.put(wire.GoingAway(deadline_s))

    async def close(self, code: int, reason: str, flush_s: float = CLOSE_TIMEOUT_S) -> None:
        """Send what waits, then close, all within bounds; a peer that does not follow is aborted."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._outbox.flushed(), flush_s)
        with contextlib.suppress(TimeoutError, ConnectionError):
            await asyncio.wait_for(self._ws.close(code=code, message=reason.encode()), CLOSE_TIMEOUT_S)
        if self._transport is not None:
            await self._flushed(self._transport)
            self.abort()

    def _writer_ended(self, writer: "asyncio.Task[None]") -> None:
        """By itself, as nothing can be written any more: a peer that half-closes tells the reading side of no end."""
        if not writer.cancelled():
            self.abort()

    def abort(self) -> None:
        """End the connection now, where there is one. A transport that has ended by itself can't be aborted: asyncio's
        raises AttributeError, where it was closed with something still to write.
        """
        transport = self._request.transport
        if transport is not None:
            (self._secured or transport).abort()

    async def _part(self) -> None:
        """A peer that has stopped both speaking and reading: a transport that closes waits for ever to be flushed, and
        aiohttp has a last frame for it when this has returned.
        """
        if self._transport is None:
            return
        if not await self._flushed(self._transport):
            self.abort()
        asyncio.get_running_loop().call_later(CLOSE_TIMEOUT_S, self.abort)

    async def _flushed(self, transport: asyncio.Transport) -> bool:
        """Wait until the kernel has taken what was written, for CLOSE_TIMEOUT_S; whether it has. A transport tells of
        it in no other way once it closes.
        """
        for _ in range(int(CLOSE_TIMEOUT_S / FLUSH_POLL_S)):
            if not self._unsent_bytes(transport):
                return True
            await asyncio.sleep(FLUSH_POLL_S)
        return not self._unsent_bytes(transport)

    def _unsent_bytes(self, transport: asyncio.Transport) -> int:
        return transport.get_write_buffer_size() if self._secured is None else self._secured.unsent_bytes(transport)

    def _gone(self) -> bool:
        """Whether nothing can be written, where aiohttp does not know it."""
        return self._secured is not None and self._secured.gone

    def _too_slow(self) -> None:
        extra = fields(client=self.client, live=len(self._live)) | SELDOM
        log.warning("client reads too slowly, closed", extra=extra)
        self._let_go("slow_reader")
        self._closing = asyncio.create_task(self.close(WSCloseCode.TRY_AGAIN_LATER, "reader too slow"))

    def _let_go(self, reason: CancelReason) -> None:
        """Nobody hears the requests here any more."""
        kept = self._daemon.keeper.detach(self._outbox)
        for request_id, ticket in list(self._live.items()):
            if request_id in kept:
                self._forget(request_id)
            else:
                self._daemon.dispatcher.cancel(ticket, reason)

    def _hello(self) -> wire.Hello:
        model = self._daemon.model
        return wire.Hello(
            server=f"appliance/{__version__}",
            model=wire.HelloModel(model.id, model.context_tokens),
            limits=self._daemon.limits,
            session=self._session,
        )

    def _receive(self, message: WSMessage) -> None:
        if message.type is WSMsgType.BINARY:
            self._refuse(None, BadMessage("binary frames are no part of this protocol; send JSON in text frames"))
            return
        if message.type is not WSMsgType.TEXT:
            return
        try:
            decoded = wire.decode_client_message(message.data)
        except (BadMessage, BadRequest) as error:
            self._refuse(wire.id_of(message.data), error)
            return
        try:
            self._obey(decoded)
        except Exception:
            extra = fields(client=self.client, type=type(decoded).__name__) | SELDOM
            log.exception("message failed", extra=extra)
            error_for = getattr(decoded, "id", None)
            self._refuse(error_for, InternalError("internal error; the appliance's log has the details"))

    def _obey(self, message: wire.ClientMessage) -> None:
        match message:
            case wire.Chat():
                self._chat(message)
            case wire.Cancel(id=request_id):
                self._cancel(request_id)
            case wire.Resume():
                self._resume(message)
            case wire.Ping(data=data) if len(data) > PING_MAX_CHARS:
                self._refuse(None, BadRequest(f"ping data has {len(data)} characters; at most {PING_MAX_CHARS}"))
            case wire.Ping(data=data):
                self._outbox.put(wire.Pong(data))

    def _chat(self, chat: wire.Chat) -> None:
        if not wire.is_request_id(chat.id):
            self._refuse(None, BadMessage(f"id must have 1 to {wire.ID_MAX_CHARS} characters; it has {len(chat.id)}"))
            return
        try:
            self._check_room(chat.id)
            request = chat_request(chat, self.client, self._daemon.model, self._daemon.settings)
            keeper = self._daemon.keeper
            kept = KeptAnswer(self._session, chat.id, self.client) if chat.resumable and keeper.enabled else None
            sink = Messages(chat.id, lambda: self._daemon.model.id, self._tell if kept is None else kept.tell)
            ticket = self._live[chat.id] = self._daemon.dispatcher.submit(request, sink)
        except RequestError as error:
            self._refuse(chat.id, error)
            return
        keeper.forget(self._session, chat.id)
        if kept is not None:
            kept.delivery = Delivery(kept, self._outbox, self._forget)
            keeper.add(kept, ticket)

    def _check_room(self, request_id: str) -> None:
        keeper, most = self._daemon.keeper, self._daemon.settings.limits.max_live_requests
        if request_id in self._live or keeper.is_live(self._session, request_id):
            raise DuplicateId(f"id {request_id!r} belongs to a request that is still live; choose another")
        detached = keeper.detached_of(self.client)
        if len(self._live) + detached >= most:
            without = f" ({detached} of them without a socket)" if detached else ""
            self._daemon.metrics.rejected(RateLimited.code)
            raise RateLimited(f"{most} requests of yours are live{without}, which is all there may be", retry_after_s=1)

    def _tell(self, event: Event) -> None:
        if isinstance(event, wire.Done | wire.Error):
            self._live.pop(event.id or "", None)
        self._outbox.put(event)

    def _resume(self, resume: wire.Resume) -> None:
        try:
            if resume.id in self._live:
                raise DuplicateId(f"id {resume.id!r} belongs to a request that is live on this socket")
            self._live[resume.id] = self._daemon.keeper.resume(
                resume.session, resume.id, resume.offset, self.client, self._outbox, self._forget
            )
        except RequestError as error:
            self._refuse(resume.id, error)

    def _cancel(self, request_id: str) -> None:
        ticket = self._live.get(request_id)
        if ticket is None:
            self._refuse(request_id, UnknownId(f"no live request of this socket has the id {request_id[:64]!r}"))
        else:
            self._daemon.dispatcher.cancel(ticket, "client")

    def _refuse(self, request_id: str | None, error: RequestError) -> None:
        """An error with the id of a live request would read as its end: such an id is not repeated."""
        shown = request_id if wire.is_request_id(request_id) and request_id not in self._live else None
        self._outbox.put(error_message(shown, error))

    def _forget(self, request_id: str) -> None:
        self._live.pop(request_id, None)
