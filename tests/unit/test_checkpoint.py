"""Checkpoints: which files count, what they say, and what is refused. No torch."""

import hashlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from appliance.models.checkpoint import weights
from appliance.models.checkpoint.facts import read_facts
from appliance.models.checkpoint.files import checkpoint_digest, checkpoint_files, checkpoint_state, link_files
from appliance.models.checkpoint.weights import CheckpointError, read_tensors
from appliance.models.errors import ImportFailed
from appliance.models.progress import Silent
from appliance.types import GenerationDefaults
from tests.support.checkpoint import half, make_safetensors, tiny_checkpoint, write_json


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return tiny_checkpoint(tmp_path / "Tiny-Chat")


def change(file: Path, **values: Any) -> None:
    """Other values for some of a JSON file's keys; None takes a key out."""
    content = {**json.loads(file.read_text("utf-8")), **values}
    write_json(file, {key: value for key, value in content.items() if value is not None})


def test_the_facts_are_what_the_files_say(checkpoint: Path) -> None:
    facts = read_facts(checkpoint)
    assert (facts.architecture, facts.context_tokens, facts.parameters, facts.f16_bytes) == ("qwen2", 4096, 160, 320)
    assert (facts.licence, facts.languages, facts.matrix_types) == ("Apache-2.0", ("en", "zh"), ("F16",))
    assert facts.eos_tokens == ("<|im_end|>", "<|endoftext|>")
    assert facts.generation == GenerationDefaults(temperature=0.7, top_p=0.8, top_k=20, repetition_penalty=1.1)


def test_what_is_not_said_stays_open(checkpoint: Path) -> None:
    (checkpoint / "README.md").unlink()
    (checkpoint / "generation_config.json").unlink()
    facts = read_facts(checkpoint)
    assert (facts.licence, facts.languages, facts.generation) == ("", (), None)


@pytest.mark.parametrize(
    "card", ["", "# Tiny\nlicense: mit\n", "---\nlicense: mit\n", "---\nlanguage:\n- en\n\xff", "---\n---\n"]
)
def test_a_card_without_a_front_says_nothing(checkpoint: Path, card: str) -> None:
    (checkpoint / "README.md").write_bytes(card.encode("latin-1"))
    assert (read_facts(checkpoint).licence, read_facts(checkpoint).languages) == ("", ())


def test_defaults_that_this_appliance_does_not_take_are_left_open(checkpoint: Path) -> None:
    change(checkpoint / "generation_config.json", temperature=-1)
    assert read_facts(checkpoint).generation is None
    change(checkpoint / "generation_config.json", temperature=1, top_p=None, top_k=None, repetition_penalty=None)
    assert read_facts(checkpoint).generation == GenerationDefaults(
        temperature=1, top_p=1, top_k=50, repetition_penalty=1
    )


def test_a_template_in_a_file_of_its_own_counts(checkpoint: Path) -> None:
    change(checkpoint / "tokenizer_config.json", chat_template=None)
    (checkpoint / "chat_template.jinja").write_text("{{ messages }}", "utf-8")
    assert read_facts(checkpoint).architecture == "qwen2"


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"])
def test_a_file_that_is_missing_is_named(checkpoint: Path, name: str) -> None:
    (checkpoint / name).unlink()
    with pytest.raises(CheckpointError, match=name.replace("model.", r"\*.")):
        read_facts(checkpoint)


def test_pickled_weights_are_told_of(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").rename(checkpoint / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="pickled weights can run code"):
        read_facts(checkpoint)


def test_a_part_that_the_index_names_has_to_be_there(checkpoint: Path) -> None:
    write_json(checkpoint / "model.safetensors.index.json", {"weight_map": {"a": "model-00002-of-00002.safetensors"}})
    with pytest.raises(CheckpointError, match=r"it has no model-00002-of-00002.safetensors, which"):
        read_facts(checkpoint)


@pytest.mark.parametrize(
    ("file", "values", "said"),
    [
        ("config.json", {"model_type": None}, "config.json: .*model_type"),
        ("config.json", {"max_position_embeddings": None}, "max_position_embeddings is None"),
        ("config.json", {"max_position_embeddings": 2**63}, "max_position_embeddings is 9223372036854775808"),
        ("config.json", {"quantization_config": {"quant_method": "gptq"}}, "it is quantized already"),
        ("config.json", {"quantization_config": {}}, "it is quantized already"),
        ("config.json", {"eos_token_id": "x"}, "config.json: "),
        ("tokenizer_config.json", {"chat_template": None}, "no chat template"),
        ("tokenizer_config.json", {"chat_template": ""}, "no chat template"),
        ("tokenizer.json", {"added_tokens": [{"id": "x"}]}, "tokenizer.json: "),
    ],
)
def test_what_cannot_be_exported_is_told(checkpoint: Path, file: str, values: dict[str, Any], said: str) -> None:
    change(checkpoint / file, **values)
    with pytest.raises(CheckpointError, match=said):
        read_facts(checkpoint)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"[]"])
