"""A whole measurement: every kind at every concurrency, one after another. Knows no terminal and no file."""

import asyncio
import random
import secrets
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Protocol

from msgspec import Struct

from appliance.bench.errors import NothingAnswered, ServerUnreadable
from appliance.bench.host import describe_host
from appliance.bench.load import run_level
from appliance.bench.results import Result, Run
from appliance.bench.roofline import roofline
from appliance.bench.samples import Level, Sample
from appliance.bench.server import Observer, Server, is_this_host
from appliance.bench.websocket import open_targets
from appliance.bench.workload import Kind, Workload
from appliance.client.address import Address, parse_address
from appliance.client.tls import open_session


class Plan(Struct, frozen=True, kw_only=True):
    """What to measure."""

    url: str | Address
    kinds: Sequence[Kind]
    concurrency: Sequence[int]
    prompt_tokens: int
    output_tokens: int
    shared_prefix: float
    think_s: float
    requests: int | None
    """Of each client, at each level."""
    duration_s: float | None
    """Of each level."""
    warm_up: int
    seed: int

    @property
    def levels(self) -> int:
        """How many there are to measure."""
        return len(self.kinds) * len(self.concurrency)


class Progress(Protocol):
    """Told how far a measurement is, from its event loop."""

    def stage(self, text: str) -> None:
        """What is done now."""

    def sample(self, sample: Sample) -> None:
        """A request that counts has ended."""

    def level(self, level: Level) -> None:
        """A level was measured."""


def new_seed() -> int:
    """For a measurement that names none: other texts than any before, so that no prefix cache knows them."""
    return secrets.randbelow(1 << 31)


def level_seed(seed: int, number: int) -> int:
    """The seed of level `number`: else each level would ask what the one before has left in the prefix cache."""
    return random.Random(f"{seed}/{number}").getrandbits(31)


async def measure(plan: Plan, progress: Progress) -> Result:
    """Measure all levels of `plan`.

    Raises BadAddress and ConnectFailed where nobody is there, ServerUnreadable where it is no appliance or one that
    is not ready, NothingAnswered where all requests failed.
    """
    progress.stage("connecting")
    server = await _server(plan.url)
    same_host = await asyncio.to_thread(is_this_host, plan.url)
    progress.stage("measuring memory bandwidth")  # before the load: both would be wrong together
    host = await asyncio.to_thread(describe_host)
    runs = []
    for number, (kind, concurrency) in enumerate((k, c) for k in plan.kinds for c in plan.concurrency):
        progress.stage(f"{kind}, {concurrency} {'client' if concurrency == 1 else 'clients'}")
        run = await _run(plan, kind, concurrency, number, progress.sample)
        progress.level(run.level)
        runs.append(run)
    levels = [run.level for run in runs]
    if not any(level.requests > level.failed for level in levels):
        codes = ", ".join(sorted({code for level in levels for code in level.errors})) or "nothing was asked"
        raise NothingAnswered(f"no request was answered: {codes}")
    return Result(
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        url=parse_address(plan.url).shown,
        same_host=same_host,
        host=host,
        server=server,
        seed=plan.seed,
        runs=runs,
        roofline=roofline(server, host, levels, same_host=same_host),
    )


async def _server(url: str | Address) -> Server:
    """What answers at `url`, seen to speak the protocol."""
    async with open_targets(url, 1), open_session(parse_address(url)) as session:
        server = await Observer(session, url).server()
    if not server.ready:
        raise ServerUnreadable(f"the appliance is not ready ({server.reason}); try again when /readyz says so")
    return server


async def _run(plan: Plan, kind: Kind, concurrency: int, number: int, on_sample: Callable[[Sample], None]) -> Run:
    workload = Workload(
        kind=kind,
        prompt_tokens=plan.prompt_tokens,
        output_tokens=plan.output_tokens,
        shared_prefix=plan.shared_prefix,
        think_s=plan.think_s,
        seed=level_seed(plan.seed, number),
    )
    async with open_targets(plan.url, concurrency) as target_for:
        level, samples = await run_level(
            target_for,
            workload,
            concurrency,
            requests=plan.requests,
            duration_s=plan.duration_s,
            warm_up=plan.warm_up,
            on_sample=on_sample,
        )
    return Run(
        workload=workload,
        warm_up=plan.warm_up,
        requests=plan.requests,
        duration_s=plan.duration_s,
        level=level,
        samples=samples,
    )
