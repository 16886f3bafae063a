"""How much memory the daemon comes to hold when its KV cache has been used from end to end. Knows the daemon."""

from appliance.bench.workload import Workload
from benchmarks.contenders import Daemon
from benchmarks.errors import BenchmarkError
from benchmarks.measuring import Say

NAME = "memory"
CLIENTS = 8
PROMPT_TOKENS = 2100  # with these clients, twice is the default cache
MB = 1e6


async def run_memory(daemon: Daemon, kv_cache_tokens: int, seed: int, say: Say) -> dict[str, int]:
    """Resident bytes of the daemon's `front` and `worker` after `kv_cache_tokens` tokens of new prompts.

    The cache's pages are taken as they are first written, and what no request needs any more stays for the prefix
    cache, so that new prompts write all of it. Raises BenchmarkError where one of them fails.
    """
    workload = Workload(kind="free", prompt_tokens=PROMPT_TOKENS, output_tokens=2, seed=seed)
    requests = -(-kv_cache_tokens // (CLIENTS * PROMPT_TOKENS))
    level, _ = await daemon.measure(workload, CLIENTS, requests)
    if level.failed:
        raise BenchmarkError(
            f"{level.failed} of {level.requests} prompts of {PROMPT_TOKENS} tokens failed: {level.errors}"
        )
    resident = daemon.resident_bytes
    parts = ", ".join(f"{role} {size / MB:.0f} MB" for role, size in resident.items())
    say(f"{NAME}  {parts}, after {level.requests} prompts of {PROMPT_TOKENS} tokens")
    return resident
