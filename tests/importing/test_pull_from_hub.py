"""The real thing: a model out of the hub on this host, cut on the way, to INT4, and asked."""

import asyncio
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from appliance.models.store import Store
from tests.importing.test_import_gguf import answer
from tests.support.hub import COMMIT, REPOSITORY, Hub

pytestmark = [pytest.mark.model, pytest.mark.timeout(600)]

FILE_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
CATALOG = f"""
[[model]]
id = "small"
title = "SmolLM2 135M Instruct"
licence = "Apache-2.0"
languages = ["en"]
parameters = 134_515_008
context_tokens = 8_192
installed_bytes = 98_000_000
eos_tokens = ["<|im_end|>", "<|endoftext|>"]
generation = {{ temperature = 0.2, top_p = 0.9, top_k = 50, repetition_penalty = 1.0 }}

  [[model.source]]
  kind = "hub"
  repository = "{REPOSITORY}"
  file = "{FILE_NAME}"
  quantization = "Q4_1"
"""


def pull(config: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "appliance", "models", "pull", "small", "--config", str(config)]
    return subprocess.run(command, env=dict(os.environ), capture_output=True, text=True, timeout=500)


async def test_smollm2_out_of_a_hub_that_breaks_off_is_quantized_and_knows_paris(
    hub: Hub, smollm2_gguf: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    config = tmp_path / "appliance.toml"
    config.write_text(f'[models]\ndirectory = "{store}"\n', "utf-8")
    (tmp_path / "catalog.toml").write_text(CATALOG, "utf-8")
    content = await asyncio.to_thread(smollm2_gguf.read_bytes)
    hub.files = {FILE_NAME: content}
    hub.will("file", hub.cut(50_000_000))

    pulled = pull(config)
    assert pulled.returncode == 0, pulled.stderr
    sha256 = hashlib.sha256(content).hexdigest()
    assert f"small: the catalog knows no digest; this one was seen: {sha256}" in pulled.stderr
    assert [asked != "" for asked in hub.ranges()] == [False, True]
    assert sorted(entry.name for entry in store.iterdir()) == [".lock", "small"]

    manifest = Store(store).choose(["small"]).manifest
    source = manifest.source
    assert (source.kind, source.name, source.revision) == ("hub", REPOSITORY, COMMIT)
    assert (source.file, source.sha256, manifest.licence) == (FILE_NAME, sha256, "Apache-2.0")
    assert manifest.quantization.startswith("int4-mixed of Q4_1: INT4 asymmetric group 64 (113 M weights)")
    assert "Paris" in await answer(store, "small")
    assert "is installed" in pull(config).stdout
    assert len(hub.ranges()) == 2
