"""The Python client and a daemon with the fake engine, over a network that breaks."""

import asyncio

import pytest

from appliance.client import ConnectionLost, Message, RequestFailed, connect
from appliance.engine.fake import expected_answer
from tests.support.daemon import Appliance, running, settings, until
from tests.support.proxy import open_network

ASK = [Message("user", "one two three fake:step-ms=2")]
EXPECTED = expected_answer("one two three", 300)


async def test_the_consumer_sees_no_gap_and_no_repeat(appliance: Appliance) -> None:
    async with open_network(appliance.url) as network, connect(network.url) as client:
        async with client.stream(ASK, max_tokens=300, resumable=True) as answer:
            texts = []
            async for text in answer:
                texts.append(text)
                if len(texts) in (10, 60, 61, 150):
                    network.cut()
        assert network.connections >= 3
    assert "".join(texts) == answer.text == EXPECTED
    assert answer.done.usage.completion_tokens == 300


@pytest.mark.parametrize("bytes_each", [1200, 3001, 5003])
async def test_connections_that_each_carry_a_little_make_a_whole_answer(appliance: Appliance, bytes_each: int) -> None:
    async with open_network(appliance.url) as network:
        network.cut_after_bytes = bytes_each
        async with (
            connect(network.url, reconnect_backoff_s=0.001) as client,
            client.stream(ASK, max_tokens=300, resumable=True) as answer,
        ):
            assert "".join([text async for text in answer]) == EXPECTED
        assert network.connections > 3


async def test_a_network_that_says_nothing_is_found_out_and_left(appliance: Appliance) -> None:
    async with open_network(appliance.url) as network, connect(network.url, heartbeat_s=0.2) as client:
        async with client.stream(ASK, max_tokens=300, resumable=True) as answer:
            assert await anext(answer)
            network.hang()  # the daemon still believes in the old socket when the client is back
            assert "".join([text async for text in answer]) == EXPECTED[4:]
        assert await appliance.metric('appliance_resumes_total{outcome="taken_over"}') == 1


async def test_many_answers_go_on_together_and_others_fail(appliance: Appliance) -> None:
    async with open_network(appliance.url) as network, connect(network.url) as client:

        async def ask(resumable: bool) -> str:
            async with client.stream(ASK, max_tokens=300, resumable=resumable) as answer:
                return "".join([text async for text in answer])

        asking = [asyncio.create_task(ask(number != 2)) for number in range(5)]
        await until(lambda: appliance.daemon.dispatcher.running == 5)
        network.cut()
        results = await asyncio.gather(*asking, return_exceptions=True)
    assert isinstance(results.pop(2), ConnectionLost)
    assert results == [EXPECTED] * 4


async def test_an_error_that_came_meanwhile_is_raised(appliance: Appliance) -> None:
    async with (
        open_network(appliance.url) as network,
        connect(network.url, reconnect_backoff_s=0.2) as client,
        client.stream(ASK, max_tokens=4000, deadline_s=0.5, resumable=True) as answer,
    ):
        assert await anext(answer)
        network.cut()
        with pytest.raises(RequestFailed, match="deadline"):
            async for _ in answer:
                pass


async def test_cancel_while_the_network_is_down_ends_the_answer(appliance: Appliance) -> None:
    async with open_network(appliance.url) as network, connect(network.url) as client:
        async with client.stream(ASK, max_tokens=4000, resumable=True) as answer:
            assert await anext(answer)
            network.cut()
            await answer.cancel()
            async for _ in answer:
                pass
        assert answer.done.finish_reason == "cancelled"
        await until(lambda: appliance.daemon.dispatcher.running == 0)


async def test_an_answer_that_the_daemon_has_not_kept_is_lost(appliance: Appliance) -> None:
    async with open_network(appliance.url) as network, connect(network.url) as client:
        async with client.stream(ASK, max_tokens=4000, resumable=True) as answer:
            assert await anext(answer)
            appliance.daemon.keeper.close()
            network.cut()
            with pytest.raises(ConnectionLost, match="has not kept the answer"):
                async for _ in answer:
                    pass
        assert client.connected


async def test_a_daemon_without_resume_is_asked_for_an_ordinary_answer() -> None:
    without = settings(server={"resume_grace_s": 0})
    async with (
        running(without) as appliance,
        open_network(appliance.url) as network,
        connect(network.url) as client,
        client.stream(ASK, max_tokens=4000, resumable=True) as answer,
    ):
        assert await anext(answer)
        network.cut()
        with pytest.raises(ConnectionLost):
            async for _ in answer:
                pass
