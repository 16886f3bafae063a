"""A resumable answer over one socket after another, the fake engine behind it: nothing missing, nothing twice."""

import asyncio
import os
import signal

import aiohttp
import pytest

from appliance.engine.fake import expected_answer
from tests.support.daemon import Appliance, running, settings, until
from tests.support.resuming import ENDLESS, LONG, Heard, connected_from, cut_and_noticed, resume, settled

ONE_AT_A_TIME = settings(engine={"max_running_requests": 1})


async def test_an_answer_goes_on_where_its_socket_broke(appliance: Appliance) -> None:
    heard = Heard("r1")
    async with appliance.connect() as first:
        await first.chat("r1", "one two three fake:step-ms=2", params={"max_tokens": 200}, resumable=True)
        await heard.hear(first, chars=100)
        await cut_and_noticed(appliance, first)
        assert appliance.daemon.keeper.detached == 1
        async with appliance.connect() as second:
            await resume(second, first, "r1", heard.chars)
            done = await heard.hear_the_end(second)
            assert await settled(second) == []
    assert heard.text == expected_answer("one two three", 200)
    assert (done["finish_reason"], done["usage"]["completion_tokens"]) == ("length", 200)
    assert [m["type"] for m in heard.others] == ["started", "started"], "a resume says again where the request stands"
    assert appliance.daemon.keeper.detached == 0


async def test_text_that_the_old_socket_swallowed_is_said_again(appliance: Appliance) -> None:
    heard = Heard("r1")
    async with appliance.connect() as first, appliance.connect() as second:
        await first.chat("r1", "one two three fake:step-ms=2", params={"max_tokens": 100}, resumable=True)
        await Heard("r1").hear(first, chars=60)  # and lost on the way to whoever asked
        await cut_and_noticed(appliance, first)
        await resume(second, first, "r1", 0)
        await heard.hear_the_end(second)
    assert heard.text == expected_answer("one two three", 100)


async def test_an_answer_that_breaks_often_is_whole(appliance: Appliance) -> None:
    heard = Heard("r1")
    async with appliance.connect() as first:
        await first.chat("r1", "one two three fake:step-ms=1", params={"max_tokens": 300}, resumable=True)
        await heard.hear(first, chars=10)
        first.cut()
        for part in range(1, 6):
            async with appliance.connect() as peer:  # always by the session that it was sent in
                await resume(peer, first, "r1", heard.chars)
                await heard.hear(peer, chars=200 * part)
                peer.cut()
        async with appliance.connect() as last:
            await resume(last, first, "r1", heard.chars)
            await heard.hear_the_end(last)
    assert heard.text == expected_answer("one two three", 300)


async def test_a_break_in_the_queue() -> None:
    heard = Heard("waits")
    async with running(ONE_AT_A_TIME) as appliance, appliance.connect() as other, appliance.connect() as first:
        await other.chat("r1", ENDLESS, params={"max_tokens": 4000})
        await other.until("delta")
        await first.chat("waits", "hello", params={"max_tokens": 3}, resumable=True)
        await first.until("queued")
        await cut_and_noticed(appliance, first)
        assert (appliance.daemon.dispatcher.waiting, appliance.daemon.keeper.detached) == (1, 1)
        async with appliance.connect() as second:
            await resume(second, first, "waits", 0)
            assert (await second.receive())["position"] == 1
            await other.send(type="cancel", id="r1")
            done = await heard.hear_the_end(second)
    assert (heard.text, done["finish_reason"]) == ("hello hello hello ", "length")


async def test_a_break_in_prefill() -> None:
    heard = Heard("r1")
    async with running(settings(engine={"max_num_batched_tokens": 16})) as appliance, appliance.connect() as first:
        await first.chat("r1", "word " * 1000 + "fake:step-ms=5", params={"max_tokens": 3}, resumable=True)
        await first.until("started")
        await cut_and_noticed(appliance, first)
        async with appliance.connect() as second:
            await resume(second, first, "r1", 0)
            done = await heard.hear_the_end(second)
    assert (heard.text, done["usage"]["prompt_tokens"]) == ("word word word ", 1002)


