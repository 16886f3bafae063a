"""Answers that go wrong, which a test has the model hub on this host give. Knows no repository and no file."""

import asyncio
from collections.abc import Awaitable, Callable

from aiohttp import web

PIECE_BYTES = 1 << 16
WAIT_S = 60.0

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]
"""What a test has the hub do instead."""


def failing(status: int, code: str = "", message: str = "", **headers: str) -> web.Response:
    """An error as the hub words it."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    if code:
        named["X-Error-Code"] = code
    if message:
        named["X-Error-Message"] = message
    return web.json_response({"error": message}, status=status, headers=named)


def fails(status: int, code: str = "", message: str = "", **headers: str) -> Answer:
    """An answer that is an error; a header is named as in Retry_After="3"."""

    async def answer(request: web.Request) -> web.StreamResponse:
        return failing(status, code, message, **headers)

    return answer


def redirects(to: str) -> Answer:
    """An answer that leads elsewhere, for ever."""

    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(status=302, headers={"Location": to})

    return answer


def says(text: str, kind: str = "text/html") -> Answer:
    """An answer that no hub gives, such as a login page's."""

    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(text=text, content_type=kind)

    return answer


async def endless(request: web.Request) -> web.StreamResponse:
    """A body that does not end, and does not say how long it is."""
    response = web.StreamResponse()
    response.enable_chunked_encoding()
    await response.prepare(request)
    while True:
        await response.write(bytes(PIECE_BYTES))


async def trickle(request: web.Request) -> web.StreamResponse:
    """A byte now and then, for longer than anybody waits."""
    response = web.StreamResponse(status=206 if "Range" in request.headers else 200)
    response.content_length = 1 << 30
    await response.prepare(request)
    while True:
        await response.write(b"GGUF")
        await asyncio.sleep(0.02)


async def silence(request: web.Request) -> web.StreamResponse:
    """No answer."""
    await asyncio.sleep(WAIT_S)
    return web.Response(status=504)
