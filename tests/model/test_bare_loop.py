"""The benchmark's bare pipeline, on the real SmolLM2: that it does what it is compared for."""

from pathlib import Path

import psutil
import pytest

from appliance.bench.workload import Workload
from benchmarks.contenders import Appliance, open_bare_loop
from benchmarks.errors import BenchmarkError
from benchmarks.running import WITHOUT_DRAFTS
from tests.conftest import SMOLLM2

pytestmark = pytest.mark.model


async def test_clients_share_its_steps_and_ask_again(smollm2_store: Path, tmp_path: Path) -> None:
    appliance = Appliance(smollm2_store, SMOLLM2, tmp_path, {"engine.kv_cache_tokens": 4096, **WITHOUT_DRAFTS})
    workload = Workload(kind="free", prompt_tokens=60, output_tokens=6, seed=1)
    async with open_bare_loop(appliance, tmp_path / "log") as bare:
        level, samples = await bare.measure(workload, 3, 2)
        again, _ = await bare.measure(workload, 1, 1)
    assert (level.requests, level.failed, level.tokens, again.tokens) == (6, 0, 36, 6)
    assert sorted((sample.client, sample.turn) for sample in samples) == [(c, t) for c in range(3) for t in range(2)]
    assert all(len(sample.gaps_ms) == 5 for sample in samples)  # one token a step
    first = [sample for sample in samples if sample.turn == 0]
    assert {sample.began_s for sample in first} == {0.0}


async def test_one_without_its_model_says_where_its_log_is(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="log"):
        async with open_bare_loop(Appliance(tmp_path, "absent", tmp_path), tmp_path / "log"):
            pytest.fail("there is no model")
    assert "absent" in (tmp_path / "log").read_text()
    assert not [child for child in psutil.Process().children() if "benchmarks" in " ".join(child.cmdline())]
