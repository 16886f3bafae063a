"""Bad messages cost their sender an error, not the connection, and harm nobody beside it."""

import json
from typing import Any

import aiohttp
import pytest

from tests.support.daemon import Appliance, Peer

USER = {"role": "user", "content": "hi"}


def chat(**changes: Any) -> str:
    return json.dumps({"type": "chat", "id": "r1", "messages": [USER]} | changes)


def resume(**changes: Any) -> str:
    return json.dumps({"type": "resume", "session": "s", "id": "r1", "offset": 0} | changes)


BAD = [
    ("not JSON", "hello", "bad_message", None, "JSON"),
    ("empty frame", "", "bad_message", None, "JSON"),
    ("JSON that is no object", "[1,2]", "bad_message", None, "object"),
    ("no type", '{"id":"r1"}', "bad_message", "r1", "type"),
    ("unknown type", '{"type":"shout","id":"r1"}', "bad_message", "r1", "shout"),
    ("id of the wrong type", '{"type":"cancel","id":7}', "bad_message", None, "id"),
    ("id missing", '{"type":"chat","messages":[]}', "bad_message", None, "id"),
    ("id empty", chat(id=""), "bad_message", None, "id"),
    ("id too long", chat(id="x" * 65), "bad_message", None, "64"),
    ("messages of the wrong type", chat(messages="hi"), "bad_message", "r1", "messages"),
    ("content of the wrong type", chat(messages=[{"role": "user", "content": 1}]), "bad_message", "r1", "content"),
    ("params of the wrong type", chat(params={"max_tokens": "many"}), "bad_message", "r1", "max_tokens"),
    ("max_tokens as a fraction", chat(params={"max_tokens": 1.5}), "bad_message", "r1", "max_tokens"),
    ("a parameter that does not exist", chat(params={"max_token": 1}), "bad_message", "r1", "max_token"),
    ("a field that does not exist", chat(stream=True), "bad_message", "r1", "stream"),
    ("a lone surrogate", '{"type":"chat","id":"r1","messages":[{"role":"user","content":"a\\ud800 b"}]}',
     "bad_request", "r1", "surrogate"),
    ("half an emoji at the end", '{"type":"chat","id":"r1","messages":[{"role":"user","content":"a\\ud83d"}]}',
     "bad_request", "r1", "surrogate"),
    ("a field that a message has not", chat(messages=[USER | {"name": "bob"}]), "bad_message", "r1", "name"),
    ("NaN", '{"type":"chat","id":"r1","messages":[],"params":{"temperature":NaN}}', "bad_message", "r1", "JSON"),
    ("nested deep", '{"type":"chat","id":"r1","params":' + "[" * 100_000, "bad_message", None, ""),
    ("no messages", chat(messages=[]), "bad_request", "r1", "messages"),
    ("a role that does not exist", chat(messages=[{"role": "wizard", "content": "hi"}]), "bad_request", "r1", "wizard"),
    ("NUL in the content", chat(messages=[{"role": "user", "content": "a\0b"}]), "bad_request", "r1", "NUL"),
    ("too many messages", chat(messages=[USER] * 600), "bad_request", "r1", "512"),
    ("negative max_tokens", chat(params={"max_tokens": -1}), "bad_request", "r1", "max_tokens is -1"),
    ("no max_tokens at all", chat(params={"max_tokens": 0}), "bad_request", "r1", "max_tokens is 0"),
    ("absurd max_tokens", chat(params={"max_tokens": 10**9}), "bad_request", "r1", "4096"),
    ("negative temperature", chat(params={"temperature": -0.1}), "bad_request", "r1", "temperature"),
    ("absurd temperature", chat(params={"temperature": 1e9}), "bad_request", "r1", "temperature"),
    ("top_p of zero", chat(params={"top_p": 0}), "bad_request", "r1", "top_p"),
    ("top_p above one", chat(params={"top_p": 1.1}), "bad_request", "r1", "top_p"),
    ("negative top_k", chat(params={"top_k": -1}), "bad_request", "r1", "top_k"),
    ("repetition penalty of zero", chat(params={"repetition_penalty": 0}), "bad_request", "r1", "repetition_penalty"),
    ("negative seed", chat(params={"seed": -1}), "bad_request", "r1", "seed"),
    ("absurd seed", chat(params={"seed": 2**63}), "bad_request", "r1", "seed"),
    ("empty stop string", chat(params={"stop": [""]}), "bad_request", "r1", "stop[0]"),
    ("too many stop strings", chat(params={"stop": ["x"] * 9}), "bad_request", "r1", "8"),
    ("an integer of 400 digits", chat(params={"seed": 10**400}), "bad_request", "r1", "seed"),
    ("cancel with an id too long", '{"type":"cancel","id":"' + "x" * 9000 + '"}', "unknown_id", None, "xxx"),
    ("a ping with a book in it", '{"type":"ping","data":"' + "x" * 9000 + '"}', "bad_request", None, "256"),
    ("a field with a very long name", chat(**{"y" * 9000: 1}), "bad_message", "r1", "yyy"),
    ("a deadline of zero", chat(deadline_s=0), "bad_request", "r1", "deadline_s"),
    ("an absurd deadline", chat(deadline_s=1e9), "bad_request", "r1", "600"),
    ("resumable that is no boolean", chat(resumable="yes"), "bad_message", "r1", "resumable"),
    ("resume in no session", resume(session="s"), "unknown_id", "r1", "r1"),
    ("resume without a session", '{"type":"resume","id":"r1","offset":0}', "bad_message", "r1", "session"),
    ("resume before the beginning", resume(offset=-1), "bad_request", "r1", "offset is -1"),
    ("resume at an offset of 400 digits", resume(offset=10**400), "unknown_id", "r1", "r1"),
    ("resume with an id too long", resume(id="x" * 9000), "unknown_id", None, "xxx"),
    ("cancel of an unknown id", '{"type":"cancel","id":"nobody"}', "unknown_id", "nobody", "nobody"),
]  # fmt: skip


