"""What one worker with certain settings brings here, by profile. Knows the engine's worker; chooses nothing."""

import asyncio
import statistics
import time
from pathlib import Path

from appliance.config import EngineSettings
from appliance.engine.ipc import ChannelError
from appliance.engine.memory import room_beside
from appliance.models.measuring.asking import Answer, LoadedWorker, SpeedNotMeasured, open_loaded_worker
from appliance.models.measuring.speed import NOTES, WISH, load_of
from appliance.models.tuning.record import Figures, Profile

KV_CACHE_TOKENS = 4096  # room for all streams at once, and no more
STREAMS = 8  # of the throughput profile, as many as share a step usefully on a small CPU
STREAM_PROMPT_CHARS = 400
ANSWERS = 2  # of the interactive profile, one after another
ANSWER_TOKENS = 32
WARM_UP_TOKENS = 8
ANSWERS_TIMEOUT_S = 60.0
LOAD_TIMEOUT_S = 60.0


class TooLittleMemory(SpeedNotMeasured):
    """Another worker does not fit what memory is free."""


def streams(profile: Profile, settings: EngineSettings) -> int:
    """Answers at once."""
    return 1 if profile == "interactive" or settings.pipeline == "llm" else min(STREAMS, settings.max_running_requests)


async def measure(directory: Path, profile: Profile, settings: EngineSettings) -> Figures:
    """Start a worker, ask it, and end it, whatever happens.

    Raises SpeedNotMeasured, in words, where it does not load or answer in time; TooLittleMemory, which is
    one, before it is started.
    """
    at_once = streams(profile, settings)
    load = load_of(directory, settings, kv_cache_tokens=KV_CACHE_TOKENS, max_running_requests=at_once)
    if not await asyncio.to_thread(room_beside, load):
        raise TooLittleMemory(
            "there is not enough free memory for an engine worker; stop the daemon and other programs, and try again"
        )
    try:
        async with open_loaded_worker(load, min(LOAD_TIMEOUT_S, settings.load_timeout_s)) as worker:
            async with asyncio.timeout(ANSWERS_TIMEOUT_S):
                await worker.ask([f"0. {WISH}"], WARM_UP_TOKENS)
                return await (_one_by_one(worker) if profile == "interactive" else _together(worker, at_once))
    except TimeoutError:
        raise SpeedNotMeasured("the worker did not load or answer in time") from None
    except (ChannelError, OSError) as error:
        raise SpeedNotMeasured(str(error)) from None


async def _one_by_one(worker: LoadedWorker) -> Figures:
    began = time.perf_counter()
    answers: list[Answer] = []
    for number in range(1, ANSWERS + 1):  # a number first, so that no prefix is known
        answers += await worker.ask([f"{number}. {NOTES} {WISH}"], ANSWER_TOKENS)
    return _figures(answers, time.perf_counter() - began)


async def _together(worker: LoadedWorker, at_once: int) -> Figures:
    questions = [f"{number}. {NOTES[:STREAM_PROMPT_CHARS]} {WISH}" for number in range(1, at_once + 1)]
    began = time.perf_counter()
    answers = await worker.ask(questions, ANSWER_TOKENS)
    return _figures(answers, time.perf_counter() - began)


def _figures(answers: list[Answer], took_s: float) -> Figures:
    return Figures(
        ttft_ms=round(statistics.median(answer.ttft_ms for answer in answers), 2),
        ms_per_token=round(statistics.median(answer.ms_per_token for answer in answers), 3),
        tokens_per_s=round(sum(answer.tokens for answer in answers) / took_s, 2),
    )
