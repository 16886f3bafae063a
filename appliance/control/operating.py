"""Routes of drain, undrain and reload. Knows HTTP; knows of the daemon what is asked of it here."""

from typing import Protocol

import msgspec
from aiohttp import web

from appliance.config.changes import Changes
from appliance.errors import ConfigError


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

    async def reload(self) -> Changes:
        """Read the settings again. Raises ConfigError; then nothing has changed."""


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


async def _reload(request: web.Request) -> web.Response:
    """Read the settings again."""
    try:
        changes = await request.app[OPERATED].reload()
    except ConfigError as error:
        return _json({"error": {"message": str(error), "exit_status": error.exit_status}}, 400)
    return _json(changes)


def _standing(request: web.Request) -> web.Response:
    operated = request.app[OPERATED]
    return _json({"drained": operated.drained, "running": operated.running, "waiting": operated.waiting})


def _json(data: object, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(data), status=status, content_type="application/json")


ROUTES = [
    web.post("/v1/drain", _drain),
    web.post("/v1/undrain", _undrain),
    web.get("/v1/drain", _ask),
    web.post("/v1/reload", _reload),
]
