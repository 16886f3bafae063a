"""The engine under contract: the fake, and both real pipelines, one of them with and without drafts."""

from collections.abc import AsyncIterator

import msgspec
import pytest
import pytest_asyncio

from appliance.engine.ipc import Load
from tests.support.engine import Heard, heard

FAKE = Load(
    pipeline="fake",
    directory="",
    eos_token_ids=[],
    threads=0,
    precision="auto",
    kv_cache_tokens=8192,
    max_num_batched_tokens=128,
    max_running_requests=8,
)
PIPELINES = [
    "fake",
    pytest.param("continuous_batching", marks=pytest.mark.model),
    pytest.param("prompt_lookup", marks=pytest.mark.model),
    pytest.param("llm", marks=pytest.mark.model),
]


@pytest.fixture(scope="module", params=PIPELINES)
def load(request: pytest.FixtureRequest) -> Load:
    """What the worker is told to load."""
    if request.param == "fake":
        return FAKE
    real: Load = request.getfixturevalue("real_load")
    if request.param == "continuous_batching":
        return msgspec.structs.replace(real, watch_drafts=True)  # as with engine.prompt_lookup = "auto"
    if request.param == "prompt_lookup":
        return msgspec.structs.replace(real, pipeline="continuous_batching", prompt_lookup=True, watch_drafts=True)
    return msgspec.structs.replace(real, pipeline=request.param)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(load: Load) -> AsyncIterator[Heard]:
    """One ready engine for each pipeline, shared by the module's tests: each leaves it idle."""
    async with heard(load, changes_mode=False) as ready:
        yield ready
