"""GET /v1/ws: who may connect, and how many. What is said there is in connection.py."""

import logging

from aiohttp import WSCloseCode, web

from appliance.api.answers import error_body, error_response, json_response
from appliance.api.clients import client_of, same_client
from appliance.api.connection import Connection
from appliance.api.keys import DAEMON
from appliance.api.origin import origin_allowed
from appliance.api.state import Daemon
from appliance.errors import BadRequest, OriginRefused, ShuttingDown, TooManyConnections, UnavailableError
from appliance.observability.logs import SELDOM, fields

log = logging.getLogger(__name__)

SUBPROTOCOL = "appliance.v1"


async def websocket(request: web.Request) -> web.StreamResponse:
    """Upgrade and serve; a refusal is an ordinary HTTP error."""
    daemon = request.app[DAEMON]
    server = daemon.settings.server
    origin = request.headers.get("Origin")
    if not origin_allowed(origin, request.host, server.allowed_origins, secure=request.secure):
        return error_response(OriginRefused(f"origin {origin!a} may not connect; add it to server.allowed_origins"))
    client = client_of(request)
    refusal = _refusal(daemon, client)
    if refusal is not None:
        return error_response(refusal)
    ws = web.WebSocketResponse(
        heartbeat=server.heartbeat_s,
        max_msg_size=server.max_message_bytes + 1,  # aiohttp refuses a message of just this size too
        compress=False,  # deltas are tiny; deflate would cost the small cores more than the LAN gains
        protocols=(SUBPROTOCOL,),
    )
    if not ws.can_prepare(request).ok:
        error = BadRequest("this is a WebSocket endpoint: send an upgrade (docs/protocol.md)")
        return json_response(error_body(error.code, str(error)), 426, {"Upgrade": "websocket"})
    await ws.prepare(request)
    connection = Connection(daemon, ws, request)
    daemon.connections.add(connection)
    daemon.metrics.websocket_connections.set(len(daemon.connections))
    try:
        await connection.run()
    except Exception:  # an HTTP answer would be noise in an upgraded stream
        log.exception("connection failed", extra=fields(client=client) | SELDOM)
        await connection.close(WSCloseCode.INTERNAL_ERROR, "internal error")
    finally:
        daemon.connections.discard(connection)
        daemon.metrics.websocket_connections.set(len(daemon.connections))
    return ws


def _refusal(daemon: Daemon, client: str) -> UnavailableError | None:
    """Why one more socket of `client` can't be had now; None where it can."""
    server = daemon.settings.server
    if daemon.dispatcher.draining and not daemon.keeper.keeps_for(client):
        return ShuttingDown("the appliance is shutting down", retry_after_s=server.drain_timeout_s + 5)
    if len(daemon.connections) >= server.max_connections:
        return TooManyConnections(
            f"{server.max_connections} sockets are open (server.max_connections)", retry_after_s=5
        )
    own = sum(same_client(connection.client, client) for connection in daemon.connections)
    if own >= server.max_connections_per_client:
        return TooManyConnections(
            f"{own} sockets of {client} are open (server.max_connections_per_client)", retry_after_s=5
        )
    return None
