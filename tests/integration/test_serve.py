"""The daemon as a process: start, signals, drain, exit status; the fake engine behind it."""

import asyncio
import contextlib
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import psutil
import pytest

from tests.support.daemon import connect, until
from tests.support.process import Served, serving

ENDLESS = "again and again fake:step-ms=5"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with serving(tmp_path, "--pipeline", "fake") as started:
        yield started


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_lets_live_answers_finish_and_ends_with_0(served: Served, number: signal.Signals) -> None:
    url, worker = served.url, served.worker_pid()
    async with aiohttp.ClientSession() as session:
        peer = await connect(session, url)
        await peer.chat("r1", ENDLESS, params={"max_tokens": 150})
        await peer.until("delta")
        served.process.send_signal(number)
        messages = await peer.until("going_away")
        assert messages[-1] == {"type": "going_away", "deadline_s": 20}
        async with session.get(f"{url}/readyz") as response:
            assert (response.status, (await response.json())["reason"]) == (503, "draining")
        await peer.chat("r2", "too late")
        messages = await peer.until("error", "done")
        refused = messages[-1]
        assert (refused["id"], refused["code"]) == ("r2", "shutting_down")
        assert refused["retry_after_s"] > 0
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await session.ws_connect(f"{url}/v1/ws")
        assert caught.value.status == 503
        done = (await peer.until("done", request_id="r1"))[-1]
        assert (done["finish_reason"], done["usage"]["completion_tokens"]) == ("length", 150)
        message = await peer.ws.receive()
        assert (message.type, peer.ws.close_code) == (aiohttp.WSMsgType.CLOSE, 1001)
    assert await asyncio.to_thread(served.end) == 0
    assert not psutil.pid_exists(worker)


async def test_what_does_not_finish_in_the_drain_time_is_told(tmp_path: Path) -> None:
    with serving(tmp_path, "--pipeline", "fake", server__drain_timeout_s=0.3) as served:
        url = served.url
        served.worker_pid()
        async with aiohttp.ClientSession() as session:
            peer = await connect(session, url)
            await peer.chat("r1", ENDLESS, params={"max_tokens": 4000})
            await peer.until("delta")
            served.process.send_signal(signal.SIGTERM)
            messages = await peer.until("error")
            assert (messages[-1]["id"], messages[-1]["code"]) == ("r1", "shutting_down")
            await peer.ws.receive()
            assert peer.ws.close_code == 1001
        assert await asyncio.to_thread(served.end) == 0


async def test_a_second_signal_ends_at_once(served: Served) -> None:
    url, worker = served.url, served.worker_pid()
    async with aiohttp.ClientSession() as session:
        peer = await connect(session, url)
        await peer.chat("r1", ENDLESS, params={"max_tokens": 4000})
        await peer.until("delta")
        served.process.send_signal(signal.SIGTERM)
        await peer.until("going_away")
        served.process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(served.end, 2.0) == 128 + signal.SIGTERM
    await until(lambda: not psutil.pid_exists(worker))


def test_a_signal_while_the_engine_loads_ends_with_0(served: Served) -> None:
    assert served.url
    served.process.send_signal(signal.SIGTERM)
    assert served.end() == 0


def test_a_terminal_that_is_closed_ends_its_daemon_with_0(tmp_path: Path) -> None:
    ours, theirs = os.openpty()
    # Whoever leads a session without a terminal and opens one has it.
    of_terminal = ["sh", "-c", 'exec 3<>"$0"; exec "$@"', os.ttyname(theirs)]
    with serving(tmp_path, "--pipeline", "fake", before=of_terminal) as served:
        worker = served.worker_pid()
        os.close(theirs)
        os.close(ours)
        served.wait_for("draining")
        assert served.end() == 0
        assert not psutil.pid_exists(worker)


async def test_a_killed_daemon_takes_its_worker_with_it(served: Served) -> None:
    worker = served.worker_pid()
    served.process.kill()
    served.process.wait()
    await until(lambda: not psutil.pid_exists(worker) or psutil.Process(worker).status() == psutil.STATUS_ZOMBIE)


