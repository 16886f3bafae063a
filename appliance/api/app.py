"""Composition: the application's routes and parts, and the life of a daemon from listening to its last word."""

import asyncio
import contextlib
import logging
import os
import signal
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from weakref import WeakKeyDictionary, WeakSet

from aiohttp import WSCloseCode, web

from appliance import __version__
from appliance.api import system
from appliance.api.keys import ASKED, DAEMON, SECURED
from appliance.api.listener import (
    KEEPALIVE_S,
    SPARE_CONNECTIONS,
    Doorkeeper,
    Listeners,
    affordable_connections,
    allow_many_files,
)
from appliance.api.middleware import errors_as_json, note_request
from appliance.api.operator import Operator
from appliance.api.service import tell_stopping
from appliance.api.state import Daemon
from appliance.api.tls import Handshakes, SecuredConnections
from appliance.api.websocket import websocket
from appliance.engine.mapping import release_freed
from appliance.errors import ConfigError
from appliance.observability.events import Event, event
from appliance.observability.logs import fields
from appliance.observability.notify import Notifier
from appliance.observability.seldom import mark_seldom

log = logging.getLogger(__name__)

TIDY_INTERVAL_S = 60.0

HTTP_BODY_MAX_BYTES = 1 << 20  # no route takes a body yet


def build_app(daemon: Daemon) -> web.Application:
    """Routes, middleware and parts; opens nothing."""
    app = web.Application(middlewares=[note_request, errors_as_json], client_max_size=HTTP_BODY_MAX_BYTES)
    app[DAEMON] = daemon
    app[ASKED] = WeakSet()
    app[SECURED] = WeakKeyDictionary()
    app.add_routes([*system.ROUTES, web.get("/v1/ws", websocket)])
    return app


@contextlib.asynccontextmanager
async def listening(daemon: Daemon, listeners: Listeners | None = None) -> AsyncIterator[str]:
    """Serve HTTP and WebSocket, over TLS where the daemon has a certificate, while the block lasts; gives the base URL.

    `listeners`: sockets that were handed over; None: one of our own, as the settings have it.
    Raises StartError where the address can't be listened on.
    """
    settings = daemon.settings.server
    app = build_app(daemon)
    runner = web.AppRunner(
        app, handle_signals=False, access_log=None, shutdown_timeout=2.0, keepalive_timeout=KEEPALIVE_S
    )
    await runner.setup()
    try:
        if runner.server is None:
            raise RuntimeError("the runner has no server after its setup")
        doorkeeper = Doorkeeper(
            runner.server,
            app[ASKED],
            lambda: affordable_connections(daemon.settings.server.max_connections + SPARE_CONNECTIONS),
        )
        listeners = listeners or Listeners()
        secure = _handshakes(daemon, doorkeeper, app[SECURED])
        try:
            if secure is None:
                yield await listeners.open(doorkeeper, settings.host, settings.port)
            else:
                yield await listeners.open(secure, settings.host, settings.port, "https")
        finally:
            listeners.close()
            if secure is not None:
                secure.close()
    finally:
        await runner.cleanup()


def _handshakes(daemon: Daemon, doorkeeper: Doorkeeper, secured: SecuredConnections) -> Handshakes | None:
    """What makes TLS of connections, with the certificate of their time; None where nothing does."""
    if daemon.certificate is None:
        return None

    def context() -> ssl.SSLContext:
        if daemon.certificate is None:
            raise RuntimeError("a daemon that had a certificate has none")
        return daemon.certificate.context

    return Handshakes(context, doorkeeper, doorkeeper.has_room, secured)


