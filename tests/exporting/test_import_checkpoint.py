"""The real thing: safetensors, of a hub and of a directory, by way of optimum-intel to INT4, and asked.

Left out where the extra is not installed, but not in CI.
"""

import asyncio
import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from appliance.engine.genai.importing import open_tokenizer
from appliance.models.recipes import DEFAULT_RECIPE
from appliance.models.store import Installed, Store
from tests.importing.test_import_gguf import answer
from tests.support.checkpoint import qwen_checkpoint
from tests.support.hub import COMMIT, REPOSITORY, Hub

LONG_PROMPT_TOKENS = 20_000  # more than GenAI's own tokenizers of GGUF files cut at
CATALOG = f"""
[[model]]
id = "qwen"
title = "Qwen2.5 0.5B Instruct"
licence = "Apache-2.0"
languages = ["zh", "en"]
parameters = 494_032_768
context_tokens = 32_768
installed_bytes = 340_000_000
eos_tokens = ["<|im_end|>", "<|endoftext|>"]
generation = {{ temperature = 0.7, top_p = 0.8, top_k = 20, repetition_penalty = 1.1 }}

  [[model.source]]
  kind = "hub-checkpoint"
  repository = "{REPOSITORY}"
  quantization = "F16"
"""


def is_installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


pytestmark = [
    pytest.mark.model,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(
        not is_installed("optimum-intel") and os.environ.get("CI") != "true",
        reason="no exporter is installed here: deploy/bootstrap.sh export",
    ),
]


def run(tmp_path: Path, *arguments: str) -> Installed:
    """The model that `appliance models …` installed; nothing is cached where nobody looks."""
    config, home = tmp_path / "appliance.toml", tmp_path / "home"
    # The hub here has to read a gigabyte before its first answer.
    config.write_text(f'[models]\ndirectory = "{tmp_path}/store"\nsource_timeout_s = 60\n', "utf-8")
    (tmp_path / "catalog.toml").write_text(CATALOG, "utf-8")
    command = [sys.executable, "-m", "appliance", "models", *arguments, "--config", str(config)]
    environ = {**os.environ, "HOME": str(home), "XDG_CACHE_HOME": str(home)}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=1000)
    assert done.returncode == 0, done.stderr
    assert not any(home.rglob("*"))
    model = Store(tmp_path / "store").choose(["qwen"])
    assert "KV_CACHE_PRECISION" not in (model.directory / "openvino_model.xml").read_text("utf-8")
    encode, _ = open_tokenizer(model.directory)
    assert len(encode("a b " * (LONG_PROMPT_TOKENS // 2))) >= LONG_PROMPT_TOKENS
    return model


async def test_qwen_safetensors_out_of_a_hub_become_int4_and_know_paris(
    qwen_gguf: Path, hub: Hub, tmp_path: Path
) -> None:
    checkpoint = await asyncio.to_thread(qwen_checkpoint, qwen_gguf, tmp_path / "checkpoint")
    hub.files = {file.name: file.read_bytes() for file in sorted(checkpoint.iterdir())}
    hub.in_git = {name for name in hub.files if name.endswith(".json")}
    hub.will("file", hub.cut(500_000_000))
    model = await asyncio.to_thread(run, tmp_path, "pull", "qwen", "--route", "export")
    assert [asked != "" for asked in hub.ranges()] == [False, True]
    source = model.manifest.source
    assert (source.kind, source.name, source.revision) == ("hub-checkpoint", REPOSITORY, COMMIT)
    assert model.manifest.quantization.startswith(f"{DEFAULT_RECIPE} of F16: INT4 asymmetric group ")
    assert model.manifest.parameters == 494_032_768
    assert len(model.manifest.eos_token_ids) == 2
    assert sorted(entry.name for entry in (tmp_path / "store").iterdir()) == [".lock", "qwen"]
    assert "Paris" in await answer(tmp_path / "store", "qwen")


def test_a_directory_is_exported_and_no_code_of_it_is_run(qwen_gguf: Path, tmp_path: Path) -> None:
    checkpoint = qwen_checkpoint(qwen_gguf, tmp_path / "Qwen2.5-Coder-0.5B-Instruct", layers=2)
    (checkpoint / "modeling_qwen2.py").write_text("raise SystemExit('code of the model was run')", "utf-8")
    model = run(tmp_path, "import", str(checkpoint), "--id", "qwen", "--recipe", "int4-asym-g64")
    assert model.manifest.source.kind == "checkpoint"
    assert model.manifest.recipe == "int4-asym-g64"
    assert "INT4 asymmetric group 64 (30 M weights)" in model.manifest.quantization
