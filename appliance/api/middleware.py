"""Errors as JSON, whatever raised them. Knows the error tree and HTTP."""

import logging
import math

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler

from appliance.errors import InternalError, RequestError
from appliance.observability.logs import fields

log = logging.getLogger(__name__)


def error_response(error: RequestError) -> web.Response:
    """`{"error": {"code", "message", "retry_after_s"}}` with the error's status, and Retry-After where it says."""
    body = {"error": {"code": error.code, "message": str(error), "retry_after_s": error.retry_after_s}}
    headers = {} if error.retry_after_s is None else {"Retry-After": str(math.ceil(error.retry_after_s))}
    return web.Response(
        body=msgspec.json.encode(body), status=error.http_status, headers=headers, content_type="application/json"
    )


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
        body = {"error": {"code": f"http_{error.status}", "message": error.reason, "retry_after_s": None}}
        headers = {name: value for name, value in error.headers.items() if name == "Allow"}
        return web.Response(
            body=msgspec.json.encode(body), status=error.status, headers=headers, content_type="application/json"
        )
    except Exception:
        log.exception("handler failed", extra=fields(path=request.path))
        return error_response(InternalError("internal error; the appliance's log has the details"))
