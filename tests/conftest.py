"""Fixtures of all suites: a daemon with the fake engine, and the real SmolLM2, pulled once for each machine."""

import hashlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import platformdirs
import pytest

from appliance.engine.ipc import Load
from appliance.models.store import Store
from appliance.types import ServedModel
from tests.support.daemon import Appliance, running, settings

SMOLLM2 = "smollm2-135m-instruct"
PULL_TIMEOUT_S = 600
ROOT = Path(__file__).parent.parent
CATALOG = ROOT / "models/catalog.toml"  # what decides the bytes of an import
CONVERSION = ROOT / "appliance/engine/genai/importing.py"


@pytest.fixture
async def appliance() -> AsyncIterator[Appliance]:
    """A ready daemon with the fake engine and default settings."""
    async with running(settings()) as started:
        await started.ready()
        yield started


@pytest.fixture(scope="session")
def smollm2_store() -> Path:
    """A model store with SmolLM2 in it: pulled by the product itself, kept in the user's cache for the next run."""
    made_by = hashlib.sha256(CATALOG.read_bytes() + CONVERSION.read_bytes()).hexdigest()[:16]
    directory = platformdirs.user_cache_path("appliance-tests") / made_by
    directory.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"APPLIANCE__MODELS__DIRECTORY": str(directory)}
    command = [sys.executable, "-m", "appliance", "models", "pull", SMOLLM2]
    done = subprocess.run(command, env=environment, timeout=PULL_TIMEOUT_S, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return directory


@pytest.fixture(scope="session")
def smollm2(smollm2_store: Path) -> ServedModel:
    """The real model, as a daemon is given it."""
    from appliance.cli.serve import served_model

    return served_model(Store(smollm2_store).choose([SMOLLM2]))


@pytest.fixture(scope="session")
def real_load(smollm2: ServedModel) -> Load:
    """What a worker is told to load the real model with continuous batching."""
    return Load(
        pipeline="continuous_batching",
        directory=smollm2.directory,
        eos_token_ids=smollm2.eos_token_ids,
        threads=0,
        precision="auto",
        kv_cache_tokens=8192,
        max_num_batched_tokens=128,
        max_running_requests=8,
    )
