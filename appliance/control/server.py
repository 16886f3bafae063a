"""HTTP on the control socket. Knows the switch to another model; knows no client of the LAN, and not how to operate.

An answer that takes a while is one JSON object a line: what is done now, and at last what came of it.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web
from msgspec import Struct

from appliance.control.listener import bound_socket
from appliance.control.operating import OPERATED, ROUTES, Operated
from appliance.errors import ApplianceError, StartError
from appliance.models.errors import StoreBusy
from appliance.models.switching import Switching
from appliance.models.using import Switched
from appliance.observability.logs import fields

log = logging.getLogger(__name__)

BODY_MAX_BYTES = 1 << 16
STAGES_MAX = 64  # a switch has five; whoever reads none of them loses the later ones
BEAT_S = 5.0  # a line at least so often: whoever waits knows that somebody is there
SHUTDOWN_S = 2.0

SWITCHING: web.AppKey[Switching] = web.AppKey("switching", Switching)


class Use(Struct, frozen=True, forbid_unknown_fields=True):
    """Body of POST /v1/models/use."""

    model: str
    """ID, or ID@DIGEST."""


@contextlib.asynccontextmanager
async def control(
    path: Path, switching: Switching | None, operated: Operated, *, required: bool
) -> AsyncIterator[None]:
    """Answer on the control socket at `path` for as long as the block lasts; not at all where nothing can switch.

    Raises StartError where there can be none and it is `required`; else that is logged, and there is none.
    """
    async with contextlib.AsyncExitStack() as stack:
        if switching is None:
            yield
            return
        try:
            listener = stack.enter_context(bound_socket(path))
        except StartError as error:
            if required:
                raise
            log.warning("no control socket", extra=fields(reason=str(error)))
        else:
            runner = web.AppRunner(
                _build_app(switching, operated), handle_signals=False, access_log=None, shutdown_timeout=SHUTDOWN_S
            )
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            await web.SockSite(runner, listener).start()
            log.debug("control socket", extra=fields(path=str(path)))
        yield


def _build_app(switching: Switching, operated: Operated) -> web.Application:
    app = web.Application(client_max_size=BODY_MAX_BYTES)
    app[SWITCHING] = switching
    app[OPERATED] = operated
    app.add_routes([web.post("/v1/models/use", _use), web.post("/v1/models/rollback", _rollback)])
    app.add_routes([web.get("/v1/models/served", _served), *ROUTES])
    return app


async def _use(request: web.Request) -> web.StreamResponse:
    """Serve the model that the body names."""
    try:
        wanted = msgspec.json.decode(await request.read(), type=Use)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return _json({"error": {"message": f"the body is no request: {error}", "exit_status": 1}}, 400)
    return await _switch(request, wanted.model)


async def _rollback(request: web.Request) -> web.StreamResponse:
    """Serve what was served before."""
    return await _switch(request, None)


async def _served(request: web.Request) -> web.Response:
    """What is served now: {"model": "ID@DIGEST"}, or null where it is none of the store's."""
    slot = request.app[SWITCHING].served()
    return _json({"model": None if slot is None else str(slot)})


async def _switch(request: web.Request, reference: str | None) -> web.StreamResponse:
    """Switch, and tell how far it is; it goes on where nobody listens any more."""
    stages: asyncio.Queue[str] = asyncio.Queue(STAGES_MAX)

    def tell(stage: str) -> None:
        with contextlib.suppress(asyncio.QueueFull):
            stages.put_nowait(stage)

    task = asyncio.create_task(request.app[SWITCHING].use(reference, tell))
    task.add_done_callback(lambda done: done.cancelled() or done.exception())  # told to the log, and here below
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    with contextlib.suppress(ConnectionError):
        while not task.done():
            heard = asyncio.create_task(stages.get())
            await asyncio.wait({task, heard}, timeout=BEAT_S, return_when=asyncio.FIRST_COMPLETED)
            if not response.prepared:
                if task.done() and isinstance(task.exception(), StoreBusy):
                    heard.cancel()
                    return _json(_outcome(task), 409)
                await response.prepare(request)
            await _write(response, {"stage": heard.result()} if heard.done() else {})
            heard.cancel()
        await _write(response, _outcome(task))
        await response.write_eof()
    return response


def _outcome(task: "asyncio.Task[Switched]") -> dict[str, Any]:
    if task.cancelled():
        return {"error": {"message": "the daemon stops", "exit_status": 1}}
    error = task.exception()
    if error is None:
        return {"done": task.result()}
    known = isinstance(error, ApplianceError)
    return {
        "error": {
            "message": str(error) if known else "internal error; the appliance's log has the details",
            "exit_status": getattr(error, "exit_status", 1),
        }
    }


async def _write(response: web.StreamResponse, line: dict[str, Any]) -> None:
    await response.write(msgspec.json.encode(line) + b"\n")


def _json(data: object, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(data), status=status, content_type="application/json")
