"""A calibrated recipe on a real model: SmolLM2 quantized as an operator does it, asked, interrupted."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from appliance.models.store import Store
from tests.importing.test_import_gguf import answer, elements, environment, import_file

pytestmark = [pytest.mark.model, pytest.mark.timeout(900)]

F16_BYTES = 2 * 134_515_008
RECIPE = """
description = "a little of everything"
mode = "int4_asym"
group_size = 64
embedding = "int8_asym"
lm_head = "int4_asym"
awq = true
scale_estimation = true

[[layers]]
match = ["*.self_attn.k_proj", "*.self_attn.v_proj"]
mode = "int8_asym"

[[layers]]
match = ["layers.-1.mlp.down_proj", "lm_head"]
group_size = 32

[calibration]
samples = 24
tokens = 96
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    file = tmp_path / "everything.toml"
    file.write_text(RECIPE, "utf-8")
    return file


async def test_a_calibrated_recipe_makes_a_model_that_knows_paris(
    smollm2_gguf: Path, recipe: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    done = import_file(store, str(smollm2_gguf), "--id", "small", "--recipe", str(recipe))
    assert done.status == 0, done.stderr
    for step in ("reading calibration text", "AWQ", "estimating scales", "writing integers"):
        assert f"small: {step}\n" in done.stderr
    model = Store(store).choose(["small"])
    assert model.manifest.recipe == "everything"
    assert model.manifest.quantization.startswith("everything of Q4_1, Q8_0: INT4 asymmetric group 64")
    assert elements(model.directory, r"49152, 576") == ["u8"]  # the embedding
    assert elements(model.directory, r"49152, 18, 32") == ["u4"]  # the output matrix, in a copy of its own
    assert elements(model.directory, r"192, 576") == ["u8"] * 60  # keys and values of thirty layers
    assert elements(model.directory, r"576, 48, 32") == ["u4"]  # the last down projection
    assert elements(model.directory, r"576, 24, 64") == ["u4"] * 29
    assert "Paris" in await answer(store, "small")


def test_an_interrupt_while_it_reads_leaves_nothing(smollm2_gguf: Path, recipe: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    command = [sys.executable, "-m", "appliance", "models", "import", str(smollm2_gguf), "--recipe", str(recipe)]
    with subprocess.Popen(command, env=environment(store), stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "reading calibration text" in line:
                break
        children = psutil.Process(process.pid).children(recursive=True)
        assert children
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
        assert process.wait(30) == 128 + signal.SIGTERM, rest
    assert "no half model is left" in rest
    assert [entry.name for entry in store.iterdir()] == [".lock"]
    assert psutil.wait_procs(children, timeout=10)[1] == []


def test_a_pattern_that_means_nothing_is_told_in_one_line(smollm2_gguf: Path, recipe: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    recipe.write_text(RECIPE.replace("*.self_attn.k_proj", "*.attention.wk").replace("samples = 24", "samples = 8"))
    done = import_file(store, str(smollm2_gguf), "--recipe", str(recipe))
    assert done.status == 1
    last = done.stderr.splitlines()[-1]
    assert re.search(r"recipe everything: '\*\.attention\.wk' means no matrix of this model, which has ", last)
    assert "layers.0.self_attn.k_proj" in last
    assert [entry.name for entry in store.iterdir()] == [".lock"]
