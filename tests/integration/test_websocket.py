"""Protocol version 1 over a real socket, the fake engine behind it."""

import os
import signal
from typing import Any

from appliance import __version__
from appliance.engine.fake import expected_answer
from tests.support.daemon import Appliance, running, settings, until

ENDLESS = "again and again fake:step-ms=2"


async def test_hello_names_server_model_limits_and_session(appliance: Appliance) -> None:
    async with appliance.connect() as peer, appliance.connect() as other:
        hello = peer.hello
        assert (hello["protocol"], hello["server"]) == (1, f"appliance/{__version__}")
        assert hello["model"] == {"id": "fake", "context_tokens": 4096}
        assert hello["limits"] == {
            "max_prompt_tokens": 4095,
            "max_tokens": 4096,
            "max_message_bytes": 1 << 20,
            "max_live_requests": 16,
            "resume_grace_s": 15.0,
        }
        assert len(hello["session"]) >= 32
        assert hello["session"] != other.hello["session"]


async def test_an_answer_is_started_streamed_and_done(appliance: Appliance) -> None:
    async with appliance.connect() as peer:
        await peer.chat("r1", "hello fine world", params={"max_tokens": 7})
        messages = await peer.until("done", "error")
        assert messages[0] == {"type": "started", "id": "r1", "prompt_tokens": 4}
        deltas = messages[1:-1]
        assert [m["type"] for m in deltas] == ["delta"] * 7
        text = ""
        for delta in deltas:
            assert delta["offset"] == len(text)
            text += delta["text"]
        assert text == expected_answer("hello fine world", 7)
        done = messages[-1]
        assert (done["finish_reason"], done["model"], done["source"]) == ("length", "fake", "model")
        assert done["usage"] == {"prompt_tokens": 4, "completion_tokens": 7, "cached_tokens": None}
        timings = done["timings"]
        assert 0 <= timings["queue_ms"] <= timings["ttft_ms"] <= timings["total_ms"]
        assert timings["tpot_ms"] >= 0


async def test_offsets_count_code_points(appliance: Appliance) -> None:
    async with appliance.connect() as peer:
        await peer.chat("r1", "fake:bytes 😀日本語é", params={"max_tokens": 35})
        text, done = await peer.answer("r1")
        assert done["type"] == "done"
        assert text.startswith("😀日本語é 😀")
        assert "\N{REPLACEMENT CHARACTER}" not in text


async def test_requests_of_one_socket_run_side_by_side(appliance: Appliance) -> None:
    async with appliance.connect() as peer:
        words = ["ant", "bee", "cat", "dog"]
        for word in words:
            await peer.chat(word, f"{word} fake:step-ms=2", params={"max_tokens": 20})
        texts = dict.fromkeys(words, "")
        ended: list[str] = []
        order = []
        while len(ended) < len(words):
            message = await peer.receive()
            if message["type"] == "delta":
                texts[message["id"]] += message["text"]
                order.append(message["id"])
            if message["type"] == "done":
                ended.append(message["id"])
        assert texts == {word: f"{word} " * 20 for word in words}
        assert order != sorted(order), "answers came one after another"


async def test_cancel_while_decoding(appliance: Appliance) -> None:
    async with appliance.connect() as peer:
        await peer.chat("r1", ENDLESS, params={"max_tokens": 4000})
        await peer.until("delta")
        await peer.send(type="cancel", id="r1")
        done = (await peer.until("done", "error"))[-1]
        assert (done["type"], done["finish_reason"]) == ("done", "cancelled")
        assert 0 < done["usage"]["completion_tokens"] < 4000
        await until(lambda: appliance.daemon.dispatcher.running == 0)


async def test_cancel_in_prefill() -> None:
    async with running(settings(engine={"max_num_batched_tokens": 16})) as appliance, appliance.connect() as peer:
        await peer.chat("r1", "word " * 3000 + "fake:step-ms=20")
        await peer.until("started")
        await peer.send(type="cancel", id="r1")
        text, done = await peer.answer("r1")
        assert (text, done["finish_reason"], done["usage"]["completion_tokens"]) == ("", "cancelled", 0)


async def test_cancel_in_the_queue() -> None:
    async with running(settings(engine={"max_running_requests": 1})) as appliance, appliance.connect() as peer:
        await peer.chat("r1", ENDLESS, params={"max_tokens": 4000})
        await peer.until("delta")
        await peer.chat("r2", "waits")
        await peer.until("queued", request_id="r2")
        await peer.send(type="cancel", id="r2")
        text, done = await peer.answer("r2")
        assert (text, done["finish_reason"], done["usage"]["completion_tokens"]) == ("", "cancelled", 0)
        assert appliance.daemon.dispatcher.running == 1


async def test_positions_are_told_as_they_change() -> None:
    async with running(settings(engine={"max_running_requests": 1})) as appliance, appliance.connect() as peer:
        await appliance.ready()
        for name, tokens in (("r1", 200), ("r2", 1), ("r3", 1)):
            await peer.chat(name, "again fake:step-ms=2", params={"max_tokens": tokens})
        messages = await peer.until("done", request_id="r3")
        told = [(m["id"], m["position"]) for m in messages if m["type"] == "queued"]
        assert told == [("r2", 1), ("r3", 2), ("r3", 1)]


