"""Soaks of a few seconds: a sound daemon passes, one that leaks does not."""

import asyncio
import itertools
import random
from pathlib import Path

import msgspec
import pytest

from appliance.bench.errors import ServerUnreadable
from appliance.bench.soak import SoakPlan, SoakReport, run, soak
from appliance.bench.soak.bad_messages import BAD_MESSAGES
from appliance.bench.soak.behaviours import World, bad_message
from appliance.bench.soak.checking import Findings
from appliance.bench.soak.peer import Door
from appliance.client.address import parse_address
from tests.integration.test_bench import bench
from tests.support.daemon import Appliance, running, settings

SECONDS = 4.0
PLAN_MINUTES = SECONDS / 60


class Quiet:
    """Progress that nobody sees."""

    def stage(self, text: str) -> None: ...


class Soaking(Quiet):
    """Tells that the churn has begun."""

    def __init__(self) -> None:
        self.soaking = asyncio.Event()

    def stage(self, text: str) -> None:
        if text.startswith("soaking"):
            self.soaking.set()


async def test_a_sound_daemon_survives_its_clients(appliance: Appliance) -> None:
    report = await soak(SoakPlan(url=appliance.url, minutes=PLAN_MINUTES, seed=1), Quiet())
    assert report.problems == []
    assert report.violations == []
    assert report.counts["disconnects"] > 8
    assert report.counts["whole answers"] > 0
    assert sum(count for name, count in report.counts.items() if name.startswith("cancels")) > 0
    assert report.end.idle
    assert report.history


async def test_the_command_tells_and_keeps_what_it_found(appliance: Appliance, tmp_path: Path) -> None:
    file = tmp_path / "soak.json"
    status, out, err = await bench(
        tmp_path, "--url", appliance.url, "--soak", "0.05", "--seed", "9", "--json", str(file)
    )
    report = msgspec.json.decode(file.read_bytes(), type=SoakReport)
    assert status == (1 if report.problems else 0), err
    assert report.seed == 9
    assert "whole answers" in out


async def test_what_is_left_behind_is_found(appliance: Appliance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "SETTLE_S", 1.0)
    began = Soaking()
    task = asyncio.create_task(soak(SoakPlan(url=appliance.url, minutes=PLAN_MINUTES, seed=1), began))
    await asyncio.wait_for(began.soaking.wait(), 30)
    async with appliance.connect() as peer:  # a client that does not leave, as a leak would look
        await peer.chat("r1", "on fake:step-ms=20", params={"max_tokens": 4000})
        reading = asyncio.create_task(peer.until("done"))
        report = await asyncio.wait_for(task, 60)
        reading.cancel()
    found = " ".join(report.problems)
    assert "leaked: 1 requests running" in found
    assert "leaked: 1 connections" in found
    assert "leaked KV blocks" in found


async def test_every_bad_message_gets_the_error_that_it_deserves(appliance: Appliance) -> None:
    for number, bad in enumerate(BAD_MESSAGES):
        findings = Findings()
        world = World([Door(parse_address(appliance.url))], findings, 1, itertools.count(number))
        rng = random.Random(number)
        # Chance is what chooses among the messages: here each has its turn.
        rng.choice = lambda options, chosen=bad: chosen if chosen in options else options[0]  # type: ignore[method-assign, misc]
        await bad_message(world, rng)
        assert findings.violations == [], bad.name


async def test_a_daemon_that_goes_away_ends_the_soak() -> None:
    began = Soaking()
    async with running(settings()) as appliance:
        await appliance.ready()
        task = asyncio.create_task(soak(SoakPlan(url=appliance.url, minutes=1, seed=1), began))
        await asyncio.wait_for(began.soaking.wait(), 30)
    with pytest.raises(ServerUnreadable):
        await asyncio.wait_for(task, 60)
