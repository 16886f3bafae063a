"""Wherever and however often sockets break: joined, what was heard of an answer is the answer."""

import asyncio
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.support.daemon import Appliance, Peer, running, settings
from tests.support.resuming import Heard, resume

TEXT = "ab😀 é日本\N{COMBINING ACUTE ACCENT}x 🇫🇷 end"
BREAKS = st.lists(
    st.tuples(st.integers(0, 120), st.sampled_from(["cut", "close", "left open"])), min_size=1, max_size=5
)


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[asyncio.Runner, Appliance]]:
    """One daemon, on a loop that runs while an example does."""
    with asyncio.Runner() as runner:
        daemon = running(settings())
        appliance = runner.run(daemon.__aenter__())
        runner.run(appliance.ready())
        yield runner, appliance
        runner.run(daemon.__aexit__(None, None, None))


@hypothesis_settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(breaks=BREAKS, tokens=st.integers(1, 300), step_ms=st.sampled_from([0, 0, 1]))
def test_an_answer_is_whole_wherever_it_was_broken(
    served: tuple[asyncio.Runner, Appliance], breaks: list[tuple[int, str]], tokens: int, step_ms: int
) -> None:
    runner, appliance = served
    heard, expected = runner.run(broken(appliance, breaks, tokens, step_ms))
    assert heard.text == expected
    assert [end["usage"]["completion_tokens"] for end in heard.ends] == [tokens]


async def broken(appliance: Appliance, breaks: list[tuple[int, str]], tokens: int, step_ms: int) -> tuple[Heard, str]:
    """Hear an answer in parts of so many characters at least, each socket ended in its way."""
    heard = Heard("r1")
    async with appliance.connect() as first:
        question = f"{TEXT} fake:bytes" + (f" fake:step-ms={step_ms}" if step_ms else "")
        await first.chat("r1", question, params={"max_tokens": tokens}, resumable=True)
        peer = first
        left: list[Peer] = []
        for chars, way in breaks:
            await heard.hear(peer, chars=heard.chars + chars)
            if way == "cut":
                peer.cut()
            elif way == "close":
                await peer.ws.close()
            left.append(peer)
            if heard.ends:  # it came, and was lost: the end can be had again
                heard.ends.clear()
            ws = await appliance.session.ws_connect(f"{appliance.url}/v1/ws")
            peer = Peer(ws)
            await peer.receive()
            await resume(peer, first, "r1", heard.chars)
        await heard.hear_the_end(peer)
        for one in (*left, peer):
            await one.ws.close()
    repeated = (TEXT.encode() + b" ") * (tokens // len(TEXT.encode()) + 1)
    return heard, repeated[:tokens].decode(errors="ignore")
