"""The same model with F16 matrices, tensor by tensor: what GenAI reads whatever the file was quantized to.

The metadata are copied as they are, so nothing of tokenizer or chat template can get lost. Reads with our own header
reader: gguf's trusts what a header claims, and takes 0.5 GB and 8 s for a vocabulary of 150,000 tokens.
"""

import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import gguf
import numpy as np
import numpy.typing as npt

from appliance.models.gguf.ggml import NUMBERS, TYPES, Ggml
from appliance.models.gguf.header import MAGIC, Header, HeaderError, Tensor

ALIGNMENT = 32
CHUNK_ELEMENTS = 1 << 22  # 16 MiB as F32; the embedding alone has 136 M
FILE_TYPE_KEY = struct.pack("<Q", 17) + b"general.file_type" + struct.pack("<I", 4)
FILE_TYPE = struct.pack("<I", 7)  # "mostly Q8_0": of "mostly F16" GenAI writes an IR that asks for a KV cache in F16

Floats = npt.NDArray[np.float32]
Chunks = Iterator[Floats]


def dequantized(file: IO[bytes], tensor: Tensor, rows: int | None = None) -> Chunks:
    """The tensor's rows, or its first `rows`, as arrays [some rows, row length] of F32.

    Raises HeaderError for a type that can't be dequantized.
    """
    row = tensor.shape[0]
    row_bytes = row // tensor.ggml.block * tensor.ggml.size_bytes
    left = tensor.elements // row if rows is None else min(rows, tensor.elements // row)
    file.seek(tensor.offset)
    while left:
        count = min(left, max(1, CHUNK_ELEMENTS // row))
        data = np.frombuffer(file.read(count * row_bytes), np.uint8)
        yield _dequantize(data.reshape(count, row_bytes), tensor)
        left -= count


def _dequantize(data: npt.NDArray[np.uint8], tensor: Tensor) -> Floats:
    number = gguf.GGMLQuantizationType(NUMBERS[tensor.ggml.name])
    try:
        values: Floats = gguf.quants.dequantize(data, number)
    except NotImplementedError:
        raise HeaderError(f"tensor {tensor.name!r} is {tensor.ggml.name}, which can't be dequantized") from None
    return values.reshape(len(data), tensor.shape[0])


def rewrite(source: Path, header: Header, target: Path, on_bytes: Callable[[int], None]) -> int:
    """Write `target` with every matrix of `header` as F16 and every vector as F32; returns the number of weights.

    `header.tensors` decides which tensors are written, under which names. `on_bytes` hears of each piece that is
    done. Raises HeaderError for values that F16 can't hold, OSError.
    """
    with source.open("rb") as content, target.open("wb") as out:
        out.write(_described(content, header))
        for tensor in header.tensors:
            out.write(bytes(-out.tell() % ALIGNMENT))
            for values in dequantized(content, tensor):
                on_bytes(out.write(_encoded(values, tensor)))
    return sum(tensor.elements for tensor in header.tensors)


def output_bytes(tensor: Tensor) -> int:
    """What the tensor takes in a rewritten file."""
    return tensor.elements * _kept(tensor).size_bytes


def _kept(tensor: Tensor) -> Ggml:
    return TYPES[NUMBERS["F32" if len(tensor.shape) == 1 else "F16"]]


def _encoded(values: Floats, tensor: Tensor) -> bytes:
    if _kept(tensor).name == "F32":
        return values.astype("<f4").tobytes()
    with np.errstate(over="ignore"):
        halves = values.astype("<f2")
    if not np.isfinite(halves).all():
        raise HeaderError(f"tensor {tensor.name!r} holds values that are not finite, or too large for F16")
    return halves.tobytes()


def _described(content: IO[bytes], header: Header) -> bytes:
    """The header of the rewritten file, and the padding after it."""
    begin, end = header.metadata_span
    content.seek(begin)
    before, key, after = content.read(end - begin).partition(FILE_TYPE_KEY)
    metadata = before + FILE_TYPE_KEY + FILE_TYPE + after[4:]  # without such an entry it becomes the last one
    entries = header.entries + (0 if key else 1)
    parts = [MAGIC, struct.pack("<IQQ", 3, len(header.tensors), entries), metadata]
    offset = 0
    for tensor in header.tensors:
        name = tensor.name.encode()
        parts.append(struct.pack("<Q", len(name)) + name)
        parts.append(struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape))
        parts.append(struct.pack("<IQ", NUMBERS[_kept(tensor).name], offset))
        offset += -(-output_bytes(tensor) // ALIGNMENT) * ALIGNMENT
    described = b"".join(parts)
    return described + bytes(-len(described) % ALIGNMENT)
