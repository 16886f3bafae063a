"""What clients and operators see when the engine worker is stopped, slowed, poisoned, starved or keeps failing."""

import asyncio
import logging
import os
import signal

import psutil
import pytest

from tests.support.daemon import Appliance, Ends, running, settings, until

STORY = "again and again fake:step-ms=5"


def worker(appliance: Appliance) -> int:
    pid = appliance.daemon.engine.worker_pid
    assert pid is not None
    return pid


async def not_ready(appliance: Appliance) -> dict[str, object]:
    """What /readyz says once it no longer says ready."""
    async with asyncio.timeout(10):
        while True:
            status, body = await appliance.get("/readyz")
            if status == 503:
                return dict(body)


async def test_a_worker_stopped_in_the_middle_of_answers_costs_each_of_them_one_error_and_nobody_else_any() -> None:
    engine = {"stall_timeout_s": 0.4, "max_running_requests": 3}
    async with running(settings(engine=engine)) as appliance, appliance.connect() as one, appliance.connect() as two:
        await appliance.ready()
        first, second = Ends(one), Ends(two)
        await one.chat("a", STORY, params={"max_tokens": 4000})
        await one.chat("b", STORY, params={"max_tokens": 4000})
        await two.chat("c", STORY, params={"max_tokens": 4000})
        await until(lambda: appliance.daemon.dispatcher.running == 3)
        await two.chat("waits", "its turn", params={"max_tokens": 2})
        await second.until_queued("waits")
        os.kill(worker(appliance), signal.SIGSTOP)
        told = await not_ready(appliance)
        assert told["reason"] in ("stalled", "restarting")
        assert "no progress" in str(told["detail"])
        await first.until("a", "b")
        await second.until("c", "waits")
        assert first.codes("a", "b") + second.codes("c") == ["engine_restarted"] * 3
        assert second.texts["waits"] == "its turn "
        await one.chat("d", "back again", params={"max_tokens": 2})
        await first.until("d")
        assert first.codes("d") == ["length"]
        assert appliance.daemon.engine.losses == 1
        assert "no progress" in (appliance.daemon.engine.last_loss or "")


async def test_a_slowed_worker_is_left_alone_while_tokens_come() -> None:
    async with running(settings(engine={"stall_timeout_s": 1.5})) as appliance, appliance.connect() as peer:
        await appliance.ready()
        pid, seen = worker(appliance), Ends(peer)
        await peer.chat("a", STORY.replace("5", "20"), params={"max_tokens": 60})
        await peer.until("delta")
        seen.texts["a"] = "again "
        ended = asyncio.create_task(seen.until("a"))
        while not ended.done():
            os.kill(pid, signal.SIGSTOP)
            await asyncio.wait({ended}, timeout=0.3)
            os.kill(pid, signal.SIGCONT)
            await asyncio.wait({ended}, timeout=0.1)
        await ended
        assert seen.codes("a") == ["length"]
        assert (appliance.daemon.engine.losses, worker(appliance)) == (0, pid)


async def test_a_poisoned_request_is_not_tried_again_and_fails_each_neighbour_once() -> None:
    async with running(settings(engine={"max_running_requests": 3})) as appliance, appliance.connect() as peer:
        await appliance.ready()
        seen = Ends(peer)
        for name in ("n1", "n2"):
            await peer.chat(name, STORY, params={"max_tokens": 4000})
        await until(lambda: appliance.daemon.dispatcher.running == 2)
        await peer.chat("poison", "word " * 1500 + "fake:crash fake:step-ms=100")
        for name in ("w1", "w2", "w3", "w4"):
            await peer.chat(name, "fine", params={"max_tokens": 1})
        await seen.until_queued("w1", "w2", "w3", "w4")
        await seen.until("n1", "n2", "poison", "w1", "w2", "w3", "w4")
        assert seen.codes("n1", "n2", "poison") == ["engine_restarted"] * 3
        assert seen.codes("w1", "w2", "w3", "w4") == ["length"] * 4
        assert appliance.daemon.engine.losses == 1


async def test_a_worker_that_runs_out_of_memory_says_so_and_is_replaced(caplog: pytest.LogCaptureFixture) -> None:
    async with running(settings()) as appliance, appliance.connect() as peer:
        await appliance.ready()
        seen = Ends(peer)
        await peer.chat("n1", STORY, params={"max_tokens": 4000})
        await until(lambda: appliance.daemon.dispatcher.running == 1)
        process = psutil.Process(worker(appliance))
        most = process.memory_info().vms + (64 << 20)
        process.rlimit(psutil.RLIMIT_AS, (most, most))
        await peer.chat("large", "fake:allocate-mib=512")
        await seen.until("n1", "large")
        assert seen.codes("n1", "large") == ["engine_restarted"] * 2
        await appliance.ready()
        await peer.chat("again", "fine", params={"max_tokens": 1})
        await seen.until("again")
        assert seen.texts["again"] == "fine "
    (lost,) = [record for record in caplog.records if record.msg == "engine worker lost"]
    assert "out of memory" in lost.__dict__["appliance_fields"]["reason"]


async def test_an_engine_that_keeps_failing_is_told_by_ready_status_and_log_and_tried_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.ERROR)
    often = {"failures_max": 2, "retry_interval_s": 3.0}
    async with running(settings(engine=often)) as appliance, appliance.connect() as peer:
        await appliance.ready()
        seen = Ends(peer)
        for name in ("p1", "p2"):
            await peer.chat(name, "fake:crash")
            await seen.until(name)
            if name == "p1":
                await appliance.ready()
        assert seen.ends["p2"]["retry_after_s"] >= 3
        await until(lambda: appliance.daemon.engine.next_start_s is not None)
        await peer.chat("waits", "fine", params={"max_tokens": 1})
        body = await not_ready(appliance)
        assert (body["reason"], "exit status 70" in str(body["detail"])) == ("restarting", True)
        _, status = await appliance.get("/v1/status")
        assert (status["ready"], status["engine"]["losses"]) == (False, 2)
        assert 0 < status["engine"]["next_start_s"] <= 3
        assert "exit status 70" in status["engine"]["last_loss"]
        await seen.until("waits")
        assert seen.texts["waits"] == "fine "
        assert await appliance.get("/readyz") == (200, {"ready": True})
        assert (await appliance.get("/v1/status"))[1]["engine"]["next_start_s"] is None
    assert [record.msg for record in caplog.records].count("engine keeps failing, tried seldom") == 1
