"""What the supervisor promises when a worker dies, wedges or never gets ready, whatever the pipeline."""

import os
import signal
import time

import msgspec
import psutil
import pytest

from appliance.engine.client import EngineClient
from appliance.errors import StartError
from appliance.observability.metrics import Metrics
from tests.contract.conftest import FAKE
from tests.support.daemon import until
from tests.support.engine import SUPERVISION, Heard, Listener, greedy, heard

STORY = "Write a very long story about the sea fake:step-ms=5"


async def test_a_wedged_worker_is_killed_and_replaced() -> None:
    quick = msgspec.structs.replace(SUPERVISION, stall_timeout_s=0.5)
    async with heard(FAKE, quick) as engine:
        pid = engine.engine.worker_pid
        assert pid is not None
        request_id = await engine.begin("fake:wedge", greedy(10))
        await engine.ready(2)
        assert engine.listener.lost == [request_id]
        assert "engine.stall_timeout_s" in (engine.engine.last_loss or "")
        assert not psutil.pid_exists(pid)


async def test_steps_in_which_nothing_happens_are_a_stall() -> None:
    quick = msgspec.structs.replace(SUPERVISION, stall_timeout_s=0.5)
    async with heard(FAKE, quick) as engine:
        request_id = await engine.begin("fake:idle-steps fake:step-ms=5", greedy(10))
        await until(lambda: engine.listener.lost == [request_id])
        assert len(engine.listener.steps) > 10
        assert "no progress" in (await told(engine))
        await engine.ready(2)


async def test_a_prefill_that_takes_longer_than_the_stall_timeout_is_no_stall() -> None:
    quick = msgspec.structs.replace(SUPERVISION, stall_timeout_s=1.0)
    async with heard(FAKE, quick) as engine:
        request_id = await engine.begin("word " * 4000 + "fake:step-ms=100", greedy(1))  # 32 steps
        assert (await engine.finish(request_id)).completion_tokens == 1
        assert engine.listener.lost == []


async def test_an_idle_worker_is_not_taken_for_wedged() -> None:
    quick = msgspec.structs.replace(SUPERVISION, stall_timeout_s=1.0)
    async with heard(FAKE, quick) as engine:
        prepared = await engine.prepare("waits longer than the stall timeout before it is started")
        with pytest.raises(TimeoutError):
            await until(lambda: engine.listener.away > 0, 2.5)
        engine.engine.start(prepared, greedy(3))
        assert (await engine.finish(prepared)).completion_tokens == 3


async def test_an_idle_worker_that_is_stopped_is_found_out_by_its_canary() -> None:
    quick = msgspec.structs.replace(SUPERVISION, stall_timeout_s=0.5, canary_interval_s=0.2)
    async with heard(FAKE, quick) as engine:
        pid = engine.engine.worker_pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        await until(lambda: engine.engine.state == "stalled")
        assert "canary" in (await told(engine))
        await engine.ready(2)
        assert not psutil.pid_exists(pid)
        again = await engine.begin("Hello", greedy(2))
        assert (await engine.finish(again)).completion_tokens == 2


async def test_an_idle_worker_that_brings_no_token_is_replaced() -> None:
    quick = msgspec.structs.replace(SUPERVISION, canary_interval_s=0.2)
    async with heard(FAKE, quick) as engine:
        await engine.finish(await engine.begin("fake:mute", greedy(2)))
        await engine.ready(2)
        assert "without a token" in (engine.engine.last_loss or "")


async def test_what_a_step_raises_is_the_reason_of_the_loss() -> None:
    async with heard(FAKE) as engine:
        await engine.begin("fake:raise", greedy(10))
        await engine.ready(2)
        assert "told to raise" in (engine.engine.last_loss or "")


async def test_a_worker_that_never_gets_ready_is_given_up(tmp_path: os.PathLike[str]) -> None:
    broken = msgspec.structs.replace(FAKE, pipeline="continuous_batching", directory=str(tmp_path))
    engine = EngineClient(broken, SUPERVISION, Metrics())
    with pytest.raises(StartError, match="did not get ready in 2 attempts") as caught:
        await engine.run(Listener())
    assert "RuntimeError" in str(caught.value)
    assert engine.worker_pid is None


async def test_stop_leaves_no_process() -> None:
    async with heard(FAKE) as engine:
        pid = engine.engine.worker_pid
        assert pid is not None
        await engine.begin(STORY, greedy(5000))
    assert engine.engine.state == "stopped"
    assert not psutil.pid_exists(pid)


async def test_an_engine_that_keeps_failing_is_tried_again_at_a_long_interval() -> None:
    often = msgspec.structs.replace(SUPERVISION, failures_max=2, retry_interval_s=2.0)
    lost_at = 0.0
    async with heard(FAKE, often) as engine:
        for times in (2, 3):
            lost_at = time.monotonic()
            await engine.begin("fake:crash", greedy(3))
            await until(lambda: engine.engine.state == "restarting")
            assert "exit status 70" in (await told(engine))
            await engine.ready(times)
        assert time.monotonic() - lost_at >= 2.0, "the second loss was followed by another quick start"
        again = await engine.begin("Hello", greedy(2))
        assert (await engine.finish(again)).completion_tokens == 2


async def told(engine: Heard) -> str:
    """The reason of a loss, which is known once the process is seen gone."""
    losses = engine.listener.away
    await until(lambda: engine.engine.losses == losses)
    return engine.engine.last_loss or ""
