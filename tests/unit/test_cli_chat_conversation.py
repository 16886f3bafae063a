"""`appliance chat` as a person sees it: a process on a pseudo-terminal, a scripted server."""

import asyncio
import contextlib
import json
import os
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest

from appliance.client.scripted import HELLO, ScriptedServer, done
from appliance.protocol.websocket import Cancel, Chat, ChatParams, Delta, Error, Queued, Resume
from appliance.types import Message

WAIT_S = 20.0  # a bound for a test that fails
CTRL_C, CTRL_D, CTRL_P = "\x03", "\x04", "\x10"
T = TypeVar("T")


class Terminal:
    """The person's side of a pseudo-terminal."""

    def __init__(self, master: int, process: Process) -> None:
        self._master = master
        self._process = process
        self._unread = ""
        self._news = asyncio.Event()
        asyncio.get_running_loop().add_reader(master, self._read)

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self._master, text.encode())

    async def expect(self, text: str) -> str:
        """What was shown up to and with `text`, since the last time."""
        try:
            async with asyncio.timeout(WAIT_S):
                await self.shown(text)
        except TimeoutError:
            raise AssertionError(f"{text!r} was not shown; this was: {self._unread!r}") from None
        return self._take(text)

    async def shown(self, text: str) -> None:
        """Return when `text` is among what was shown and not yet expected."""
        while text not in self._unread:
            self._news.clear()
            await self._news.wait()

    def _take(self, text: str) -> str:
        end = self._unread.index(text) + len(text)
        shown, self._unread = self._unread[:end], self._unread[end:]
        return shown

    async def press_ctrl_c_until(self, waiting: Callable[[], Awaitable[T]]) -> T:
        """Press Ctrl-C at the prompt, and again where it went unnoticed.

        CPython's input() misses a signal that comes between its showing of the prompt and its sleep, a matter of
        microseconds, and notices the next one. A person presses again, and never is as quick as a test.
        """
        while True:
            self.type(CTRL_C)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    return await waiting()

    async def ended(self) -> int:
        """The exit status."""
        async with asyncio.timeout(WAIT_S):
            return await self._process.wait()

    async def close(self) -> None:
        """End what still runs."""
        asyncio.get_running_loop().remove_reader(self._master)
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
        os.close(self._master)

    def _read(self) -> None:
        try:
            data = os.read(self._master, 4096)
        except OSError:  # the other side is closed
            data = b""
        if not data:
            asyncio.get_running_loop().remove_reader(self._master)
        self._unread += data.decode("utf-8", "replace")
        self._news.set()


Open = Callable[..., Awaitable[Terminal]]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "appliance", "chat", *arguments]


@pytest.fixture
async def open_terminal(home: dict[str, str]) -> AsyncIterator[Open]:
    """Start the command on a terminal of its own, where Ctrl-C is a signal."""
    async with contextlib.AsyncExitStack() as running:

        async def run(*arguments: str) -> Terminal:
            master, slave = os.openpty()
            process = await asyncio.create_subprocess_exec(
                *command(*arguments), env=home, preexec_fn=lambda: os.login_tty(slave), close_fds=False
            )
            os.close(slave)
            terminal = Terminal(master, process)
            running.push_async_callback(terminal.close)
            return terminal

        yield run


async def test_a_conversation_keeps_its_turns_and_ctrl_d_leaves(server: ScriptedServer, open_terminal: Open) -> None:
    terminal = await open_terminal("--url", server.url)
    peer = await server.accept()
    await terminal.expect("> ")
    terminal.type("first question\r")
    await peer.answer("first answer")
    await terminal.expect("first answer\r\nTTFT 118 ms · 40.0 tok/s · 2 tokens · stop\r\n> ")
    terminal.type("second question\r")
    chat = await peer.answer("second answer")
    assert chat.messages == [
        Message("user", "first question"),
        Message("assistant", "first answer"),
        Message("user", "second question"),
    ]
    await terminal.expect("second answer\r\n")
    await terminal.expect("> ")
    terminal.type(CTRL_D)
    assert await terminal.ended() == 0
    await peer.wait_left()


async def test_ctrl_c_cancels_one_answer_and_the_conversation_goes_on(
    server: ScriptedServer, open_terminal: Open
) -> None:
    terminal = await open_terminal("--url", server.url)
    peer = await server.accept()
    await terminal.expect("> ")
    terminal.type("count\r")
    chat = await peer.receive(Chat)
    await peer.send(Delta(chat.id, 0, "one two"))
    await terminal.expect("one two")
    terminal.type(CTRL_C)
    assert await peer.receive(Cancel) == Cancel(chat.id)
    await peer.send(Delta(chat.id, 7, " three"), done(chat.id, "cancelled"))
    await terminal.expect("cancelled\r\n> ")
    terminal.type("go on\r")
    chat = await peer.answer("four")
    assert chat.messages[1] == Message("assistant", "one two three")
    await terminal.expect("four")
    await terminal.expect("> ")
    terminal.type("/quit\r")
    assert await terminal.ended() == 0


