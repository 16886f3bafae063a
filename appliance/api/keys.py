"""What the parts of the application find in it, typed."""

from aiohttp import web

from appliance.api.state import Daemon

DAEMON: web.AppKey[Daemon] = web.AppKey("daemon", Daemon)