@pytest.mark.parametrize("offset", [0, 7, 18])
async def test_a_break_just_at_the_end(appliance: Appliance, offset: int) -> None:
    async with appliance.connect() as first, appliance.connect() as second:
        await first.chat("r1", "hello", params={"max_tokens": 3}, resumable=True)
        await first.until("done")  # and lost on the way
        await cut_and_noticed(appliance, first)
        await resume(second, first, "r1", offset)
        text, ends = "", []
        for message in await second.until("done"):
            if message["type"] == "delta":
                assert message["offset"] == offset + len(text)
                text += message["text"]
            elif message["type"] == "done":
                ends.append(message["finish_reason"])
        assert (text, ends) == ("hello hello hello "[offset:], ["length"])


async def test_an_end_while_nobody_listens_is_kept(appliance: Appliance) -> None:
    heard = Heard("r1")
    async with appliance.connect() as first, appliance.connect() as second:
        await first.chat("r1", "one fake:step-ms=2", params={"max_tokens": 50}, resumable=True)
        await first.until("delta")
        await cut_and_noticed(appliance, first)
        await until(lambda: appliance.daemon.dispatcher.running == 0)
        await resume(second, first, "r1", 0)
        await heard.hear_the_end(second)
        await resume(second, first, "r1", 196)  # it can be had once more, until its time is over
        assert (await second.until("done"))[1:-1] == [{"type": "delta", "id": "r1", "offset": 196, "text": "one "}]
    assert heard.text == "one " * 50


async def test_the_time_to_come_back_counts_from_an_end_that_falls_into_the_break(appliance: Appliance) -> None:
    async with appliance.connect() as first:
        await first.chat("r1", "one fake:step-ms=2", params={"max_tokens": 50}, resumable=True)
        await first.until("delta")
        (answer,) = appliance.daemon.keeper._answers.values()
        clocks = [answer.forgetting]
        await cut_and_noticed(appliance, first)
        clocks.append(answer.forgetting)
        await until(lambda: answer.end is not None)
        clocks.append(answer.forgetting)
        ends = [clock.when() for clock in clocks if clock is not None]
        assert clocks[0] is None, "no clock runs while a socket is there"
        assert ends[0] < ends[1]


async def test_a_request_that_is_not_resumable_ends_with_its_socket(appliance: Appliance) -> None:
    async with appliance.connect() as first, appliance.connect() as second:
        await first.chat("plain", ENDLESS, params={"max_tokens": 4000})
        await first.chat("kept", ENDLESS, **LONG)
        await first.until("delta", request_id="plain")
        await first.until("delta", request_id="kept")
        await cut_and_noticed(appliance, first)
        await until(lambda: appliance.daemon.dispatcher.running == 1)
        assert await appliance.metric('appliance_requests_total{outcome="cancelled"}') == 1
        await resume(second, first, "plain", 0)
        assert (await second.receive())["code"] == "unknown_id"
        await resume(second, first, "kept", 0)
        await second.until("delta", request_id="kept")


async def test_a_request_that_nobody_resumes_is_cancelled() -> None:
    async with running(settings(server={"resume_grace_s": 0.05})) as appliance:
        async with appliance.connect() as first:
            await first.chat("r1", ENDLESS, **LONG)
            await first.until("delta")
            first.cut()
        await until(lambda: appliance.daemon.dispatcher.running == 0)
        assert appliance.daemon.keeper.detached == 0
        assert await appliance.metric('appliance_resumes_total{outcome="expired"}') == 1
        assert await appliance.metric('appliance_requests_total{outcome="cancelled"}') == 1


async def test_without_a_grace_a_resumable_request_ends_with_its_socket() -> None:
    async with running(settings(server={"resume_grace_s": 0})) as appliance, appliance.connect() as second:
        async with appliance.connect() as first:
            assert first.hello["limits"]["resume_grace_s"] == 0
            await first.chat("r1", ENDLESS, **LONG)
            await first.until("delta")
            first.cut()
        await until(lambda: appliance.daemon.dispatcher.running == 0)
        assert await appliance.metric('appliance_requests_total{outcome="cancelled"}') == 1
        await resume(second, first, "r1", 0)
        assert (await second.receive())["code"] == "unknown_id"


