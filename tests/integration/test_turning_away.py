"""What somebody who waits on systemd's socket is told by a daemon that can't start, and that he waits no longer."""

import asyncio
import contextlib
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from appliance.client import ConnectFailed, TlsFailed, connect
from tests.integration.test_activation import listening, url_of
from tests.support.process import ACTIVATE, environment

WAIT_S = 60.0


@pytest.fixture
def manager() -> Iterator[socket.socket]:
    with listening() as listener:
        yield listener


@contextlib.contextmanager
def starting_in_vain(home: Path, manager: socket.socket) -> Iterator["subprocess.Popen[bytes]"]:
    """A daemon with a wrong setting."""
    command = [sys.executable, str(ACTIVATE), str(manager.fileno()), sys.executable, "-m", "appliance", "serve"]
    wrong = environment(home, server__port="none")
    with subprocess.Popen(command, env=wrong, pass_fds=[manager.fileno()], stderr=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def its_end(process: "subprocess.Popen[bytes]") -> str:
    told = process.communicate(timeout=WAIT_S)[1].decode()
    assert process.returncode == 78, told
    return told


def somebody_waits(manager: socket.socket) -> bool:
    return bool(select.select([manager], [], [], 0)[0])


async def test_who_speaks_tls_is_closed_and_may_try_again(tmp_path: Path, manager: socket.socket) -> None:
    """The plain words of HTTP would be a port without TLS to it."""
    waiting = asyncio.create_task(reached(url_of(manager).replace("http", "https")))
    while not somebody_waits(manager):
        await asyncio.sleep(0.01)
    with starting_in_vain(tmp_path, manager) as process:
        with pytest.raises(ConnectFailed) as caught:
            await asyncio.wait_for(waiting, WAIT_S)
        assert not isinstance(caught.value, TlsFailed)
        assert "server.port" in await asyncio.to_thread(its_end, process)


async def reached(url: str) -> None:
    async with connect(url, connect_timeout_s=WAIT_S):
        pass


async def test_who_waits_and_who_comes_meanwhile_is_answered_503(tmp_path: Path, manager: socket.socket) -> None:
    async with aiohttp.ClientSession() as session:
        waiting = asyncio.create_task(session.get(f"{url_of(manager)}/healthz"))
        socket_asked = asyncio.create_task(session.ws_connect(f"{url_of(manager)}/v1/ws"))
        while not somebody_waits(manager):
            await asyncio.sleep(0.01)
        with starting_in_vain(tmp_path, manager) as process:
            response = await asyncio.wait_for(waiting, WAIT_S)
            assert (response.status, response.headers["Retry-After"]) == (503, "10")
            error = (await response.json())["error"]
            assert (error["code"], error["retry_after_s"]) == ("not_started", 10.0)
            assert "journal" in error["message"]
            assert str(tmp_path) not in error["message"]  # what is wrong is the operator's affair
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await asyncio.wait_for(socket_asked, WAIT_S)
            assert refused.value.status == 503
            async with session.get(f"{url_of(manager)}/readyz") as later:
                assert later.status == 503
            assert "server.port" in await asyncio.to_thread(its_end, process)
    assert not somebody_waits(manager)


def test_who_says_nothing_is_not_left_waiting_either(tmp_path: Path, manager: socket.socket) -> None:
    with (
        socket.create_connection(manager.getsockname(), timeout=WAIT_S) as silent,
        starting_in_vain(tmp_path, manager) as process,
    ):
        assert silent.recv(65_536).startswith(b"HTTP/1.1 503 ")
        its_end(process)
    assert not somebody_waits(manager)


async def test_who_has_left_is_cleared_away(tmp_path: Path, manager: socket.socket) -> None:
    for _ in range(20):
        socket.create_connection(manager.getsockname(), timeout=WAIT_S).close()
    with starting_in_vain(tmp_path, manager) as process:
        told = await asyncio.to_thread(its_end, process)
    assert "Traceback" not in told
    assert not somebody_waits(manager)


def test_without_anybody_it_ends_at_once_and_leaves_the_socket(tmp_path: Path, manager: socket.socket) -> None:
    with starting_in_vain(tmp_path, manager) as process:
        its_end(process)
    with socket.create_connection(manager.getsockname(), timeout=WAIT_S):
        assert somebody_waits(manager)
