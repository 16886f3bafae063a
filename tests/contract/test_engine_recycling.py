"""Workers that are replaced while they are well: not one request fails of it, and none is answered twice."""

import asyncio
import contextlib
import os
import signal

import msgspec
import psutil
import pytest

from appliance.engine.fake import expected_answer
from appliance.engine.ipc import Load
from appliance.engine.replacing import Handover
from appliance.errors import EngineRestarted, ReplaceError
from tests.contract.conftest import FAKE
from tests.support.daemon import until
from tests.support.engine import SUPERVISION
from tests.support.stream import Served, serving

NEVER = msgspec.structs.replace(SUPERVISION, max_worker_age_s=0)
OFTEN = msgspec.structs.replace(SUPERVISION, max_worker_age_s=0.1)
BESIDE = Handover(room_beside=lambda load: True)
BETWEEN = Handover(room_beside=lambda load: False, idle_wait_s=0.1)
LONG = "long story fake:step-ms=5"


def workers() -> int:
    """Engine workers of this process that live."""
    found = 0
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):  # it is ending just now
            found += "appliance.engine.worker" in child.cmdline()
    return found


@pytest.mark.parametrize("handover", [BESIDE, BETWEEN], ids=["beside", "between"])
async def test_a_steady_stream_of_requests_sees_nothing_of_many_recycles(handover: Handover) -> None:
    async with serving(FAKE, OFTEN, handover) as served:
        enough = asyncio.Event()
        clients = [asyncio.create_task(served.talk("fake:step-ms=2", 12, enough)) for _ in range(12)]
        await until(lambda: served.engine.recycles >= 5)
        enough.set()
        said = [pair for client in await asyncio.gather(*clients) for pair in client]
        assert len(said) > 50
        for question, answer in said:
            assert (answer.end, answer.text) == ("length", expected_answer(question, 12))
        assert served.engine.losses == 0
        await served.ready()


async def test_beside_the_old_worker_finishes_what_it_runs_and_ends() -> None:
    async with serving(FAKE, NEVER, BESIDE) as served:
        old = served.engine.serving
        assert old is not None
        _, long = served.ask(LONG, 400)
        await until(lambda: long.text != "")
        await served.engine.replace(FAKE, "age")
        new = served.engine.serving
        assert new is not None
        assert (new is not old, old.ended.is_set(), workers()) == (True, False, 2)
        _, short = served.ask("short", 2)
        await short.ended.wait()
        assert (short.text, long.end) == ("short short ", None)
        await long.ended.wait()
        assert long.end == "length"
        await old.ended.wait()
        assert workers() == 1
        assert served.engine.worker_pid == new.pid


async def test_requests_that_wait_are_prepared_again_and_answered_by_the_new_worker() -> None:
    one_at_once = msgspec.structs.replace(FAKE, max_running_requests=1)
    async with serving(one_at_once, NEVER, BESIDE) as served:
        _, long = served.ask(LONG, 100)
        waiting = [served.ask(f"waits {number}", 2)[1] for number in range(5)]
        await until(lambda: long.text != "")
        await served.engine.replace(one_at_once, "age")
        for number, answer in enumerate(waiting):
            await answer.ended.wait()
            assert answer.text == f"waits {number} "
        assert long.end == "length"


async def test_a_cancel_finds_its_request_on_the_old_worker() -> None:
    async with serving(FAKE, NEVER, BESIDE) as served:
        old = served.engine.serving
        ticket, long = served.ask(LONG, 3000)
        await until(lambda: long.text != "")
        await served.engine.replace(FAKE, "age")
        served.dispatcher.cancel(ticket)
        await long.ended.wait()
        assert long.end == "cancelled"
        assert old is not None
        await old.ended.wait()


async def test_an_old_worker_that_dies_fails_only_what_it_held() -> None:
    async with serving(FAKE, NEVER, BESIDE) as served:
        old_pid = served.engine.worker_pid
        _, long = served.ask(LONG, 3000)
        await until(lambda: long.text != "")
        await served.engine.replace(FAKE, "age")
        new_pid = served.engine.worker_pid
        _, beside = served.ask(LONG, 50)
        await until(lambda: beside.text != "")
        os.kill(old_pid or 0, signal.SIGKILL)
        await long.ended.wait()
        assert isinstance(long.end, EngineRestarted)
        await beside.ended.wait()
        assert beside.end == "length"
        await until(lambda: served.engine.losses == 1)
        assert (served.engine.worker_pid, served.engine.state) == (new_pid, "ready")


async def test_a_new_worker_that_dies_fails_only_what_it_held_while_the_old_one_finishes() -> None:
    async with serving(FAKE, NEVER, BESIDE) as served:
        _, long = served.ask(LONG, 300)
        await until(lambda: long.text != "")
        await served.engine.replace(FAKE, "age")
        _, beside = served.ask(LONG, 3000)
        await until(lambda: beside.text != "")
        os.kill(served.engine.worker_pid or 0, signal.SIGKILL)
        await beside.ended.wait()
        assert isinstance(beside.end, EngineRestarted)
        await long.ended.wait()
        assert long.end == "length"
        await served.ready()


async def test_an_old_worker_that_dies_before_the_new_one_is_ready_is_succeeded_by_it() -> None:
    async with serving(FAKE, NEVER, BESIDE) as served:
        old_pid = served.engine.worker_pid
        replacing = asyncio.create_task(served.engine.replace(FAKE, "age"))
        await until(lambda: workers() == 2)
        os.kill(old_pid or 0, signal.SIGKILL)
        await replacing
        await until(lambda: served.engine.losses == 1)
        assert (served.engine.state, workers()) == ("ready", 1)


