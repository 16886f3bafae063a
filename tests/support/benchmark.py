"""Made-up levels and results of the benchmark, and a contender that only notes what it was asked."""

from datetime import UTC, datetime
from pathlib import Path

from appliance.bench.host import describe_host
from appliance.bench.samples import Level, Sample, percentiles, summarize
from appliance.bench.workload import Workload
from benchmarks.cells import CELLS, Cell
from benchmarks.results import CellResult, ChatRun, LlamaMethod, Method, PrefillRun, Results, Round


def level(
    *,
    tokens_per_s: float = 30.0,
    ttft_ms: tuple[float, ...] = (100.0,),
    tpot_ms: float | None = 25.0,
    failed: int = 0,
    target: str = "daemon",
) -> Level:
    return Level(
        target=target,
        kind="free",
        concurrency=1,
        requests=len(ttft_ms),
        failed=failed,
        wall_s=1.0,
        tokens=48,
        tokens_per_s=tokens_per_s,
        ttft_ms=percentiles(ttft_ms),
        gap_ms=None,
        tpot_ms=percentiles([tpot_ms]) if tpot_ms is not None else None,
        total_ms=None,
    )


def cell(name: str) -> Cell:
    return next(one for one in CELLS if one.name == name)


def results(**cells: list[dict[str, Level]]) -> Results:
    """Of the cells (`clients_8` is clients-8), the levels of each round."""
    return Results(
        began_at=datetime(2026, 11, 22, 12, 30, tzinfo=UTC),
        host=describe_host(root=Path("/nowhere"), bandwidth=False),
        method=Method(
            gguf="qwen.gguf",
            gguf_sha256="ab" * 32,
            model_digest="cd" * 32,
            quantization="int4",
            threads=2,
            isa_cap="AVX2_VNNI",
            engine={"precision": "f32"},
            llama=LlamaMethod(package="llama==1", flags=["-DX=ON"], compiler="c++ 12", options={"Q4_0": ["-fa", "on"]}),
            seed=1,
            commit="abc1234",
        ),
        cells=[
            CellResult(cell=cell(name.replace("_", "-")), rounds=[Round(levels=levels) for levels in rounds])
            for name, rounds in cells.items()
        ],
    )


def sample(*, turn: int = 0, ttft_ms: float = 100.0, tokens: int = 48, prompt_tokens: int | None = 40) -> Sample:
    return Sample(
        client=0,
        turn=turn,
        began_s=0.0,
        ttft_ms=ttft_ms,
        gaps_ms=[],
        total_ms=1000.0,
        tokens=tokens,
        prompt_tokens=prompt_tokens,
        outcome="length",
    )


def chat(contender: str, last_ms: float, fresh_ms: float) -> ChatRun:
    return ChatRun(
        contender=contender,
        turns=[sample(turn=0, ttft_ms=2000.0, prompt_tokens=500), sample(turn=1, ttft_ms=last_ms, prompt_tokens=570)],
        new_tokens=70,
        question_tokens=22,
        fresh=level(ttft_ms=(fresh_ms,)),
        fresh_question=level(ttft_ms=(fresh_ms / 2,)),
    )


def prefill(batched_tokens: int, stall_ms: float) -> PrefillRun:
    return PrefillRun(
        max_num_batched_tokens=batched_tokens, prompt_tokens=2000, stall_ms=stall_ms, gap_before_ms=26.0, ttft_ms=6000.0
    )


class Noting:
    """A contender that answers at once."""

    def __init__(self, name: str, asked: list[tuple[str, int]]) -> None:
        self.name = name
        self._asked = asked

    async def measure(self, workload: Workload, concurrency: int, requests: int) -> tuple[Level, list[Sample]]:
        self._asked.append((self.name, workload.seed))
        samples = [sample(turn=turn) for turn in range(requests)] * concurrency
        return summarize(self.name, workload.kind, concurrency, samples), samples
