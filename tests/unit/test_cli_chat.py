"""`appliance chat PROMPT` as scripts run it: a process with pipes, a scripted server."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from appliance.client.scripted import HELLO, ScriptedServer, done
from appliance.protocol.websocket import Cancel, Chat, ChatParams, Delta, Error, Resume
from appliance.types import Message

WAIT_S = 20.0  # a bound for a test that fails

Start = Callable[..., Awaitable[Process]]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "appliance", "chat", *arguments]


@pytest.fixture
async def start(home: dict[str, str]) -> AsyncIterator[Start]:
    """Start the command with pipes."""
    async with contextlib.AsyncExitStack() as running:

        async def run(*arguments: str) -> Process:
            process = await asyncio.create_subprocess_exec(
                *command(*arguments), stdin=PIPE, stdout=PIPE, stderr=PIPE, env=home
            )

            async def end() -> None:
                if process.returncode is None:
                    process.kill()
                await process.communicate()

            running.push_async_callback(end)
            return process

        yield run


async def finish(process: Process, stdin: bytes = b"") -> tuple[int | None, str, str]:
    """Exit status, standard output, standard error."""
    async with asyncio.timeout(WAIT_S):
        out, err = await process.communicate(stdin)
    return process.returncode, out.decode(), err.decode()


async def test_a_prompt_is_answered_on_stdout_with_statistics_on_stderr(server: ScriptedServer, start: Start) -> None:
    process = await start("What is the capital?", "--url", server.url)
    chat = await (await server.accept()).answer("杭州")
    assert chat.messages == [Message("user", "What is the capital?")]
    assert await finish(process) == (0, "杭州\n", "TTFT 118 ms · 40.0 tok/s · 2 tokens · stop\n")


async def test_text_is_written_as_it_comes(server: ScriptedServer, start: Start) -> None:
    process = await start("hi", "--url", server.url)
    peer = await server.accept()
    chat = await peer.receive(Chat)
    assert process.stdout is not None
    await peer.send(Delta(chat.id, 0, "one "))
    async with asyncio.timeout(WAIT_S):
        assert await process.stdout.readexactly(4) == b"one "  # while the answer is still open
    await peer.send(Delta(chat.id, 4, "two\n"), done(chat.id, "length"))
    status, out, err = await finish(process)
    assert (status, out) == (0, "two\n")
    assert err.endswith("length\n")


async def test_an_answer_goes_on_after_a_lost_connection(server: ScriptedServer, start: Start) -> None:
    server.greeting = msgspec.structs.replace(
        HELLO, limits=msgspec.structs.replace(HELLO.limits, resume_grace_s=WAIT_S)
    )
    process = await start("hi", "--url", server.url)
    peer = await server.accept()
    chat = await peer.receive(Chat)
    await peer.send(Delta(chat.id, 0, "one "))
    assert process.stdout is not None
    async with asyncio.timeout(WAIT_S):
        assert await process.stdout.readexactly(4) == b"one "
    peer.abort()
    peer = await server.accept()
    assert await peer.receive(Resume) == Resume("scripted-session", chat.id, 4)
    await peer.send(Delta(chat.id, 4, "two"), done(chat.id))
    status, out, err = await finish(process)
    assert (status, out, err) == (0, "two\n", "TTFT 118 ms · 40.0 tok/s · 2 tokens · stop\n")


async def test_the_prompt_can_come_from_stdin(server: ScriptedServer, start: Start) -> None:
    process = await start("--url", server.url)
    finishing = asyncio.create_task(finish(process, "多少？\n".encode()))
    chat = await (await server.accept()).answer("42")
    assert chat.messages == [Message("user", "多少？\n")]
    assert (await finishing)[:2] == (0, "42\n")


async def test_options_reach_the_request(server: ScriptedServer, start: Start) -> None:
    options = "--max-tokens 9 --temperature 0 --top-p 0.5 --top-k 3 --seed 7 --stop END --stop 。 --system Brief."
    process = await start("hi", "--url", server.url, *options.split())
    chat = await (await server.accept()).answer("ok")
    assert chat.messages == [Message("system", "Brief."), Message("user", "hi")]
    assert chat.params == ChatParams(max_tokens=9, temperature=0.0, top_p=0.5, top_k=3, seed=7, stop=["END", "。"])
    assert (await finish(process))[0] == 0


async def test_json_is_one_object_and_harmless_to_a_terminal(server: ScriptedServer, start: Start) -> None:
    process = await start("hi", "--url", server.url, "--json")
    await (await server.accept()).answer("é\x1b[31m\x9b\x7f")
    status, out, err = await finish(process)
    assert (status, err) == (0, "")
    assert json.loads(out) == {
        "text": "é\x1b[31m\x9b\x7f",
        "finish_reason": "stop",
        "usage": {"prompt_tokens": 31, "completion_tokens": 2, "cached_tokens": None},
        "timings": {"queue_ms": 0.4, "ttft_ms": 118.0, "tpot_ms": 25.0, "total_ms": 143.0},
    }
    assert "é" in out
    assert not set(out) & set("\x1b\x9b\x7f")


async def test_the_url_comes_from_the_settings_with_a_loopback_host(
    server: ScriptedServer, start: Start, tmp_path: Path
) -> None:
    settings = tmp_path / "appliance.toml"
    settings.write_text(f'[server]\nhost = "0.0.0.0"\nport = {server.url.rpartition(":")[2]}\n')
    process = await start("hi", "--config", str(settings))
    await (await server.accept()).answer("ok")
    assert (await finish(process))[:2] == (0, "ok\n")


async def test_control_characters_are_taken_out(server: ScriptedServer, start: Start) -> None:
    process = await start("hi", "--url", server.url)
    await (await server.accept()).answer("a\x1b]0;title\x07b\x9b31m\r\x08\tc\x00\nd\x7f")
    assert (await finish(process))[:2] == (0, "a]0;titleb31m\tc\nd\n")


async def test_a_failed_request_is_one_line_and_status_1(server: ScriptedServer, start: Start) -> None:
    process = await start("hi", "--url", server.url)
    peer = await server.accept()
    chat = await peer.receive(Chat)
    await peer.send(Error(chat.id, "queue_full", "64 requests wait", 2.3))
    assert await finish(process) == (1, "", "appliance: 64 requests wait (queue_full); try again in 3 s\n")


async def test_an_answer_that_breaks_off_is_status_1(server: ScriptedServer, start: Start) -> None:
    process = await start("hi", "--url", server.url)
    peer = await server.accept()
    chat = await peer.receive(Chat)
    await peer.send(Delta(chat.id, 0, "half"))
    await peer.close(1011)
    assert await finish(process) == (1, "half\n", "appliance: the server closed the connection (1011)\n")


async def test_nobody_listening_names_the_remedy(server: ScriptedServer, start: Start) -> None:
    await server.stop()
    status, out, err = await finish(await start("hi", "--url", server.url))
    assert (status, out) == (1, "")
    assert "Connection refused" in err
    assert err.endswith("Start it with: appliance serve, or say where it is: --url\n")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "status", "line"),
    [
        ([""], 2, "the prompt is empty"),
        ([], 2, "the prompt is empty"),  # standard input is empty
        (["hi", "--url", "box:80"], 1, "'box:80' is not the URL of an appliance"),
        (["hi", "--config", "/nonexistent.toml"], 78, "/nonexistent.toml: no such file"),
    ],
)
async def test_what_can_not_be_asked_is_said(start: Start, arguments: list[str], status: int, line: str) -> None:
    ended, _, err = await finish(await start(*arguments))
    assert ended == status
    assert line in err


async def test_ctrl_c_cancels_the_request_and_ends_with_130(server: ScriptedServer, start: Start) -> None:
    process = await start("hi", "--url", server.url)
    peer = await server.accept()
    chat = await peer.receive(Chat)
    await peer.send(Delta(chat.id, 0, "half"))
    assert process.stdout is not None
    async with asyncio.timeout(WAIT_S):
        assert await process.stdout.readexactly(4) == b"half"
    process.send_signal(signal.SIGINT)
    assert await peer.receive(Cancel) == Cancel(chat.id)
    await peer.send(done(chat.id, "cancelled"))
    status, out, err = await finish(process)
    assert (status, out) == (130, "\n")
    assert "cancelled" in err


async def test_a_reader_that_leaves_cancels_the_request_quietly(server: ScriptedServer, home: dict[str, str]) -> None:
    reader, writer = os.pipe()
    process = await asyncio.create_subprocess_exec(
        *command("hi", "--url", server.url), stdin=PIPE, stdout=writer, stderr=PIPE, env=home
    )
    os.close(writer)
    os.close(reader)
    peer = await server.accept()
    chat = await peer.receive(Chat)
    await peer.send(Delta(chat.id, 0, "for nobody"))
    assert await peer.receive(Cancel) == Cancel(chat.id)
    assert process.stderr is not None
    async with asyncio.timeout(WAIT_S):
        assert await process.stderr.read() == b""
        assert await process.wait() == 141
