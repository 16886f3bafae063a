"""Has the engine use its whole KV cache once, so that what grows afterwards is no cache that fills. Keeps no time."""

import asyncio
import random
from collections.abc import Iterator

from appliance.bench.load import PAUSE_MAX_S, PAUSE_S
from appliance.bench.server import Server
from appliance.bench.soak.behaviours import DEADLINE_S, GRACE_S, World
from appliance.bench.soak.peer import Gone, Refused, open_peer
from appliance.bench.workload import LEAST_PROMPT_TOKENS
from appliance.protocol.websocket import Done

CLIENTS = 4
PROMPT_TOKENS = 1000
TIMEOUT_S = 300.0  # what is not filled by then fills during the soak
SURPLUS = 1.1  # prompts are a little shorter or longer than wanted


async def fill_kv_cache(world: World, server: Server) -> None:
    """Ask as many prompt tokens as the cache holds; where prefixes are cached, each of them takes a block of its own.

    Nothing is done where the server does not tell the cache's size, or has no real one.
    """
    tokens = server.engine.settings.get("kv_cache_tokens")
    context = server.model.context_tokens
    if not isinstance(tokens, int) or context is None or server.engine.pipeline != "continuous_batching":
        return
    size = max(LEAST_PROMPT_TOKENS["free"], min(PROMPT_TOKENS, tokens // CLIENTS, context // CLIENTS))
    left = iter(range(int(tokens * SURPLUS / size) + 1))
    try:
        async with asyncio.timeout(TIMEOUT_S), asyncio.TaskGroup() as group:
            for number in range(CLIENTS):
                group.create_task(_ask(world, random.Random(number), left, size))
    except TimeoutError:
        world.findings.counts["filling the KV cache was cut short"] += 1


async def _ask(world: World, rng: random.Random, left: Iterator[int], size: int) -> None:
    for _ in left:
        try:
            async with open_peer(world.door(rng), world.findings, "filling") as peer:
                await peer.chat("r", world.prompt(size), 1, DEADLINE_S)
                end = await peer.until_end("r", DEADLINE_S + GRACE_S)
                await peer.close()
            if isinstance(end, Done):
                world.findings.counts["prompts that filled the KV cache"] += 1
            else:
                await asyncio.sleep(min(PAUSE_MAX_S, end.retry_after_s or PAUSE_S))
        except Refused as refused:
            world.findings.errors[f"connect: {refused.code}"] += 1
            await asyncio.sleep(PAUSE_S)
        except Gone as gone:
            world.findings.violation(f"filling: the server closed the connection with {gone.code}")
