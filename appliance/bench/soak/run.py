"""One soak from its first to its last client: what is done when, and when it is enough. Knows no terminal, no file."""

import asyncio
import itertools
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Protocol
from urllib.parse import urlsplit

from msgspec import Struct

from appliance.bench.errors import ServerUnreadable
from appliance.bench.server import Observer
from appliance.bench.soak.behaviours import (
    DEADLINE_S,
    GRACE_S,
    Behaviour,
    World,
    bad_message,
    cancel,
    disconnect,
    ordinary,
    slow_reader,
)
from appliance.bench.soak.checking import Findings
from appliance.bench.soak.fill import fill_kv_cache
from appliance.bench.soak.peer import Door, Gone, Refused
from appliance.bench.soak.report import WARM_S, Snapshot, SoakReport, find_problems, snapshot
from appliance.client.address import Address, parse_address
from appliance.client.tls import open_session

OBSERVE_S = 1.0
HISTORY_MAX = 600  # snapshots in a report
UNREADABLE_MAX = 10  # scrapes in a row that may fail
SETTLE_S = 30.0  # for the daemon to notice that everybody has left
BEHAVIOUR_TIMEOUT_S = 3 * (DEADLINE_S + GRACE_S)  # longer than any of them takes
PAUSE_S = 0.2  # after a connection was refused
LOOPBACK_CLIENTS = 8  # 127.0.0.1 and so on, each a client of its own to the server


class Churn(Struct, frozen=True):
    """How often a behaviour begins, and how many may be under way at once."""

    behaviour: Behaviour
    per_s: float
    """Infinite: again as soon as one ends."""
    at_once: int


# Open connections stay below 40, of the 64 that one address may have.
CHURN = (
    Churn(disconnect, 10.0, 16),
    Churn(cancel, 2.0, 6),
    Churn(bad_message, 2.0, 4),
    Churn(slow_reader, float("inf"), 2),
    Churn(ordinary, float("inf"), 3),
)


class SoakPlan(Struct, frozen=True, kw_only=True):
    """What to do."""

    url: str | Address
    minutes: float
    seed: int


class Progress(Protocol):
    """Told how far a soak is."""

    def stage(self, text: str) -> None:
        """What is done now."""


async def soak(plan: SoakPlan, progress: Progress) -> SoakReport:
    """Churn for the time of the plan, let everybody leave, and judge. The appliance must have no other clients.

    Raises BadAddress, and ServerUnreadable where the server is none, is not ready, or stops answering.
    """
    findings = Findings()
    world = World(_doors(parse_address(plan.url)), findings, plan.seed, itertools.count())
    async with open_session(parse_address(plan.url)) as session:
        observer = Observer(session, plan.url)
        server = await observer.server()
        if not server.ready:
            raise ServerUnreadable(f"the appliance is not ready ({server.reason}); try again when /readyz says so")
        watch = _Watch(observer, plan.minutes * 60, findings, progress)
        progress.stage("filling the KV cache")
        await fill_kv_cache(world, server)
        await _one_answer(world)
        idle = await watch.settled()
        await _churn(world, plan, watch)
        progress.stage("waiting for the daemon to settle")
        await watch.settled()
        await _one_answer(world)
        end = await watch.settled()
    warm = watch.warm
    return SoakReport(
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        url=parse_address(plan.url).shown,
        server=server,
        seed=plan.seed,
        minutes=plan.minutes,
        idle=idle,
        warm=warm,
        end=end,
        history=watch.history,
        counts=dict(sorted(findings.counts.items())),
        errors=dict(sorted(findings.errors.items())),
        violations=findings.violations,
        violation_count=findings.violation_count,
        problems=find_problems(idle, warm, end, findings),
    )


