"""The same short measurement of this host's own appliance each time; gives way to clients. Knows no history."""

import asyncio
import os
import time
from datetime import UTC, datetime

from msgspec import Struct

from appliance.bench.errors import GaveWay, NothingAnswered, ServerUnreadable
from appliance.bench.load import run_level
from appliance.bench.measure import Progress, new_seed
from appliance.bench.samples import Level
from appliance.bench.server import Metrics, Observer, Server, is_this_host
from appliance.bench.websocket import open_targets
from appliance.bench.workload import Workload
from appliance.client.address import Address, parse_address
from appliance.client.tls import open_session
from appliance.observability.host import cpu_info, cpu_throttle_count
from appliance.observability.self_benchmark import Figures, Fingerprint, SelfBenchmark

LIMIT_S = 100.0  # of all of it: a host that is slower than that has other troubles
REQUESTS = 5  # whose median counts
WARM_UP = 1
PROMPT_TOKENS = 128
OUTPUT_TOKENS = 64
WATCH_S = 0.5  # between looks at whether anybody else is there


class _Before(Struct, frozen=True):
    """How things stood before the first question."""

    server: Server
    ended: float
    throttled: int | None
    load_average: float


async def measure_self(url: str | Address, progress: Progress) -> SelfBenchmark:
    """Ask the appliance at `url`, which is one of this host, one thing after another, and return what was measured.

    Raises GaveWay where clients are active, come meanwhile, or it is not ready; BadAddress and ConnectFailed where
    nobody is there, ServerUnreadable where it is no appliance or none of this host, NothingAnswered where requests
    failed, or LIMIT_S were over.
    """
    address = parse_address(url)
    if not await asyncio.to_thread(is_this_host, address):
        raise ServerUnreadable(f"{address.shown} is another machine; a self-benchmark is of the host that it runs on")
    began = time.perf_counter()
    try:
        async with asyncio.timeout(LIMIT_S), open_session(address) as session:
            observer = Observer(session, address)
            before = await _before(observer)
            progress.stage("measuring this host's own speed")
            level = await _level(address, observer, progress)
            await _require_undisturbed(observer, before)
    except TimeoutError:
        raise NothingAnswered(f"not measured within {LIMIT_S:g} s; see /v1/status and the log") from None
    progress.level(level)
    return await asyncio.to_thread(_record, before, level, time.perf_counter() - began)


async def _before(observer: Observer) -> _Before:
    server = await observer.server()
    if not server.ready:
        raise GaveWay(f"not measured: the appliance is not ready ({server.reason})")
    await _require_idle(observer, own=0)
    metrics = await observer.metrics()
    throttled = await asyncio.to_thread(cpu_throttle_count)
    return _Before(server, _ended(metrics), throttled, os.getloadavg()[0])


async def _level(address: Address, observer: Observer, progress: Progress) -> Level:
    """One stream's requests; left at once where somebody else comes."""
    workload = Workload(kind="free", prompt_tokens=PROMPT_TOKENS, output_tokens=OUTPUT_TOKENS, seed=new_seed())
    async with open_targets(address, 1) as target_for:
        measuring = asyncio.create_task(
            run_level(
                target_for, workload, 1, requests=REQUESTS, duration_s=None, warm_up=WARM_UP, on_sample=progress.sample
            )
        )
        watching = asyncio.create_task(_watch(observer))
        try:
            await asyncio.wait({measuring, watching}, return_when=asyncio.FIRST_COMPLETED)
            if watching.done():
                watching.result()  # raises
            level, _ = await measuring
        finally:
            for task in (measuring, watching):
                task.cancel()
            await asyncio.gather(measuring, watching, return_exceptions=True)
    if level.failed:
        raise NothingAnswered(f"not measured: {level.failed} of {level.requests} requests failed: {_codes(level)}")
    return level


async def _watch(observer: Observer) -> None:
    while True:
        await asyncio.sleep(WATCH_S)
        await _require_idle(observer, own=1)


async def _require_idle(observer: Observer, *, own: int) -> None:
    """Raises GaveWay where more than `own` requests run or wait."""
    load = await observer.load()
    others = load.running + load.waiting - own
    if others > 0:
        raise GaveWay(f"not measured: clients are active ({others} requests run or wait); try again when they are not")


async def _require_undisturbed(observer: Observer, before: _Before) -> None:
    """Raises GaveWay where more has ended, or answered, than was asked here."""
    server = await observer.server()
    ended = _ended(await observer.metrics()) - before.ended
    if ended != WARM_UP + REQUESTS:
        raise GaveWay("not measured: another client was answered meanwhile, or the appliance was restarted")
    if server.model.digest != before.server.model.digest:
        raise GaveWay("not measured: the model was changed meanwhile")


def _record(before: _Before, level: Level, took_s: float) -> SelfBenchmark:
    """What is kept of it. Reads files. Raises NothingAnswered where answers were too short to tell a speed."""
    if level.tpot_ms is None or level.ttft_ms is None or not level.tpot_ms.p50 or not level.ttft_ms.p50:
        raise NothingAnswered("not measured: the answers were too short to tell a speed")
    server = before.server
    throttled = cpu_throttle_count()
    return SelfBenchmark(
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        took_s=round(took_s, 1),
        fingerprint=Fingerprint(
            cpu_model=cpu_info().get("model name", ""),
            cores_usable=len(os.sched_getaffinity(0)),
            isa_cap=server.engine.isa_cap or "",
            appliance=server.version,
            engine=server.engine.versions or {},
            pipeline=server.engine.pipeline,
            model=server.model.id,
            digest=server.model.digest,
        ),
        figures=Figures(tokens_per_s=1000 / level.tpot_ms.p50, ttft_ms=level.ttft_ms.p50),
        requests=level.requests,
        tokens=level.tokens,
        throttled=None if throttled is None or before.throttled is None else throttled - before.throttled,
        load_average=before.load_average,
        engine_settings=server.engine.settings,
    )


def _ended(metrics: Metrics) -> float:
    return sum(metrics.by_label("appliance_requests_total", "outcome").values())


def _codes(level: Level) -> str:
    return ", ".join(f"{code} ({count})" for code, count in level.errors.items())
