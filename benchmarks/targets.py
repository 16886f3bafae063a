"""The targets of the appliance as ratios within one run, and whether they are met. Knows figures, measures nothing.

A ratio is made within each round, of figures taken minutes apart at most; its median over the rounds is what counts.
"""

from collections.abc import Callable, Iterator, Sequence
from statistics import median

from appliance.bench.samples import Level
from benchmarks.cells import BARE, DAEMON, NGRAM, Q4_0
from benchmarks.results import ChatRun, PrefillRun, Results, Round, Verdict

MB = 1e6
NOISE = 0.97  # "as good as": what two runs of one thing may differ by

Figure = Callable[[Level], float | None]


def tokens_per_s(level: Level) -> float | None:
    """Throughput; None where a request failed, which makes it incomparable."""
    return level.tokens_per_s or None if level.failed == 0 else None


def ttft_p50_ms(level: Level) -> float | None:
    return level.ttft_ms.p50 if level.ttft_ms is not None else None


def ttft_max_ms(level: Level) -> float | None:
    return level.ttft_ms.max if level.ttft_ms is not None else None


def tpot_p50_ms(level: Level) -> float | None:
    return level.tpot_ms.p50 if level.tpot_ms is not None else None


def judge(results: Results, batched_tokens: int) -> list[Verdict]:
    """A verdict on each target; on those that were not measured too.

    `batched_tokens`: the daemon's engine.max_num_batched_tokens, at which a long prefill's stall counts.
    """
    return [
        *_against_the_bare_loop(results),
        *_against_llama(results),
        *_of_the_daemon_alone(results),
        at_most("chat: TTFT of turn 10 over a fresh chat's", 1.5, [_chat_ratio(run) for run in _daemon_chats(results)]),
        at_most("stall of a stream by a 2,000-token prompt", 300, _stalls(results.prefills, batched_tokens), "ms"),
    ]


def at_least(name: str, bound: float, rounds: Sequence[float], unit: str = "") -> Verdict:
    """Met where the median is `bound` or more."""
    middle = median(rounds) if rounds else None
    met = None if middle is None else middle >= bound
    return Verdict(name=name, sense="at least", bound=bound, unit=unit, rounds=list(rounds), median=middle, met=met)


def at_most(name: str, bound: float, rounds: Sequence[float], unit: str = "") -> Verdict:
    """Met where the median is `bound` or less."""
    middle = median(rounds) if rounds else None
    met = None if middle is None else middle <= bound
    return Verdict(name=name, sense="at most", bound=bound, unit=unit, rounds=list(rounds), median=middle, met=met)


def ratios(results: Results, cell: str, figure: Figure, contender: str, *rivals: str) -> list[float]:
    """The figure of `contender` over that of the rival (the one with the smallest), for each round that has both."""
    found = []
    for turn in _rounds(results, cell):
        over = _of(turn, contender, figure)
        under = [value for rival in rivals if (value := _of(turn, rival, figure)) is not None]
        if over is not None and under:
            found.append(over / min(under))
    return found


def _against_the_bare_loop(results: Results) -> Iterator[Verdict]:
    for clients in (1, 8):
        pairs = ratios(results, f"clients-{clients}", tokens_per_s, DAEMON, BARE)
        yield at_least(f"tokens/s over the bare loop's, {_clients(clients)}", 0.97, pairs)
    added = [
        ours - theirs
        for turn in _rounds(results, "clients-1")
        if (ours := _of(turn, DAEMON, ttft_p50_ms)) is not None and (theirs := _of(turn, BARE, ttft_p50_ms)) is not None
    ]
    yield at_most("TTFT added to the bare loop's, 1 client", 5, added, "ms")
    yield at_least("scaling from 1 to 8 clients over the bare loop's", NOISE, _scaling(results))
    worst = ratios(results, "clients-10", ttft_max_ms, DAEMON, BARE)
    yield at_most("worst TTFT over the bare loop's, 10 clients", 1.3, worst)


def _against_llama(results: Results) -> Iterator[Verdict]:
    for tokens in (33, 249, 969):
        pairs = ratios(results, f"prompt-{tokens}", ttft_p50_ms, DAEMON, Q4_0)
        yield at_most(f"TTFT over llama.cpp's, {tokens} prompt tokens", 0.65, pairs)
    free = ratios(results, "free", tpot_p50_ms, DAEMON, Q4_0)
    yield at_most("ms a token over llama.cpp's, free answers", 1.0, free)
    # With its own drafts, or without where it is faster without.
    grounded = ratios(results, "grounded", tpot_p50_ms, DAEMON, NGRAM, Q4_0)
    yield at_most("ms a token over llama.cpp's, grounded answers", 0.5, grounded)
    for clients, least in ((8, 1.8), (10, 2.0)):
        pairs = ratios(results, f"clients-{clients}", tokens_per_s, DAEMON, Q4_0)
        yield at_least(f"tokens/s over llama.cpp's, {_clients(clients)}", least, pairs)
    typical = ratios(results, "clients-8", ttft_p50_ms, DAEMON, Q4_0)
    yield at_most("median TTFT over llama.cpp's, 8 clients", 0.4, typical)
    worst = ratios(results, "clients-10", ttft_max_ms, DAEMON, Q4_0)
    yield at_most("worst TTFT over llama.cpp's, 10 clients", 0.25, worst)


def _of_the_daemon_alone(results: Results) -> Iterator[Verdict]:
    busy = [turn.front.cpu_cores * 100 for turn in _rounds(results, "clients-8") if turn.front is not None]
    yield at_most("front process, 8 clients", 5, busy, "% of a core")
    memory = results.memory_bytes
    front = [memory["front"] / MB] if memory else []
    yield at_most("memory of the front process", 80, front, "MB")
    yield at_most("memory of the whole daemon", 1000, [sum(memory.values()) / MB] if memory else [], "MB")


def _scaling(results: Results) -> list[float]:
    """One figure, of medians: the two cells' rounds are no pairs."""
    speeds = {
        (contender, clients): [
            speed
            for turn in _rounds(results, f"clients-{clients}")
            if (speed := _of(turn, contender, tokens_per_s)) is not None
        ]
        for contender in (DAEMON, BARE)
        for clients in (1, 8)
    }
    if not all(speeds.values()):
        return []
    middle = {key: median(values) for key, values in speeds.items()}
    return [(middle[DAEMON, 8] / middle[DAEMON, 1]) / (middle[BARE, 8] / middle[BARE, 1])]


def _daemon_chats(results: Results) -> list[ChatRun]:
    return [run for run in results.chats if run.contender == DAEMON and run.fresh.ttft_ms and run.turns[-1].ttft_ms]


def _chat_ratio(run: ChatRun) -> float:
    fresh, last = run.fresh.ttft_ms, run.turns[-1].ttft_ms
    if fresh is None or last is None:
        raise ValueError("a chat without a first token has no ratio")
    return last / fresh.p50


def _stalls(runs: Sequence[PrefillRun], batched_tokens: int) -> list[float]:
    return [run.stall_ms for run in runs if run.max_num_batched_tokens == batched_tokens]


def _rounds(results: Results, cell: str) -> Sequence[Round]:
    found = results.cell(cell)
    return found.rounds if found is not None else ()


def _of(turn: Round, contender: str, figure: Figure) -> float | None:
    level = turn.levels.get(contender)
    return figure(level) if level is not None else None


def _clients(number: int) -> str:
    return "1 client" if number == 1 else f"{number} clients"