class _Watch:
    """Looks at the daemon from time to time."""

    def __init__(self, observer: Observer, duration_s: float, findings: Findings, progress: Progress) -> None:
        self._observer = observer
        self._duration_s = duration_s
        self._findings = findings
        self._progress = progress
        self._began = time.monotonic()
        self._every_s = max(OBSERVE_S, duration_s / HISTORY_MAX)
        self.history: list[Snapshot] = []

    def begin(self) -> None:
        self._began = time.monotonic()

    @property
    def over(self) -> bool:
        return time.monotonic() - self._began >= self._duration_s

    @property
    def warm(self) -> Snapshot:
        """The last one within WARM_S, or half the time."""
        until_s = min(WARM_S, self._duration_s / 2)
        return [shot for shot in self.history if shot.at_s <= until_s][-1]

    async def run(self) -> None:
        """Until the soak is over. Raises ServerUnreadable where the daemon no longer answers."""
        unreadable = 0
        while not self.over:
            try:
                shot = snapshot(await self._observer.metrics(), time.monotonic() - self._began)
            except ServerUnreadable:
                unreadable += 1
                if unreadable >= UNREADABLE_MAX or not self.history:
                    raise
            else:
                unreadable = 0
                self.history.append(shot)
                self._tell(shot)
            await asyncio.sleep(self._every_s)

    def _tell(self, shot: Snapshot) -> None:
        counts = self._findings.counts
        self._progress.stage(
            f"soaking, {shot.at_s:.0f} of {self._duration_s:.0f} s: {counts['disconnects']} disconnects, "
            f"{counts['whole answers']} whole answers, {self._findings.violation_count} violations"
        )

    async def settled(self) -> Snapshot:
        """The daemon once it is idle, or after SETTLE_S."""
        until = time.monotonic() + SETTLE_S
        while True:
            shot = snapshot(await self._observer.metrics(), time.monotonic() - self._began)
            if shot.idle or time.monotonic() >= until:
                return shot
            await asyncio.sleep(PAUSE_S)


async def _churn(world: World, plan: SoakPlan, watch: _Watch) -> None:
    """All behaviours side by side until the time is over; those under way are waited for."""
    watch.begin()
    with _errors_of_the_group():
        async with asyncio.TaskGroup() as group:
            group.create_task(watch.run())
            for number, churn in enumerate(CHURN):
                rng = random.Random(f"{plan.seed}/{number}")
                if churn.per_s == float("inf"):
                    for _ in range(churn.at_once):
                        group.create_task(_again_and_again(world, churn, random.Random(rng.random()), watch))
                else:
                    group.create_task(_at_a_rate(world, churn, rng, watch))


async def _again_and_again(world: World, churn: Churn, rng: random.Random, watch: _Watch) -> None:
    while not watch.over:
        await _guarded(world, churn.behaviour, rng)


async def _at_a_rate(world: World, churn: Churn, rng: random.Random, watch: _Watch) -> None:
    """Begin `per_s` a second, unless `at_once` are still under way."""
    free = asyncio.Semaphore(churn.at_once)

    async def one(own: random.Random) -> None:
        try:
            await _guarded(world, churn.behaviour, own)
        finally:
            free.release()

    due = time.monotonic()
    async with asyncio.TaskGroup() as group:
        while not watch.over:
            await free.acquire()
            group.create_task(one(random.Random(rng.random())))
            due = max(due + rng.uniform(0.5, 1.5) / churn.per_s, time.monotonic() - 1)
            await asyncio.sleep(max(0.0, due - time.monotonic()))


async def _guarded(world: World, behaviour: Behaviour, rng: random.Random) -> None:
    """One client, whatever becomes of it."""
    name = behaviour.__name__.replace("_", " ")
    findings = world.findings
    try:
        async with asyncio.timeout(BEHAVIOUR_TIMEOUT_S):
            await behaviour(world, rng)
    except Refused as refused:
        findings.errors[f"connect: {refused.code}"] += 1
        await asyncio.sleep(PAUSE_S)
    except Gone as gone:
        findings.violation(f"{name}: the server closed the connection with {gone.code}")
    except TimeoutError:
        findings.violation(f"{name}: what was due did not come in time")


async def _one_answer(world: World) -> None:
    """Have the engine make a few steps, so that what it says of itself is of now."""
    await _guarded(world, ordinary, random.Random(world.seed))


def _doors(address: Address) -> list[Door]:
    """On loopback as several clients, so that fairness and the bounds of one client are met too."""
    host = urlsplit(address.url).hostname or ""
    try:
        loopback = ip_address(host).is_loopback and ip_address(host).version == 4
    except ValueError:
        loopback = False
    if not loopback:
        return [Door(address)]
    return [Door(address, f"127.0.0.{number}") for number in range(1, LOOPBACK_CLIENTS + 1)]


@contextmanager
def _errors_of_the_group() -> Iterator[None]:
    """The one error that ends a soak, out of the group that it comes in."""
    try:
        yield
    except ExceptionGroup as group:
        unreadable, others = group.split(ServerUnreadable)
        if unreadable is None or others is not None:
            raise
        raise unreadable.exceptions[0] from None
