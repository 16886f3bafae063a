"""What resumable answers may take: requests of a client, characters in all, a reader's outbox."""

import random

import aiohttp

from appliance.engine.fake import expected_answer
from tests.support.daemon import Appliance, Peer, running, settings, until
from tests.support.resuming import ENDLESS, LONG, Heard, connected_from, cut_and_noticed, resume, settled


async def test_detached_requests_count_as_live_ones() -> None:
    async with running(settings(limits={"max_live_requests": 2})) as appliance, appliance.connect() as first:
        for name in ("a", "b"):
            await first.chat(name, ENDLESS, **LONG)
            await first.until("delta", request_id=name)
        await cut_and_noticed(appliance, first)
        async with appliance.connect() as second, connected_from("127.0.0.2", appliance) as stranger:
            await second.chat("c", "one too many")
            error = await second.receive()
            assert (error["code"], error["id"]) == ("rate_limited", "c")
            assert "without a socket" in error["message"]
            await resume(second, first, "a", 0)  # is no new request
            await second.until("delta")
            await second.send(type="cancel", id="a")
            await second.until("done")
            await second.chat("c", "fits", params={"max_tokens": 1})
            assert (await second.answer("c"))[0] == "fits "
            await stranger.chat("x", "others are not concerned", params={"max_tokens": 1})
            assert (await stranger.answer("x"))[1]["type"] == "done"


async def test_no_more_requests_go_on_alone_than_one_socket_may_have() -> None:
    async with (
        running(settings(limits={"max_live_requests": 2})) as appliance,
        appliance.connect() as first,
        appliance.connect() as second,
    ):
        for peer in (first, second):
            for name in ("a", "b"):
                await peer.chat(name, ENDLESS, **LONG)
                await peer.until("delta", request_id=name)
        await cut_and_noticed(appliance, first)
        assert (appliance.daemon.keeper.detached, appliance.daemon.dispatcher.running) == (2, 4)
        await cut_and_noticed(appliance, second)
        await until(lambda: appliance.daemon.dispatcher.running == 2)
        assert appliance.daemon.keeper.detached == 2
        assert await appliance.metric('appliance_requests_total{outcome="cancelled"}') == 2


async def test_detached_requests_take_their_clients_places_in_the_queue() -> None:
    tight = settings(engine={"max_running_requests": 1}, dispatch={"max_waiting_per_client": 2})
    async with running(tight) as appliance, appliance.connect() as first:
        await first.chat("runs", ENDLESS, **LONG)
        await first.until("delta")
        for name in ("a", "b"):
            await first.chat(name, "one", resumable=True)
            await first.until("queued", request_id=name)
        await cut_and_noticed(appliance, first)
        async with appliance.connect() as second:
            await second.chat("c", "one too many")
            assert (await second.receive())["code"] == "queue_full"


async def test_answers_that_ended_are_kept_in_a_bounded_number_the_last_ones() -> None:
    async with running(settings(limits={"max_live_requests": 3})) as appliance, appliance.connect() as peer:
        await appliance.ready()
        for number in range(10):
            await peer.chat(f"r{number}", "one", params={"max_tokens": 1}, resumable=True)
            await peer.until("done")
        outcomes = []
        for number in range(10):
            await resume(peer, peer, f"r{number}", 0)
            outcomes.append((await peer.until("done", "error"))[-1]["type"])
        assert outcomes == ["error"] * 7 + ["done"] * 3


async def test_an_end_that_was_heard_gives_way_to_one_that_was_not() -> None:
    async with running(settings(limits={"max_live_requests": 2})) as appliance, appliance.connect() as first:
        await first.chat("unheard", "one fake:step-ms=2", params={"max_tokens": 20}, resumable=True)
        await first.until("delta")
        await cut_and_noticed(appliance, first)
        await until(lambda: appliance.daemon.dispatcher.running == 0)
        async with appliance.connect() as second:
            for name in ("heard", "last"):
                await second.chat(name, "one", params={"max_tokens": 1}, resumable=True)
                await second.until("done")
            await resume(second, second, "heard", 0)
            assert (await second.receive())["code"] == "unknown_id"
            await resume(second, first, "unheard", 0)
            assert (await second.until("done", "error"))[-1]["type"] == "done"


async def test_where_too_much_is_kept_the_oldest_that_ended_go_first() -> None:
    async with running(settings(server={"resume_buffer_chars": 16_384})) as appliance, appliance.connect() as first:
        for name in ("old", "new"):
            await first.chat(name, "x" * 999, params={"max_tokens": 4}, resumable=True)
            await first.until("done")
        await first.chat("live", "y" * 999 + " fake:step-ms=2", params={"max_tokens": 8}, resumable=True)
        await first.until("done")
        await cut_and_noticed(appliance, first)
        async with appliance.connect() as second:
            await resume(second, first, "old", 0)
            assert (await second.receive())["code"] == "unknown_id"
            for name, expected in (("new", ("x" * 999 + " ") * 4), ("live", ("y" * 999 + " ") * 8)):
                heard = Heard(name)
                await resume(second, first, name, 0)
                await heard.hear_the_end(second)
                assert heard.text == expected


