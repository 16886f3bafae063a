"""Admission, queue, deadline and cancel, against an engine that does what the test says."""

import asyncio
import logging

import pytest

from appliance.engine.ipc import Finish, Step, TextDelta
from appliance.errors import QueueFull, ShuttingDown
from appliance.observability.events import Event
from appliance.observability.logs import fields_of
from appliance.types import Usage
from tests.support.dispatching import STATS, Desk


async def test_a_request_that_fits_starts_at_once_and_ends_once() -> None:
    desk = Desk()
    ticket, sink = desk.running()
    assert sink.is_started
    assert sink.positions == []
    desk.dispatcher.step_done(Step([TextDelta(ticket.number, "Pa", 1)], [], STATS))
    desk.dispatcher.step_done(Step([TextDelta(ticket.number, "ris", 2)], [Finish(ticket.number, "stop", 3)], STATS))
    desk.finish(ticket)
    desk.dispatcher.cancel(ticket)
    desk.lose(ticket)
    assert (sink.text, sink.ends, sink.usage) == ("Paris", ["stop"], Usage(32, 3))


async def test_admission_counts_the_worst_case_in_blocks() -> None:
    desk = Desk()
    first, _ = desk.running(prompt_tokens=100, max_tokens=150)  # 8 of 10 blocks
    second, sink = desk.running(prompt_tokens=33, max_tokens=32)  # 3 blocks: waits
    assert desk.engine.started() == [first.number]
    await asyncio.sleep(0)
    assert sink.positions == [1]
    desk.finish(first)
    assert desk.engine.started() == [first.number, second.number]


async def test_no_more_run_than_the_engine_takes() -> None:
    desk = Desk()
    tickets = [desk.running(max_tokens=1, prompt_tokens=10)[0] for _ in range(6)]
    assert desk.engine.started() == [t.number for t in tickets[:4]]
    desk.finish(tickets[1])
    assert desk.engine.started() == [t.number for t in tickets[:5]]


async def test_max_tokens_is_lowered_to_what_the_context_leaves() -> None:
    desk = Desk()
    ticket, _ = desk.running(prompt_tokens=200, max_tokens=4000)
    assert desk.engine.max_tokens[ticket.number] == 56


async def test_a_prompt_that_can_never_fit_is_refused_with_both_numbers_and_harms_no_other() -> None:
    desk = Desk()
    neighbour, neighbour_sink = desk.running()
    ticket, sink = desk.running(prompt_tokens=256)
    assert sink.code == "prompt_too_long"
    assert "256" in str(sink.ends[0])
    assert "255" in str(sink.ends[0])
    assert ("cancel", ticket.number) in desk.engine.calls
    desk.finish(neighbour)
    assert neighbour_sink.ends == ["stop"]


async def test_turns_go_round_between_clients_and_positions_follow() -> None:
    desk = Desk()
    running = [desk.running(prompt_tokens=10, max_tokens=1)[0] for _ in range(4)]
    a1, a1_sink = desk.running(client="a", prompt_tokens=10)
    _, a2_sink = desk.running(client="a", prompt_tokens=10)
    await asyncio.sleep(0)
    assert (a1_sink.positions, a2_sink.positions) == ([1], [2])
    b1, b1_sink = desk.running(client="b", prompt_tokens=10)
    await asyncio.sleep(0)
    assert (a1_sink.positions, a2_sink.positions, b1_sink.positions) == ([1], [2, 3], [2])
    desk.finish(running[0])
    await asyncio.sleep(0)
    desk.finish(running[1])
    await asyncio.sleep(0)
    assert desk.engine.started()[4:] == [a1.number, b1.number]
    assert a2_sink.positions == [2, 3, 2, 1]


async def test_the_queue_is_bounded_in_total_and_for_each_client() -> None:
    desk = Desk(ready=False, max_waiting=3, max_waiting_per_client=2)
    desk.submit(client="a")
    desk.submit(client="a")
    with pytest.raises(QueueFull, match="one client") as caught:
        desk.submit(client="a")
    assert caught.value.retry_after_s is not None
    assert caught.value.retry_after_s >= 1
    desk.submit(client="b")
    with pytest.raises(QueueFull, match="all there is room for"):
        desk.submit(client="c")


async def test_cancel_in_the_queue_ends_it_at_once() -> None:
    desk = Desk()
    running = [desk.running(prompt_tokens=10, max_tokens=1)[0] for _ in range(4)]
    waiting, sink = desk.running()
    desk.dispatcher.cancel(waiting)
    assert sink.ends == ["cancelled"]
    desk.finish(running[0])
    assert waiting.number not in desk.engine.started()


async def test_cancel_in_the_queue_lets_those_behind_it_move_up() -> None:
    desk = Desk()
    desk.running(prompt_tokens=92, max_tokens=100)  # 6 of 10 blocks
    large, _ = desk.running(prompt_tokens=100, max_tokens=150)  # 8: waits
    small, small_sink = desk.running(prompt_tokens=10, max_tokens=10)  # 1: would fit, but waits its turn
    await asyncio.sleep(0)
    assert small_sink.positions == [2]
    desk.dispatcher.cancel(large)
    assert small.number in desk.engine.started()


