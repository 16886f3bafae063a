"""Asking others, with bounds: a program of this host, an HTTP server on it. Never waits longer than it is told to."""

import contextlib
import http.client
import os
import selectors
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Literal

from msgspec import Struct

ASK_S = 8.0
HTTP_S = 5.0
SILENT = f"no answer within {HTTP_S:g} s"
OUTPUT_MAX_BYTES = 4 << 20
LINGER_S = 1.0  # for a program that has said all
PIECE_BYTES = 1 << 16


class Said(Struct, frozen=True, kw_only=True):
    """What a program, or a server, said."""

    out: str = ""
    err: str = ""
    status: int | None = None
    """Exit status, or HTTP status; None where there is none."""
    problem: str | None = None
    """Why there is none, in words."""
    cut: bool = False
    """Whether it had more to say than was read."""


Ask = Callable[[Sequence[str]], Said]


def ask(command: Sequence[str], *, timeout_s: float = ASK_S, max_bytes: int = OUTPUT_MAX_BYTES) -> Said:
    """Run `command` without a terminal, in English; it is ended after `timeout_s` seconds or `max_bytes` bytes."""
    environment = os.environ | {"LC_ALL": "C.UTF-8", "SYSTEMD_COLORS": "0", "SYSTEMD_PAGER": "cat"}
    try:
        process = subprocess.Popen(  # noqa: S603 # the commands are constants of this package
            list(command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
        )
    except OSError as error:
        return Said(problem=f"{command[0]} can't be run: {error.strerror}")
    with process:
        try:
            out, err, ended_by = _read(process, time.monotonic() + timeout_s, max_bytes)
            if ended_by == "end":
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(LINGER_S)
        finally:
            if process.poll() is None:
                process.kill()
    said = Said(out=out.decode("utf-8", "replace"), err=err.decode("utf-8", "replace"), cut=ended_by != "end")
    if ended_by == "time":
        return _with(said, None, f"{command[0]} did not end within {timeout_s:g} s")
    return _with(said, 0 if ended_by == "bytes" else process.returncode, None)


def get(host: str, port: int, path: str, *, tls: bool = False, max_bytes: int = OUTPUT_MAX_BYTES) -> Said:
    """GET `path` of an HTTP server of this host, within about HTTP_S seconds, past any proxy.

    `tls`: with whatever certificate it has; what that is worth is another question.
    """
    end = time.monotonic() + HTTP_S
    connection = http.client.HTTPConnection(host, port, timeout=HTTP_S)
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        connection = http.client.HTTPSConnection(host, port, timeout=HTTP_S, context=context)
    try:
        connection.request("GET", path, headers={"Accept": "application/json, text/plain"})
        response = connection.getresponse()
        body = b""
        while len(body) <= max_bytes and (piece := response.read1(PIECE_BYTES)):
            body += piece
            if time.monotonic() > end:
                raise TimeoutError
    except TimeoutError:
        return Said(problem=SILENT)
    except (OSError, http.client.HTTPException) as error:
        reason = error.strerror if isinstance(error, OSError) else type(error).__name__
        return Said(problem=str(reason or error))
    finally:
        connection.close()
    text = body[:max_bytes].decode("utf-8", "replace")
    return Said(out=text, status=response.status, cut=len(body) > max_bytes)


def can_listen_at(host: str) -> str | None:
    """Why nothing could listen at the address `host`; None where something could."""
    try:
        family, kind, number, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, number) as trying:
            trying.bind(address)
    except OSError as error:
        return error.strerror or str(error)
    return None


def _with(said: Said, status: int | None, problem: str | None) -> Said:
    return Said(out=said.out, err=said.err, status=status, problem=problem, cut=said.cut)


def _read(
    process: "subprocess.Popen[bytes]", end: float, max_bytes: int
) -> tuple[bytes, bytes, Literal["end", "time", "bytes"]]:
    """Both outputs, and what ended the reading."""
    assert process.stdout is not None and process.stderr is not None  # noqa: S101, PT018 # both are pipes
    parts = {process.stdout: bytearray(), process.stderr: bytearray()}
    with selectors.DefaultSelector() as selector:
        for stream in parts:
            selector.register(stream, selectors.EVENT_READ)
        while selector.get_map():
            ready = selector.select(max(0.0, end - time.monotonic()))
            if not ready:
                return bytes(parts[process.stdout]), bytes(parts[process.stderr]), "time"
            for key, _ in ready:
                piece = os.read(key.fd, PIECE_BYTES)
                if not piece:
                    selector.unregister(key.fileobj)
                stream = process.stdout if key.fileobj is process.stdout else process.stderr
                parts[stream] += piece
            if sum(map(len, parts.values())) > max_bytes:
                return bytes(parts[process.stdout][:max_bytes]), bytes(parts[process.stderr]), "bytes"
    return bytes(parts[process.stdout]), bytes(parts[process.stderr]), "end"
