"""From measurements to a choice: a search, then its best against the default by turns. Is given what it measures with.

One setting after another, and what was better stays for the next. That is done once and quickly, so that luck takes
part; the comparison at the end is what decides, and without a clear win the default stays.
"""

import math
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from appliance.config import EngineSettings
from appliance.models.measuring.asking import SpeedNotMeasured
from appliance.models.tuning.candidates import Dimension
from appliance.models.tuning.record import MOST_REASON, Evidence, Figures, Profile, Tried, Value

LEAD = 0.01  # by which a value has to be better than what there is to be taken along
NOISE_LEAST = 0.03  # of two runs of the same settings on a quiet machine, seldom less
WORDS = {"ttft_ms": "the first token", "ms_per_token": "each further token"}
ROUNDS = 3  # of the comparison at the end, one worker each of the default and of the best

Measure = Callable[[EngineSettings], Awaitable[Figures]]
"""One worker with such settings, started, asked and ended. Raises SpeedNotMeasured."""
Tell = Callable[[int, int, str], None]
"""Workers that are done, those that there will be as far as is known, and what the next is to show."""


class Verdict(Struct, frozen=True, kw_only=True):
    """Whether the best of the search is better than the default."""

    wins: bool
    gain_ratio: float
    noise_ratio: float
    why: str


def cost(profile: Profile, figures: Figures) -> float:
    """Less is better; a tenth less is a tenth faster in what the profile is about.

    interactive: the geometric mean of TTFT and of the time between tokens, which both count alike. throughput: the
    time for one token, whichever stream it is of.
    """
    if profile == "interactive":
        return math.sqrt(figures.ttft_ms * figures.ms_per_token)
    return 1000 / figures.tokens_per_s if figures.tokens_per_s else math.inf


def judge(profile: Profile, default: Sequence[Figures], best: Sequence[Figures]) -> Verdict:
    """Of rounds that went by turns. A win is a gain above the noise, with nothing that the profile is about worse
    than by noise.

    Noise: half of what either's rounds lie apart, and NOISE_LEAST at least.
    """
    costs = [cost(profile, figures) for figures in default], [cost(profile, figures) for figures in best]
    noise = max(NOISE_LEAST, *(_half_range(found) for found in costs))
    middle = statistics.median(costs[0])
    gain = 1 - statistics.median(costs[1]) / middle if 0 < middle < math.inf else 0.0
    if not gain > noise:
        why = f"the best found was {_compared(gain)} in this run, no more than its noise ({_percent(noise, '±')})"
        if gain < -noise:
            why = f"what was fastest in the search was {_compared(gain)} in the comparison"
        return Verdict(wins=False, gain_ratio=gain, noise_ratio=noise, why=why)
    for name in ("ttft_ms", "ms_per_token") if profile == "interactive" else ():
        worse = _median(best, name) / _median(default, name) - 1
        if worse > noise:
            why = f"the best found was {_compared(gain)} on the whole, but {WORDS[name]} took {_percent(worse)} longer"
            return Verdict(wins=False, gain_ratio=gain, noise_ratio=noise, why=why)
    why = f"{_compared(gain)} than the defaults in this run, more than its noise ({_percent(noise, '±')})"
    return Verdict(wins=True, gain_ratio=gain, noise_ratio=noise, why=why)


