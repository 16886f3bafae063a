"""A worker that really runs SmolLM2, wedged, out of memory, and replaced while it is well. Nobody waits for ever."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import psutil
import pytest
import pytest_asyncio

from appliance.types import ServedModel
from tests.support.daemon import Appliance, Ends, running, settings, until

pytestmark = [pytest.mark.model, pytest.mark.asyncio(loop_scope="module")]

STORY = "Write a very long story about the sea."


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def real(smollm2: ServedModel) -> AsyncIterator[Appliance]:
    """One daemon with the real model, which soon notices that an engine is stuck."""
    engine = {"pipeline": "continuous_batching", "stall_timeout_s": 3.0, "canary_interval_s": 1.0}
    async with running(settings(engine=engine), smollm2) as started:
        await started.ready()
        yield started


def worker(appliance: Appliance) -> int:
    pid = appliance.daemon.engine.worker_pid
    assert pid is not None
    return pid


async def answers_again(appliance: Appliance, losses: int) -> None:
    """A new worker serves after so many losses."""
    await until(lambda: appliance.daemon.engine.losses == losses)
    await appliance.ready()
    async with appliance.connect() as peer:
        await peer.chat("q", "What is the capital of France?", params={"temperature": 0})
        assert "Paris" in (await peer.answer("q"))[0]


async def test_wedged_in_the_middle_of_answers(real: Appliance) -> None:
    losses = real.daemon.engine.losses
    async with real.connect() as peer:
        seen = Ends(peer)
        for name in ("a", "b"):
            await peer.chat(name, STORY, params={"max_tokens": 3000})
        await until(lambda: real.daemon.dispatcher.running == 2)
        os.kill(worker(real), signal.SIGSTOP)
        await seen.until("a", "b")
        assert seen.codes("a", "b") == ["engine_restarted"] * 2
        assert (await real.get("/readyz"))[0] == 503
        await answers_again(real, losses + 1)


async def test_wedged_while_idle(real: Appliance) -> None:
    losses = real.daemon.engine.losses
    await until(lambda: real.daemon.engine.canary is not None)
    os.kill(worker(real), signal.SIGSTOP)
    await until(lambda: real.daemon.engine.state in ("stalled", "restarting"))
    await answers_again(real, losses + 1)
    assert "canary" in (real.daemon.engine.last_loss or "")


async def test_out_of_memory(real: Appliance) -> None:
    losses = real.daemon.engine.losses
    process = psutil.Process(worker(real))
    most = process.memory_info().vms
    process.rlimit(psutil.RLIMIT_AS, (most, most))
    async with real.connect() as peer:
        seen = Ends(peer)
        for name in ("a", "b"):
            await peer.chat(name, f"{name} word " * 1500, params={"max_tokens": 500})
        await seen.until("a", "b")
        assert seen.codes("a", "b") == ["engine_restarted"] * 2
    await answers_again(real, losses + 1)
    assert "out of memory" in (real.daemon.engine.last_loss or "")


@pytest.mark.parametrize("pipeline", ["continuous_batching", "llm"])
async def test_clients_see_nothing_of_workers_that_are_replaced(smollm2: ServedModel, pipeline: str) -> None:
    engine = {"pipeline": pipeline, "max_worker_age_s": 2.0}
    async with running(settings(engine=engine), smollm2) as appliance:
        await appliance.ready()
        enough = asyncio.Event()
        clients = [asyncio.create_task(talk(appliance, enough)) for _ in range(3)]
        await until(lambda: appliance.daemon.engine.recycles >= 1, 90)
        enough.set()
        ends = [end for client in await asyncio.gather(*clients) for end in client]
        assert [end["type"] for end in ends] == ["done"] * len(ends)
        assert {end["usage"]["completion_tokens"] for end in ends} == {40}
        assert appliance.daemon.engine.losses == 0


async def talk(appliance: Appliance, enough: asyncio.Event) -> list[dict[str, Any]]:
    """One client that asks until `enough`; how each request ended."""
    async with appliance.connect() as peer:
        seen = Ends(peer)
        while not enough.is_set():
            name = f"r{len(seen.ends)}"
            await peer.chat(name, STORY, params={"max_tokens": 40})
            await seen.until(name)
        return list(seen.ends.values())
