"""The memory limits of the service as a drop-in for systemd, from the model that is served. Writes no file."""

from pathlib import Path
from typing import TYPE_CHECKING

from appliance.engine.limits import MemoryLimits, memory_limits
from appliance.engine.memory import MIB, MemoryBudget, memory_budget
from appliance.errors import ConfigError
from appliance.models.choosing import resolve
from appliance.models.store import Installed, Store
from appliance.models.using import served_without_daemon
from appliance.observability.memory import memory_limit_bytes

if TYPE_CHECKING:
    from appliance.config import Settings

COMMAND = "appliance config memory"


def memory_drop_in(settings: "Settings", store: Store) -> str:
    """The text, for what a daemon would serve that started now. Raises ConfigError where that is no model."""
    if settings.engine.pipeline == "fake":
        raise ConfigError("engine.pipeline = fake: it takes next to no memory, and no limit is worth setting")
    slot = served_without_daemon(store, settings.models.preferred)
    model = resolve(store, str(slot)) if slot is not None else store.choose(settings.models.preferred)
    engine = settings.engine
    try:
        budget = memory_budget(model.directory, engine.kv_cache_tokens, engine.kv_cache_precision)
        machine_bytes = memory_limit_bytes(Path("/"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"the memory of {model.id} can't be told: {error}") from None
    return _text(model, budget, engine.kv_cache_tokens, memory_limits(budget.total_bytes, machine_bytes))


def _text(model: Installed, budget: MemoryBudget, kv_cache_tokens: int, limits: MemoryLimits) -> str:
    parts = [budget.weights_bytes, budget.kv_cache_bytes, budget.overhead_bytes]
    weights, cache, rest, total = (f"{-(-size // MIB):,} MiB" for size in [*parts, budget.total_bytes])
    beside = (
        "Room for a worker that takes over to warm up beside the one that answers."
        if limits.successor
        else "Room for one worker: where another takes over, requests wait until it is ready."
    )
    return f"""\
# Made by `{COMMAND}` for {model.id}@{model.directory.name}, engine.kv_cache_tokens = {kv_cache_tokens}:
# weights {weights}, KV cache {cache}, the rest {rest}: {total} at most. Make it anew when one of them changes.

[Service]
# {beside}
MemoryHigh={limits.high_bytes // MIB}M
# Beyond it the kernel ends the largest process, which is the worker; the daemon starts another.
MemoryMax={limits.max_bytes // MIB}M
# A model that is read from swap at each token is as good as stopped.
MemorySwapMax=0
"""