async def run_daemon(
    daemon: Daemon,
    *,
    announce: Callable[[Daemon, str], None],
    beside: AbstractAsyncContextManager[object],
    notifier: Notifier,
    listeners: Listeners,
    operator: Operator,
) -> None:
    """Serve until SIGTERM or SIGINT, then drain and return; a second signal ends the process at once.

    SIGHUP has the settings read again, but for a daemon of a terminal, which was closed then.

    `announce` is called once the base URL is listened on; `beside` is open while the engine is there;
    it tells `notifier` that it stops. Raises StartError where the port can't be had or the engine never gets ready,
    ConfigError where the model is damaged.
    """
    _quieten_aiohttp()
    allow_many_files()
    model = daemon.model
    stop = asyncio.Event()
    _on_signals(daemon, stop, operator)
    async with listening(daemon, listeners) as url, beside:
        log.info(
            "listening", extra=fields(url=url, version=__version__, model=model.id, inherited=len(listeners.inherited))
        )
        announce(daemon, url)
        engine = asyncio.create_task(daemon.engine.run(daemon.dispatcher, daemon.check_model, daemon.fall_back))
        tidying = asyncio.create_task(_give_memory_back())
        try:
            stopped = asyncio.create_task(stop.wait())
            await asyncio.wait({engine, stopped}, return_when=asyncio.FIRST_COMPLETED)
            stopped.cancel()
            if not engine.done():
                listeners.leave_to_successor()
                tell_stopping(daemon, notifier, daemon.settings.server.drain_timeout_s)
                await _drain(daemon)
        finally:
            tidying.cancel()
            await _end(daemon, engine)
    log.info("stopped", extra=fields())


async def _give_memory_back() -> None:
    """Of thousands of connections some 5 MB stay with the allocator, free and in no one's use."""
    while True:
        await asyncio.sleep(TIDY_INTERVAL_S)
        await asyncio.to_thread(release_freed)


def _quieten_aiohttp() -> None:
    """aiohttp logs what strangers send that is no HTTP, with a traceback and their bytes, after a 400 was sent.
    What our own handlers raise is logged by our middleware.
    """
    for name in ("aiohttp.server", "aiohttp.web", "aiohttp.websocket"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    logging.getLogger("asyncio").addFilter(
        mark_seldom
    )  # a socket that can't be accepted is told at each turn of the loop


async def _drain(daemon: Daemon) -> None:
    timeout_s = daemon.settings.server.drain_timeout_s
    log.info("draining", extra=event(Event.STOPPING, running=daemon.dispatcher.running, timeout_s=timeout_s))
    for connection in daemon.connections:
        connection.going_away(timeout_s)
    await daemon.dispatcher.drain(timeout_s)


async def _end(daemon: Daemon, engine: asyncio.Task[None]) -> None:
    """Requests first, whatever ends the daemon; then sockets, and the engine. Raises what `engine` has raised."""
    await daemon.dispatcher.drain(0)  # each request has its terminal event
    daemon.keeper.close()  # so that no socket is opened for what is kept
    await _close_connections(daemon)
    daemon.engine.stop()
    try:
        await engine
    finally:
        if daemon.switching is not None:
            await daemon.switching.close()


async def _close_connections(daemon: Daemon) -> None:
    closing = [connection.close(WSCloseCode.GOING_AWAY, "the appliance stops") for connection in daemon.connections]
    await asyncio.gather(*closing, return_exceptions=True)


def _on_signals(daemon: Daemon, stop: asyncio.Event, operator: Operator) -> None:
    """The first signal asks for a drain; the second kills the worker and ends the process, status 128 + signal."""
    reloads: set[asyncio.Task[None]] = set()

    def receive(number: signal.Signals) -> None:
        if not stop.is_set():
            stop.set()
            return
        daemon.engine.kill()
        os.write(2, f"appliance: {number.name} again, ended at once\n".encode())
        os._exit(128 + number)

    def reload() -> None:
        task = asyncio.create_task(_reload(operator))
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, receive, signal.SIGTERM)
    loop.add_signal_handler(signal.SIGINT, receive, signal.SIGINT)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        return  # under nohup
    if _has_terminal():
        loop.add_signal_handler(signal.SIGHUP, receive, signal.SIGHUP)  # it was closed
    else:
        loop.add_signal_handler(signal.SIGHUP, reload)


async def _reload(operator: Operator) -> None:
    with contextlib.suppress(ConfigError):  # the log has it
        await operator.reload()


def _has_terminal() -> bool:
    """Whether a terminal controls this process, and so may be closed."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True
