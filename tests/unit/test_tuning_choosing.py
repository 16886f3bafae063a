"""From measurements to a choice: what is tried, what is taken, and when the defaults stay."""

from collections.abc import Callable

import pytest

from appliance.config import EngineSettings
from appliance.models.measuring.asking import SpeedNotMeasured
from appliance.models.tuning.candidates import Cpu, Dimension, dimensions
from appliance.models.tuning.choosing import ROUNDS, Search, cost, judge
from appliance.models.tuning.record import TUNABLE, Figures, Profile
from appliance.models.tuning.trial import TooLittleMemory

DEFAULT = EngineSettings()
CPU = Cpu(cores_physical=4, cores_usable=8, flags=frozenset({"avx2"}))
DIMENSIONS = [Dimension("threads", (8, 3)), Dimension("cpu_pinning", ("off",)), Dimension("precision", ("f32",))]


def figures(ttft_ms: float = 100.0, ms_per_token: float = 20.0, tokens_per_s: float = 40.0) -> Figures:
    return Figures(ttft_ms=ttft_ms, ms_per_token=ms_per_token, tokens_per_s=tokens_per_s)


def scaled(factor: float) -> Figures:
    return figures(100 * factor, 20 * factor, 40 / factor)


class Machine:
    """Measures what `speed` says, in 10 s of a clock of its own."""

    def __init__(self, speed: Callable[[EngineSettings], Figures]) -> None:
        self.now = 0.0
        self.measured: list[EngineSettings] = []
        self.told: list[tuple[int, int, str]] = []
        self._speed = speed

    async def measure(self, settings: EngineSettings) -> Figures:
        self.measured.append(settings)
        self.now += 10
        return self._speed(settings)

    def search(self, profile: Profile = "interactive", seconds: float = 1000) -> Search:
        def tell(done: int, total: int, label: str) -> None:
            self.told.append((done, total, label))

        return Search(profile, DEFAULT, DIMENSIONS, self.measure, tell, seconds=seconds, clock=lambda: self.now)


async def test_what_is_better_is_kept_for_the_next_setting_and_compared_by_turns_at_the_end() -> None:
    def speed(settings: EngineSettings) -> Figures:
        factor = {0: 1.0, 8: 1.2, 3: 0.8}[settings.threads]
        return scaled(factor * (0.9 if settings.cpu_pinning == "off" else 1.0))

    machine = Machine(speed)
    chosen, evidence = await machine.search().run()
    assert chosen == {"threads": 3, "cpu_pinning": "off"}
    assert [tried.changed for tried in evidence.tried] == [
        {}, {"threads": 8}, {"threads": 3}, {"threads": 3, "cpu_pinning": "off"},
        {"threads": 3, "cpu_pinning": "off", "precision": "f32"},
    ]  # fmt: skip
    assert [one.threads for one in machine.measured[5:]] == [0, 3, 3, 0, 0, 3]
    assert (len(evidence.default), len(evidence.best)) == (ROUNDS, ROUNDS)
    assert evidence.gain_ratio == pytest.approx(0.28)
    assert [done for done, _, _ in machine.told] == list(range(11))
    assert {total for _, total, _ in machine.told} == {11}


async def test_luck_in_the_search_does_not_outlive_the_comparison() -> None:
    seen = 0

    def speed(settings: EngineSettings) -> Figures:
        nonlocal seen
        seen += 1
        return scaled(0.5 if settings.threads == 3 and seen < 6 else 1.0)

    chosen, evidence = await Machine(speed).search().run()
    assert chosen == {}
    assert evidence.why == "the best found was 0.0 % faster in this run, no more than its noise (±3.0 %)"


async def test_where_nothing_is_better_the_defaults_stay_without_a_comparison() -> None:
    machine = Machine(lambda _: scaled(1.0))
    chosen, evidence = await machine.search().run()
    assert (chosen, evidence.default, evidence.gain_ratio) == ({}, (), None)
    assert len(machine.measured) == 5


async def test_a_value_with_which_no_worker_loads_is_passed_over_and_told() -> None:
    def speed(settings: EngineSettings) -> Figures:
        if settings.threads == 8:
            raise SpeedNotMeasured("no such thing")
        return scaled(0.7 if settings.threads == 3 else 1.0)

    chosen, evidence = await Machine(speed).search().run()
    assert chosen == {"threads": 3}
    assert (evidence.tried[1].error, evidence.tried[1].figures) == ("no such thing", None)


async def test_a_value_for_which_there_is_no_memory_is_passed_over_and_told() -> None:
    def speed(settings: EngineSettings) -> Figures:
        if settings.threads == 8:
            raise TooLittleMemory("serving takes too much")
        return scaled(1.0)

    _, evidence = await Machine(speed).search().run()
    assert (evidence.tried[1].error, evidence.tried[1].figures) == ("serving takes too much", None)
    assert [one.changed for one in evidence.tried[2:]] == [{"threads": 3}, {"cpu_pinning": "off"}, {"precision": "f32"}]