@pytest.mark.parametrize("offset", range(8))
async def test_offsets_are_code_points_where_others_count_more(appliance: Appliance, offset: int) -> None:
    text = "😀é日\N{ZERO WIDTH JOINER}👩🏽x"  # UTF-16 has two units for an emoji, UTF-8 up to four bytes
    async with appliance.connect() as first, appliance.connect() as second:
        await first.chat("r1", f"fake:bytes {text}", params={"max_tokens": len(f"{text} ".encode())}, resumable=True)
        await first.until("done")
        await cut_and_noticed(appliance, first)
        await resume(second, first, "r1", offset)
        deltas = [m for m in await second.until("done") if m["type"] == "delta"]
        assert "".join(m["text"] for m in deltas) == f"{text} "[offset:]
        assert [m["offset"] for m in deltas] == ([offset] if offset < len(text) + 1 else [])


async def test_cancel_works_after_a_resume(appliance: Appliance) -> None:
    async with appliance.connect() as first, appliance.connect() as second:
        await first.chat("r1", ENDLESS, **LONG)
        await first.until("delta")
        await cut_and_noticed(appliance, first)
        await resume(second, first, "r1", 0)
        await second.until("delta")
        await second.send(type="cancel", id="r1")
        done = (await second.until("done", "error"))[-1]
        assert (done["id"], done["finish_reason"]) == ("r1", "cancelled")


async def test_the_deadline_counts_on_without_a_socket(appliance: Appliance) -> None:
    async with appliance.connect() as first, appliance.connect() as second:
        await first.chat("r1", ENDLESS, **LONG, deadline_s=0.3)
        await first.until("delta")
        await cut_and_noticed(appliance, first)
        await until(lambda: appliance.daemon.keeper.detached == 0)
        await resume(second, first, "r1", 0)
        error = (await second.until("done", "error"))[-1]
        assert (error["id"], error["code"]) == ("r1", "deadline_exceeded")


async def test_the_error_of_a_lost_engine_is_kept(appliance: Appliance) -> None:
    heard = Heard("r1")
    async with appliance.connect() as first, appliance.connect() as second:
        await first.chat("r1", ENDLESS, **LONG)
        await heard.hear(first, chars=20)
        await cut_and_noticed(appliance, first)
        pid = appliance.daemon.engine.worker_pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await until(lambda: appliance.daemon.dispatcher.running == 0)
        await resume(second, first, "r1", heard.chars)
        error = await heard.hear_the_end(second)
        assert (error["code"], error["retry_after_s"] >= 1) == ("engine_restarted", True)
        assert await settled(second) == []


@pytest.mark.parametrize("noticed", [True, False], ids=["detached", "half-open"])
async def test_a_drain_waits_and_lets_in_who_has_something_to_resume(appliance: Appliance, noticed: bool) -> None:
    heard = Heard("r1")
    async with appliance.connect() as first:
        await first.chat("r1", "one fake:step-ms=5", params={"max_tokens": 200}, resumable=True)
        await heard.hear(first, chars=20)
        if noticed:
            await cut_and_noticed(appliance, first)
        drain = asyncio.create_task(appliance.daemon.dispatcher.drain(20))
        await until(lambda: appliance.daemon.dispatcher.draining)
        async with appliance.connect() as second:
            going_away = await second.receive()
            assert going_away["type"] == "going_away"
            assert 0 < going_away["deadline_s"] <= 20
            await resume(second, first, "r1", heard.chars)
            await second.chat("new", "no")
            await heard.hear_the_end(second)
            with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
                async with connected_from("127.0.0.2", appliance):
                    pytest.fail("one who has nothing to resume was let in")
            assert caught.value.status == 503
        await drain
    assert heard.text == "one " * 200


async def test_a_drain_that_ends_first_fails_detached_requests_like_others(appliance: Appliance) -> None:
    heard = Heard("r1")
    async with appliance.connect() as first, appliance.connect() as second:
        await first.chat("r1", ENDLESS, **LONG)
        await heard.hear(first, chars=20)
        await cut_and_noticed(appliance, first)
        await appliance.daemon.dispatcher.drain(0)
        await resume(second, first, "r1", heard.chars)
        assert (await heard.hear_the_end(second))["code"] == "shutting_down"


async def test_status_shows_what_is_detached(appliance: Appliance) -> None:
    async with appliance.connect() as first:
        await first.chat("r1", ENDLESS, **LONG)
        await first.until("delta")
        assert await appliance.metric("appliance_requests_detached") == 0
        await cut_and_noticed(appliance, first)
        assert await appliance.metric("appliance_requests_detached") == 1
        assert (await appliance.get("/v1/status"))[1]["requests"] == {"running": 1, "waiting": 0, "detached": 1}
