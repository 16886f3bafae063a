"""The real thing: quantizations of SmolLM2 beside its own F16, as `appliance models measure` compares them."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from appliance.models.importers.unquantized import convert_f16
from appliance.models.progress import Silent
from appliance.models.recipes import Recipe
from tests.support.interrupting import interrupted_while_converting

pytestmark = [pytest.mark.model, pytest.mark.timeout(600)]

HELD_OUT = Path(__file__).parents[1] / "support" / "held_out.jsonl"
FINE = Recipe(description="fine", mode="int4_asym", group_size=32)
COARSE = Recipe(description="coarse", mode="int4_sym", group_size=128, all_layers=True)


@pytest.fixture(scope="module")
def f16(smollm2_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2's weights, as its GGUF has them, with F16 matrices."""
    directory = tmp_path_factory.mktemp("f16") / "model"
    directory.mkdir()
    convert_f16(smollm2_gguf, directory, "smollm2", Silent())
    return directory


@pytest.fixture(scope="module")
def quantized(f16: Path) -> dict[str, Path]:
    """The same by two recipes."""
    made = {}
    for recipe in (FINE, COARSE):
        made[recipe.description] = Path(shutil.copytree(f16, f16.with_name(recipe.description)))
        order = msgspec.json.encode(recipe).decode()
        step = ["-m", "appliance.models.steps", "compress", "--", str(made[recipe.description]), order, "400000000"]
        done = subprocess.run([sys.executable, *step], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return made


def environment(scratch: Path) -> dict[str, str]:
    scratch.mkdir(exist_ok=True)
    return {**os.environ, "APPLIANCE__MODELS__DIRECTORY": str(scratch / "none"), "TMPDIR": str(scratch)}


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "appliance", "models", "measure", *map(str, arguments), "--text", str(HELD_OUT)]


def measure(tmp_path: Path, *arguments: object) -> dict[str, dict[str, Any]]:
    """The artefacts of the file that --json writes, by name; that the scratch directory is empty again is seen to."""
    file = tmp_path / "found.json"
    scratch = tmp_path / "scratch"
    done = subprocess.run(
        [*command(*arguments), "--json", str(file)], env=environment(scratch), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert list(scratch.iterdir()) == []
    return {one["name"]: one for one in json.loads(file.read_bytes())["artefacts"]}


def test_a_coarser_quantization_is_farther_away(f16: Path, quantized: dict[str, Path], tmp_path: Path) -> None:
    page = tmp_path / "found.html"
    found = measure(
        tmp_path, quantized["fine"], quantized["coarse"], f16, "--reference", f16, "--no-speed", "--html", page
    )
    fine, coarse, itself = (found[name]["quality"] for name in ("fine", "coarse", "model"))
    assert 0 <= itself["mean_kl"] < 0.02  # the KV cache of an artefact is u8, the reference's is f32
    assert itself["top1_agreement_ratio"] > 0.9
    assert 5 * itself["mean_kl"] < fine["mean_kl"] < coarse["mean_kl"]
    assert fine["p99_kl"] < coarse["p99_kl"]
    assert fine["top1_agreement_ratio"] > coarse["top1_agreement_ratio"]
    assert fine["reference_perplexity"] < fine["perplexity"] < coarse["perplexity"]
    assert found["coarse"]["weights_read_bytes"] < found["fine"]["weights_read_bytes"]
    assert {part["name"] for part in found["fine"]["parts"]} == {"en", "zh", "python", "prose", "code", "chat", "json"}
    assert "<svg" in page.read_text("utf-8")


def test_a_gguf_is_measured_by_its_own_bytes_and_a_dequantized_reference_is_told(
    smollm2_gguf: Path, quantized: dict[str, Path], tmp_path: Path
) -> None:
    file = tmp_path / "found.json"
    found = measure(tmp_path, smollm2_gguf, quantized["fine"], "--reference", smollm2_gguf, "--no-speed")
    gguf = found[smollm2_gguf.name]
    assert 5 * gguf["quality"]["mean_kl"] < found["fine"]["quality"]["mean_kl"]
    assert 80e6 < gguf["weights_read_bytes"] < smollm2_gguf.stat().st_size  # 4 to 8 bits a weight, not 16
    assert gguf["speed"] is None
    (note,) = json.loads(file.read_bytes())["notes"]
    assert note.startswith("the reference is itself dequantized: smollm2.gguf holds Q4_1, Q8_0")


def test_speed_is_measured_of_what_can_be_served(f16: Path, quantized: dict[str, Path], tmp_path: Path) -> None:
    found = measure(tmp_path, quantized["fine"], "--reference", f16)
    speed = found["fine"]["speed"]
    assert speed["answers"] == 6
    assert speed["prompt_tokens"] > 150
    assert speed["ttft_ms"] > 0
    assert speed["rss_bytes"] > 100e6


def test_another_tokenizer_is_told_with_both_names(f16: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(f16, tmp_path / "other"))
    constants = other / "openvino_tokenizer.bin"
    content = constants.read_bytes()
    assert rb"\p{L}+|" in content
    constants.write_bytes(content.replace(rb"\p{L}+|", rb"\p{Lu}|"))  # another way to cut text into words
    called = command(other, "--reference", f16, "--no-speed")
    done = subprocess.run(called, env=environment(tmp_path / "scratch"), capture_output=True, text=True)
    assert done.returncode == 1
    assert "the comparison failed: other makes other tokens of sample 1 than the reference model" in done.stderr
    assert "name a reference with the tokenizer of the same model" in done.stderr


def test_an_interrupted_measurement_leaves_nothing(f16: Path, smollm2_gguf: Path, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"

    def is_used() -> None:
        assert any(scratch.iterdir())

    called = command(smollm2_gguf, "--reference", f16, "--no-speed")
    status, rest = interrupted_while_converting(called, environment(scratch), signal.SIGINT, is_used)
    assert status == 130, rest
    assert "interrupted; nothing is left" in rest
    assert list(scratch.iterdir()) == []