async def test_prompts_are_prepared_a_few_at_a_time_and_cancelled_ones_never() -> None:
    desk = Desk()
    tickets = [desk.submit()[0] for _ in range(5)]
    assert [number for call, number in desk.engine.calls if call == "prepare"] == [1, 2]
    desk.dispatcher.cancel(tickets[2])
    desk.dispatcher.cancel(tickets[0])  # still with the engine, which will answer for it
    desk.dispatcher.prompt_prepared(tickets[0].number, 10)
    desk.dispatcher.request_rejected(tickets[1].number, "no")
    assert [number for call, number in desk.engine.calls if call == "prepare"] == [1, 2, 4, 5]


async def test_cancel_of_a_running_request_ends_with_the_engines_word() -> None:
    desk = Desk()
    ticket, sink = desk.running()
    desk.dispatcher.cancel(ticket)
    desk.dispatcher.cancel(ticket)
    assert desk.engine.calls.count(("cancel", ticket.number)) == 1
    assert sink.ends == []
    desk.finish(ticket, "cancelled")
    assert sink.ends == ["cancelled"]


async def test_a_deadline_is_kept_in_the_queue_and_while_running() -> None:
    desk = Desk()
    running, running_sink = desk.submit(deadline_s=0.02)
    desk.dispatcher.prompt_prepared(running.number, 32)
    waiting, waiting_sink = desk.submit(deadline_s=0.01)
    async with asyncio.timeout(5):
        while not (running_sink.ends and waiting_sink.ends):
            await asyncio.sleep(0.001)
    assert running_sink.code == waiting_sink.code == "deadline_exceeded"
    assert ("cancel", running.number) in desk.engine.calls
    assert ("cancel", waiting.number) in desk.engine.calls
    desk.finish(running, "cancelled")
    assert len(running_sink.ends) == 1


async def test_blocks_of_an_expired_request_are_free_only_when_the_engine_says_so() -> None:
    desk = Desk()
    expired, sink = desk.submit(deadline_s=0.01, max_tokens=200)
    desk.dispatcher.prompt_prepared(expired.number, 100)
    async with asyncio.timeout(5):
        while not sink.ends:
            await asyncio.sleep(0.001)
    after, _ = desk.running(prompt_tokens=100, max_tokens=100)
    assert after.number not in desk.engine.started()
    desk.finish(expired, "cancelled")
    assert after.number in desk.engine.started()


async def test_drain_refuses_new_requests_and_waits_for_live_ones() -> None:
    desk = Desk()
    ticket, sink = desk.running()
    drain = asyncio.create_task(desk.dispatcher.drain(30))
    await asyncio.sleep(0)
    with pytest.raises(ShuttingDown) as caught:
        desk.submit()
    assert caught.value.retry_after_s is not None
    desk.finish(ticket)
    await drain
    assert sink.ends == ["stop"]


async def test_what_does_not_finish_in_time_is_told_when_draining() -> None:
    desk = Desk()
    _, running = desk.running(prompt_tokens=100, max_tokens=150)
    _, waiting = desk.running(prompt_tokens=100, max_tokens=150)
    await desk.dispatcher.drain(0.01)
    assert running.code == waiting.code == "shutting_down"


async def test_the_eta_comes_from_measured_answers() -> None:
    desk = Desk()
    etas: list[float | None] = []
    for _ in range(2):
        running = [desk.running(prompt_tokens=10, max_tokens=1)[0] for _ in range(4)]
        _, sink = desk.submit()
        sink.queued = lambda position, eta_s: etas.append(eta_s)  # type: ignore[method-assign] # to hear the ETA
        waiting = desk.dispatcher._queue
        for one in list(waiting):
            desk.dispatcher.prompt_prepared(one.number, 10)
        await asyncio.sleep(0)
        for one in running:
            desk.finish(one)
        for number in desk.engine.started():
            desk.dispatcher.step_done(Step([], [Finish(number, "stop", 1)], STATS))
    assert etas[0] is None
    assert etas[-1] is not None


def ended(caplog: pytest.LogCaptureFixture) -> list[dict[str, object]]:
    lines = [fields_of(record) for record in caplog.records if record.getMessage() == "request ended"]
    return [{name: line[name] for name in ("model", "outcome", "cancel_reason", "code")} for line in lines]


async def test_the_log_has_one_line_a_request_that_says_which_model_and_why_it_ended(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    desk = Desk()
    desk.dispatcher.model = "first"
    well, gone, failed = (desk.running()[0] for _ in range(3))
    waiting, _ = desk.running(prompt_tokens=250)
    desk.dispatcher.model = "second"
    desk.finish(well)
    desk.dispatcher.cancel(gone, "slow_reader")
    desk.dispatcher.cancel(gone, "disconnected")
    desk.finish(gone, "cancelled")
    desk.finish(failed, error="went wrong")
    desk.lose(waiting)
    assert ended(caplog) == [
        {"model": "first", "outcome": "stop", "cancel_reason": None, "code": None},
        {"model": "first", "outcome": "cancelled", "cancel_reason": "slow_reader", "code": None},
        {"model": "first", "outcome": "internal", "cancel_reason": None, "code": "internal"},
        {"model": "second", "outcome": "engine_restarted", "cancel_reason": None, "code": "engine_restarted"},
    ]


async def test_a_full_queue_is_an_event(caplog: pytest.LogCaptureFixture) -> None:
    desk = Desk(ready=False, max_waiting=1)
    desk.submit()
    with pytest.raises(QueueFull):
        desk.submit(client="b")
    (record,) = [r for r in caplog.records if getattr(r, "MESSAGE_ID", None) == Event.QUEUE_FULL.message_id]
    assert fields_of(record) == {"waiting": 1, "client": "b", "code": "queue_full"}