async def test_a_second_ctrl_c_does_not_wait_for_the_server(server: ScriptedServer, open_terminal: Open) -> None:
    terminal = await open_terminal("--url", server.url)
    peer = await server.accept()
    await terminal.expect("> ")
    terminal.type("count\r")
    chat = await peer.receive(Chat)
    await peer.send(Delta(chat.id, 0, "one"))
    await terminal.expect("one")
    terminal.type(CTRL_C)
    assert await peer.receive(Cancel) == Cancel(chat.id)
    terminal.type(CTRL_C)
    await terminal.expect("cancelled\r\n> ")
    terminal.type(CTRL_D)
    assert await terminal.ended() == 0


async def test_ctrl_c_at_the_prompt_clears_the_line_and_twice_leaves(
    server: ScriptedServer, open_terminal: Open
) -> None:
    terminal = await open_terminal("--url", server.url)
    peer = await server.accept()
    await terminal.expect("> ")
    terminal.type("never sent")
    await terminal.expect("never sent")
    await terminal.press_ctrl_c_until(lambda: terminal.shown("leaves\r\n> "))
    await terminal.expect("leaves\r\n> ")
    terminal.type("sent\r")
    assert (await peer.answer("yes")).messages == [Message("user", "sent")]
    await terminal.expect("stop\r\n> ")
    await terminal.press_ctrl_c_until(lambda: terminal.shown("leaves\r\n> "))
    assert await terminal.press_ctrl_c_until(terminal.ended) == 0


async def test_the_queue_position_is_shown_and_replaced(
    server: ScriptedServer, open_terminal: Open, home: dict[str, str]
) -> None:
    home["TERM"] = "xterm"
    terminal = await open_terminal("--url", server.url)
    peer = await server.accept()
    await terminal.expect("> ")
    terminal.type("hi\r")
    chat = await peer.receive(Chat)
    await peer.send(Queued(chat.id, 3, 4.2))
    await terminal.expect("\r\x1b[Kqueued, position 3")
    await peer.send(Delta(chat.id, 0, "now"), done(chat.id))
    await terminal.expect("\r\x1b[Know\r\n\x1b[2mTTFT")  # the line is cleared, the statistics are dim


async def test_escape_sequences_do_not_reach_the_terminal(server: ScriptedServer, open_terminal: Open) -> None:
    terminal = await open_terminal("--url", server.url)
    peer = await server.accept()
    await terminal.expect("> ")
    terminal.type("paint\r")
    await peer.answer("\x1b[31mred\x1b[0m \x9b2Jclear\x07")
    assert "\x1b" not in await terminal.expect("[31mred[0m 2Jclear\r\n")


async def test_a_lost_connection_keeps_the_conversation_and_is_made_again(
    server: ScriptedServer, open_terminal: Open
) -> None:
    terminal = await open_terminal("--url", server.url)
    peer = await server.accept()
    await terminal.expect("> ")
    terminal.type("before\r")
    await peer.answer("kept")
    await terminal.expect("stop\r\n> ")
    terminal.type("during\r")
    await peer.receive(Chat)
    peer.abort()
    await terminal.expect("the next question connects again\r\n> ")
    terminal.type("after\r")
    chat = await (await server.accept()).answer("welcome back")
    assert [message.content for message in chat.messages] == ["before", "kept", "after"]
    await terminal.expect("welcome back\r\n")


async def test_an_answer_goes_on_after_a_lost_connection(
    server: ScriptedServer, open_terminal: Open, home: dict[str, str]
) -> None:
    home["TERM"] = "xterm"
    limits = msgspec.structs.replace(HELLO.limits, resume_grace_s=WAIT_S)
    server.greeting = msgspec.structs.replace(HELLO, limits=limits)
    terminal = await open_terminal("--url", server.url)
    peer = await server.accept()
    await terminal.expect("> ")
    terminal.type("during\r")
    chat = await peer.receive(Chat)
    await peer.send(Delta(chat.id, 0, "one "))
    await terminal.expect("one ")
    peer.abort()
    await terminal.expect("\r\n\r\x1b[Kconnecting again …")  # below what was said
    peer = await server.accept()
    assert (await peer.receive(Resume)).offset == 4
    await peer.send(Delta(chat.id, 4, "two"), done(chat.id))
    await terminal.expect("\r\x1b[Ktwo\r\n")
    terminal.type("after\r")
    chat = await peer.answer("three")
    assert [message.content for message in chat.messages] == ["during", "one two", "after"]


