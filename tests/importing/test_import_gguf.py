"""The real thing: GGUF files imported as an operator does it, by way of F16 to INT4, and asked."""

import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from appliance.models.served import served_model
from appliance.models.store import Store
from tests.support.daemon import running, settings
from tests.support.interrupting import interrupted_while_converting

pytestmark = [pytest.mark.model, pytest.mark.timeout(600)]

QUESTION = "What is the capital of France?"
SAMPLE_S = 0.05


class Imported(NamedTuple):
    status: int
    stderr: str
    peak_bytes: int
    """Of the hungriest child; pages of mapped files, which the kernel can drop, do not count."""


def import_file(store: Path, *arguments: str) -> Imported:
    """`appliance models import`, watched."""
    command = [sys.executable, "-m", "appliance", "models", "import", *arguments]
    log = store.with_name("log")
    with log.open("w") as output:
        ended = psutil.Popen(command, env=environment(store), stdout=output, stderr=output)
        peak = 0
        while ended.poll() is None:
            peak = max([peak, *(private_bytes(child) for child in ended.children(recursive=True))])
            time.sleep(SAMPLE_S)
    return Imported(ended.returncode, log.read_text("utf-8"), peak)


def environment(store: Path) -> dict[str, str]:
    return {**os.environ, "APPLIANCE__MODELS__DIRECTORY": str(store)}


def private_bytes(process: psutil.Process) -> int:
    try:
        memory = process.memory_info()
    except psutil.Error:
        return 0
    return int(memory.rss - memory.shared)


async def answer(store: Path, model_id: str) -> str:
    model = served_model(Store(store).choose([model_id]))
    async with running(settings(engine={"pipeline": "continuous_batching"}), model) as appliance:
        await appliance.ready()
        async with appliance.connect() as peer:
            await peer.chat("r1", QUESTION, params={"temperature": 0, "max_tokens": 40})
            text, done = await peer.answer("r1")
            assert done["type"] == "done", done
            return text


def elements(directory: Path, shape: str) -> list[str]:
    ir = (directory / "openvino_model.xml").read_text("utf-8")
    return re.findall(rf'<data element_type="(\w+)" shape="{shape}"', ir)


async def test_smollm2_is_quantized_anew_and_knows_paris(smollm2_gguf: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    done = import_file(store, str(smollm2_gguf), "--id", "small")
    assert done.status == 0, done.stderr
    model = Store(store).choose(["small"])
    assert model.manifest.quantization.startswith(
        "int4-mixed of Q4_1, Q8_0: INT4 asymmetric group 64 (113 M weights), INT8 asymmetric per channel (49 M weights)"
    )
    assert model.manifest.parameters == 134_515_008
    assert model.manifest.licence == "Apache-2.0"
    assert elements(model.directory, r"\d+, \d+, 64").count("u4") == 116  # of 211
    assert "KV_CACHE_PRECISION" not in (model.directory / "openvino_model.xml").read_text("utf-8")
    assert "Paris" in await answer(store, "small")

    again = import_file(store, str(smollm2_gguf), "--id", "small", "--force")
    assert "imported again with the same result" in again.stderr
    assert sorted(entry.name for entry in store.iterdir()) == [".lock", "small"]


def test_a_quantization_can_be_kept(smollm2_gguf: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    before = smollm2_gguf.stat().st_mtime_ns
    done = import_file(store, str(smollm2_gguf), "--keep-quantization")
    assert done.status == 0, done.stderr
    manifest = Store(store).choose(["smollm2-135m-instruct"]).manifest
    assert manifest.quantization.startswith("Q4_1, Q8_0 as in the GGUF: INT4 asymmetric group 32 (106 M weights)")
    assert manifest.recipe == ""
    assert smollm2_gguf.stat().st_mtime_ns == before


def test_an_interrupted_import_leaves_nothing(smollm2_gguf: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    command = [sys.executable, "-m", "appliance", "models", "import", str(smollm2_gguf)]
    status, rest = interrupted_while_converting(command, environment(store), signal.SIGTERM)
    assert status == 128 + signal.SIGTERM, rest
    assert "no half model is left" in rest
    assert [entry.name for entry in store.iterdir()] == [".lock"]


async def test_a_qwen_whose_types_genai_refuses_is_imported_in_bounded_memory(qwen_gguf: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    done = import_file(store, str(qwen_gguf), "--id", "qwen")
    assert done.status == 0, done.stderr
    assert "embedding and output matrix are one" in done.stderr
    model = Store(store).choose(["qwen"])
    parameters = model.manifest.parameters
    assert parameters == 494_032_768
    assert done.peak_bytes < 3 * 2 * parameters
    assert model.manifest.size_bytes < 440_000_000
    found = elements(model.directory, r"\d+, \d+, 64")
    assert set(found) == {"u4"}
    assert len(found) == 92  # of 169: four in each of twenty-four layers, less five down projections, and the next
    assert elements(model.directory, "151936, 14, 64") == ["u4"]  # the output matrix
    assert elements(model.directory, "151936, 896") == ["u8"]  # the embedding
    assert "Paris" in await answer(store, "qwen")
