"""Answers who waits on systemd's sockets while the daemon can't start, for want of the operator. Knows no settings.

Who is left waiting has systemd start the daemon again, at once and in vain, until the socket unit gives up and refuses
everybody, also once the operator has mended what was wrong.
"""

import asyncio
import contextlib
import math
import select
from collections.abc import Iterator, Sequence

import msgspec

from appliance.api.activation import InheritedSocket
from appliance.api.answers import error_body
from appliance.errors import EXIT_CONFIG, NotStarted

# With somebody there: so that appliance.socket, which allows 30 starts in a minute, never has to give up.
FOR_S = 3.0
REQUEST_TIMEOUT_S = 1.0  # for a request that is on its way; who sends none is answered all the same
CLOSE_TIMEOUT_S = 1.0
TLS_HANDSHAKE = b"\x16"  # the first byte of a client that speaks it
BACKLOG = 16  # accepted in one go

_ERROR = NotStarted("the appliance can't start; its operator finds the reason in its journal", retry_after_s=10)
_BODY = msgspec.json.encode(error_body(_ERROR.code, str(_ERROR), _ERROR.retry_after_s))
_HEAD = (
    f"HTTP/1.1 {_ERROR.http_status} Service Unavailable\r\nRetry-After: {math.ceil(_ERROR.retry_after_s or 0)}\r\n"
    f"Connection: close\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: {len(_BODY)}\r\n\r\n"
)
ANSWER = _HEAD.encode() + _BODY


@contextlib.contextmanager
def turned_away(listening: Sequence[InheritedSocket]) -> Iterator[None]:
    """An end of the block with EXIT_CONFIG, which systemd does not try again by itself, answers who waits before.

    `listening` is looked at when the block ends.
    """
    try:
        yield
    except Exception as error:
        if getattr(error, "exit_status", getattr(error, "exit_code", 1)) == EXIT_CONFIG and _somebody_waits(listening):
            asyncio.run(_turn_away(listening))
        raise


def _somebody_waits(listening: Sequence[InheritedSocket]) -> bool:
    poll = select.poll()
    for inherited in listening:
        poll.register(inherited, select.POLLIN)
    return bool(poll.poll(0))


async def _turn_away(listening: Sequence[InheritedSocket]) -> None:
    """Answer who waits, and who comes within FOR_S."""
    answering: set[asyncio.Task[None]] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            answering.add(task)
            task.add_done_callback(answering.discard)
        await _answer(reader, writer)

    servers = [await asyncio.start_server(answer, sock=inherited, backlog=BACKLOG) for inherited in listening]
    await asyncio.sleep(FOR_S)
    for server in servers:
        server.close()  # here alone: systemd goes on listening
    if answering:
        await asyncio.wait(answering, timeout=REQUEST_TIMEOUT_S + CLOSE_TIMEOUT_S)


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    said = b""
    with contextlib.suppress(TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        async with asyncio.timeout(REQUEST_TIMEOUT_S):
            said = await reader.readexactly(1)
            if said != TLS_HANDSHAKE:
                await reader.readuntil(b"\r\n\r\n")  # what is left unread would make the close a reset
    if said != TLS_HANDSHAKE:  # a client of TLS would take the answer for a port that speaks none, and try no more
        writer.write(ANSWER)
    writer.close()
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await writer.wait_closed()
    except TimeoutError:
        writer.transport.abort()
    except OSError:
        pass  # gone already
