"""A worker that is asked before it may take over: what it says, and what follows where it fails. With every pipeline
where that says something, else with the fake.
"""

import asyncio
import os
import signal
from pathlib import Path

import msgspec
import pytest

from appliance.engine.fake import expected_answer
from appliance.engine.ipc import Load
from appliance.engine.replacing import Handover
from appliance.engine.trial import Trial, TrialAnswer
from appliance.engine.watched import WatchedWorker
from appliance.errors import ReplaceError, StartError
from tests.contract.conftest import FAKE
from tests.contract.test_engine_recycling import BESIDE, BETWEEN, LONG, NEVER, workers
from tests.support.daemon import until
from tests.support.engine import SUPERVISION, heard
from tests.support.stream import serving

HANDOVERS = pytest.mark.parametrize("handover", [BESIDE, BETWEEN], ids=["beside", "between"])


def steered(directory: Path, steering: str) -> Load:
    """A load of a fake model that says `steering`."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "openvino_model.bin").write_text(steering, "ascii")
    return msgspec.structs.replace(FAKE, directory=str(directory))


class Asked:
    """A `prove` that asks, remembers, and may fail."""

    def __init__(self, *, passes: bool = True) -> None:
        self.answers: list[TrialAnswer] = []
        self.passes = passes

    async def __call__(self, trial: Trial) -> None:
        self.answers.append(await trial.ask("say some words", 10, 30))
        if not self.passes:
            raise ReplaceError("not good enough")


async def test_every_pipeline_answers_a_trial_and_then_takes_requests(load: Load) -> None:
    async with serving(load, NEVER, BESIDE) as served:
        asked = Asked()
        old = served.engine.serving
        await served.engine.replace(load, "model", asked)
        (answer,) = asked.answers
        assert answer.text.strip()
        assert 1 <= answer.tokens <= 10
        assert answer.ttft_s is not None
        assert answer.ttft_s > 0
        assert answer.tokens == 1 or (answer.tokens_per_s or 0) > 0
        assert served.engine.serving is not old
        _, after = served.ask("Say hello", 4)
        await after.ended.wait()
        assert after.text


@HANDOVERS
async def test_requests_see_nothing_of_a_trial(handover: Handover) -> None:
    async with serving(FAKE, NEVER, handover) as served:
        enough = asyncio.Event()
        clients = [asyncio.create_task(served.talk("fake:step-ms=2", 12, enough)) for _ in range(6)]
        asked = Asked()
        await served.engine.replace(FAKE, "model", asked)
        assert asked.answers[0].text == expected_answer("say some words", 10)
        enough.set()
        for client in await asyncio.gather(*clients):
            for question, answer in client:
                assert (answer.end, answer.text) == ("length", expected_answer(question, 12))
        assert (served.engine.losses, served.engine.recycles) == (0, 1)
        await until(lambda: workers() == 1)


@HANDOVERS
async def test_a_worker_that_fails_its_trial_costs_no_request_and_the_old_load_serves_on(
    handover: Handover, tmp_path: Path
) -> None:
    async with serving(FAKE, NEVER, handover) as served:
        enough = asyncio.Event()
        clients = [asyncio.create_task(served.talk("fake:step-ms=2", 6, enough)) for _ in range(3)]
        with pytest.raises(ReplaceError, match="not good enough"):
            await served.engine.replace(steered(tmp_path, ""), "model", Asked(passes=False))
        await served.ready()
        enough.set()
        for client in await asyncio.gather(*clients):
            assert {answer.end for _, answer in client} == {"length"}
        assert served.engine.serving is not None
        assert served.engine.serving.load == FAKE
        assert (served.engine.losses, served.engine.recycles) == (0, 0)
        await until(lambda: workers() == 1)


@HANDOVERS
@pytest.mark.parametrize(
    ("steering", "reason"),
    [
        ("fake:load-crash", "did not get ready: the worker ended with exit status 71"),
        ("fake:load-ms=60000", "not ready"),
    ],
)
async def test_a_load_that_crashes_or_takes_too_long_leaves_the_old_one_serving(
    handover: Handover, tmp_path: Path, steering: str, reason: str
) -> None:
    settings = msgspec.structs.replace(NEVER, load_timeout_s=2.0)
    async with serving(FAKE, settings, handover) as served:
        with pytest.raises(ReplaceError, match=reason):
            await served.engine.replace(steered(tmp_path, steering), "model", Asked())
        await served.ready()
        _, answer = served.ask("still here", 2)
        await answer.ended.wait()
        assert answer.text == "still here "


@HANDOVERS
async def test_a_worker_that_dies_in_its_trial_leaves_the_old_load_serving(handover: Handover) -> None:
    async def die(trial: Trial) -> None:
        starting = served.engine.starting
        assert starting is not None
        os.kill(starting.pid or 0, signal.SIGKILL)
        await trial.ask("hello", 4, 30)

    async with serving(FAKE, NEVER, handover) as served:
        with pytest.raises(ReplaceError, match="the new worker was lost: the worker was ended by SIGKILL"):
            await served.engine.replace(FAKE, "model", die)
        await served.ready()
        assert served.engine.losses == 1


async def test_a_worker_that_does_not_answer_in_time_is_given_up(tmp_path: Path) -> None:
    async def hurry(trial: Trial) -> None:
        await trial.ask("hello", 100, 0.3)

    async with serving(FAKE, NEVER, BESIDE) as served:
        with pytest.raises(ReplaceError, match=r"not answered to its end within 0\.3 s"):
            await served.engine.replace(steered(tmp_path, "fake:token-ms=50"), "model", hurry)
        await until(lambda: workers() == 1)


async def test_a_prompt_that_the_new_worker_refuses_is_told() -> None:
    async def refuse(trial: Trial) -> None:
        await trial.ask("fake:reject", 4, 30)

    async with serving(FAKE, NEVER, BESIDE) as served:
        with pytest.raises(ReplaceError, match="the canary failed: the fake engine was told to reject"):
            await served.engine.replace(FAKE, "model", refuse)


async def test_what_runs_on_the_old_worker_is_held_back_at_once_where_memory_has_room_for_one() -> None:
    patient = Handover(room_beside=lambda load: False, idle_wait_s=600, hold_s=30)
    async with serving(FAKE, NEVER, patient) as served:
        _, long = served.ask(LONG, 40)
        await until(lambda: long.text != "")
        await served.engine.replace(FAKE, "model", Asked())  # not after the 600 s that a recycle would wait
        assert long.end == "length"


async def test_an_old_worker_that_dies_meanwhile_is_succeeded_by_one_that_passes_or_else_by_its_like() -> None:
    for passes in (True, False):
        async with serving(FAKE, NEVER, BESIDE) as served:
            old = served.engine.serving
            assert old is not None
            asked = Asked(passes=passes)

            async def prove(trial: Trial, old: WatchedWorker = old, asked: Asked = asked) -> None:
                os.kill(old.pid or 0, signal.SIGKILL)
                await old.ended.wait()
                await asked(trial)

            replacing = asyncio.create_task(served.engine.replace(FAKE, "model", prove))
            await asyncio.wait({replacing})
            assert (replacing.exception() is None) is passes
            await served.ready()
            _, answer = served.ask("served", 1)
            await answer.ended.wait()
            assert answer.text == "served "


async def test_a_model_that_keeps_failing_can_be_replaced_by_another(tmp_path: Path) -> None:
    directory = tmp_path / "a"
    load = steered(directory, "")
    async with serving(load, NEVER, BESIDE) as served:
        steered(directory, "fake:load-crash")
        os.kill(served.engine.worker_pid or 0, signal.SIGKILL)
        await until(lambda: served.engine.losses >= 2)
        await served.engine.replace(steered(tmp_path / "b", ""), "model", Asked())
        await served.ready()
        assert served.engine.serving is not None
        assert served.engine.serving.load.directory == str(tmp_path / "b")


async def test_a_recycle_that_waited_behind_another_model_does_not_bring_the_old_one_back(tmp_path: Path) -> None:
    async with serving(FAKE, NEVER, BESIDE) as served:
        changing = asyncio.create_task(served.engine.replace(steered(tmp_path, ""), "model", Asked()))
        recycling = asyncio.create_task(served.engine.replace(FAKE, "age"))
        await changing
        with pytest.raises(ReplaceError, match="another model has taken over"):
            await recycling


# ---- before the first ready ----------------------------------------------------------------------------------


async def test_a_model_that_crashes_twice_at_start_makes_way_for_another(tmp_path: Path) -> None:
    asked: list[str] = []

    def fall_back(reason: str) -> Load:
        asked.append(reason)
        return FAKE

    async with serving(steered(tmp_path, "fake:load-crash"), NEVER, fall_back=fall_back) as served:
        assert served.engine.load == FAKE
        assert served.engine.losses == 2
        assert asked == ["the worker ended with exit status 71"]


async def test_without_another_it_is_given_up_after_all_attempts(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="did not get ready in 2 attempts"):
        async with heard(steered(tmp_path, "fake:load-crash"), msgspec.structs.replace(SUPERVISION, start_attempts=2)):
            pass


async def test_a_stop_in_the_middle_of_a_trial_leaves_no_process() -> None:
    async def wait(trial: Trial) -> None:
        begun.set()
        await trial.ask("hello fake:step-ms=50", 1000, 60)

    begun = asyncio.Event()
    async with serving(FAKE, NEVER, BESIDE) as served:
        replacing = asyncio.create_task(served.engine.replace(FAKE, "model", wait))
        await begun.wait()
    with pytest.raises(ReplaceError):
        await replacing
    assert workers() == 0
