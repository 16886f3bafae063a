"""What becomes of requests when the engine is not there, is lost, changes, or fails one of them."""

import asyncio

from appliance.engine.ipc import Step, TextDelta
from tests.support.dispatching import STATS, Desk


async def test_a_lost_engine_fails_what_it_held_and_keeps_what_waited() -> None:
    desk = Desk()
    running, running_sink = desk.running(prompt_tokens=100, max_tokens=150)
    waiting, waiting_sink = desk.running(prompt_tokens=100, max_tokens=100)
    preparing, preparing_sink = desk.submit()
    desk.lose(running, preparing)
    assert running_sink.code == preparing_sink.code == "engine_restarted"
    assert waiting_sink.ends == []
    desk.ready()
    assert desk.engine.calls[-1] == ("prepare", waiting.number)
    desk.dispatcher.prompt_prepared(waiting.number, 100)
    assert waiting_sink.is_started
    assert running.number != preparing.number


async def test_another_worker_that_takes_over_has_all_that_waits_prepared_again_and_harms_nothing_that_runs() -> None:
    desk = Desk()
    running, running_sink = desk.running(prompt_tokens=100, max_tokens=150)  # 8 of 10 blocks
    waiting, waiting_sink = desk.running(prompt_tokens=100, max_tokens=100)
    preparing, _ = desk.submit()
    desk.ready()
    assert desk.engine.calls[-2:] == [("prepare", waiting.number), ("prepare", preparing.number)]
    desk.dispatcher.prompt_prepared(waiting.number, 100)
    assert not waiting_sink.is_started, "blocks of the old worker's requests count until they end"
    desk.finish(running)
    assert (running_sink.ends, waiting_sink.is_started) == (["stop"], True)


async def test_while_no_worker_takes_requests_what_runs_goes_on_and_what_waits_waits() -> None:
    desk = Desk()
    running, running_sink = desk.running()
    desk.dispatcher.engine_away()
    waiting, waiting_sink = desk.submit()
    desk.dispatcher.step_done(Step([TextDelta(running.number, "Paris", 1)], [], STATS))
    desk.finish(running)
    assert (running_sink.text, running_sink.ends) == ("Paris", ["stop"])
    assert ("prepare", waiting.number) not in desk.engine.calls
    assert waiting_sink.ends == []
    desk.ready()
    assert desk.engine.calls[-1] == ("prepare", waiting.number)


async def test_what_was_cancelled_when_the_engine_is_lost_ends_as_cancelled() -> None:
    desk = Desk()
    ticket, sink = desk.running()
    desk.dispatcher.cancel(ticket)
    desk.lose(ticket)
    assert sink.ends == ["cancelled"]


async def test_before_the_engine_is_ready_requests_wait_and_know_their_place() -> None:
    desk = Desk(ready=False)
    first, first_sink = desk.submit()
    _, second_sink = desk.submit()
    await asyncio.sleep(0)
    assert (first_sink.positions, second_sink.positions) == ([1], [2])
    desk.ready()
    desk.dispatcher.prompt_prepared(first.number, 10)
    assert first_sink.is_started


async def test_an_engine_that_fails_one_request_tells_only_that_one() -> None:
    desk = Desk()
    ticket, sink = desk.running()
    desk.finish(ticket, "cancelled", error="no room in the KV cache")
    assert sink.code == "internal"


async def test_a_rejected_prompt_is_a_bad_request() -> None:
    desk = Desk()
    ticket, sink = desk.submit()
    desk.dispatcher.request_rejected(ticket.number, "the template wants roles to alternate")
    assert sink.code == "bad_request"
    assert desk.dispatcher.waiting == 0
