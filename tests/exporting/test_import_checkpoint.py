"""The real thing: safetensors by way of optimum-intel to INT4, and asked. Left out where the extra is not installed."""

import asyncio
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from appliance.engine.genai.importing import open_tokenizer
from appliance.models.store import Store
from tests.importing.test_import_gguf import answer, environment
from tests.support.checkpoint import qwen_checkpoint

LONG_PROMPT_TOKENS = 20_000  # more than GenAI's own tokenizers of GGUF files cut at


def is_installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


pytestmark = [
    pytest.mark.model,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(not is_installed("optimum-intel"), reason="pip install '.[export]' has not been run here"),
]


async def test_qwen_safetensors_become_int4_and_know_paris(qwen_gguf: Path, tmp_path: Path) -> None:
    checkpoint = await asyncio.to_thread(qwen_checkpoint, qwen_gguf, tmp_path / "Qwen2.5-Coder-0.5B-Instruct")
    (checkpoint / "modeling_qwen2.py").write_text("raise SystemExit('code of the model was run')", "utf-8")
    store = tmp_path / "store"
    command = [sys.executable, "-m", "appliance", "models", "import", str(checkpoint), "--id", "qwen"]
    home = {"HOME": str(tmp_path / "home"), "XDG_CACHE_HOME": str(tmp_path / "home")}
    done = await asyncio.to_thread(
        subprocess.run, command, env=environment(store) | home, capture_output=True, text=True, timeout=1000
    )
    assert done.returncode == 0, done.stderr
    model = Store(store).choose(["qwen"])
    assert model.manifest.quantization.startswith("int4-asym-g64 of F16: INT4 asymmetric group 64 (358 M weights)")
    assert model.manifest.parameters == 494_032_768
    assert len(model.manifest.eos_token_ids) == 2
    assert not any((tmp_path / "home").rglob("*"))  # nothing is cached where nobody looks
    encode, _ = open_tokenizer(model.directory)
    assert len(encode("a b " * (LONG_PROMPT_TOKENS // 2))) >= LONG_PROMPT_TOKENS
    assert "KV_CACHE_PRECISION" not in (model.directory / "openvino_model.xml").read_text("utf-8")
    assert "Paris" in await answer(store, "qwen")
