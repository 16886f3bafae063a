"""Which values are worth a measurement here: pure arithmetic on what the host and the model are. Measures nothing.

Nothing is tried that computes more coarsely than the default does: what that does to answers is no matter of speed.
"""

from collections.abc import Collection, Mapping

from msgspec import Struct

from appliance.config import EngineSettings
from appliance.models.tuning.record import Profile, Value

BATCHED_TOKENS: Mapping[Profile, tuple[int, ...]] = {"interactive": (96, 32), "throughput": (96, 128)}
"""Bounded: a step is what a cancel waits for, and what a long prompt stalls others for."""
BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})  # without one of them bf16 is only slower


class Dimension(Struct, frozen=True):
    """One setting, and the values that are tried for it."""

    setting: str
    values: tuple[Value, ...]


class Cpu(Struct, frozen=True, kw_only=True):
    """What decides which values are worth trying."""

    cores_physical: int
    cores_usable: int
    """Logical CPUs that the process may use."""
    flags: frozenset[str]


def dimensions(
    profile: Profile,
    settings: EngineSettings,
    cpu: Cpu,
    int4_group_sizes: Collection[int],
    explicit: Collection[str],
) -> list[Dimension]:
    """What is tried, the most promising first, for there may not be time for all.

    `explicit`: "section.key" of what the operator has set, and that is left alone.
    """
    found = [
        Dimension("threads", _threads(settings, cpu)),
        Dimension("max_num_batched_tokens", BATCHED_TOKENS[profile]),
        Dimension("cpu_pinning", ("off", "on") if cpu.cores_usable > 1 else ()),
        Dimension("dynamic_quantization_group_size", _group_sizes(int4_group_sizes)),
        Dimension("kv_cache_precision", ("f16",)),
        Dimension("precision", _precisions(cpu)),
    ]
    if settings.pipeline == "llm":  # one request at a time, and its prompt in one piece
        found = [one for one in found if one.setting != "max_num_batched_tokens"]
    return [
        Dimension(one.setting, values)
        for one in found
        if f"engine.{one.setting}" not in explicit
        and (values := tuple(value for value in one.values if value != getattr(settings, one.setting)))
    ]


def _threads(settings: EngineSettings, cpu: Cpu) -> tuple[int, ...]:
    """All logical CPUs, one fewer than by default, and half: these leave slow cores and the front process out."""
    default = settings.threads or min(cpu.cores_physical, cpu.cores_usable)
    tried = (cpu.cores_usable, default - 1, default // 2)
    return tuple(dict.fromkeys(count for count in tried if count >= 1 and count != default))


def _group_sizes(int4_group_sizes: Collection[int]) -> tuple[str, ...]:
    """Finer than the default 64, where that is the default; groups that do not divide the weights' are of no use."""
    default_is_64 = bool(int4_group_sizes) and all(size % 64 == 0 for size in int4_group_sizes)
    return ("32",) if default_is_64 else ()


def _precisions(cpu: Cpu) -> tuple[str, ...]:
    """f32 is as exact as it gets; bf16 where the CPU has it, since `auto` is that there."""
    return ("f32", *(("bf16",) if cpu.flags & BF16_FLAGS else ()))