async def test_an_answer_too_long_to_keep_goes_on_over_the_socket_that_it_has() -> None:
    heard = Heard("r1")
    async with running(settings(server={"resume_buffer_chars": 16_384})) as appliance, appliance.connect() as first:
        await first.chat("r1", "x" * 999 + " fake:step-ms=1", params={"max_tokens": 40}, resumable=True)
        async with appliance.connect() as second:
            await heard.hear(first, chars=20_000)
            await resume(second, first, "r1", 0)
            assert (await second.receive())["code"] == "unknown_id"
            done = await heard.hear_the_end(first)
            assert await settled(first) == []
    assert (heard.text, done["finish_reason"]) == (("x" * 999 + " ") * 40, "length")


async def test_an_answer_too_long_to_keep_is_cancelled_where_nobody_hears_it() -> None:
    async with running(settings(server={"resume_buffer_chars": 16_384})) as appliance:
        async with appliance.connect() as first:
            await first.chat("r1", "x" * 999 + " fake:step-ms=2", **LONG)
            await first.until("delta")
            first.cut()
        await until(lambda: appliance.daemon.dispatcher.running == 0)
        assert await appliance.metric("appliance_generation_tokens_total") < 1000


async def test_a_long_replay_does_not_overrun_a_small_outbox() -> None:
    heard = Heard("r1")
    words = "é" * 9999
    small = settings(server={"outbox_max_messages": 16, "resume_buffer_chars": 1 << 22})
    async with running(small) as appliance, appliance.connect() as first, appliance.connect() as second:
        await first.chat("r1", words, params={"max_tokens": 200}, resumable=True)  # two million characters
        await first.until("started")
        await cut_and_noticed(appliance, first)
        await until(lambda: appliance.daemon.dispatcher.running == 0)
        await resume(second, first, "r1", 0)
        done = await heard.hear_the_end(second)
    assert heard.text == expected_answer(words, 200)
    assert done["finish_reason"] == "length"


async def test_a_resumable_answer_alone_never_closes_a_slow_readers_socket() -> None:
    heard = Heard("r1")
    word = "x" * 20_000
    async with running(settings(server={"resume_buffer_chars": 1 << 25})) as appliance, appliance.connect() as slow:
        await slow.chat("r1", word, params={"max_tokens": 600}, resumable=True)
        await until(lambda: appliance.daemon.dispatcher.running == 1)
        await until(lambda: appliance.daemon.dispatcher.running == 0)  # while nobody reads
        await heard.hear_the_end(slow)
    assert heard.text == f"{word} " * 600


async def test_an_answer_goes_on_after_a_reader_was_too_slow() -> None:
    heard = Heard("kept")
    async with running(settings(server={"resume_buffer_chars": 1 << 25})) as appliance, appliance.connect() as slow:
        await slow.chat("kept", "one two fake:step-ms=1", params={"max_tokens": 2000}, resumable=True)
        for number in range(4):
            await slow.chat(f"r{number}", "x" * 20_000, params={"max_tokens": 4000})
        await until(lambda: any(c._closing is not None for c in appliance.daemon.connections))
        while (message := await slow.ws.receive()).type is aiohttp.WSMsgType.TEXT:
            heard.take(message.json())
        assert slow.ws.close_code == 1013
        assert 0 < heard.chars < len(expected_answer("one two", 2000))
        async with appliance.connect() as second:
            await resume(second, slow, "kept", heard.chars)
            done = await heard.hear_the_end(second)
        await until(lambda: appliance.daemon.dispatcher.running == 0)
    assert (heard.text, done["finish_reason"]) == (expected_answer("one two", 2000), "length")


async def test_what_was_kept_is_freed_after_its_time() -> None:
    async with running(settings(server={"resume_grace_s": 0.05})) as appliance:
        async with appliance.connect() as first:
            await first.chat("r1", "one", params={"max_tokens": 1}, resumable=True)
            await first.until("done")
            await first.chat("r2", ENDLESS, **LONG)
            await first.until("delta")
            assert appliance.daemon.keeper._chars > 0
        await until(lambda: appliance.daemon.keeper._chars == 0)
        assert not appliance.daemon.keeper._answers
        await until(lambda: appliance.daemon.dispatcher.running == 0)


async def test_the_account_of_characters_balances_after_any_coming_and_going(appliance: Appliance) -> None:
    """Requests, cuts, resumes and takeovers at random, from a fixed seed."""
    chance = random.Random(7)
    asked: list[tuple[Peer, str]] = []
    for turn in range(30):
        async with appliance.connect() as peer:
            name = f"r{turn % 5}"
            await peer.chat(name, "one fake:step-ms=1", params={"max_tokens": chance.randrange(1, 60)}, resumable=True)
            await peer.until("started", "error")
            asked.append((peer, name))
            for of, other in chance.sample(asked, min(3, len(asked))):
                await resume(peer, of, other, 0)
            await settled(peer)
            if chance.random() < 0.5:
                peer.cut()
    await until(lambda: appliance.daemon.dispatcher.running == 0)
    keeper = appliance.daemon.keeper
    assert keeper._chars == sum(1024 + len(answer.text) for answer in keeper._answers.values())
    assert keeper.detached == 0
