"""When the recycler replaces a worker; with real ones: tests/contract/test_engine_recycling.py."""

import asyncio
from typing import cast

import msgspec
import pytest

from appliance.config import EngineSettings
from appliance.engine import recycling
from appliance.engine.ipc import Load
from appliance.engine.lookup_mode import LookupMode
from appliance.engine.recycling import Recycler
from appliance.engine.replacing import ReplaceReason
from appliance.engine.watched import WatchedWorker
from appliance.types import EngineStats
from tests.contract.conftest import FAKE

SLOW = EngineStats(5.0, 1, 0.1, 1000, 1000, draft_gain=0.5)


class Worker:
    """As much of one as is looked at."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.ready_for_s = 1.0


class Engine:
    """Whose old worker goes on answering while the new one gets ready."""

    def __init__(self) -> None:
        self.serving: WatchedWorker | None = cast(
            "WatchedWorker", Worker(msgspec.structs.replace(FAKE, prompt_lookup=True))
        )
        self.replaced: list[tuple[Load, ReplaceReason]] = []
        self.recycler = Recycler(self, EngineSettings(), LookupMode(drafting=True))

    async def replace(self, load: Load, reason: ReplaceReason) -> None:
        self.recycler.watch(SLOW)
        self.replaced.append((load, reason))
        self.serving = cast("WatchedWorker", Worker(load))


async def test_what_the_old_worker_says_during_a_change_is_no_reason_to_change_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recycling, "LOOK_S", 0.001)
    engine = Engine()
    engine.recycler.watch(SLOW)
    task = asyncio.create_task(engine.recycler.run(lambda: None))
    while not engine.replaced:
        await asyncio.sleep(0.001)
    for _ in range(50):
        await asyncio.sleep(0.002)
    task.cancel()
    assert [(load.prompt_lookup, reason) for load, reason in engine.replaced] == [(False, "drafts")]
