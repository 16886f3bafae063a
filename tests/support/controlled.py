"""A daemon that is a process of its own over a store of fake models, and how another is asked of it."""

import asyncio
import contextlib
import subprocess
from pathlib import Path
from typing import Any

import aiohttp

from appliance.models.fake import install_fake
from appliance.models.store import Store
from appliance.models.using import use_at_next_start
from tests.support.process import Served, run, serving


def store_of_old(home: Path) -> Store:
    """One that `old` was chosen of."""
    store = Store(home / "models")
    install_fake(store, "old")
    use_at_next_start(store, ["old"], "old")
    return store


def daemon(home: Path, store: Store, *before: str) -> contextlib.AbstractContextManager[Served]:
    """One over `store`, begun by the command `before`."""
    settings: dict[str, Any] = {
        "models__directory": store.directory,
        "models__min_speed_ratio": 0,  # the fake's speed is noise
    }
    return serving(home, "--pipeline", "fake", before=before, **settings)


def control(home: Path) -> Path:
    """Its control socket."""
    return home / "run/appliance/control.sock"


def models(home: Path, store: Store, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """`appliance models`, asked where that daemon runs."""
    return run(home, "models", *arguments, models__directory=store.directory)


async def status(url: str) -> dict[str, object]:
    """What /v1/status says."""
    async with aiohttp.ClientSession() as session, session.get(f"{url}/v1/status") as response:
        shown: dict[str, object] = await response.json()
        return shown


def served_model(served: Served) -> str:
    """Id of what it serves, as it says itself."""
    model = asyncio.run(status(served.url))["model"]
    assert isinstance(model, dict)
    return str(model["id"])