@pytest.mark.parametrize(
    ("default", "best", "why"),
    [
        ([100, 100, 110], [97, 80, 91], "the best found was 9.0 % faster in this run, no more than its noise (±"),
        ([100] * 3, [80] * 3, "20.0 % faster than the defaults in this run, more than its noise (±3.0 %)"),
        ([100] * 3, [130] * 3, "what was fastest in the search was 30.0 % slower in the comparison"),
        ([100] * 3, [102] * 3, "the best found was 2.0 % slower in this run, no more than its noise (±3.0 %)"),
    ],
)
def test_what_was_found_is_told_plainly(default: list[int], best: list[int], why: str) -> None:
    found = [[scaled(factor / 100) for factor in factors] for factors in (default, best)]
    assert judge("interactive", *found).why.startswith(why)


def test_what_got_worse_is_named() -> None:
    why = judge("interactive", [figures()] * 3, [figures(40, 24)] * 3).why
    assert why == "the best found was 30.7 % faster on the whole, but each further token took 20.0 % longer"


async def test_a_best_that_fails_in_the_comparison_is_not_taken() -> None:
    seen = 0

    def speed(settings: EngineSettings) -> Figures:
        nonlocal seen
        seen += 1
        if settings.threads == 3 and seen > 6:
            raise SpeedNotMeasured("it crashed")
        return scaled(0.7 if settings.threads == 3 else 1.0)

    chosen, evidence = await Machine(speed).search().run()
    assert (chosen, evidence.why) == ({}, "the comparison at the end failed: it crashed")


async def test_a_default_that_can_not_be_measured_ends_the_search() -> None:
    def speed(_: EngineSettings) -> Figures:
        raise SpeedNotMeasured("the worker ended")

    with pytest.raises(SpeedNotMeasured, match="the worker ended"):
        await Machine(speed).search().run()


async def test_what_there_is_no_time_for_is_told_and_the_comparison_comes_all_the_same() -> None:
    machine = Machine(lambda settings: scaled(0.7 if settings.threads == 8 else 1.0))
    chosen, evidence = await machine.search(seconds=25).run()  # the default and one value
    assert chosen == {"threads": 8}
    assert evidence.left_out == ("threads = 3", "cpu_pinning = off", "precision = f32")
    assert machine.now == 80


def test_interactive_counts_first_token_and_stream_alike_and_throughput_all_streams() -> None:
    assert cost("interactive", figures(50, 20)) == cost("interactive", figures(100, 10))
    assert cost("throughput", figures(1, 1, 50)) < cost("throughput", figures(1000, 100, 40))


@pytest.mark.parametrize(
    ("best", "wins"),
    [
        ([scaled(0.9)] * 3, True),
        ([scaled(0.98)] * 3, False),  # within what two runs of the same differ by
        ([scaled(0.6), scaled(0.9), scaled(1.2)], False),  # its own rounds lie far apart
        ([figures(40, 24)] * 3, False),  # the first token sooner, but the stream slower than noise
        ([figures(40, 20)] * 3, True),
        ([scaled(1.3)] * 3, False),
    ],
)
def test_only_a_gain_above_noise_wins(best: list[Figures], wins: bool) -> None:
    assert judge("interactive", [scaled(1.0)] * 3, best).wins is wins


def test_a_noisy_default_asks_for_a_greater_gain() -> None:
    assert not judge("throughput", [scaled(0.8), scaled(1.0), scaled(1.2)], [scaled(0.9)] * 3).wins


def tried(found: list[Dimension]) -> dict[str, tuple[object, ...]]:
    return {one.setting: one.values for one in found}


def test_what_is_tried_follows_from_the_host_and_the_model() -> None:
    values = tried(dimensions("interactive", DEFAULT, CPU, {64, 128}, ()))
    assert set(values) == set(TUNABLE)
    assert values["threads"] == (8, 3, 2)
    assert values["dynamic_quantization_group_size"] == ("32",)
    assert values["precision"] == ("f32",)
    small = Cpu(cores_physical=1, cores_usable=1, flags=frozenset({"amx_bf16"}))
    values = tried(dimensions("throughput", DEFAULT, small, {32}, ()))
    assert values == {
        "max_num_batched_tokens": (96, 128), "kv_cache_precision": ("f16",), "precision": ("f32", "bf16"),
    }  # fmt: skip


def test_what_the_operator_has_set_is_not_tried() -> None:
    explicit = {f"engine.{name}" for name in TUNABLE}
    assert dimensions("interactive", DEFAULT, CPU, {64}, explicit) == []
    assert "threads" not in tried(dimensions("interactive", DEFAULT, CPU, {64}, {"engine.threads"}))
