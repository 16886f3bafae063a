"""GGUF files made for tests: honest small ones, and the pieces of dishonest ones."""

import struct
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from appliance.models.gguf.ggml import NUMBERS

ALIGNMENT = 32

Entry = int | str | float | list[str] | list[int]
Data = tuple[str, tuple[int, ...], bytes]
"""Type, shape (contiguous dimension first) and bytes of a tensor."""

QWEN: dict[str, Entry] = {
    "general.architecture": "qwen2",
    "general.name": "Tiny Qwen 0.1B Instruct",
    "general.license": "apache-2.0",
    "qwen2.context_length": 4096,
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.chat_template": "{{ messages }}",
    "tokenizer.ggml.eos_token_id": 1,
    "tokenizer.ggml.tokens": ["a", "<|im_end|>", "b"],
    "tokenizer.ggml.token_type": [1, 3, 1],
}
"""Metadata of a model that can be imported, as far as its header goes."""


def text(value: str) -> bytes:
    encoded = value.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def entry(key: str, value: Entry) -> bytes:
    if isinstance(value, str):
        return text(key) + struct.pack("<I", 8) + text(value)
    if isinstance(value, int):
        return text(key) + struct.pack("<II", 4, value)
    if isinstance(value, float):
        return text(key) + struct.pack("<If", 6, value)
    texts = value and isinstance(value[0], str)
    items = b"".join(text(str(item)) if texts else struct.pack("<i", item) for item in value)
    return text(key) + struct.pack("<IIQ", 9, 8 if texts else 5, len(value)) + items


def tensor_entry(name: str, shape: Iterable[int], kind: int, offset: int) -> bytes:
    sizes = list(shape)
    return text(name) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, kind, offset)


def make_gguf(file: Path, metadata: Mapping[str, Entry], tensors: Mapping[str, Data], version: int = 3) -> Path:
    """Write an honest file; returns it."""
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata))
    head += b"".join(entry(key, value) for key, value in metadata.items())
    data = b""
    for name, (kind, shape, content) in tensors.items():
        data += bytes(-len(data) % ALIGNMENT)
        head += tensor_entry(name, shape, NUMBERS[kind], len(data))
        data += content
    file.write_bytes(head + bytes(-len(head) % ALIGNMENT) + data)
    return file


def floats(values: "npt.NDArray[np.float32]") -> Data:
    """An F32 tensor of a matrix [rows, row length] or a vector."""
    return "F32", values.shape[::-1], values.astype("<f4").tobytes()


def quantized(values: "npt.NDArray[np.float32]", kind: str) -> Data:
    """The same as a type that the `gguf` package quantizes to, such as Q8_0."""
    import gguf

    number = gguf.GGMLQuantizationType(NUMBERS[kind])
    return kind, values.shape[::-1], gguf.quants.quantize(values.astype(np.float32), number).tobytes()


def tiny_model(file: Path, metadata: Mapping[str, Entry] | None = None) -> Path:
    """A file whose header passes for that of a model; nothing can be built of it."""
    return make_gguf(file, metadata or QWEN, {"token_embd.weight": floats(np.ones((4, 32), np.float32))})