async def test_nothing_that_was_said_is_logged(served: Served) -> None:
    url = served.url
    async with aiohttp.ClientSession() as session:
        peer = await connect(session, url)
        await peer.chat("r1", "the-secret-word", params={"max_tokens": 3})
        await peer.until("done")
        await peer.ws.send_str('{"type":"chat","id":"r2","messages":[{"role":"the-secret-word","content":"x"}]}')
        await peer.until("error")
    entry = await asyncio.to_thread(served.wait_for, "request ended")
    assert entry["completion_tokens"] == 3
    assert "outcome" in entry
    served.process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(served.end) == 0
    assert "the-secret-word" not in str(served.log) + str(served.plain)


def test_the_port_of_a_stopped_daemon_can_be_taken_at_once(tmp_path: Path) -> None:
    ports: list[str] = []
    for port in ("0", None):
        arguments = [] if port else ["--port", ports[0]]
        with serving(tmp_path, "--pipeline", "fake", *arguments) as served:
            ports.append(served.url.rsplit(":", 1)[1])
            os.kill(served.process.pid, signal.SIGTERM)
            assert served.end() == 0
    assert ports[0] == ports[1]


async def test_connections_that_ask_for_nothing_are_bounded_and_dropped(tmp_path: Path) -> None:
    with serving(tmp_path, "--pipeline", "fake", server__max_connections=1) as served:
        url = served.url
        host, port = url.removeprefix("http://").split(":")
        idle = [await asyncio.open_connection(host, int(port)) for _ in range(65)]
        reader, writer = await asyncio.open_connection(host, int(port))
        assert (await reader.read(1000)).startswith(b"HTTP/1.1 503 ")
        async with asyncio.timeout(30):  # the idle ones go after FIRST_REQUEST_S
            assert await idle[0][0].read() == b""
        async with aiohttp.ClientSession() as session, session.get(f"{url}/healthz") as response:
            assert response.status == 200
        for _, one in [*idle, (reader, writer)]:
            one.close()
            with contextlib.suppress(ConnectionError):  # the dropped ones were reset
                await one.wait_closed()


def test_modules_in_the_current_directory_are_not_imported_by_the_worker(tmp_path: Path) -> None:
    (tmp_path / "psutil.py").write_text("raise SystemExit('imported from the current directory')")
    with serving(tmp_path, "--pipeline", "fake") as served:
        assert served.worker_pid()


@pytest.mark.parametrize(
    "rubbish",
    [
        b"GET / HTTP/1.1\r\nContent-Length: abc\r\n\r\n",
        b"GET /the-secret-word\x01 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 20_000 + b"\r\n\r\n",
        b"GET /v1/ws HTTP/1.1\r\nHost: x\r\nOrigin: http://\xff\xfe\r\n\r\n",
    ],
)
async def test_what_is_no_http_is_answered_and_leaves_no_trace_in_the_log(served: Served, rubbish: bytes) -> None:
    host, port = served.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(rubbish)
    assert re.match(rb"HTTP/1\.[01] 4", await reader.read(12))
    writer.close()
    served.process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(served.end) == 0
    assert all(entry["level"] == "info" for entry in served.log), served.log
    assert "the-secret-word" not in str(served.log) + str(served.plain)


async def test_more_connections_than_open_files_leave_the_daemon_usable_and_the_log_short(tmp_path: Path) -> None:
    limited = ["prlimit", "--nofile=72:72"]
    with serving(tmp_path, "--pipeline", "fake", before=limited) as served:
        url, worker = served.url, served.worker_pid()
        host, port = url.removeprefix("http://").split(":")
        flood = [await asyncio.open_connection(host, int(port)) for _ in range(150)]
        os.kill(worker, signal.SIGKILL)
        await asyncio.to_thread(served.wait_for, "engine ready")
        for _, writer in flood:
            writer.close()
        async with aiohttp.ClientSession() as session:
            peer = await connect(session, url)
            await peer.chat("r1", "fine", params={"max_tokens": 1})
            assert (await peer.answer("r1"))[0] == "fine "
        served.process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(served.end) == 0
        assert len(served.log) + len(served.plain) < 40
