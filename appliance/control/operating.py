"""Routes for taking the daemon out of service and back. Knows HTTP; knows no daemon but by what is asked of it here."""

from typing import Protocol

import msgspec
from aiohttp import web


class Operated(Protocol):
    """A daemon, as an operator sees it."""

    @property
    def drained(self) -> bool:
        """Whether new requests are refused until `undrain`."""

    @property
    def running(self) -> int:
        """Requests in the engine."""

    @property
    def waiting(self) -> int:
        """Requests in the queue."""

    def drain(self) -> None:
        """Refuse new requests; those that were taken are answered."""

    def undrain(self) -> None:
        """Take requests again."""


OPERATED: web.AppKey[Operated] = web.AppKey("operated", Operated)


async def _drain(request: web.Request) -> web.Response:
    """Out of service."""
    request.app[OPERATED].drain()
    return _standing(request)


async def _undrain(request: web.Request) -> web.Response:
    """Back in service."""
    request.app[OPERATED].undrain()
    return _standing(request)


async def _ask(request: web.Request) -> web.Response:
    """Whether it is out of service, and what it still has to do."""
    return _standing(request)


def _standing(request: web.Request) -> web.Response:
    operated = request.app[OPERATED]
    standing = {"drained": operated.drained, "running": operated.running, "waiting": operated.waiting}
    return web.Response(body=msgspec.json.encode(standing), content_type="application/json")


ROUTES = [web.post("/v1/drain", _drain), web.post("/v1/undrain", _undrain), web.get("/v1/drain", _ask)]
