"""What was measured: one sample a request, and levels that sum samples up. Knows no load and no clock."""

from collections import Counter
from collections.abc import Sequence
from statistics import fmean

from msgspec import Struct, field

from appliance.bench.workload import Kind

ANSWERED = ("stop", "length")


class Sample(Struct, frozen=True, kw_only=True):
    """One request, as its client saw it."""

    client: int
    turn: int
    began_s: float
    """Seconds from the beginning of the measurement to the question."""
    ttft_ms: float | None
    """From the question to the first tokens; None where none came."""
    gaps_ms: list[float]
    """Between one arrival of tokens and the next, after the first."""
    total_ms: float
    """From the question to the answer's end, or failure."""
    tokens: int
    prompt_tokens: int | None
    """None where the target can't tell."""
    outcome: str
    """"stop" or "length", else an error code."""

    @property
    def answered(self) -> bool:
        """Whether the answer is whole."""
        return self.outcome in ANSWERED

    @property
    def tpot_ms(self) -> float | None:
        """Mean milliseconds a token after the first arrival; None below two tokens."""
        if self.ttft_ms is None or self.tokens < 2:
            return None
        return (self.total_ms - self.ttft_ms) / (self.tokens - 1)


class Percentiles(Struct, frozen=True, kw_only=True):
    """A distribution in seven numbers; between two values percentiles are interpolated."""

    min: float
    p50: float
    p90: float
    p95: float
    p99: float
    max: float
    mean: float


class Level(Struct, frozen=True, kw_only=True):
    """All requests of one target, kind and concurrency. Times are those of answered requests alone."""

    target: str
    kind: Kind
    concurrency: int
    requests: int
    failed: int
    errors: dict[str, int] = field(default_factory=dict)
    """Failures by code."""
    wall_s: float
    """From the first question to the last answer's end."""
    tokens: int
    """Generated for answered requests."""
    tokens_per_s: float
    ttft_ms: Percentiles | None
    """None, as those below, where nothing was measured."""
    gap_ms: Percentiles | None
    tpot_ms: Percentiles | None
    total_ms: Percentiles | None


def summarize(target: str, kind: Kind, concurrency: int, samples: Sequence[Sample]) -> Level:
    """Sum up the samples of one level."""
    answered = [sample for sample in samples if sample.answered]
    tokens = sum(sample.tokens for sample in answered)
    began_s = min((sample.began_s for sample in samples), default=0.0)
    ended_s = max((sample.began_s + sample.total_ms / 1000 for sample in samples), default=0.0)
    wall_s = ended_s - began_s
    return Level(
        target=target,
        kind=kind,
        concurrency=concurrency,
        requests=len(samples),
        failed=len(samples) - len(answered),
        errors=dict(sorted(Counter(sample.outcome for sample in samples if not sample.answered).items())),
        wall_s=wall_s,
        tokens=tokens,
        tokens_per_s=tokens / wall_s if wall_s > 0 else 0.0,
        ttft_ms=percentiles([sample.ttft_ms for sample in answered if sample.ttft_ms is not None]),
        gap_ms=percentiles([gap for sample in answered for gap in sample.gaps_ms]),
        tpot_ms=percentiles([tpot for sample in answered if (tpot := sample.tpot_ms) is not None]),
        total_ms=percentiles([sample.total_ms for sample in answered]),
    )


def percentiles(values: Sequence[float]) -> Percentiles | None:
    """The distribution of `values`; None where there are none."""
    if not values:
        return None
    ordered = sorted(values)
    return Percentiles(
        min=ordered[0],
        p50=_quantile(ordered, 0.5),
        p90=_quantile(ordered, 0.9),
        p95=_quantile(ordered, 0.95),
        p99=_quantile(ordered, 0.99),
        max=ordered[-1],
        mean=fmean(ordered),
    )


def _quantile(ordered: Sequence[float], share: float) -> float:
    """Linear between the two nearest of `ordered`, as numpy's default is."""
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)
