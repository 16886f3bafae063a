"""Asking the daemon of this machine over its control socket. Knows HTTP and lines of JSON; knows no terminal."""

import asyncio
import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from appliance.errors import ApplianceError

CONNECT_S = 5.0
SILENCE_S = 60.0  # the daemon sends a line at least each 5 s
LINE_MAX_BYTES = 1 << 16


class NoDaemon(Exception):
    """Nobody listens there."""


class ControlFailed(ApplianceError):
    """The daemon did not do it; the text is its own, and so is the exit status."""

    def __init__(self, message: str, exit_status: int = 1) -> None:
        super().__init__(message)
        self.exit_status = exit_status


def switch(path: Path, reference: str | None, on_stage: Callable[[str], None]) -> dict[str, Any]:
    """Have the daemon serve the model that `reference` names, or roll back without one; returns what came of it.

    Raises NoDaemon, ControlFailed.
    """
    route, body = ("use", {"model": reference}) if reference is not None else ("rollback", {})
    return asyncio.run(_switch(path, f"/v1/models/{route}", body, on_stage))


def served(path: Path) -> str | None:
    """ID@DIGEST of what the daemon serves; None where that is none of a store's. Raises NoDaemon, ControlFailed."""
    found: str | None = asyncio.run(_ask(path, "GET", "/v1/models/served"))["model"]
    return found


def ask(path: Path, route: str, *, change: bool) -> dict[str, Any]:
    """POST (`change`) or GET `route`; returns the answer. Raises NoDaemon, ControlFailed."""
    told = asyncio.run(_ask(path, "POST" if change else "GET", route))
    if "error" in told:
        raise ControlFailed(str(told["error"]["message"]), int(told["error"]["exit_status"]))
    return told


async def _switch(path: Path, route: str, body: object, on_stage: Callable[[str], None]) -> dict[str, Any]:
    try:
        async with _session(path) as session, session.post(f"http://appliance{route}", json=body) as response:
            async for line in response.content:
                told = msgspec.json.decode(line, type=dict[str, Any])
                if "stage" in told:
                    on_stage(str(told["stage"]))
                elif "error" in told:
                    raise ControlFailed(str(told["error"]["message"]), int(told["error"]["exit_status"]))
                elif "done" in told:
                    return dict(told["done"])
    except (aiohttp.ClientError, TimeoutError, msgspec.DecodeError) as error:
        raise _failure(path, error) from None
    raise _failure(path, None)


async def _ask(path: Path, method: str, route: str) -> dict[str, Any]:
    try:
        async with _session(path) as session, session.request(method, f"http://appliance{route}") as response:
            return msgspec.json.decode(await response.read(), type=dict[str, Any])
    except (aiohttp.ClientError, TimeoutError, msgspec.DecodeError) as error:
        raise _failure(path, error) from None


def _session(path: Path) -> aiohttp.ClientSession:
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=SILENCE_S)
    return aiohttp.ClientSession(
        connector=aiohttp.UnixConnector(str(path)), timeout=timeout, read_bufsize=LINE_MAX_BYTES
    )


def _failure(path: Path, error: Exception | None) -> Exception:
    if isinstance(error, aiohttp.ClientConnectorError):
        if error.os_error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ECONNREFUSED, None):  # None: a path too long
            return NoDaemon(str(path))
        if error.os_error.errno in (errno.EACCES, errno.EPERM):
            return ControlFailed(f"{path} is for its owner and root alone; run the command as one of them")
    return ControlFailed(
        f"the daemon on {path} ended, or did not answer to the end; look at its log, and at: appliance models list"
    )