async def test_ctrl_c_ends_the_attempts_to_connect_again(
    server: ScriptedServer, open_terminal: Open, home: dict[str, str]
) -> None:
    home["TERM"] = "xterm"
    terminal = await open_terminal("--url", server.url)
    peer = await server.accept()
    await terminal.expect("> ")
    terminal.type("before\r")
    await peer.receive(Chat)
    await server.stop()
    await terminal.expect("the next question connects again\r\n")
    await terminal.expect("> ")
    terminal.type("anyone?\r")
    await terminal.expect("connecting again …")
    terminal.type(CTRL_C)
    await terminal.expect("cancelled")
    await terminal.expect("> ")
    terminal.type("/quit\r")
    assert await terminal.ended() == 0


async def test_a_failed_question_is_told_and_not_kept(server: ScriptedServer, open_terminal: Open) -> None:
    terminal = await open_terminal("--url", server.url)
    peer = await server.accept()
    await terminal.expect("> ")
    terminal.type("too much\r")
    chat = await peer.receive(Chat)
    await peer.send(Error(chat.id, "rate_limited", "not so many", None))
    await terminal.expect("not so many (rate_limited)\r\n> ")
    terminal.type("again\r")
    assert (await peer.answer("ok")).messages == [Message("user", "again")]


async def test_slash_commands(server: ScriptedServer, open_terminal: Open, tmp_path: Path) -> None:
    terminal = await open_terminal("--url", server.url, "--system", "Long.")
    peer = await server.accept()
    await terminal.expect("> ")
    for line, shown in [
        ("/system Brief.", "system prompt set"),
        ("/set temperature 0", "temperature 0.0"),
        ("/set temperature hot", "temperature hot: expected a number from 0, or default"),
        ("/set top_k 5", "temperature 0.0 · top_k 5"),
        ("/set top_k default", "temperature 0.0"),
        ("/set mood good", "mood: unknown; known: max_tokens"),
        ("/help", "/save FILE"),
        ("/dance", "/dance: unknown command"),
    ]:
        terminal.type(line + "\r")
        await terminal.expect(f"{line}\r\n")
        assert shown in await terminal.expect("\r\n> ")
    terminal.type("hi\r")
    chat = await peer.answer("hello")
    assert chat.messages == [Message("system", "Brief."), Message("user", "hi")]
    assert chat.params == ChatParams(temperature=0.0)
    await terminal.expect("stop\r\n> ")
    file = tmp_path / "talk.json"
    terminal.type(f"/save {file}\r")
    await terminal.expect(f"saved to {file}\r\n> ")
    assert [m["content"] for m in json.loads(file.read_text())["messages"]] == ["Brief.", "hi", "hello"]
    assert file.stat().st_mode & 0o777 == 0o600
    terminal.type(f"/save {file}\r")
    await terminal.expect("can't be written: File exists\r\n> ")
    terminal.type("/new\r")
    await terminal.expect("a new conversation\r\n> ")
    terminal.type("again\r")
    assert (await peer.answer("ok")).messages == [Message("system", "Brief."), Message("user", "again")]


async def test_lines_are_remembered_for_their_writer_only(
    server: ScriptedServer, open_terminal: Open, tmp_path: Path
) -> None:
    history = tmp_path / "state" / "appliance" / "chat_history"
    terminal = await open_terminal("--url", server.url)
    peer = await server.accept()
    await terminal.expect("> ")
    terminal.type("/help\r")
    await terminal.expect("> ")
    assert history.parent.stat().st_mode & 0o777 == 0o700
    history.chmod(0o644)  # as a careless copy would be
    terminal.type("remember me\r")
    await peer.answer("yes")
    await terminal.expect("stop\r\n> ")
    terminal.type(CTRL_D)
    assert await terminal.ended() == 0
    assert history.stat().st_mode & 0o777 == 0o600
    terminal = await open_terminal("--url", server.url)
    peer = await server.accept()
    await terminal.expect("> ")
    terminal.type(CTRL_P)
    await terminal.expect("remember me")
    terminal.type("\r")
    assert (await peer.answer("yes")).messages == [Message("user", "remember me")]


async def test_a_conversation_needs_a_server(server: ScriptedServer, open_terminal: Open) -> None:
    await server.stop()
    terminal = await open_terminal("--url", server.url)
    await terminal.expect("or say where it is: --url\r\n")
    assert await terminal.ended() == 1


async def test_json_without_a_prompt_is_a_usage_error(open_terminal: Open) -> None:
    terminal = await open_terminal("--json")
    await terminal.expect("a PROMPT is needed with --json")
    assert await terminal.ended() == 2
