"""Fixtures that several modules of this suite want: what a command finds around it."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from appliance.client.scripted import ScriptedServer, open_scripted_server
from appliance.models.store import Store


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """An empty store, which the settings name."""
    monkeypatch.setenv("APPLIANCE__MODELS__DIRECTORY", str(tmp_path / "store"))
    return Store(tmp_path / "store")


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    """A server that says what the test tells it to."""
    async with open_scripted_server() as scripted:
        yield scripted


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """An environment in which nothing of this machine's user counts."""
    return {
        "HOME": str(tmp_path),
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "INPUTRC": "/dev/null",
        "LANG": "C.UTF-8",
        "PATH": os.environ["PATH"],
        "TERM": "dumb",
    }
