"""Errors as JSON, whatever raised them. Knows what handlers raise."""

import logging

from aiohttp import web
from aiohttp.typedefs import Handler

from appliance.api.answers import error_body, error_response, json_response
from appliance.api.keys import ASKED
from appliance.errors import InternalError, RequestError
from appliance.observability.logs import SELDOM, fields

log = logging.getLogger(__name__)


@web.middleware
async def note_request(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Remember that this connection has asked for something; see Doorkeeper."""
    if request.transport is not None:
        request.app[ASKED].add(request.transport)
    return await handler(request)


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """What a handler raises becomes an answer; what nobody expected is logged and says nothing of itself."""
    try:
        return await handler(request)
    except RequestError as error:
        return error_response(error)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        headers = {name: value for name, value in error.headers.items() if name == "Allow"}
        return json_response(error_body(f"http_{error.status}", error.reason), error.status, headers)
    except Exception as error:
        # With the connection a peer's reset ends what is being written: nobody's defect, and nobody is there to answer.
        if isinstance(error, ConnectionError) and (request.transport is None or request.transport.is_closing()):
            log.debug("peer gone before its answer", extra=fields(path=request.path))
            return error_response(InternalError("the peer is gone"))
        log.exception("handler failed", extra=fields(path=request.path) | SELDOM)
        return error_response(InternalError("internal error; the appliance's log has the details"))
