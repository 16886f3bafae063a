"""GET /v1/ws: who may connect, and how many. What is said there is in connection.py."""

from urllib.parse import urlsplit

from aiohttp import web

from appliance.api.connection import Connection
from appliance.api.keys import DAEMON
from appliance.api.middleware import error_response
from appliance.errors import OriginRefused, ShuttingDown, TooManyConnections

SUBPROTOCOL = "appliance.v1"


async def websocket(request: web.Request) -> web.StreamResponse:
    """Upgrade and serve; a refusal is an ordinary HTTP error."""
    daemon = request.app[DAEMON]
    server = daemon.settings.server
    if not _origin_allowed(request, server.allowed_origins):
        origin = request.headers["Origin"]
        return error_response(OriginRefused(f"origin {origin} may not connect; add it to server.allowed_origins"))
    if daemon.dispatcher.draining:
        return error_response(ShuttingDown("the appliance is shutting down", retry_after_s=server.drain_timeout_s + 5))
    if len(daemon.connections) >= server.max_connections:
        return error_response(
            TooManyConnections(f"{server.max_connections} sockets are open (server.max_connections)", retry_after_s=5)
        )
    ws = web.WebSocketResponse(
        heartbeat=server.heartbeat_s,
        max_msg_size=server.max_message_bytes,
        compress=False,  # deltas are tiny; deflate would cost the small cores more than the LAN gains
        protocols=(SUBPROTOCOL,),
    )
    if not ws.can_prepare(request).ok:
        return web.Response(status=426, text="This is a WebSocket endpoint; see docs/protocol.md.\n")
    await ws.prepare(request)
    connection = Connection(daemon, ws, request)
    daemon.connections.add(connection)
    daemon.metrics.websocket_connections.set(len(daemon.connections))
    try:
        await connection.run()
    finally:
        daemon.connections.discard(connection)
        daemon.metrics.websocket_connections.set(len(daemon.connections))
    return ws


def _origin_allowed(request: web.Request, allowed: tuple[str, ...]) -> bool:
    """Browsers send Origin: a page from elsewhere must not talk to a daemon on the visitor's own network."""
    origin = request.headers.get("Origin")
    return origin is None or origin in allowed or urlsplit(origin).netloc == request.host
