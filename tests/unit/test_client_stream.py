"""The client's answers, against a scripted server on a real socket."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator

import pytest

from appliance.client import (
    Client,
    ClientError,
    Message,
    ProtocolViolation,
    RequestFailed,
    SlowReader,
    connect,
)
from appliance.client.answer import PENDING_MAX_CHARS, PENDING_MAX_EVENTS
from appliance.client.scripted import HELLO, Peer, ScriptedServer, done, open_scripted_server
from appliance.protocol.websocket import (
    Cancel,
    Chat,
    ChatParams,
    Delta,
    Done,
    Error,
    GoingAway,
    Ping,
    Pong,
    Queued,
    Started,
)

ASK = [Message("user", "hi")]


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with open_scripted_server() as scripted:
        yield scripted


@pytest.fixture
async def client(server: ScriptedServer) -> AsyncIterator[Client]:
    async with connect(server.url) as connected:
        yield connected


@pytest.fixture
async def peer(client: Client, server: ScriptedServer) -> Peer:
    return await server.accept()


async def settle(client: Client, peer: Peer) -> None:
    """Return when the client has read all that the peer has sent so far."""
    ping = asyncio.create_task(client.ping())
    await peer.send(Pong((await peer.receive(Ping)).data))
    await ping


async def test_hello_is_there_after_connecting(client: Client) -> None:
    assert client.hello == HELLO
    assert client.hello.session == "scripted-session"
    assert client.connected


async def test_an_answer_streams_its_text_and_ends_with_done(client: Client, peer: Peer) -> None:
    async with client.stream(ASK) as answer:
        chat = await peer.receive(Chat)
        await peer.send(Delta(chat.id, 0, "杭州"), Delta(chat.id, 2, "😀!"), done(chat.id))
        assert [delta async for delta in answer] == ["杭州", "😀!"]
    assert answer.text == "杭州😀!"
    assert answer.done.finish_reason == "stop"
    assert answer.done.usage.completion_tokens == 2
    assert answer.done.timings.ttft_ms == 118.0


async def test_a_request_names_only_what_was_asked_for(client: Client, peer: Peer) -> None:
    async with client.stream(ASK, max_tokens=5, temperature=0.0, stop="\n\n", deadline_s=9.5) as answer:
        chat = await peer.receive(Chat)
        assert chat.messages == ASK
        assert chat.params == ChatParams(max_tokens=5, temperature=0.0, stop=["\n\n"])
        assert chat.deadline_s == 9.5
        assert chat.id == answer.id


async def test_events_tell_of_the_queue_and_the_start(client: Client, peer: Peer) -> None:
    async with client.stream(ASK) as answer:
        chat = await peer.receive(Chat)
        events = answer.events()
        await peer.send(Queued(chat.id, 3, 4.2))
        assert await anext(events) == Queued(chat.id, 3, 4.2)
        await peer.send(Queued(chat.id, 2, None), Queued(chat.id, 1, None), Started(chat.id, 31))
        await settle(client, peer)
        assert await anext(events) == Queued(chat.id, 1, None)  # only the last of those that waited
        await peer.send(Delta(chat.id, 0, "a"), done(chat.id))
        assert [type(event) async for event in events] == [Started, Delta, Done]
    assert answer.queued == Queued(chat.id, 1, None)
    assert answer.started == Started(chat.id, 31)


async def test_two_answers_interleave_on_one_socket(client: Client, peer: Peer) -> None:
    async with client.stream([Message("user", "a")]) as first, client.stream([Message("user", "b")]) as second:
        a, b = await peer.receive(Chat), await peer.receive(Chat)
        assert a.id != b.id
        await peer.send(Delta(b.id, 0, "b1"), Delta(a.id, 0, "a1"), Delta(b.id, 2, "b2"), Delta(a.id, 2, "a2"))
        await peer.send(done(b.id), done(a.id, "length"))
        assert [delta async for delta in first] == ["a1", "a2"]
        assert [delta async for delta in second] == ["b1", "b2"]
    assert (first.done.finish_reason, second.done.finish_reason) == ("length", "stop")


async def test_leaving_the_block_early_cancels_and_drops_what_still_comes(client: Client, peer: Peer) -> None:
    async with client.stream(ASK) as answer:
        chat = await peer.receive(Chat)
        await peer.send(Delta(chat.id, 0, "one"))
        assert await anext(answer) == "one"
    assert await peer.receive(Cancel) == Cancel(chat.id)
    await peer.send(Delta(chat.id, 3, "late"), done(chat.id, "cancelled"))
    await settle(client, peer)
    assert answer.text == "one"
    assert [delta async for delta in answer] == []
    with pytest.raises(ClientError, match="has not ended"):
        _ = answer.done


async def test_an_exception_in_the_block_cancels_too(client: Client, peer: Peer) -> None:
    async def fail() -> None:
        async with client.stream(ASK):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    chat = await peer.receive(Chat)
    assert await peer.receive(Cancel) == Cancel(chat.id)


async def test_leaving_after_the_end_sends_no_cancel(client: Client, peer: Peer) -> None:
    async with client.stream(ASK) as answer:
        chat = await peer.receive(Chat)
        await peer.send(done(chat.id))
        assert [delta async for delta in answer] == []
        await answer.cancel()
    await settle(client, peer)  # its ping is the next message that the server sees


async def test_cancel_ends_the_answer_with_cancelled(client: Client, peer: Peer) -> None:
    async with client.stream(ASK) as answer:
        chat = await peer.receive(Chat)
        await peer.send(Delta(chat.id, 0, "part"))
        await answer.cancel()
        assert await peer.receive(Cancel) == Cancel(chat.id)
        await peer.send(done(chat.id, "cancelled"))
        assert [delta async for delta in answer] == ["part"]
    assert answer.done.finish_reason == "cancelled"


async def test_an_error_event_raises_with_code_and_retry(client: Client, peer: Peer) -> None:
    async with client.stream(ASK) as answer:
        chat = await peer.receive(Chat)
        await peer.send(Delta(chat.id, 0, "part"), Error(chat.id, "engine_restarted", "the engine ended", 2.5))
        assert await anext(answer) == "part"
        with pytest.raises(RequestFailed, match="the engine ended") as caught:
            await anext(answer)
        assert (caught.value.code, caught.value.retry_after_s) == ("engine_restarted", 2.5)
        assert [delta async for delta in answer] == []  # once
    await settle(client, peer)  # and no cancel for a request that is over


@pytest.mark.parametrize("offset", [2, 4], ids=["repetition", "gap"])
async def test_text_that_does_not_fit_raises_and_is_cancelled(client: Client, peer: Peer, offset: int) -> None:
    async with client.stream(ASK) as answer:
        chat = await peer.receive(Chat)
        await peer.send(Delta(chat.id, 0, "abc"), Delta(chat.id, offset, "d"))
        assert await anext(answer) == "abc"
        with pytest.raises(ProtocolViolation, match=f"at character {offset} instead of 3"):
            await anext(answer)
    assert await peer.receive(Cancel) == Cancel(chat.id)


async def test_an_error_without_id_is_logged_and_ends_nothing(
    client: Client, peer: Peer, caplog: pytest.LogCaptureFixture
) -> None:
    async with client.stream(ASK) as answer:
        chat = await peer.receive(Chat)
        await peer.send(Error(None, "duplicate_id", "the id r9 is taken"), Delta(chat.id, 0, "a"), done(chat.id))
        assert [delta async for delta in answer] == ["a"]
    assert [(r.levelno, r.getMessage()) for r in caplog.records if r.name.startswith("appliance.client")] == [
        (logging.WARNING, "server error: the id r9 is taken")
    ]


async def test_unknown_messages_and_fields_are_ignored(client: Client, peer: Peer) -> None:
    async with client.stream(ASK) as answer:
        chat = await peer.receive(Chat)
        await peer.send(
            json.dumps({"type": "mood", "id": chat.id, "level": 3}),
            json.dumps({"type": "delta", "id": chat.id, "offset": 0, "text": "a", "logprob": -0.1}),
            done(chat.id),
        )
        assert [delta async for delta in answer] == ["a"]


async def test_a_consumer_that_waits_gets_all_text_in_fewer_deltas(client: Client, peer: Peer) -> None:
    async with client.stream(ASK) as slow, client.stream(ASK) as quick:
        chat, other = await peer.receive(Chat), await peer.receive(Chat)
        await peer.send(*(Delta(chat.id, n, "x") for n in range(10 * PENDING_MAX_EVENTS)), done(chat.id))
        await peer.send(Delta(other.id, 0, "ok"), done(other.id))
        assert [delta async for delta in quick] == ["ok"]
        deltas = [delta async for delta in slow]
    assert len(deltas) == PENDING_MAX_EVENTS
    assert slow.text == "x" * 10 * PENDING_MAX_EVENTS
    assert slow.done.finish_reason == "stop"


async def test_a_consumer_too_far_behind_loses_its_answer_only(client: Client, peer: Peer) -> None:
    piece = "x" * (PENDING_MAX_CHARS // 8)
    async with client.stream(ASK) as slow:
        chat = await peer.receive(Chat)
        await peer.send(*(Delta(chat.id, n * len(piece), piece) for n in range(9)))
        await settle(client, peer)
        with pytest.raises(SlowReader):
            async for _ in slow:
                pass
    assert await peer.receive(Cancel) == Cancel(chat.id)
    assert client.connected


async def test_a_request_larger_than_the_server_reads_is_not_sent(client: Client, peer: Peer) -> None:
    with pytest.raises(RequestFailed, match="the server takes 65536") as caught:
        async with client.stream([Message("user", "é" * 40_000)]):
            pytest.fail("the block was entered")
    assert caught.value.code == "prompt_too_long"
    await settle(client, peer)


async def test_going_away_is_remembered_and_live_answers_finish(client: Client, peer: Peer) -> None:
    assert client.going_away is None
    async with client.stream(ASK) as answer:
        chat = await peer.receive(Chat)
        await peer.send(GoingAway(20.0), Delta(chat.id, 0, "a"), done(chat.id))
        assert [delta async for delta in answer] == ["a"]
    assert client.going_away == GoingAway(20.0)


async def test_ping_measures_a_round_trip(client: Client, peer: Peer) -> None:
    ping = asyncio.create_task(client.ping())
    message = await peer.receive(Ping)
    await peer.send(Pong("someone else's"), Pong(message.data))
    assert 0 < await ping < 20


async def test_a_pong_that_does_not_come_is_not_waited_for(client: Client, peer: Peer) -> None:
    with pytest.raises(TimeoutError):
        await client.ping(timeout_s=0.01)
