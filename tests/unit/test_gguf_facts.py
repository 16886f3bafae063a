"""What a header says of the model: what is taken over, what is refused with the way out."""

from pathlib import Path

import numpy as np
import pytest

from appliance.models.gguf.facts import read_facts
from appliance.models.gguf.header import HeaderError
from tests.support.gguf import QWEN, Entry, floats, make_gguf, tiny_model


def changed(**changes: Entry) -> dict[str, Entry]:
    return QWEN | {name.replace("__", "."): value for name, value in changes.items()}


def test_what_the_file_says_is_taken_over(tmp_path: Path) -> None:
    metadata = changed(general__languages=["en", "de"])
    matrix = ("Q8_0", (32, 64), bytes(64 * 34))
    tensors = {"token_embd.weight": matrix, "a": ("Q4_0", (32, 2), bytes(36)), "norm": floats(np.ones(32, np.float32))}
    facts = read_facts(make_gguf(tmp_path / "m.gguf", metadata, tensors))
    assert facts.architecture == "qwen2"
    assert facts.name == "Tiny Qwen 0.1B Instruct"
    assert facts.licence == "Apache-2.0"
    assert facts.languages == ("en", "de")
    assert facts.context_tokens == 4096
    assert facts.parameters == 32 * 64 + 32 * 2 + 32
    assert facts.f16_bytes == 2 * (32 * 64 + 32 * 2) + 4 * 32
    assert facts.matrix_types == ("Q8_0", "Q4_0")
    assert facts.eos_tokens == ("<|im_end|>",)


def test_a_name_can_not_steer_a_terminal(tmp_path: Path) -> None:
    name = "\x1b[31mred\nnew\x07line\x9b" + "x" * 500
    facts = read_facts(tiny_model(tmp_path / "m.gguf", changed(general__name=name)))
    assert facts.name.isprintable()
    assert len(facts.name) == 200


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"general__architecture": "gemma3"},
            "architecture 'gemma3' is none that .*models import DIRECTORY",
        ),
        ({"general__architecture": 7}, "architecture '' is none"),
        (
            {"tokenizer__ggml__model": "llama"},
            r"tokenizer 'llama' is none that .*'edge-chat-appliance\[export\]'",
        ),
        ({"qwen2__rope__scaling__type": "yarn"}, "RoPE"),
        ({"split__count": 3}, "join them with llama-gguf-split"),
        ({"tokenizer__chat_template": ""}, "no chat template"),
        ({"qwen2__context_length": 0}, r"qwen2\.context_length is 0"),
        ({"qwen2__context_length": 2**31}, r"qwen2\.context_length is 2147483648"),
    ],
)
def test_what_can_not_be_built_is_refused_with_the_way_out(
    changes: dict[str, Entry], said: str, tmp_path: Path
) -> None:
    with pytest.raises(HeaderError, match=said) as caught:
        read_facts(tiny_model(tmp_path / "m.gguf", changed(**changes)))
    assert "\n" not in str(caught.value)


def test_frequencies_of_its_own_are_refused(tmp_path: Path) -> None:
    """As Llama 3.2 has: GenAI would leave them out, and the answers would get worse with each token."""
    ones = floats(np.ones(32, np.float32))
    with pytest.raises(HeaderError, match="RoPE"):
        read_facts(make_gguf(tmp_path / "m.gguf", QWEN, {"rope_freqs.weight": ones}))


def test_a_type_without_dequantization_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HeaderError, match="tensor 't' is I32, which can't be dequantized"):
        read_facts(make_gguf(tmp_path / "m.gguf", QWEN, {"t": ("I32", (8, 2), bytes(64))}))