class Search:
    """One search; `run` is called once."""

    def __init__(
        self,
        profile: Profile,
        default: EngineSettings,
        dimensions: Sequence[Dimension],
        measure: Measure,
        tell: Tell,
        *,
        seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`seconds`: after which nothing more is tried; the comparison, 2 * ROUNDS workers, comes on top of that."""
        self._profile = profile
        self._default = default
        self._dimensions = dimensions
        self._measure = measure
        self._tell = tell
        self._seconds = seconds
        self._clock = clock
        self._began = clock()
        self._took_s: list[float] = []
        self._done = 0
        self._left = 1 + sum(len(one.values) for one in dimensions) + 2 * ROUNDS
        self._tried: list[Tried] = []
        self._left_out: list[str] = []

    async def run(self) -> tuple[dict[str, Value], Evidence]:
        """The settings that are not to stay as they are, perhaps none, and why.

        Raises SpeedNotMeasured where even the default can't be measured.
        """
        chosen: dict[str, Value] = {}
        untuned = await self._figures({}, "the defaults")
        self._tried.append(Tried(changed={}, figures=untuned))
        lowest = cost(self._profile, untuned)
        for dimension in self._dimensions:
            best: Value | None = None
            for value in dimension.values:
                if not self._time_for_more():
                    self._left_out.append(f"{dimension.setting} = {value}")
                    self._left -= 1
                    continue
                found = await self._try({**chosen, dimension.setting: value}, f"{dimension.setting} = {value}")
                if found is not None and found < lowest * (1 - LEAD):
                    lowest, best = found, value
            if best is not None:
                chosen[dimension.setting] = best
        return await self._compared(chosen)

    async def _compared(self, chosen: Mapping[str, Value]) -> tuple[dict[str, Value], Evidence]:
        rounds: tuple[list[Figures], list[Figures]] = ([], [])
        if not chosen:
            return {}, self._evidence(rounds, None, self._nothing_better())
        try:
            for number in range(ROUNDS):
                for which in (1, 0) if number % 2 else (0, 1):
                    label = f"comparing, {'the best' if which else 'the defaults'}"
                    rounds[which].append(await self._figures(chosen if which else {}, label))
        except SpeedNotMeasured as error:
            why = f"the comparison at the end failed: {error}"
            return {}, self._evidence(rounds, None, why)
        verdict = judge(self._profile, *rounds)
        return dict(chosen) if verdict.wins else {}, self._evidence(rounds, verdict, verdict.why)

    def _nothing_better(self) -> str:
        if not self._left_out:
            return "nothing that was tried was faster"
        tried = len(self._tried) - 1
        return f"nothing that was tried was faster; there was time for {tried} values"

    def _evidence(self, rounds: tuple[list[Figures], list[Figures]], verdict: Verdict | None, why: str) -> Evidence:
        return Evidence(
            tried=tuple(self._tried),
            left_out=tuple(self._left_out),
            default=tuple(rounds[0]),
            best=tuple(rounds[1]),
            gain_ratio=None if verdict is None else verdict.gain_ratio,
            noise_ratio=None if verdict is None else verdict.noise_ratio,
            why=why[:MOST_REASON],
        )

    def _time_for_more(self) -> bool:
        """Whether one more worker would be over in time, were it as slow as the slowest."""
        passed_s = self._clock() - self._began
        each_s = max(self._took_s[1:] or self._took_s)  # the first reads the model from the disk
        return passed_s + each_s <= self._seconds

    async def _try(self, changed: Mapping[str, Value], label: str) -> float | None:
        """Its cost; None where such a worker does not load or answer."""
        try:
            figures = await self._figures(changed, label)
        except SpeedNotMeasured as error:
            self._tried.append(Tried(changed=dict(changed), figures=None, error=str(error)[:MOST_REASON]))
            return None
        self._tried.append(Tried(changed=dict(changed), figures=figures))
        return cost(self._profile, figures)

    async def _figures(self, changed: Mapping[str, Value], label: str) -> Figures:
        began = self._clock()
        self._tell(self._done, self._done + self._left, label)
        try:
            figures = await self._measure(replace(self._default, **changed))
        finally:
            self._done += 1
            self._left -= 1
        self._took_s.append(self._clock() - began)
        return figures


def _percent(ratio: float, sign: str = "") -> str:
    return f"{sign}{100 * ratio:.1f} %"


def _compared(gain: float) -> str:
    """A gain of the cost in words, `faster` or `slower`."""
    return f"{_percent(abs(gain))} {'slower' if gain < 0 else 'faster'}"


def _half_range(values: Sequence[float]) -> float:
    middle = statistics.median(values)
    return (max(values) - min(values)) / 2 / middle if 0 < middle < math.inf else math.inf


def _median(rounds: Sequence[Figures], name: str) -> float:
    values: list[float] = [getattr(figures, name) for figures in rounds]
    return statistics.median(values)
