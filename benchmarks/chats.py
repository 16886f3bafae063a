"""Whether a conversation stays quick as it grows: each turn's TTFT beside that of fresh chats. Knows contenders."""

import msgspec

from appliance.bench.samples import Sample
from appliance.bench.workload import CHAT_TURNS, LEAST_PROMPT_TOKENS, Workload
from benchmarks.contenders import Contender
from benchmarks.errors import BenchmarkError
from benchmarks.measuring import Say
from benchmarks.results import ChatRun

NAME = "chat"
SYSTEM_TOKENS = 500
ANSWER_TOKENS = 48
FRESH_ANSWER_TOKENS = 4
FRESH_REQUESTS = 4
ROUNDS = 2


async def run_chat(contender: Contender, seed: int, say: Say, turns: int = CHAT_TURNS) -> ChatRun:
    """A conversation of `turns` turns, then fresh chats as long as what the last turn added. Raises BenchmarkError.

    `seed` and the two after it are used up.
    """
    chat = Workload(kind="chat", prompt_tokens=SYSTEM_TOKENS, output_tokens=ANSWER_TOKENS, seed=seed)
    level, samples = await contender.measure(chat, 1, turns)
    if level.failed:
        raise BenchmarkError(f"{contender.name}: {level.failed} of {turns} turns of a chat failed: {level.errors}")
    new_tokens, question_tokens = added(samples)
    fresh, _ = await contender.measure(_fresh(new_tokens, seed + 1), 1, FRESH_REQUESTS)
    fresh_question, _ = await contender.measure(_fresh(question_tokens, seed + 2), 1, FRESH_REQUESTS)
    run = ChatRun(
        contender=contender.name,
        turns=[msgspec.structs.replace(sample, gaps_ms=[]) for sample in samples],
        new_tokens=new_tokens,
        question_tokens=question_tokens,
        fresh=fresh,
        fresh_question=fresh_question,
    )
    if fresh.ttft_ms is not None:
        last = samples[-1]
        say(
            f"{NAME}  {contender.name}: TTFT {samples[0].ttft_ms or 0:.0f} ms with {samples[0].prompt_tokens} prompt "
            f"tokens, {last.ttft_ms or 0:.0f} ms at turn {len(samples)} with {last.prompt_tokens}; "
            f"{fresh.ttft_ms.p50:.0f} ms of fresh chats with {new_tokens}"
        )
    return run


def added(samples: list[Sample]) -> tuple[int, int]:
    """How much longer the last prompt is than the one before, and how much of that is no answer that was generated.

    Raises BenchmarkError where the contender does not count prompts.
    """
    before, last = samples[-2:]
    if before.prompt_tokens is None or last.prompt_tokens is None:
        raise BenchmarkError("a chat can't be compared: its prompts' lengths are not known")
    grown = last.prompt_tokens - before.prompt_tokens
    return grown, grown - before.tokens


def _fresh(prompt_tokens: int, seed: int) -> Workload:
    length = max(LEAST_PROMPT_TOKENS["free"], prompt_tokens)
    return Workload(kind="free", prompt_tokens=length, output_tokens=FRESH_ANSWER_TOKENS, seed=seed)
