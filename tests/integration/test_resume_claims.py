"""Who has an answer that is resumed: other clients, sessions and offsets, and two sockets that want the same."""

import pytest

from tests.support.daemon import Appliance, running, settings, until
from tests.support.resuming import ENDLESS, LONG, Heard, connected_from, cut_and_noticed, resume, settled


async def test_what_is_not_there_or_not_yours_is_refused_in_the_same_words() -> None:
    async with running(settings(server={"resume_grace_s": 0.3})) as appliance, appliance.connect() as first:
        await first.chat("r1", ENDLESS, **LONG)
        await first.until("delta")
        refusals = []
        async with connected_from("127.0.0.2", appliance) as stranger, appliance.connect() as second:
            await resume(stranger, first, "r1", 0)  # while its socket is there
            refusals.append(await stranger.receive())
            await cut_and_noticed(appliance, first)
            await resume(stranger, first, "r1", 10**6)  # another client, and no word on the offset
            refusals.append(await stranger.receive())
            await second.send(type="resume", session="guessed", id="r1", offset=0)
            refusals.append(await second.receive())
            await resume(second, second, "r1", 0)  # its own session, where there is no such id
            refusals.append(await second.receive())
            await until(lambda: appliance.daemon.dispatcher.running == 0)
            await resume(second, first, "r1", 0)  # too late
            refusals.append(await second.receive())
        assert all(refusal == refusals[0] for refusal in refusals)
        assert (refusals[0]["code"], refusals[0]["id"]) == ("unknown_id", "r1")
        assert await appliance.metric("appliance_resumes_total") == 6  # five refused, one expired


async def test_a_socket_that_only_seems_alive_is_taken_over_from(appliance: Appliance) -> None:
    heard = Heard("r1")
    async with appliance.connect() as half_open, appliance.connect() as second:
        await half_open.chat("r1", "one fake:step-ms=2", params={"max_tokens": 200}, resumable=True)
        await half_open.chat("mine", ENDLESS, params={"max_tokens": 4000})
        await heard.hear(half_open, chars=20)
        await resume(second, half_open, "r1", heard.chars)
        await heard.hear_the_end(second)
        told = (await half_open.until("error"))[-1]
        assert (told["id"], told["code"]) == ("r1", "taken_over")
        assert all(message["id"] == "mine" for message in await settled(half_open)), "nothing more of that id"
        await half_open.send(type="cancel", id="r1")
        assert (await half_open.until("error"))[-1]["code"] == "unknown_id"
        half_open.cut()  # which harms nothing that it no longer holds
    assert heard.text == "one " * 200


async def test_of_two_that_resume_the_last_has_it(appliance: Appliance) -> None:
    heard = Heard("r1")
    async with appliance.connect() as first, appliance.connect() as second, appliance.connect() as third:
        await first.chat("r1", "one fake:step-ms=2", params={"max_tokens": 200}, resumable=True)
        await heard.hear(first, chars=20)
        await cut_and_noticed(appliance, first)
        await resume(second, first, "r1", 0)
        await second.until("started")
        await resume(third, first, "r1", heard.chars)
        await heard.hear_the_end(third)
        assert (await second.until("error"))[-1]["code"] == "taken_over"
        assert await settled(second) == []
        await cut_and_noticed(appliance, second)
    assert heard.text == "one " * 200
    assert await appliance.metric('appliance_resumes_total{outcome="taken_over"}') == 1


async def test_an_id_that_is_live_can_not_be_resumed_under(appliance: Appliance) -> None:
    async with appliance.connect() as first, appliance.connect() as second:
        await first.chat("r1", ENDLESS, **LONG)
        await first.until("delta")
        await resume(first, first, "r1", 0)  # on the socket that has it
        (error,) = [m for m in await first.until("error") if m["type"] == "error"]
        assert (error["id"], error["code"]) == (None, "duplicate_id")
        await cut_and_noticed(appliance, first)
        await second.chat("r1", ENDLESS, params={"max_tokens": 4000})
        await second.until("delta")
        await resume(second, first, "r1", 0)
        assert (await second.until("error"))[-1]["code"] == "duplicate_id"
        assert appliance.daemon.dispatcher.running == 2


async def test_an_id_is_not_given_away_while_its_request_goes_on_elsewhere(appliance: Appliance) -> None:
    async with appliance.connect() as first, appliance.connect() as second:
        await first.chat("r1", ENDLESS, **LONG)
        await first.until("delta")
        await resume(second, first, "r1", 0)
        assert (await first.until("error"))[-1]["code"] == "taken_over"
        await first.chat("r1", "another")
        assert (await first.receive())["code"] == "duplicate_id"
        await second.send(type="cancel", id="r1")
        await second.until("done")
        await first.chat("r1", "another", params={"max_tokens": 1})  # what ended under it gives way
        assert (await first.answer("r1"))[0] == "another "
        await resume(second, first, "r1", 0)
        assert (await second.receive())["code"] == "unknown_id"


@pytest.mark.parametrize("offset", [-1, 10**9])
async def test_an_offset_outside_the_answer_is_refused_and_ends_nothing(appliance: Appliance, offset: int) -> None:
    heard = Heard("r1")
    async with appliance.connect() as first, appliance.connect() as second:
        await first.chat("r1", "one fake:step-ms=2", params={"max_tokens": 200}, resumable=True)
        await heard.hear(first, chars=20)
        await cut_and_noticed(appliance, first)
        await resume(second, first, "r1", offset)
        error = await second.receive()
        assert (error["id"], error["code"]) == ("r1", "bad_request")
        assert f"offset is {offset}" in error["message"]
        await resume(second, first, "r1", heard.chars)
        await heard.hear_the_end(second)
    assert heard.text == "one " * 200