@pytest.mark.parametrize("handover", [BESIDE, BETWEEN], ids=["beside", "between"])
async def test_a_new_worker_that_does_not_get_ready_costs_no_request(
    handover: Handover, tmp_path: os.PathLike[str]
) -> None:
    broken = msgspec.structs.replace(FAKE, pipeline="continuous_batching", directory=str(tmp_path))
    async with serving(FAKE, NEVER, handover) as served:
        enough = asyncio.Event()
        clients = [asyncio.create_task(served.talk("fake:step-ms=2", 6, enough)) for _ in range(3)]
        with pytest.raises(ReplaceError, match="did not get ready"):
            await served.engine.replace(broken, "model")
        await served.ready()
        enough.set()
        for client in await asyncio.gather(*clients):
            assert {answer.end for _, answer in client} == {"length"}
        assert (served.engine.losses, served.engine.recycles) == (1, 0)


async def test_what_does_not_end_while_starts_are_held_back_lets_them_go_on() -> None:
    short = Handover(room_beside=lambda load: False, idle_wait_s=0.05, hold_s=0.3)
    async with serving(FAKE, NEVER, short) as served:
        pid = served.engine.worker_pid
        ticket, long = served.ask(LONG, 3000)
        await until(lambda: long.text != "")
        replacing = asyncio.create_task(served.engine.replace(FAKE, "age"))
        await until(lambda: served.engine.state == "restarting")
        assert "take over" in (served.engine.why_away or "")
        _, held_back = served.ask("held back", 2)
        with pytest.raises(ReplaceError, match="held back"):
            await replacing
        await held_back.ended.wait()
        assert (held_back.text, long.end) == ("held back ", None)
        assert (served.engine.worker_pid, served.engine.state, served.engine.why_away) == (pid, "ready", None)
        served.dispatcher.cancel(ticket)


async def test_a_worker_that_grows_is_replaced_and_the_reason_is_counted() -> None:
    async with serving(FAKE, NEVER, BESIDE) as first:
        assert first.engine.ready is not None
        fresh = first.engine.ready.rss_bytes
    sized = msgspec.structs.replace(NEVER, max_rss_bytes=fresh + (100 << 20))
    async with serving(FAKE, sized, BESIDE) as served:
        pid = served.engine.worker_pid
        _, answer = served.ask("fake:leak-mib=200 fake:step-ms=30", 100)
        await until(lambda: served.engine.recycles == 1)
        await answer.ended.wait()
        assert answer.end == "length"
        assert served.engine.worker_pid != pid
        assert counted(served, "memory") == 1


def counted(served: Served, reason: str) -> float | None:
    return served.metrics.registry.get_sample_value("appliance_engine_recycles_total", {"reason": reason})


async def test_a_limit_below_a_fresh_worker_is_told_and_left_aside(caplog: pytest.LogCaptureFixture) -> None:
    tiny = msgspec.structs.replace(OFTEN, max_rss_bytes=1, max_worker_age_s=0)
    async with serving(FAKE, tiny, BESIDE) as served:
        await until(lambda: any("is left aside" in record.msg for record in caplog.records))
        assert (served.engine.recycles, served.engine.recycler.last_failure) == (0, None)


async def test_a_recycle_that_fails_is_told_and_made_again() -> None:
    rooms = iter([False, True])
    handover = Handover(room_beside=lambda load: next(rooms, True), idle_wait_s=0.01, hold_s=0.01)
    quick = msgspec.structs.replace(OFTEN, restart_backoff_max_s=0.1)
    async with serving(FAKE, quick, handover) as served:
        ticket, long = served.ask(LONG, 3000)
        await until(lambda: served.engine.recycler.last_failure is not None)
        await until(lambda: served.engine.recycles > 0)
        assert served.engine.recycler.last_failure is None
        assert long.end is None
        served.dispatcher.cancel(ticket)


async def test_a_stop_in_the_middle_of_a_replacement_leaves_no_process() -> None:
    async with serving(FAKE, NEVER, BESIDE) as served:
        replacing = asyncio.create_task(served.engine.replace(FAKE, "age"))
        await until(lambda: workers() == 2)
    with pytest.raises(ReplaceError):
        await replacing
    assert workers() == 0


def test_a_fake_fits_beside_and_a_model_that_is_not_there_does_not(tmp_path: os.PathLike[str]) -> None:
    assert Handover().room_beside(FAKE)
    missing: Load = msgspec.structs.replace(FAKE, pipeline="continuous_batching", directory=str(tmp_path))
    assert not Handover().room_beside(missing)


async def test_a_worker_that_drafts_at_a_loss_makes_way_for_one_that_does_not() -> None:
    drafting = msgspec.structs.replace(FAKE, prompt_lookup=True, watch_drafts=True)
    async with serving(drafting, NEVER, BESIDE) as served:
        _, long = served.ask("story fake:step-ms=50 fake:draft-gain=80", 200)
        await until(lambda: served.engine.recycles == 1, 30)
        assert served.engine.serving is not None
        assert served.engine.serving.load == msgspec.structs.replace(drafting, prompt_lookup=False)
        await long.ended.wait()
        assert (long.end, long.text) == ("length", "story " * 200)


async def test_speed_is_not_worth_a_pause_where_memory_has_room_for_one_worker_only() -> None:
    drafting = msgspec.structs.replace(FAKE, prompt_lookup=True, watch_drafts=True)
    async with serving(drafting, NEVER, BETWEEN) as served:
        old = served.engine.serving
        with pytest.raises(ReplaceError, match="no memory for a second worker"):
            await served.engine.replace(FAKE, "drafts")
        assert served.engine.serving is old
        assert served.engine.state == "ready"
