"""What every pipeline keeps, behind the worker's channel: the fake and both real ones."""

import os
import signal

import msgspec
import psutil
import pytest

from appliance.engine.ipc import Load
from tests.support.daemon import until
from tests.support.engine import SUPERVISION, Heard, greedy, heard

pytestmark = pytest.mark.asyncio(loop_scope="module")

STORY = "Write a very long story about the sea and a ship and its crew fake:step-ms=2"


async def idle(engine: Heard) -> None:
    await until(lambda: not engine.listener.steps or engine.listener.steps[-1].stats.running == 0)


async def test_a_prompt_is_counted_the_same_each_time(engine: Heard) -> None:
    first, second = await engine.prepare("How many tokens?"), await engine.prepare("How many tokens?")
    counted = engine.listener.prompt_tokens
    assert counted[first] == counted[second] > 0
    longer = await engine.prepare("How many tokens? " * 50)
    assert counted[longer] > counted[first]
    for request_id in (first, second, longer):
        engine.engine.cancel(request_id)


async def test_an_answer_ends_once_at_max_tokens(engine: Heard) -> None:
    request_id = await engine.begin(STORY, greedy(12))
    finish = await engine.finish(request_id)
    assert (finish.reason, finish.completion_tokens, finish.error) == ("length", 12, None)
    assert engine.listener.tokens[request_id] == 12
    assert engine.text(request_id).strip()


async def test_greedy_answers_are_repeatable(engine: Heard) -> None:
    texts = []
    for _ in range(2):
        request_id = await engine.begin("Name three colours.", greedy(16))
        await engine.finish(request_id)
        texts.append(engine.text(request_id))
    assert texts[0] == texts[1] != ""


async def test_text_stops_before_a_stop_string(engine: Heard) -> None:
    whole = await engine.begin(STORY, greedy(24))
    await engine.finish(whole)
    text = engine.text(whole)
    stop = text[len(text) // 2 : len(text) // 2 + 4]
    cut = await engine.begin(STORY, greedy(200, stop))
    finish = await engine.finish(cut)
    assert finish.reason == "stop"
    assert engine.text(cut) == text[: text.index(stop)]


async def test_cancel_while_decoding_ends_it_and_frees_the_engine(engine: Heard) -> None:
    request_id = await engine.begin(STORY, greedy(2000))
    await engine.grown(request_id, 3)
    engine.engine.cancel(request_id)
    finish = await engine.finish(request_id)
    assert finish.reason == "cancelled"
    assert finish.completion_tokens < 2000
    again = await engine.begin("Hello", greedy(4))
    assert (await engine.finish(again)).completion_tokens >= 1


async def test_cancel_in_prefill_ends_it_without_a_token(engine: Heard) -> None:
    request_id = await engine.begin("word " * 2000 + "fake:step-ms=20", greedy(50))
    engine.engine.cancel(request_id)
    finish = await engine.finish(request_id)
    assert finish.reason == "cancelled"
    # A prefill of `llm` can't be cut short: its first token comes before it hears of the cancel.
    assert finish.completion_tokens <= 1


async def test_cancel_of_a_prepared_prompt_is_silent(engine: Heard) -> None:
    request_id = await engine.prepare("Never started")
    engine.engine.cancel(request_id)
    after = await engine.begin("Hello", greedy(4))
    await engine.finish(after)
    assert request_id not in engine.listener.finished
    assert request_id not in engine.listener.rejected


async def test_requests_side_by_side_get_their_own_answers(engine: Heard) -> None:
    questions = ["Name three colours.", "What is the capital of France?", "Count to five."]
    alone = []
    for question in questions:
        request_id = await engine.begin(question, greedy(12))
        await engine.finish(request_id)
        alone.append(engine.text(request_id))
    if engine.listener.limits[-1].max_running_requests < len(questions):
        refused = [await engine.begin(STORY, greedy(30)), await engine.begin("Hello", greedy(4))]
        await engine.finish(refused[0])
        assert "one request at a time" in engine.listener.rejected[refused[1]]
        return
    together = [await engine.begin(question, greedy(12)) for question in questions]
    for request_id in together:
        await engine.finish(request_id)
    # Batching changes the order of additions in the kernels, so late tokens may differ: the beginnings must not.
    assert [engine.text(i)[:8] for i in together] == [text[:8] for text in alone]


async def test_kv_cache_use_falls_to_nothing_when_idle(engine: Heard, load: Load) -> None:
    request_id = await engine.begin(STORY, greedy(40))
    await engine.finish(request_id)
    await idle(engine)
    if load.pipeline == "llm":
        assert engine.listener.steps[-1].stats.kv_cache_usage_ratio is None
    else:
        assert max(step.stats.kv_cache_usage_ratio or 0 for step in engine.listener.steps) > 0
        await until(lambda: engine.listener.steps[-1].stats.kv_cache_usage_ratio == 0)
    assert engine.listener.steps[-1].stats.rss_bytes > 10_000_000


async def test_characters_come_whole(engine: Heard) -> None:
    request_id = await engine.begin("fake:bytes Repeat exactly: 😀🎉 日本語 €uro 你好", greedy(60))
    await engine.finish(request_id)
    texts = engine.listener.texts[request_id]
    assert "".join(texts)
    assert not any("\N{REPLACEMENT CHARACTER}" in text for text in texts)


async def test_canaries_prove_an_idle_engine_and_disturb_no_request(load: Load) -> None:
    async with heard(load, msgspec.structs.replace(SUPERVISION, canary_interval_s=0.05)) as engine:
        begun = []
        for _ in range(5):
            await next_canary(engine)
            begun.append(await engine.begin("Hello", greedy(3)))
            assert (await engine.finish(begun[-1])).completion_tokens >= 1
        assert sorted(engine.listener.finished) == sorted(engine.listener.tokens) == begun
        assert engine.listener.rejected == {}
        assert engine.listener.lost == []


async def next_canary(engine: Heard) -> None:
    last = engine.engine.canary
    await until(lambda: engine.engine.canary != last)


async def test_a_killed_worker_is_told_once_and_replaced(engine: Heard) -> None:
    first, times_ready = engine.engine.worker_pid, len(engine.listener.limits)
    assert first is not None
    request_id = await engine.begin(STORY.replace("2", "5"), greedy(2000))
    await engine.grown(request_id)
    os.kill(first, signal.SIGKILL)
    await engine.ready(times_ready + 1)
    assert engine.listener.lost == [request_id]
    assert request_id not in engine.listener.finished
    assert "SIGKILL" in (engine.engine.last_loss or "")
    again = await engine.begin("Hello", greedy(4))
    assert (await engine.finish(again)).completion_tokens >= 1
    assert engine.engine.worker_pid != first
    assert not psutil.pid_exists(first)


@pytest.mark.model
async def test_a_request_that_drafts_may_fill_the_kv_cache_to_its_last_token(real_load: Load) -> None:
    small = msgspec.structs.replace(real_load, prompt_lookup=True, watch_drafts=True, kv_cache_tokens=256)
    question = "Go on for ever: ```" + "one two three four five six seven eight nine ten " * 4
    async with heard(small) as engine:
        request_id = await engine.prepare(question)
        engine.engine.start(request_id, greedy(256 - engine.listener.prompt_tokens[request_id]))
        finish = await engine.finish(request_id)
        assert (finish.reason, finish.error) == ("length", None)
        assert engine.listener.prompt_tokens[request_id] + finish.completion_tokens == 256
        assert sum(step.stats.drafted_right for step in engine.listener.steps) > 50
