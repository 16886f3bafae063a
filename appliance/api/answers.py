"""HTTP answers in JSON, errors among them. Knows the error tree and HTTP."""

import math

import msgspec
from aiohttp import web

from appliance.errors import RequestError


def json_response(data: object, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """`data` as JSON."""
    return web.Response(body=msgspec.json.encode(data), status=status, headers=headers, content_type="application/json")


def error_response(error: RequestError) -> web.Response:
    """The error with its own status, and Retry-After where it says when."""
    headers = {} if error.retry_after_s is None else {"Retry-After": str(math.ceil(error.retry_after_s))}
    return json_response(error_body(error.code, str(error), error.retry_after_s), error.http_status, headers)


def error_body(code: str, message: str, retry_after_s: float | None = None) -> dict[str, object]:
    """`{"error": {"code", "message", "retry_after_s"}}`."""
    return {"error": {"code": code, "message": message, "retry_after_s": retry_after_s}}
