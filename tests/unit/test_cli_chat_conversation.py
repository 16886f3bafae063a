"""`appliance chat` as a person sees it: a process on a pseudo-terminal, a scripted server."""

import contextlib
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from appliance.client.scripted import HELLO, Peer, ScriptedServer, done
from appliance.protocol.websocket import Cancel, Chat, ChatParams, Delta, Error, Queued, Resume
from appliance.types import Message
from tests.support.terminal import CTRL_C, CTRL_D, CTRL_P, WAIT_S, Terminal, on_a_terminal

Open = Callable[..., Awaitable[Terminal]]


@pytest.fixture
async def open_terminal(home: dict[str, str]) -> AsyncIterator[Open]:
    """Start the command on a terminal of its own, where Ctrl-C is a signal."""
    async with contextlib.AsyncExitStack() as running:

        async def run(*arguments: str) -> Terminal:
            command = [sys.executable, "-m", "appliance", "chat", *arguments]
            return await running.enter_async_context(on_a_terminal(command, home))

        yield run


async def conversation(server: ScriptedServer, open_terminal: Open, *arguments: str) -> tuple[Terminal, Peer]:
    """The command, connected and at its prompt."""
    terminal = await open_terminal("--url", server.url, *arguments)
    peer = await server.accept()
    await terminal.expect("> ")
    return terminal, peer


async def test_a_conversation_keeps_its_turns_and_ctrl_d_leaves(server: ScriptedServer, open_terminal: Open) -> None:
    terminal, peer = await conversation(server, open_terminal)
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
    terminal, peer = await conversation(server, open_terminal)
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
    terminal, peer = await conversation(server, open_terminal)
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
    terminal, peer = await conversation(server, open_terminal)
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
    terminal, peer = await conversation(server, open_terminal)
    terminal.type("hi\r")
    chat = await peer.receive(Chat)
    await peer.send(Queued(chat.id, 3, 4.2))
    await terminal.expect("\r\x1b[Kqueued, position 3")
    await peer.send(Delta(chat.id, 0, "now"), done(chat.id))
    await terminal.expect("\r\x1b[Know\r\n\x1b[2mTTFT")  # the line is cleared, the statistics are dim


async def test_escape_sequences_do_not_reach_the_terminal(server: ScriptedServer, open_terminal: Open) -> None:
    terminal, peer = await conversation(server, open_terminal)
    terminal.type("paint\r")
    await peer.answer("\x1b[31mred\x1b[0m \x9b2Jclear\x07")
    assert "\x1b" not in await terminal.expect("[31mred[0m 2Jclear\r\n")


async def test_a_lost_connection_keeps_the_conversation_and_is_made_again(
    server: ScriptedServer, open_terminal: Open
) -> None:
    terminal, peer = await conversation(server, open_terminal)
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
    terminal, peer = await conversation(server, open_terminal)
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
    terminal, peer = await conversation(server, open_terminal)
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
    terminal, peer = await conversation(server, open_terminal)
    terminal.type("too much\r")
    chat = await peer.receive(Chat)
    await peer.send(Error(chat.id, "rate_limited", "not so many", None))
    await terminal.expect("not so many (rate_limited)\r\n> ")
    terminal.type("again\r")
    assert (await peer.answer("ok")).messages == [Message("user", "again")]


async def test_slash_commands(server: ScriptedServer, open_terminal: Open, tmp_path: Path) -> None:
    terminal, peer = await conversation(server, open_terminal, "--system", "Long.")
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
    terminal, peer = await conversation(server, open_terminal)
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
    terminal, peer = await conversation(server, open_terminal)
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
