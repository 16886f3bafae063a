"""When the watchdog is petted, and when not; and when supervision counts as stuck."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import pytest

from appliance.api.watchdog import PETS_A_PERIOD, watch
from appliance.engine.supervision import UNMANNED_MAX_S, UNWATCHED_MAX_S, Supervision
from tests.support.daemon import until

PERIOD_S = 0.2


class Pets:
    def __init__(self) -> None:
        self.count = 0
        self.reason: str | None = None

    def pet(self) -> None:
        self.count += 1

    def stuck(self) -> str | None:
        return self.reason


@contextlib.asynccontextmanager
async def watching(pets: Pets) -> AsyncIterator[None]:
    task = asyncio.create_task(watch(PERIOD_S, pets.stuck, pets.pet))
    try:
        yield
    finally:
        task.cancel()


async def test_a_loop_on_time_pets_more_often_than_it_has_to() -> None:
    pets = Pets()
    async with watching(pets):
        await until(lambda: pets.count >= 2 * PETS_A_PERIOD)


async def test_what_is_stuck_is_not_petted_until_it_moves_again(caplog: pytest.LogCaptureFixture) -> None:
    pets = Pets()
    async with watching(pets):
        await until(lambda: pets.count > 0)
        pets.reason = "no worker, and none to come"
        await until(lambda: len(caplog.records) > 2)
        before = pets.count
        await until(lambda: len(caplog.records) > 4)
        assert pets.count == before
        pets.reason = None
        await until(lambda: pets.count > before)
    assert caplog.records[0].__dict__["appliance_fields"]["reason"] == "no worker, and none to come"


async def test_a_loop_that_is_late_at_every_turn_is_not_petted(caplog: pytest.LogCaptureFixture) -> None:
    pets = Pets()
    async with watching(pets):
        await until(lambda: pets.count > 0)
        before = pets.count
        while len(caplog.records) < 5:
            time.sleep(PERIOD_S)  # noqa: ASYNC251 # this is what is tried
            await asyncio.sleep(0)
        assert pets.count - before <= 1  # one turn may have been due before the first block
        await until(lambda: pets.count > before + 1)
    assert "event loop is" in caplog.records[0].__dict__["appliance_fields"]["reason"]


class Worker:
    pid: int | None = 7
    unwatched_s = 0.0


class Supervisor:
    def __init__(self) -> None:
        self.workers: list[Worker] = [Worker()]
        self.next_start_s: float | None = None


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_supervision_is_stuck_when_a_worker_is_not_looked_at() -> None:
    supervisor = Supervisor()
    supervision = Supervision(supervisor)
    assert supervision.stuck() is None
    supervisor.workers[0].unwatched_s = UNWATCHED_MAX_S + 1
    assert "worker 7" in (supervision.stuck() or "")
    supervisor.workers[0].unwatched_s = 0
    assert supervision.stuck() is None


def test_supervision_is_stuck_when_no_worker_is_there_and_none_to_come() -> None:
    supervisor, clock = Supervisor(), Clock()
    supervision = Supervision(supervisor, clock)
    supervisor.workers = []
    supervisor.next_start_s = 300.0
    assert supervision.stuck() is None
    clock.now = 10 * UNMANNED_MAX_S  # given up, and saying when it is tried again
    assert supervision.stuck() is None
    supervisor.next_start_s = None
    assert supervision.stuck() is None
    clock.now += UNMANNED_MAX_S + 1
    assert "none to come" in (supervision.stuck() or "")
    supervisor.workers = [Worker()]
    assert supervision.stuck() is None
