"""What a worker takes of memory, told before it is started. Knows the IR's text and the KV cache's layout."""

import re
from pathlib import Path

from msgspec import Struct

from appliance.engine.ipc import Load
from appliance.errors import ConfigError
from appliance.observability.memory import available_memory_bytes

MIB = 1 << 20
# Measured on OpenVINO 2026.4.1 (benchmarks/README.md): weights as repacked for the CPU; those mapped from the file are
# released after the warm-up, and the kernel may take their pages at any time before. Python, OpenVINO and buffers take
# the rest.
OVERHEAD_BYTES = 320 * MIB  # of both processes
SHARE = 0.95  # of the machine's or group's memory; the rest is the kernel's and the operator's shell's
FAKE_BYTES = 64 * MIB  # a worker without a model
LEAST_TOKENS = 256  # what engine.kv_cache_tokens may be at least
ROUND_TOKENS = 1024
ELEMENT_BYTES = {"f16": 2, "bf16": 2, "f32": 4}  # of a KV cache that is not quantized

_STATE = re.compile(r'variable_id="([^"]+)"[^>]* variable_shape="\?,(\d+),\?,(\d+)"')


class MemoryBudget(Struct, frozen=True):
    """Bytes, by what they are for."""

    weights_bytes: int
    kv_cache_bytes: int
    overhead_bytes: int
    kv_bytes_per_token: int

    @property
    def total_bytes(self) -> int:
        """Everything, when the KV cache is full."""
        return self.weights_bytes + self.kv_cache_bytes + self.overhead_bytes


def kv_bytes_per_token(ir: str, precision: str = "auto") -> int:
    """Bytes of KV cache for one position, from the text of an openvino_model.xml; 0 where it has no such state.

    With u8, and `auto` is that, the CPU keeps a scale and a zero point (f32) for each 32 keys of a channel and for each
    head's values. Each state is [?, kv_heads, ?, head_dim]. Seen to be exact for SmolLM2 135M (13,680) and Qwen2.5 0.5B
    (7,296). `precision`: engine.kv_cache_precision.
    """
    shapes = {name: (int(heads), int(size)) for name, heads, size in _STATE.findall(ir)}
    if precision in ELEMENT_BYTES:
        return sum(heads * size for heads, size in shapes.values()) * ELEMENT_BYTES[precision]
    pairs = sum(heads * (size * (1 + 8 / 32) + size + 8) for heads, size in shapes.values()) / 2
    return round(pairs)


def memory_budget(directory: Path, kv_cache_tokens: int, kv_cache_precision: str = "auto") -> MemoryBudget:
    """What serving the model in `directory` takes. Raises OSError."""
    per_token = kv_bytes_per_token((directory / "openvino_model.xml").read_text("utf-8"), kv_cache_precision)
    return MemoryBudget(
        weights_bytes=(directory / "openvino_model.bin").stat().st_size,
        kv_cache_bytes=per_token * kv_cache_tokens,
        overhead_bytes=OVERHEAD_BYTES,
        kv_bytes_per_token=per_token,
    )


def require_room(budget: MemoryBudget, kv_cache_tokens: int, limit_bytes: int) -> None:
    """Raises ConfigError, naming an engine.kv_cache_tokens that would fit, where the budget passes the limit."""
    room = int(limit_bytes * SHARE)
    if budget.total_bytes <= room:
        return
    left = room - budget.weights_bytes - budget.overhead_bytes
    fits = left // max(1, budget.kv_bytes_per_token) // ROUND_TOKENS * ROUND_TOKENS
    remedy = f"{fits} would fit" if fits >= LEAST_TOKENS else "no value would fit: take a smaller model or more memory"
    raise ConfigError(
        f"engine.kv_cache_tokens = {kv_cache_tokens}: serving takes {_mib(budget.total_bytes)} "
        f"(weights {_mib(budget.weights_bytes)}, KV cache {_mib(budget.kv_cache_bytes)}, "
        f"the rest {_mib(budget.overhead_bytes)}), and this machine or control group has {_mib(limit_bytes)}; {remedy}"
    )


def require_rss_limit(budget: MemoryBudget, max_rss_bytes: int) -> None:
    """Raises ConfigError where a worker that is well would be replaced for its size; 0 is no limit."""
    if 0 < max_rss_bytes < budget.total_bytes:
        raise ConfigError(
            f"engine.max_rss_bytes = {max_rss_bytes}: a worker may take {_mib(budget.total_bytes)} when its KV cache "
            f"is full, and would be replaced for that; take {budget.total_bytes} or more, or 0 for no limit"
        )


def room_beside(load: Load, root: Path = Path("/")) -> bool:
    """Whether another worker with `load` would fit what memory is left now; False where that can't be told.

    `root`: where proc and sys are looked for. Reads files.
    """
    try:
        need = FAKE_BYTES
        if load.pipeline != "fake":
            need = memory_budget(Path(load.directory), load.kv_cache_tokens, load.kv_cache_precision).total_bytes
        return need <= available_memory_bytes(root) * SHARE
    except (OSError, ValueError):
        return False


def _mib(size_bytes: int) -> str:
    return f"{-(-size_bytes // MIB):,} MiB"