async def test_a_deadline_ends_a_running_answer(appliance: Appliance) -> None:
    async with appliance.connect() as peer:
        await peer.chat("r1", ENDLESS, params={"max_tokens": 4000}, deadline_s=0.2)
        _, error = await peer.answer("r1")
        assert error["code"] == "deadline_exceeded"
        await until(lambda: appliance.daemon.dispatcher.running == 0)


async def test_a_shorter_bound_shortens_the_default_deadline_and_length() -> None:
    tight = settings(dispatch={"max_deadline_s": 0.3}, limits={"max_tokens": 7})
    async with running(tight) as appliance, appliance.connect() as peer:
        await appliance.ready()
        await peer.chat("r1", "short")
        _, done = await peer.answer("r1")
        assert done["usage"]["completion_tokens"] == 7
        await peer.chat("r2", "long fake:step-ms=200")
        _, error = await peer.answer("r2")
        assert error["code"] == "deadline_exceeded"


async def test_a_message_of_just_the_largest_size_is_taken(appliance: Appliance) -> None:
    async with appliance.connect() as peer:
        most = peer.hello["limits"]["max_message_bytes"]
        start, end = '{"type":"chat","id":"r1","messages":[{"role":"user","content":"', '"}],"params":{"max_tokens":1}}'
        await peer.ws.send_str(start + "x" * (most - len(start) - len(end)) + end)
        _, done = await peer.answer("r1")
        assert done["type"] == "done"


async def test_the_eta_of_a_waiting_request_is_about_what_it_waits() -> None:
    async with running(settings(engine={"max_running_requests": 1})) as appliance, appliance.connect() as peer:
        await appliance.ready()
        await peer.chat("r0", "measured fake:step-ms=20", params={"max_tokens": 50})
        await peer.until("done")
        await peer.chat("r1", "measured fake:step-ms=20", params={"max_tokens": 50})
        await peer.until("started")
        await peer.chat("r2", "waits", params={"max_tokens": 1})
        queued = (await peer.until("queued"))[-1]
        assert 0.5 <= queued["eta_s"] <= 3, "50 steps of 20 ms are before it"


async def test_a_full_queue_says_when_to_come_back() -> None:
    tight = settings(engine={"max_running_requests": 1}, dispatch={"max_waiting": 2, "max_waiting_per_client": 2})
    async with running(tight) as appliance, appliance.connect() as peer:
        await peer.chat("r0", ENDLESS, params={"max_tokens": 4000})
        await peer.until("delta")
        for number in range(1, 4):
            await peer.chat(f"r{number}", "one")
        (error,) = [m for m in await peer.until("error") if m["type"] == "error"]
        assert (error["id"], error["code"]) == ("r3", "queue_full")
        assert error["retry_after_s"] >= 1
        assert await appliance.metric("appliance_admission_rejections_total") == 1


async def test_a_killed_worker_gives_each_live_request_one_error(appliance: Appliance) -> None:
    async with appliance.connect() as peer, appliance.connect() as other:
        await peer.chat("r1", ENDLESS, params={"max_tokens": 4000})
        await peer.chat("r2", ENDLESS, params={"max_tokens": 4000})
        await other.chat("r1", ENDLESS, params={"max_tokens": 4000})
        for one, name in ((peer, "r1"), (peer, "r2"), (other, "r1")):
            await one.until("delta", request_id=name)
        pid = appliance.daemon.engine.worker_pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        ends: list[dict[str, Any]] = []
        while len(ends) < 2:
            ends += [m for m in await peer.until("error", "done") if m["type"] in ("error", "done")]
        ends += [m for m in await other.until("error", "done") if m["type"] in ("error", "done")]
        assert [m["code"] for m in ends] == ["engine_restarted"] * 3
        assert {m["id"] for m in ends[:2]} == {"r1", "r2"}
        assert all(m["retry_after_s"] >= 1 for m in ends)
        status, body = await appliance.get("/readyz")
        assert (status, body["reason"]) == (503, "restarting")
        await peer.chat("r1", "once more", params={"max_tokens": 2})
        text, done = await peer.answer("r1")
        assert (text, done["type"]) == ("once more ", "done")
        assert await appliance.metric("appliance_engine_restarts_total") == 1


async def test_ping_is_answered_with_its_data(appliance: Appliance) -> None:
    async with appliance.connect() as peer:
        await peer.send(type="ping", data="42")
        assert await peer.receive() == {"type": "pong", "data": "42"}


async def test_live_requests_of_one_socket_are_bounded() -> None:
    async with (
        running(settings(limits={"max_live_requests": 2})) as appliance,
        appliance.connect() as peer,
        appliance.connect() as other,
    ):
        for number in range(3):
            await peer.chat(f"r{number}", ENDLESS, params={"max_tokens": 4000})
        (error,) = [m for m in await peer.until("error") if m["type"] == "error"]
        assert (error["id"], error["code"]) == ("r2", "rate_limited")
        assert await appliance.metric('appliance_admission_rejections_total{reason="rate_limited"}') == 1
        await other.chat("r0", "fine", params={"max_tokens": 1})
        assert (await other.answer("r0"))[1]["type"] == "done"
