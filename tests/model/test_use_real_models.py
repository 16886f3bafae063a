"""`use` with real weights: SmolLM2 takes over from SmolLM2, and what its weights turned to noise say is refused."""

import asyncio
import contextlib
import errno
import os
import random
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from appliance.errors import ApplianceError
from appliance.models.choosing import Choice
from appliance.models.manifest import MANIFEST_NAME, encode_manifest, sealed
from appliance.models.served import served_model
from appliance.models.slots import read_slots, slot_of
from appliance.models.store import Installed, Store
from appliance.models.verification import file_record
from tests.conftest import SMOLLM2
from tests.support.daemon import Appliance, running, settings, until

pytestmark = pytest.mark.model

WEIGHTS = "openvino_model.bin"


@pytest.fixture
def store(smollm2_store: Path, tmp_path: Path) -> Store:
    """SmolLM2 under two ids; files are links, so that it costs nothing."""
    store = Store(tmp_path / "models")
    model = Store(smollm2_store).choose([SMOLLM2])
    for model_id in ("first", "second"):
        place(store, model, model_id, model.directory)
    return store


def place(store: Store, model: Installed, model_id: str, files: Path) -> Installed:
    """`files` as the model `model_id`, with a manifest that fits them."""
    records = {name: file_record(files / name) for name in model.manifest.files}
    manifest = sealed(msgspec.structs.replace(model.manifest, id=model_id, files=records))
    directory = store.directory / model_id / manifest.directory_name
    shutil.copytree(files, directory, copy_function=link_or_copy)
    (directory / MANIFEST_NAME).unlink()
    (directory / MANIFEST_NAME).write_bytes(encode_manifest(manifest))
    return Installed(directory, manifest)


def link_or_copy(source: str, target: str) -> None:
    """Debian 13 has /tmp in memory, where no file of the cache can be linked to."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        shutil.copy2(source, target)


@contextlib.asynccontextmanager
async def serving(store: Store) -> AsyncIterator[Appliance]:
    choice = Choice(store, ["first"])
    model = served_model(await asyncio.to_thread(choice.first, lambda _: None))
    engine = {"pipeline": "continuous_batching", "kv_cache_tokens": 2048}
    models = {"min_speed_ratio": 0}  # whatever else this machine does
    async with running(settings(engine=engine, models=models), model, choice) as appliance:
        await until(lambda: appliance.daemon.engine.state == "ready", 90)
        yield appliance


async def ask(appliance: Appliance) -> tuple[str, str]:
    """An answer, and the model that gave it."""
    async with appliance.connect() as peer:
        await peer.chat("r1", "What is the capital of France?", params={"max_tokens": 12, "temperature": 0})
        text, done = await peer.answer("r1")
        return text, done["model"]


async def test_a_real_model_takes_over_beside_answers_under_way(store: Store) -> None:
    async with serving(store) as appliance, appliance.connect() as peer:
        before, name = await ask(appliance)
        assert ("Paris" in before, name) == (True, "first")
        await peer.chat("long", "Tell me a long story.", params={"max_tokens": 200, "temperature": 0})
        await peer.until("delta")
        assert appliance.daemon.switching is not None
        switched = await appliance.daemon.switching.use("second")
        assert (switched.outcome, (switched.tokens_per_s or 0) > 0) == ("switched", True)
        assert await ask(appliance) == (before, "second")
        done = (await peer.until("done"))[-1]
        assert done["model"] == "first"
        await appliance.daemon.switching.use(None)
        assert await ask(appliance) == (before, "first")


async def test_weights_of_noise_are_refused_by_the_canary(store: Store, tmp_path: Path) -> None:
    first = store.choose(["first"])
    broken = tmp_path / "broken"
    shutil.copytree(first.directory, broken)
    size = (broken / WEIGHTS).stat().st_size
    noise = random.Random(1)  # of sound numbers, so that only the answer can tell
    with (broken / WEIGHTS).open("r+b") as weights:
        for _ in range(400):
            weights.seek(noise.randrange(size // 4, size - 20_000))
            weights.write(noise.randbytes(16_384))
    bad = place(store, first, "noise", broken)
    async with serving(store) as appliance:
        assert appliance.daemon.switching is not None
        with pytest.raises(ApplianceError) as caught:
            await appliance.daemon.switching.use("noise")
        print(caught.value)
        last = appliance.daemon.switching.last
        assert last is not None
        assert (last.model, last.outcome) == (str(slot_of(bad.manifest)), "failed")
        assert await ask(appliance) == (await ask(appliance))
        assert (await ask(appliance))[1] == "first"
    assert read_slots(store.directory).current is None
