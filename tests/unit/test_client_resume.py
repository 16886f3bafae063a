"""Resumable answers of the client, against a scripted server on a real socket."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from aiohttp import web

from appliance.client import Client, ConnectionLost, Interrupted, Message, RequestFailed, connect
from appliance.client.answer import PENDING_MAX_EVENTS
from appliance.client.scripted import HELLO, Peer, ScriptedServer, done, open_scripted_server
from appliance.protocol.websocket import Cancel, Chat, Delta, Done, Error, Hello, Queued, Resume, Started

ASK = [Message("user", "hi")]
IMPATIENT: dict[str, Any] = {"reconnect_attempts": 2, "reconnect_backoff_s": 0.001}


def greeting(session: str, grace_s: float = 20.0) -> Hello:
    limits = msgspec.structs.replace(HELLO.limits, resume_grace_s=grace_s)
    return msgspec.structs.replace(HELLO, session=session, limits=limits)


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with open_scripted_server() as scripted:
        scripted.greeting = greeting("first")
        yield scripted


@pytest.fixture
async def client(server: ScriptedServer) -> AsyncIterator[Client]:
    async with connect(server.url, **IMPATIENT) as connected:
        yield connected


@pytest.fixture
async def peer(client: Client, server: ScriptedServer) -> Peer:
    server.greeting = greeting("second")
    return await server.accept()


async def test_an_answer_goes_on_over_the_next_connection(client: Client, server: ScriptedServer, peer: Peer) -> None:
    async with client.stream(ASK, resumable=True) as answer:
        chat = await peer.receive(Chat)
        assert chat.resumable
        events = answer.events()
        await peer.send(Queued(chat.id, 1, None), Started(chat.id, 31), Delta(chat.id, 0, "杭州😀"))
        heard = [await anext(events) for _ in range(3)]
        peer.abort()
        second = await server.accept()
        assert await second.receive(Resume) == Resume("first", chat.id, 3)
        await second.send(Started(chat.id, 31), Delta(chat.id, 3, "!"), done(chat.id))
        heard += [event async for event in events]
    assert [type(event) for event in heard] == [Queued, Started, Delta, Interrupted, Delta, Done]
    assert answer.text == "杭州😀!"
    assert answer.done.finish_reason == "stop"


async def test_a_second_break_resumes_in_the_session_of_the_request(
    client: Client, server: ScriptedServer, peer: Peer
) -> None:
    async with client.stream(ASK, resumable=True) as answer:
        chat = await peer.receive(Chat)
        await peer.send(Delta(chat.id, 0, "one"))
        peer.abort()
        (await server.accept()).abort()  # before it heard of anything
        third = await server.accept()
        assert await third.receive(Resume) == Resume("first", chat.id, 3)
        await third.send(Delta(chat.id, 3, " two"))
        third.abort()
        fourth = await server.accept()
        assert await fourth.receive(Resume) == Resume("first", chat.id, 7)
        await fourth.send(done(chat.id))
        assert [delta async for delta in answer] == ["one", " two"]


async def test_the_offset_is_what_came_not_what_was_consumed(
    client: Client, server: ScriptedServer, peer: Peer
) -> None:
    async with client.stream(ASK, resumable=True) as answer:
        chat = await peer.receive(Chat)
        pieces = PENDING_MAX_EVENTS + 10
        await peer.send(*(Delta(chat.id, number, "x") for number in range(pieces)))
        await peer.close(1013)
        second = await server.accept()
        assert (await second.receive(Resume)).offset == pieces
        await second.send(Delta(chat.id, pieces, "y"), done(chat.id))
        assert "".join([delta async for delta in answer]) == "x" * pieces + "y"


async def test_an_answer_that_the_server_has_not_kept_is_lost(
    client: Client, server: ScriptedServer, peer: Peer
) -> None:
    async with client.stream(ASK, resumable=True) as answer:
        chat = await peer.receive(Chat)
        await peer.send(Delta(chat.id, 0, "part"))
        peer.abort()
        second = await server.accept()
        await second.receive(Resume)
        await second.send(Error(chat.id, "unknown_id", "nothing of yours"))
        assert await anext(answer) == "part"
        with pytest.raises(ConnectionLost, match="has not kept the answer"):
            await anext(answer)
        assert [delta async for delta in answer] == []
    assert client.connected


async def test_an_answer_that_another_socket_took_over_fails(client: Client, peer: Peer) -> None:
    async with client.stream(ASK, resumable=True) as answer:
        chat = await peer.receive(Chat)
        await peer.send(Error(chat.id, "taken_over", "the request goes on over another socket"))
        with pytest.raises(RequestFailed) as caught:
            await anext(answer)
        assert caught.value.code == "taken_over"


async def test_without_a_connection_in_time_the_answer_is_lost(server: ScriptedServer) -> None:
    server.greeting = greeting("first", grace_s=0.3)
    async with connect(server.url, **IMPATIENT) as client:
        peer = await server.accept()
        async with client.stream(ASK, resumable=True) as answer:
            chat = await peer.receive(Chat)
            await peer.send(Delta(chat.id, 0, "part"))
            assert await anext(answer) == "part"
            await server.stop()
            with pytest.raises(ConnectionLost, match=r"within 0\.3 s the answer could not go on: .*Connection refused"):
                await anext(answer)


async def test_a_refusal_in_the_time_is_tried_again(client: Client, server: ScriptedServer, peer: Peer) -> None:
    async with client.stream(ASK, resumable=True) as answer:
        chat = await peer.receive(Chat)
        server.refusal = web.HTTPServiceUnavailable()
        peer.abort()
        events = answer.events()
        assert isinstance(await anext(events), Interrupted)
        server.refusal = None
        second = await server.accept()
        await second.receive(Resume)
        await second.send(Delta(chat.id, 0, "ok"), done(chat.id))
        assert [delta async for delta in answer] == ["ok"]


async def test_another_protocol_is_not_tried_again(client: Client, server: ScriptedServer, peer: Peer) -> None:
    async with client.stream(ASK, resumable=True) as answer:
        await peer.receive(Chat)
        server.greeting = '{"type":"hello","protocol":2}'
        peer.abort()
        with pytest.raises(ConnectionLost, match="speaks protocol version 2"):
            await anext(answer)


async def test_a_server_that_keeps_nothing_is_not_asked_to(server: ScriptedServer) -> None:
    server.greeting = HELLO
    async with connect(server.url) as client:
        peer = await server.accept()
        async with client.stream(ASK, resumable=True) as answer:
            assert not (await peer.receive(Chat)).resumable
            peer.abort()
            with pytest.raises(ConnectionLost):
                await anext(answer)


async def test_a_cancel_in_the_break_is_said_after_it(client: Client, server: ScriptedServer, peer: Peer) -> None:
    async with client.stream(ASK, resumable=True) as answer:
        chat = await peer.receive(Chat)
        peer.abort()
        events = answer.events()
        assert isinstance(await anext(events), Interrupted)
        await answer.cancel()
        second = await server.accept()
        await second.receive(Resume)
        assert await second.receive(Cancel) == Cancel(chat.id)
        await second.send(done(chat.id, "cancelled"))
        assert [delta async for delta in answer] == []
    assert answer.done.finish_reason == "cancelled"


async def test_leaving_after_a_resume_cancels_over_the_new_connection(
    client: Client, server: ScriptedServer, peer: Peer
) -> None:
    async with client.stream(ASK, resumable=True) as answer:
        chat = await peer.receive(Chat)
        peer.abort()
        second = await server.accept()
        await second.receive(Resume)
        await second.send(Delta(chat.id, 0, "x"))
        assert await anext(answer) == "x"
    assert await second.receive(Cancel) == Cancel(chat.id)


@pytest.mark.parametrize("by", ["leaving", "closing"])
async def test_what_ends_in_the_break_leaves_no_task(server: ScriptedServer, by: str) -> None:
    before = asyncio.all_tasks()
    async with connect(server.url, reconnect_backoff_s=5, reconnect_backoff_max_s=5) as client:
        peer = await server.accept()
        stream = client.stream(ASK, resumable=True)
        answer = await stream.__aenter__()
        await peer.receive(Chat)
        server.refusal = web.HTTPServiceUnavailable()
        peer.abort()
        assert isinstance(await anext(answer.events()), Interrupted)
        if by == "leaving":
            await stream.__aexit__(None, None, None)
            assert [delta async for delta in answer] == []
    if by == "closing":
        with pytest.raises(ConnectionLost, match="the client was closed"):
            await anext(answer)
        await stream.__aexit__(None, None, None)
    assert [task for task in asyncio.all_tasks() - before if "client" in task.get_name()] == []
