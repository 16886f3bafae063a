"""The closed loop, with targets that answer from a script."""

import asyncio
from collections.abc import AsyncGenerator
from itertools import pairwise

import pytest

from appliance.bench.load import run_level
from appliance.bench.samples import Sample
from appliance.bench.target import Ending, TargetError
from appliance.bench.workload import CHAT_TURNS, Kind, Workload, messages, sampling_seed
from appliance.types import Message


def workload(kind: Kind = "free") -> Workload:
    return Workload(kind=kind, prompt_tokens=60, output_tokens=5, seed=1)


class Scripted:
    """Answers with `output_tokens` tokens, or fails as it was told; remembers what it was asked."""

    name = "scripted"

    def __init__(self, crowd: "Crowd", failure: TargetError | None = None) -> None:
        self.ending: Ending | None = None
        self.asked: list[list[Message]] = []
        self.seeds: list[int] = []
        self.left = 0
        self._crowd = crowd
        self._failure = failure

    async def ask(self, messages: list[Message], *, max_tokens: int, seed: int) -> AsyncGenerator[int, None]:
        self.asked.append(messages)
        self.seeds.append(seed)
        self.ending = None
        self._crowd.enter()
        try:
            await asyncio.sleep(0)
            if self._failure is not None:
                raise self._failure
            for _ in range(max_tokens):
                yield 1
                await asyncio.sleep(0)
        finally:
            self._crowd.leave()
            self.left += 1
        self.ending = Ending(outcome="length", tokens=max_tokens, prompt_tokens=60, text=f"answer {len(self.asked)}")


class Crowd:
    """How many ask at once."""

    now = most = 0

    def enter(self) -> None:
        self.now += 1
        self.most = max(self.most, self.now)

    def leave(self) -> None:
        self.now -= 1


async def test_each_client_asks_one_thing_at_a_time_as_often_as_wanted() -> None:
    crowd = Crowd()
    targets = [Scripted(crowd) for _ in range(3)]
    seen: list[Sample] = []
    level, samples = await run_level(
        targets.__getitem__, workload(), 3, requests=4, duration_s=None, warm_up=0, on_sample=seen.append
    )
    assert crowd.most == 3
    assert [len(target.asked) for target in targets] == [4, 4, 4]
    assert (level.target, level.concurrency, level.requests, level.failed, level.tokens) == ("scripted", 3, 12, 0, 60)
    assert sorted(seen, key=lambda sample: sample.began_s) == samples
    assert all(len(sample.gaps_ms) == 4 and sample.prompt_tokens == 60 for sample in samples)
    assert {(sample.client, sample.turn) for sample in samples} == {(c, t) for c in range(3) for t in range(4)}


async def test_what_was_asked_to_warm_up_counts_for_nothing_and_is_not_asked_again() -> None:
    target = Scripted(Crowd())
    level, samples = await run_level(lambda _: target, workload(), 1, requests=3, duration_s=None, warm_up=2)
    assert level.requests == 3
    assert len(target.asked) == 5
    assert all(target.asked.count(asked) == 1 for asked in target.asked)
    assert all(sample.began_s >= 0 for sample in samples)


async def test_questions_and_seeds_are_those_of_the_workload() -> None:
    target = Scripted(Crowd())
    await run_level(lambda _: target, workload(), 1, requests=2, duration_s=None, warm_up=0)
    assert target.asked == [messages(workload(), 0, turn) for turn in range(2)]
    assert target.seeds == [sampling_seed(workload(), 0, turn) for turn in range(2)]


async def test_a_chat_gets_its_answers_back_until_the_next_one_begins() -> None:
    target = Scripted(Crowd())
    await run_level(lambda _: target, workload("chat"), 1, requests=CHAT_TURNS + 1, duration_s=None, warm_up=0)
    assert [message.content for message in target.asked[2] if message.role == "assistant"] == ["answer 1", "answer 2"]
    assert len(target.asked[CHAT_TURNS - 1]) == 2 * CHAT_TURNS
    assert len(target.asked[CHAT_TURNS]) == 2


async def test_failures_are_counted_and_the_pause_that_the_server_asks_for_is_kept() -> None:
    target = Scripted(Crowd(), TargetError("queue_full", "full", retry_after_s=0.2))
    level, samples = await run_level(lambda _: target, workload(), 1, requests=3, duration_s=None, warm_up=0)
    assert (level.requests, level.failed, level.errors) == (3, 3, {"queue_full": 3})
    starts = [sample.began_s for sample in samples]
    assert all(after - before >= 0.2 for before, after in pairwise(starts))


async def test_a_duration_ends_a_load_that_would_go_on() -> None:
    target = Scripted(Crowd())
    level, _ = await run_level(lambda _: target, workload(), 1, requests=None, duration_s=0.2, warm_up=0)
    assert level.requests >= 1
    assert target.left == len(target.asked)


async def test_a_target_that_never_answers_is_left() -> None:
    left = asyncio.Event()

    class Silent:
        name = "silent"
        ending: Ending | None = None

        async def ask(self, messages: list[Message], *, max_tokens: int, seed: int) -> AsyncGenerator[int, None]:
            try:
                yield 1
                await asyncio.Event().wait()
            finally:
                left.set()

    level, (sample,) = await run_level(
        lambda _: Silent(), workload(), 1, requests=1, duration_s=None, warm_up=0, request_timeout_s=0.1
    )
    assert left.is_set()
    assert (level.errors, sample.tokens) == ({"timeout": 1}, 1)
    assert sample.ttft_ms is not None


async def test_a_load_without_end_or_clients_is_refused() -> None:
    with pytest.raises(ValueError, match="requests or duration_s"):
        await run_level(lambda _: Scripted(Crowd()), workload(), 1, requests=None, duration_s=None, warm_up=0)
    with pytest.raises(ValueError, match="concurrency is 0"):
        await run_level(lambda _: Scripted(Crowd()), workload(), 0, requests=1, duration_s=None, warm_up=0)
