"""What the parts of the application find in it, typed."""

import asyncio
from weakref import WeakSet

from aiohttp import web

from appliance.api.state import Daemon
from appliance.api.tls import SecuredConnections

DAEMON: web.AppKey[Daemon] = web.AppKey("daemon", Daemon)
# TCP connections that have sent a request.
ASKED: "web.AppKey[WeakSet[asyncio.BaseTransport]]" = web.AppKey("asked", WeakSet)
# Those that speak TLS.
SECURED: web.AppKey[SecuredConnections] = web.AppKey("secured", SecuredConnections)
