"""How fast installed artefacts are here, one stream at a time, through the engine's worker. Knows no quality.

In rounds: each round starts one worker after another, so that what slows the machine for a while slows all of them,
and no two compete for memory. A worker is warm, and has answered once, before its answers count.
"""

import asyncio
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

from appliance.config import EngineSettings
from appliance.engine.ipc import ChannelError, Load
from appliance.models.measuring.asking import Answer, SpeedNotMeasured, open_loaded_worker
from appliance.models.measuring.figures import Speed
from appliance.observability.host import resident_memory_bytes

ROUNDS = 3
ANSWERS = 2  # of each worker that count, after one that does not
ANSWER_TOKENS = 32
KV_CACHE_TOKENS = 2048
ANSWER_TIMEOUT_S = 120.0

NOTES = (
    "Notes of the harbour master. The ferry left at seven with forty passengers and two crates of apples. At nine the "
    "pilot boat brought the mail, and the baker asked for flour that had not come. The crane was out of order until "
    "noon; the mechanic changed a belt and oiled the winch. In the afternoon rain set in from the west, so the "
    "painters stopped and went to the inn. A cargo ship waited outside for the tide, and its captain called each hour. "
    "The school came to see the lighthouse: thirty children, three teachers, one lost hat. In the evening the fog horn "
    "was tried, the fishing boats came home with herring and cod, and the clerk counted the fees of the day twice, "
    "because the first sum was wrong by nine coins. The night watch was told to look after the northern mooring."
)
WISH = "Tell a long story in which all of this happens, in order, and leave nothing out."

Tell = Callable[[int, int], None]
"""Workers that are done, and all that there are."""


async def measure_speed(directories: Sequence[Path], settings: EngineSettings, tell: Tell) -> list[Speed]:
    """One for each directory, in their order; the order of measuring turns round after each round.

    Raises SpeedNotMeasured, naming the directory.
    """
    answers: list[list[Answer]] = [[] for _ in directories]
    rss_bytes = [0] * len(directories)
    done = 0
    for round_number in range(ROUNDS):
        order = list(enumerate(directories))
        for place, directory in reversed(order) if round_number % 2 else order:
            found, resident = await _answers_of(directory, settings, round_number)
            answers[place] += found
            rss_bytes[place] = max(rss_bytes[place], resident)
            done += 1
            tell(done, ROUNDS * len(directories))
    return [summary(found, resident) for found, resident in zip(answers, rss_bytes, strict=True)]


def summary(answers: Sequence[Answer], rss_bytes: int) -> Speed:
    """Medians over at least one answer."""
    return Speed(
        ttft_ms=statistics.median(answer.ttft_ms for answer in answers),
        ms_per_token=statistics.median(answer.ms_per_token for answer in answers),
        rss_bytes=rss_bytes,
        prompt_tokens=round(statistics.median(answer.prompt_tokens for answer in answers)),
        answers=len(answers),
    )


def load_of(
    directory: Path, settings: EngineSettings, *, kv_cache_tokens: int = KV_CACHE_TOKENS, max_running_requests: int = 1
) -> Load:
    """As the daemon would serve it, without drafts, with a small KV cache, and answers that no token ends."""
    return Load(
        pipeline=settings.pipeline,
        directory=str(directory),
        eos_token_ids=[],
        threads=settings.threads,
        precision=settings.precision,
        dynamic_quantization=settings.dynamic_quantization_group_size,
        kv_cache_precision=settings.kv_cache_precision,
        cpu_pinning=settings.cpu_pinning,
        kv_cache_tokens=kv_cache_tokens,
        max_num_batched_tokens=settings.max_num_batched_tokens,
        max_running_requests=max_running_requests,
    )


async def _answers_of(directory: Path, settings: EngineSettings, round_number: int) -> tuple[list[Answer], int]:
    """What one worker brings, and its resident memory afterwards."""
    try:
        async with open_loaded_worker(load_of(directory, settings), settings.load_timeout_s) as worker:
            found = []
            for number in range(ANSWERS + 1):
                async with asyncio.timeout(ANSWER_TIMEOUT_S):
                    question = f"{round_number * (ANSWERS + 1) + number + 1}. {NOTES} {WISH}"
                    found.append((await worker.ask([question], ANSWER_TOKENS))[0])
            return found[1:], resident_memory_bytes(worker.process.pid) or 0
    except (SpeedNotMeasured, ChannelError, OSError) as error:
        raise SpeedNotMeasured(f"the speed of {directory} can't be measured: {error}") from None
    except TimeoutError:
        raise SpeedNotMeasured(
            f"the speed of {directory} can't be measured: it did not load or answer in time; "
            "try --no-speed, or on a machine that does nothing else"
        ) from None
