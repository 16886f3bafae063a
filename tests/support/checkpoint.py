"""Checkpoints made for tests: small ones whose files pass for a model's, and a real one out of a Qwen GGUF."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
CARD = "---\nlicense: apache-2.0\nlanguage:\n- en\n- zh\ntags: [chat]\n---\n# Tiny\n"
PLAIN_PARTS = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""A layer's tensors in a GGUF, and in a checkpoint."""
QWEN_PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Qwen2 cuts text before it looks for tokens; a GGUF only names that."""
CONTROL, USER_DEFINED = 3, 4  # of tokenizer.ggml.token_type

Data = tuple[str, tuple[int, ...], bytes]
"""Type, shape and bytes of a tensor."""


def make_safetensors(file: Path, tensors: Mapping[str, Data], *, header: bytes | None = None) -> Path:
    """Write a file of weights, with another `header` than the right one where a test wants that."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, (kind, shape, content) in tensors.items():
        entries[name] = {"dtype": kind, "shape": shape, "data_offsets": [at, at + len(content)]}
        at += len(content)
    text = json.dumps(entries).encode() if header is None else header
    with file.open("wb") as target:
        target.write(len(text).to_bytes(8, "little") + text)
        for _, _, content in tensors.values():
            target.write(content)
    return file


def half(values: Any) -> Data:
    """An F16 tensor."""
    return "F16", tuple(values.shape), values.astype("<f2").tobytes()


def write_json(file: Path, content: object) -> None:
    file.write_text(json.dumps(content), "utf-8")


def tiny_checkpoint(directory: Path) -> Path:
    """A directory whose small files pass for those of a model; nothing can be made of it."""
    directory.mkdir()
    write_json(
        directory / "config.json",
        {"model_type": "qwen2", "max_position_embeddings": 4096, "eos_token_id": 2, "torch_dtype": "float16"},
    )
    write_json(
        directory / "generation_config.json",
        {"temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.1, "eos_token_id": [2, 3]},
    )
    added = [(2, "<|im_end|>", True), (3, "<|endoftext|>", True), (4, "<tool>", False)]
    write_json(
        directory / "tokenizer.json",
        {"added_tokens": [{"id": number, "content": token, "special": own} for number, token, own in added]},
    )
    write_json(directory / "tokenizer_config.json", {"chat_template": TEMPLATE})
    (directory / "README.md").write_text(CARD, "utf-8")
    tensors = {"model.embed_tokens.weight": half(np.ones((4, 32))), "model.norm.weight": half(np.ones(32))}
    make_safetensors(directory / "model.safetensors", tensors)
    return directory


def qwen_checkpoint(gguf_file: Path, directory: Path, *, layers: int | None = None) -> Path:
    """The checkpoint that a Qwen2 GGUF could have been made of, with F16 weights. Needs the export extra.

    `layers`: only so many, for what need not make sense; None for all.
    """
    from gguf import GGUFReader, dequantize

    directory.mkdir()
    reader = GGUFReader(gguf_file)
    _write_tokenizer(reader, directory)
    stored = {tensor.name: tensor for tensor in reader.tensors}
    tensors: dict[str, Data] = {}
    for name, tensor in stored.items():
        beyond = layers is not None and name.startswith("blk.") and int(name.split(".")[1]) >= layers
        if name == "output.weight" or beyond:
            continue
        # Tied: the better copy of the two stands for both, as in the other way to import it.
        best = stored.get("output.weight", tensor) if name == "token_embd.weight" else tensor
        tensors[_plain_name(name)] = half(dequantize(best.data, best.tensor_type))
    config = _config(reader, rows=tensors["model.embed_tokens.weight"][1][0])
    write_json(directory / "config.json", config | ({"num_hidden_layers": layers} if layers else {}))
    write_json(
        directory / "generation_config.json",
        {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.1},
    )
    make_safetensors(directory / "model.safetensors", tensors)
    return directory


def _plain_name(name: str) -> str:
    if name in ("token_embd.weight", "output_norm.weight"):
        return {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}[name]
    found = re.fullmatch(r"blk\.(\d+)\.(\w+)\.(weight|bias)", name)
    assert found is not None, name
    return f"model.layers.{found[1]}.{PLAIN_PARTS[found[2]]}.{found[3]}"


def _value(reader: Any, key: str) -> Any:
    return reader.fields[key].contents()


def _config(reader: Any, rows: int) -> dict[str, object]:
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_act": "silu",
        "hidden_size": _value(reader, "qwen2.embedding_length"),
        "intermediate_size": _value(reader, "qwen2.feed_forward_length"),
        "num_hidden_layers": _value(reader, "qwen2.block_count"),
        "num_attention_heads": _value(reader, "qwen2.attention.head_count"),
        "num_key_value_heads": _value(reader, "qwen2.attention.head_count_kv"),
        "max_position_embeddings": _value(reader, "qwen2.context_length"),
        "rms_norm_eps": _value(reader, "qwen2.attention.layer_norm_rms_epsilon"),
        "rope_theta": _value(reader, "qwen2.rope.freq_base"),
        "tie_word_embeddings": True,
        "torch_dtype": "float16",
        "vocab_size": rows,
        "eos_token_id": _value(reader, "tokenizer.ggml.eos_token_id"),
    }


def _write_tokenizer(reader: Any, directory: Path) -> None:
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    tokens = _value(reader, "tokenizer.ggml.tokens")
    kinds = _value(reader, "tokenizer.ggml.token_type")
    merges = [tuple(pair.split(" ")) for pair in _value(reader, "tokenizer.ggml.merges")]
    plain = {token: number for number, (token, kind) in enumerate(zip(tokens, kinds, strict=True)) if kind == 1}
    tokenizer = Tokenizer(models.BPE(vocab=plain, merges=merges))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    for number, (token, kind) in enumerate(zip(tokens, kinds, strict=True)):
        if kind in (CONTROL, USER_DEFINED):
            tokenizer.add_tokens([AddedToken(token, special=kind == CONTROL, normalized=False)])
            assert tokenizer.token_to_id(token) == number
    tokenizer.save(str(directory / "tokenizer.json"))
    write_json(
        directory / "tokenizer_config.json",
        {
            "tokenizer_class": "Qwen2Tokenizer",
            "chat_template": _value(reader, "tokenizer.chat_template"),
            "eos_token": tokens[_value(reader, "tokenizer.ggml.eos_token_id")],
            "pad_token": "<|endoftext|>",
            "model_max_length": _value(reader, "qwen2.context_length"),
            "clean_up_tokenization_spaces": False,
        },
    )
