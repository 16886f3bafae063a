"""One request and the connection that carries it, one after another where it is resumable. Knows no sockets."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable

from appliance.client.answer import Answer
from appliance.client.connection import Connection
from appliance.client.errors import ClientError, ConnectFailed, ConnectionLost, UnsupportedProtocol
from appliance.protocol.websocket import Chat


class Carrier:
    """Has an answer go on over the next connection when one is lost, for as long as the server waits for that."""

    def __init__(
        self,
        connection: Connection,
        request: Chat,
        connect: Callable[[], Awaitable[Connection]],
        pause_s: Callable[[int, float | None], float],
    ) -> None:
        """`connect` gives a live connection; `pause_s` is how long to wait after failed attempt n, see Options."""
        self._connection = connection
        self._request = request
        self._connect = connect
        self._pause_s = pause_s
        self._session = connection.hello.session
        self._grace_s = connection.hello.limits.resume_grace_s
        self._cancelled = False
        self._resuming: asyncio.Task[None] | None = None
        self.answer = Answer(request.id, self._cancel)

    async def start(self) -> None:
        """Send the request. Raises as Connection.start does."""
        await self._connection.start(self.answer, self._request)
        if self._request.resumable:
            self.answer.on_loss = self._lost

    async def leave(self) -> None:
        """The consumer is gone: cancel the request where that can be said, and drop what still comes."""
        self.answer.close()
        await self._stop()
        await self._connection.leave(self.answer)

    async def close(self) -> None:
        """The client is closed: an answer between two connections ends with ConnectionLost."""
        if await self._stop():
            self.answer.fail(ConnectionLost("the client was closed"))

    async def _stop(self) -> bool:
        """End the attempts to resume; whether there were any."""
        if self._resuming is None or self._resuming.done():
            return False
        self._resuming.cancel()
        await asyncio.wait([self._resuming])
        return True

    async def _cancel(self, request_id: str) -> None:
        self._cancelled = True
        try:
            await self._connection.cancel(request_id)
        except ConnectionLost:
            if not self._request.resumable:
                raise  # else it is said once the answer has been resumed

    def _lost(self, reason: str) -> None:
        if self._resuming is None or self._resuming.done():
            self._resuming = asyncio.create_task(self._resume(reason), name="appliance-client-resume")

    async def _resume(self, lost: str) -> None:
        """Until the answer goes on, or has failed."""
        why: ClientError = ConnectionLost(lost)
        try:
            async with asyncio.timeout(self._grace_s):
                for attempt in itertools.count(1):
                    try:
                        if await self._resume_once():
                            return
                    except UnsupportedProtocol:
                        raise
                    except (ConnectFailed, ConnectionLost) as error:
                        why = error
                    retry_after_s = why.retry_after_s if isinstance(why, ConnectFailed) else None
                    await asyncio.sleep(self._pause_s(attempt, retry_after_s))
        except TimeoutError:
            self.answer.fail(ConnectionLost(f"{lost}; within {self._grace_s:g} s the answer could not go on: {why}"))
        except Exception as error:
            self.answer.fail(ConnectionLost(f"{lost}; {error}"))
            if not isinstance(error, ClientError):
                raise

    async def _resume_once(self) -> bool:
        """Whether the answer goes on over a connection that is alive. Raises ConnectFailed, ConnectionLost."""
        self._connection = await self._connect()
        await self._connection.resume(self.answer, self._session)
        if self._cancelled:
            await self._connection.cancel(self.answer.id)
        return self._connection.alive