def test_what_is_no_json_is_told(checkpoint: Path, content: bytes) -> None:
    (checkpoint / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"^config.json: ") as caught:
        read_facts(checkpoint)
    assert "\n" not in str(caught.value)


MATRIX = half(np.ones((4, 8)))


def header_of(**changes: object) -> bytes:
    tensor = {"dtype": "F16", "shape": [4, 8], "data_offsets": [0, 64]}
    return json.dumps({"a": {**tensor, **changes}}).encode()


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (b"", "no safetensors file, or damaged"),
        (b"{}", "its tensors are not all of its data"),
        (b"[" * 100_000, "no safetensors file, or damaged"),
        (header_of(dtype="I8"), "'I8': only F64, F32, F16, BF16 can be exported"),
        (header_of(dtype="\x1b[31m" + "x" * 999), "only F64"),
        (header_of(shape=[4, 9]), "another size than its shape"),
        (header_of(shape=[2**47, 2**47]), "another size than its shape"),
        (header_of(shape=[2**63]), "no safetensors file, or damaged"),
        (header_of(shape=[-4, -8]), "no safetensors file, or damaged"),
        (header_of(shape=[4, 7], data_offsets=[8, 64]), "its tensors are not all of its data"),
        (header_of(shape=[4, 9], data_offsets=[0, 72]), "its tensors are not all of its data"),
        (header_of(data_offsets=[64, 0]), "another size than its shape"),
        (b'{"a": 1}', "no safetensors file, or damaged"),
    ],
)
def test_a_header_that_lies_is_refused(tmp_path: Path, header: bytes, said: str) -> None:
    file = make_safetensors(tmp_path / "model.safetensors", {"a": MATRIX}, header=header)
    with pytest.raises(CheckpointError, match=said) as caught:
        read_tensors([file])
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("length", [0, 7, 8, 20, 100])
def test_weights_that_are_cut_short_are_refused(tmp_path: Path, length: int) -> None:
    file = make_safetensors(tmp_path / "model.safetensors", {"a": MATRIX})
    os.truncate(file, length)
    with pytest.raises(CheckpointError, match=r"^model.safetensors is (no safetensors file|damaged)"):
        read_tensors([file])


def test_a_header_without_end_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "MOST_HEADER_BYTES", 10)
    file = make_safetensors(tmp_path / "model.safetensors", {"a": MATRIX})
    with pytest.raises(CheckpointError, match="no safetensors file"):
        read_tensors([file])


def test_a_tensor_is_in_one_file_only(tmp_path: Path) -> None:
    files = [make_safetensors(tmp_path / f"{part}.safetensors", {"a": MATRIX}) for part in (1, 2)]
    with pytest.raises(CheckpointError, match="'a' is there twice"):
        read_tensors(files)


def test_code_and_pickles_are_no_part_of_a_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    for name in ("modeling_tiny.py", "pytorch_model.bin", "optimizer.pt", ".gitattributes"):
        (checkpoint / name).write_text("x", "utf-8")
    (checkpoint / "original.safetensors").mkdir()
    files = checkpoint_files(checkpoint)
    expected = ["config", "generation_config", "model.safetensors", "tokenizer", "tokenizer_config"]
    assert [file.name.removesuffix(".json") for file in files] == expected
    link_files(files, tmp_path / "links")
    assert sorted(path.name for path in (tmp_path / "links").iterdir()) == [file.name for file in files]


def test_the_digest_is_that_of_what_sha256sum_prints(checkpoint: Path) -> None:
    files = checkpoint_files(checkpoint)
    names = [file.name for file in files]
    printed = subprocess.run(["sha256sum", *names], cwd=checkpoint, capture_output=True, check=True).stdout
    assert checkpoint_digest(files, "reading", Silent()) == hashlib.sha256(printed).hexdigest()


def test_a_file_that_cannot_be_read_is_named(checkpoint: Path) -> None:
    files = checkpoint_files(checkpoint)
    (checkpoint / "config.json").unlink()
    for fail in (lambda: checkpoint_digest(files, "reading", Silent()), lambda: checkpoint_state(files)):
        with pytest.raises(ImportFailed, match=r"config.json can't be read: No such file"):
            fail()
    with pytest.raises(ImportFailed, match="can't be read: No such file"):
        checkpoint_files(checkpoint / "none")