@pytest.mark.parametrize(("frame", "code", "request_id", "word"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
async def test_a_bad_message_is_answered_and_the_socket_goes_on(
    appliance: Appliance, frame: str, code: str, request_id: str | None, word: str
) -> None:
    async with appliance.connect() as peer:
        await peer.ws.send_str(frame)
        error = await peer.receive()
        assert (error["type"], error["code"], error["id"]) == ("error", code, request_id), error
        assert word in error["message"]
        assert len(error["message"]) < 500
        assert error["retry_after_s"] is None
        await still_works(peer)


async def still_works(peer: Peer) -> None:
    await peer.chat("after", "fine", params={"max_tokens": 2})
    text, done = await peer.answer("after")
    assert (text, done["type"]) == ("fine fine ", "done")


async def test_a_binary_frame_is_answered_and_the_socket_goes_on(appliance: Appliance) -> None:
    async with appliance.connect() as peer:
        await peer.ws.send_bytes(b"\x00\x01")
        error = await peer.receive()
        assert (error["code"], error["id"]) == ("bad_message", None)
        await still_works(peer)


async def test_a_frame_over_the_limit_closes_with_1009(appliance: Appliance) -> None:
    async with appliance.connect() as peer, appliance.connect() as neighbour:
        await peer.ws.send_str(chat(messages=[{"role": "user", "content": "x" * (1 << 20)}]))
        message = await peer.ws.receive()
        assert message.type is aiohttp.WSMsgType.CLOSE
        assert peer.ws.close_code == 1009
        await still_works(neighbour)


async def test_text_that_is_no_utf8_closes_with_1007(appliance: Appliance) -> None:
    async with appliance.connect() as peer:
        await peer.ws.send_frame(b"\xff\xfe", aiohttp.WSMsgType.TEXT)
        message = await peer.ws.receive()
        assert message.type is aiohttp.WSMsgType.CLOSE
        assert peer.ws.close_code == 1007


async def test_a_duplicate_id_is_refused_and_the_live_request_goes_on(appliance: Appliance) -> None:
    async with appliance.connect() as peer:
        await peer.chat("r1", "ant fake:step-ms=2", params={"max_tokens": 30})
        await peer.until("delta")
        await peer.chat("r1", "bee")
        messages = await peer.until("done")
        (error,) = [m for m in messages if m["type"] == "error"]
        assert error["code"] == "duplicate_id"
        assert error["id"] is None, "an error with the id would read as the end of the live request"
        assert "r1" in error["message"]
        assert all("bee" not in m.get("text", "") for m in messages)
        await peer.chat("r1", "bee", params={"max_tokens": 1})
        assert (await peer.answer("r1"))[0] == "bee "


async def test_a_bad_message_with_the_id_of_a_live_request_does_not_end_it(appliance: Appliance) -> None:
    async with appliance.connect() as peer:
        await peer.chat("r1", "ant fake:step-ms=2", params={"max_tokens": 30})
        await peer.until("delta")
        await peer.ws.send_str(chat(messages=7))
        messages = await peer.until("done")
        assert [m["id"] for m in messages if m["type"] == "error"] == [None]


async def test_a_prompt_that_is_too_long_names_both_numbers_and_harms_no_neighbour(appliance: Appliance) -> None:
    async with appliance.connect() as peer:
        await peer.chat("ok", "ant fake:step-ms=1", params={"max_tokens": 100})
        await peer.chat("long", "word " * 5000)
        messages = await peer.until("done", request_id="ok")
        (error,) = [m for m in messages if m["type"] == "error"]
        assert (error["id"], error["code"]) == ("long", "prompt_too_long")
        assert "5001" in error["message"]
        assert "4095" in error["message"]
        assert messages[-1]["usage"]["completion_tokens"] == 100


async def test_a_prompt_that_the_engine_rejects_is_a_bad_request(appliance: Appliance) -> None:
    async with appliance.connect() as peer:
        await peer.chat("r1", "fake:reject")
        _, error = await peer.answer("r1")
        assert error["code"] == "bad_request"
        await still_works(peer)
