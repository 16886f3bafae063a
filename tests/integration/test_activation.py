"""Socket activation: a daemon that is given its listening sockets, and what a restart does to clients."""

import asyncio
import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from appliance.api.activation import InheritedSocket
from appliance.api.overruled import overruled
from appliance.config import load
from tests.support.daemon import Peer, connect
from tests.support.process import ACTIVATE, environment, serving

CLIENTS = 8
BACKLOG = 100


@contextlib.contextmanager
def listening(address: str = "127.0.0.1") -> Iterator[socket.socket]:
    """A socket as the manager keeps it."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.bind((address, 0))
        listener.listen(BACKLOG)
        yield listener


@pytest.fixture
def manager() -> Iterator[socket.socket]:
    with listening() as listener:
        yield listener


def url_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def backlog_of(listener: socket.socket) -> int:
    """The most that wait to be accepted; for a socket that listens it is in the place of tcpi_sacked."""
    info = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 32)
    found: int = struct.unpack_from("I", info, 28)[0]
    return found


async def answers(url: str) -> bool:
    async with aiohttp.ClientSession() as session:
        peer = await connect(session, url)
        await peer.chat("r1", "fine", params={"max_tokens": 1})
        return (await peer.answer("r1"))[0] == "fine "


async def test_inherited_sockets_replace_host_and_port(tmp_path: Path, manager: socket.socket) -> None:
    with listening() as second, serving(tmp_path, "--pipeline", "fake", sockets=[manager, second]) as served:
        assert served.url == url_of(manager)
        served.worker_pid()
        assert await answers(url_of(manager))
        assert await answers(url_of(second))
        assert backlog_of(manager) == BACKLOG


def test_settings_that_the_sockets_overrule_are_named_at_the_start_and_by_reload(
    tmp_path: Path, manager: socket.socket
) -> None:
    address, port = manager.getsockname()[:2]
    file = tmp_path / "appliance.toml"
    file.write_text('[server]\nhost = "0.0.0.0"\n[engine]\nthreads = 2\n')

    def reload() -> list[str]:
        command = [sys.executable, "-m", "appliance", "reload", "--config", os.fspath(file)]
        done = subprocess.run(command, env=environment(tmp_path), capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    flags = ("--pipeline", "fake", "--port", "1", "--config", os.fspath(file))
    with serving(tmp_path, *flags, sockets=[manager]) as served:
        told = served.wait_for("settings without effect, appliance.socket decides where it listens")
        assert told["level"] == "warning"
        assert told["settings"] == f"server.host = 0.0.0.0 ({file}), server.port = 1 (flag --port)"
        assert told["listening"] == f"{address}:{port}"
        assert "appliance.socket.d/lan.conf" in told["remedy"]
        assert served.url == url_of(manager)
        served.worker_pid()
        file.write_text('[server]\nhost = "::"\n[engine]\nthreads = 3\n')
        _, restart, socket_decides = reload()
        assert restart == "needs a restart: engine.threads"
        assert socket_decides.startswith("without effect, as appliance.socket decides where it listens: server.host, ")
        assert len([entry for entry in served.log if entry["event"].startswith("settings without effect")]) == 1


def test_settings_that_say_what_the_sockets_are_or_that_nobody_gave_are_not_overruled() -> None:
    def found(address: str, **server: object) -> list[str]:
        with listening(address) as listener, InheritedSocket(fileno=os.dup(listener.fileno())) as inherited:
            given = {name: inherited.getsockname()[1] if value == "its" else value for name, value in server.items()}
            return overruled([inherited], load(environ={}, flags={f"server.{name}": v for name, v in given.items()}))

    assert found("127.0.0.1") == found("::1") == found("::") == []
    assert found("127.0.0.1", host="localhost", port="its") == []
    assert found("127.0.0.1", host="127.0.0.1", port=0) == []
    assert found("::", host="0.0.0.0") == found("::", host="::") == []
    assert found("::", host="127.0.0.1") == found("127.0.0.1", host="::") == ["server.host"]
    assert found("127.0.0.1", port=1) == ["server.port"]
    assert overruled([], load(environ={}, flags={"server.host": "::"})) == []


async def test_a_socket_for_both_families_knows_clients_by_their_ipv4_address(tmp_path: Path) -> None:
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as both:
        url = f"http://127.0.0.1:{both.getsockname()[1]}"
        with serving(tmp_path, "--pipeline", "fake", sockets=[both]) as served:
            assert served.url.startswith("http://[::]:")
            served.worker_pid()
            assert await answers(url)
            entry = await asyncio.to_thread(served.wait_for, "request ended")
            assert entry["client"] == "127.0.0.1"


def test_the_worker_inherits_neither_sockets_nor_their_variables(tmp_path: Path, manager: socket.socket) -> None:
    with serving(tmp_path, "--pipeline", "fake", sockets=[manager]) as served:
        worker = served.worker_pid()
        held = {os.fstat(manager.fileno()).st_ino}
        files = [file.stat().st_ino for file in Path(f"/proc/{worker}/fd").iterdir() if file.exists()]
        assert not held & set(files)
        assert b"LISTEN_" not in Path(f"/proc/{worker}/environ").read_bytes()


def test_what_is_no_listening_tcp_socket_is_refused_with_78(tmp_path: Path) -> None:
    with (
        socket.socket() as bound,
        socket.socket(type=socket.SOCK_DGRAM) as datagrams,
        (tmp_path / "f").open("w") as file,
    ):
        bound.bind(("127.0.0.1", 0))
        for handed, words in ((bound, "not listening"), (datagrams, "no TCP socket"), (file, "no socket")):
            done = subprocess.run(
                [sys.executable, str(ACTIVATE), str(handed.fileno()), sys.executable, "-m", "appliance", "serve"],
                env=environment(tmp_path), pass_fds=[handed.fileno()], capture_output=True, text=True, timeout=60,
            )  # fmt: skip
            assert done.returncode == 78
            assert f"file descriptor 3 (web0) from systemd is {words}" in done.stderr
            assert "ListenStream=" in done.stderr


def test_sockets_for_another_process_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_FDS", "1")
    monkeypatch.setenv("LISTEN_PID", "1")
    with serving(tmp_path, "--pipeline", "fake") as served:
        assert served.url.startswith("http://127.0.0.1:")


async def test_a_restart_refuses_nobody(tmp_path: Path, manager: socket.socket) -> None:
    url = url_of(manager)
    async with aiohttp.ClientSession() as session:
        with serving(tmp_path, "--pipeline", "fake", sockets=[manager]) as first:
            first.worker_pid()
            peers = [await connect(session, url) for _ in range(CLIENTS)]
            for peer in peers:
                await peer.chat("r1", "again and again fake:step-ms=5", params={"max_tokens": 150})
                await peer.until("delta")
            first.process.send_signal(signal.SIGTERM)
            for peer in peers:
                await peer.until("going_away")
            waiting = [asyncio.create_task(connect(session, url)) for _ in range(CLIENTS)]
            # At once: the daemon waits but for a moment for the answer to its close.
            await asyncio.gather(*(expect_its_end(peer) for peer in peers))
            assert await asyncio.to_thread(first.end) == 0
        with serving(tmp_path, "--pipeline", "fake", sockets=[manager]) as second:
            await expect_answers(await asyncio.gather(*waiting))
            second.worker_pid()


async def expect_its_end(peer: Peer) -> None:
    done = (await peer.until("done", "error", request_id="r1"))[-1]
    assert done["usage"]["completion_tokens"] == 150
    message = await peer.ws.receive()
    assert (message.type, peer.ws.close_code) == (aiohttp.WSMsgType.CLOSE, 1001)


async def expect_answers(peers: list[Peer]) -> None:
    for peer in peers:
        await peer.chat("r1", "fine", params={"max_tokens": 1})
    assert [(await peer.answer("r1"))[0] for peer in peers] == ["fine "] * len(peers)


async def test_what_does_not_finish_before_the_restart_is_told(tmp_path: Path, manager: socket.socket) -> None:
    url = url_of(manager)
    async with aiohttp.ClientSession() as session:
        with serving(tmp_path, "--pipeline", "fake", sockets=[manager], server__drain_timeout_s=0.3) as first:
            first.worker_pid()
            peers = [await connect(session, url) for _ in range(CLIENTS)]
            for peer in peers:
                await peer.chat("r1", "again and again fake:step-ms=5", params={"max_tokens": 4000})
                await peer.until("delta")
            first.process.send_signal(signal.SIGTERM)
            for peer in peers:
                assert (await peer.until("error"))[-1]["code"] == "shutting_down"
            again = [asyncio.create_task(connect(session, url)) for _ in range(CLIENTS)]
            assert await asyncio.to_thread(first.end) == 0
        with serving(tmp_path, "--pipeline", "fake", sockets=[manager]):
            await expect_answers(await asyncio.gather(*again))


async def test_a_killed_daemon_leaves_the_socket_for_the_next(tmp_path: Path, manager: socket.socket) -> None:
    async with aiohttp.ClientSession() as session:
        with serving(tmp_path, "--pipeline", "fake", sockets=[manager]) as first:
            first.worker_pid()
            first.process.kill()
            first.process.wait()
        waiting = asyncio.create_task(connect(session, url_of(manager)))
        with serving(tmp_path, "--pipeline", "fake", sockets=[manager]):
            await expect_answers([await waiting])
