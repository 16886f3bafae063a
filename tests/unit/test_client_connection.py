"""Connecting, losing the connection, connecting again: the client against a scripted server on a real socket."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from aiohttp import web

from appliance.client import (
    BadAddress,
    Client,
    ClientError,
    ConnectFailed,
    ConnectionLost,
    Message,
    UnsupportedProtocol,
    connect,
)
from appliance.client.address import parse_address
from appliance.client.client import Options
from appliance.client.scripted import HELLO, ScriptedServer, done, open_scripted_server
from appliance.protocol.websocket import Chat, Delta, Error, GoingAway

ASK = [Message("user", "hi")]
IMPATIENT: dict[str, Any] = {"reconnect_attempts": 3, "reconnect_backoff_s": 0.001}


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with open_scripted_server() as scripted:
        yield scripted


async def answer_one(client: Client, server: ScriptedServer, text: str) -> None:
    """A whole answer over a new connection."""
    opening = asyncio.create_task(server.accept())
    async with client.stream(ASK) as answer:
        peer = await opening
        chat = await peer.receive(Chat)
        await peer.send(Delta(chat.id, 0, text), done(chat.id))
        assert [delta async for delta in answer] == [text]


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("http://127.0.0.1:8080", "ws://127.0.0.1:8080/v1/ws"),
        ("http://box/", "ws://box/v1/ws"),
        ("https://proxy.example/box1", "wss://proxy.example/box1/v1/ws"),
        ("ws://127.0.0.1:8080/v1/ws", "ws://127.0.0.1:8080/v1/ws"),
        ("ws://127.0.0.1:8080", "ws://127.0.0.1:8080/v1/ws"),
        ("wss://proxy.example/chat", "wss://proxy.example/chat"),
        ("http://[::1]:8080", "ws://[::1]:8080/v1/ws"),
    ],
)
def test_addresses(given: str, url: str) -> None:
    assert parse_address(given).url == url


def test_an_address_is_shown_without_its_credentials() -> None:
    address = parse_address("http://kiosk:secret@box:8080")
    assert address.url == "ws://kiosk:secret@box:8080/v1/ws"
    assert address.shown == "ws://box:8080/v1/ws"


@pytest.mark.parametrize("url", ["", "box:8080", "127.0.0.1:8080", "ftp://box", "http://", "http://box:eighty"])
async def test_what_is_no_address_is_said_so(url: str) -> None:
    with pytest.raises(BadAddress, match="URL"):
        async with connect(url):
            pytest.fail("connected")


async def test_another_protocol_version_is_named(server: ScriptedServer) -> None:
    server.greeting = '{"type":"hello","protocol":2,"who":"a later appliance"}'
    with pytest.raises(UnsupportedProtocol, match="speaks protocol version 2; this client speaks 1"):
        async with connect(server.url):
            pytest.fail("connected")


@pytest.mark.parametrize("greeting", ["what?", "[]", '{"type":"delta","id":"r1","offset":0,"text":""}', '{"a":1}'])
async def test_a_server_without_hello_is_no_appliance(server: ScriptedServer, greeting: str) -> None:
    server.greeting = greeting
    with pytest.raises(UnsupportedProtocol, match="no appliance"):
        async with connect(server.url):
            pytest.fail("connected")


async def test_an_error_instead_of_a_hello_is_told(server: ScriptedServer) -> None:
    server.greeting = msgspec.json.encode(Error(None, "shutting_down", "the appliance stops", 5.0)).decode()
    with pytest.raises(ConnectFailed, match="the appliance stops") as caught:
        async with connect(server.url):
            pytest.fail("connected")
    assert caught.value.retry_after_s == 5.0


async def test_a_refused_upgrade_is_told_with_its_pause(server: ScriptedServer) -> None:
    server.refusal = web.HTTPServiceUnavailable(headers={"Retry-After": "3"})
    with pytest.raises(ConnectFailed, match="HTTP 503") as caught:
        async with connect(server.url):
            pytest.fail("connected")
    assert caught.value.retry_after_s == 3.0


async def test_nobody_listening_is_said_in_words(server: ScriptedServer) -> None:
    await server.stop()
    with pytest.raises(ConnectFailed, match="Connection refused"):
        async with connect(server.url):
            pytest.fail("connected")


async def test_a_server_that_accepts_and_says_nothing_times_out() -> None:
    left = asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        await writer.wait_closed()
        left.set()

    async with await asyncio.start_server(say_nothing, "127.0.0.1", 0) as silent:
        port = silent.sockets[0].getsockname()[1]
        with pytest.raises(ConnectFailed, match=r"does not answer within 0\.05 s"):
            async with connect(f"http://127.0.0.1:{port}", connect_timeout_s=0.05):
                pytest.fail("connected")
        await left.wait()


async def test_each_open_answer_learns_of_a_lost_connection_once(server: ScriptedServer) -> None:
    async with connect(server.url) as client:
        peer = await server.accept()
        async with client.stream(ASK) as first, client.stream(ASK) as second:
            a, _ = await peer.receive(Chat), await peer.receive(Chat)
            await peer.send(Delta(a.id, 0, "part"))
            assert await anext(first) == "part"
            peer.abort()
            for answer in (first, second):
                with pytest.raises(ConnectionLost):
                    await anext(answer)
                assert [delta async for delta in answer] == []
        assert not client.connected


async def test_text_that_came_before_the_loss_is_delivered(server: ScriptedServer) -> None:
    async with connect(server.url) as client:
        peer = await server.accept()
        async with client.stream(ASK) as answer:
            chat = await peer.receive(Chat)
            await peer.send(Delta(chat.id, 0, "part"))
            await peer.close(1013)
            assert await anext(answer) == "part"
            with pytest.raises(ConnectionLost, match="1013"):
                await anext(answer)


async def test_the_next_stream_connects_again(server: ScriptedServer) -> None:
    async with connect(server.url, **IMPATIENT) as client:
        peer = await server.accept()
        async with client.stream(ASK) as answer:
            await peer.send(GoingAway(1.0))
            await peer.close(1001)
            with pytest.raises(ConnectionLost, match="1001"):
                await anext(answer)
        assert client.going_away == GoingAway(1.0)
        server.greeting = msgspec.structs.replace(HELLO, session="another")
        await answer_one(client, server, "again")
        assert client.hello.session == "another"
        assert client.going_away is None


async def test_many_streams_at_once_make_one_new_connection(server: ScriptedServer) -> None:
    async with connect(server.url, **IMPATIENT) as client:
        (await server.accept()).abort()
        async with client.stream(ASK) as ended:
            with pytest.raises(ConnectionLost):
                await anext(ended)

        async def ask() -> None:
            async with client.stream(ASK) as answer:
                assert [delta async for delta in answer] == ["x"]

        asking = [asyncio.create_task(ask()) for _ in range(5)]
        peer = await server.accept()
        for _ in asking:
            chat = await peer.receive(Chat)
            await peer.send(Delta(chat.id, 0, "x"), done(chat.id))
        await asyncio.gather(*asking)


async def test_reconnecting_gives_up_with_the_last_reason(server: ScriptedServer) -> None:
    async with connect(server.url, **IMPATIENT) as client:
        await server.stop()
        with pytest.raises((ConnectFailed, ConnectionLost)):
            await client.ping()
        with pytest.raises(ConnectFailed, match="Connection refused"):
            await client.reconnect()


async def test_a_refusal_is_tried_again(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []

    async def let_in(pause_s: float) -> None:
        pauses.append(pause_s)
        server.refusal = None

    async with connect(server.url, reconnect_backoff_s=0.5, reconnect_backoff_max_s=2.0) as client:
        peer = await server.accept()
        async with client.stream(ASK) as answer:
            await peer.close()
            with pytest.raises(ConnectionLost):
                await anext(answer)
        server.refusal = web.HTTPServiceUnavailable(headers={"Retry-After": "60"})
        monkeypatch.setattr("appliance.client.client.asyncio.sleep", let_in)
        await client.reconnect()
        assert client.connected
    assert pauses == [2.0]  # what the server asks for, but never longer than the longest pause


def test_pauses_double_up_to_the_longest_and_differ() -> None:
    options = Options(
        connect_timeout_s=1,
        reconnect_attempts=9,
        reconnect_backoff_s=0.2,
        reconnect_backoff_max_s=1.0,
        heartbeat_s=1,
    )
    pauses = [[options.pause_s(attempt, None) for _ in range(50)] for attempt in (1, 2, 3, 9)]
    for longest, seen in zip((0.2, 0.4, 0.8, 1.0), pauses, strict=True):
        assert all(longest / 2 <= pause <= longest for pause in seen)
        assert len(set(seen)) > 1


async def test_a_server_that_breaks_the_protocol_is_left(server: ScriptedServer) -> None:
    async with connect(server.url) as client:
        peer = await server.accept()
        async with client.stream(ASK) as answer:
            chat = await peer.receive(Chat)
            await peer.send(f'{{"type":"delta","id":"{chat.id}","offset":"zero"}}')
            with pytest.raises(ConnectionLost, match="does not fit the protocol"):
                await anext(answer)
        await peer.wait_left()


async def test_a_server_that_falls_silent_is_found(server: ScriptedServer) -> None:
    server.deaf = True
    async with connect(server.url, heartbeat_s=0.02) as client:
        await server.accept()
        async with client.stream(ASK) as answer:
            with pytest.raises(ConnectionLost, match="no sign of life"):
                await anext(answer)


async def test_closing_ends_open_answers_and_leaves_no_task(server: ScriptedServer) -> None:
    before = asyncio.all_tasks()
    async with connect(server.url) as client:
        peer = await server.accept()
        stream = client.stream(ASK)
        answer = await stream.__aenter__()
        await peer.receive(Chat)
    with pytest.raises(ConnectionLost, match="the client was closed"):
        await anext(answer)
    await stream.__aexit__(None, None, None)
    await peer.wait_left()
    assert [task for task in asyncio.all_tasks() - before if "client" in task.get_name()] == []
    with pytest.raises(ClientError, match="closed"):
        await client.reconnect()
