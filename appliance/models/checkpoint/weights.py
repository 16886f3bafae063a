"""The headers of safetensors files, read without trusting them. Knows the form; reads no weights."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

LENGTH_BYTES = 8
MOST_HEADER_BYTES = 16 << 20  # 30 kB for 0.5 B parameters
BYTES_OF = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
"""Weights as they were trained; integers would be somebody's quantization."""


class CheckpointError(ValueError):
    """The directory holds no checkpoint that can be used; one line that says what is wrong."""


class Tensor(Struct, frozen=True):
    """One tensor of a header."""

    dtype: str
    shape: tuple[Annotated[int, Meta(ge=0, lt=1 << 48)], ...]
    data_offsets: tuple[Annotated[int, Meta(ge=0)], Annotated[int, Meta(ge=0)]]

    @property
    def elements(self) -> int:
        return prod(self.shape)


def read_tensors(files: Sequence[Path]) -> Mapping[str, Tensor]:
    """All tensors of a checkpoint by name. Raises CheckpointError, OSError."""
    tensors: dict[str, Tensor] = {}
    for file in files:
        for name, tensor in _read_header(file):
            if name in tensors:
                raise CheckpointError(f"tensor {name[:80]!a} is there twice")
            tensors[name] = tensor
    return tensors


def _read_header(file: Path) -> Iterator[tuple[str, Tensor]]:
    size_bytes = file.stat().st_size
    with file.open("rb") as content:
        length = int.from_bytes(content.read(LENGTH_BYTES), "little")
        if size_bytes < LENGTH_BYTES or length > min(MOST_HEADER_BYTES, size_bytes - LENGTH_BYTES):
            raise CheckpointError(f"{file.name} is no safetensors file, or cut short")
        text = content.read(length)
    try:
        header = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
        header.pop("__metadata__", None)
        tensors = {name: msgspec.json.decode(raw, type=Tensor) for name, raw in header.items()}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise CheckpointError(f"{file.name} is no safetensors file, or damaged") from None
    _check_spans(file.name, tensors, size_bytes - LENGTH_BYTES - length)
    yield from tensors.items()


def _check_spans(file: str, tensors: Mapping[str, Tensor], data_bytes: int) -> None:
    """Every byte of the data belongs to one tensor, which has the size of its shape."""
    for name, tensor in tensors.items():
        if tensor.dtype not in BYTES_OF:
            raise CheckpointError(
                f"tensor {name[:80]!a} is {tensor.dtype[:20]!a}: only {', '.join(BYTES_OF)} can be exported; take the "
                "model before somebody quantized it"
            )
        begin, end = tensor.data_offsets
        if end - begin != tensor.elements * BYTES_OF[tensor.dtype]:
            raise CheckpointError(f"{file} is damaged: tensor {name[:80]!a} has another size than its shape")
    spans = sorted(tensor.data_offsets for tensor in tensors.values())
    edges = [(0, 0), *spans, (data_bytes, data_bytes)]
    if any(before[1] != after[0] for before, after in pairwise(edges)):
        raise CheckpointError(f"{file} is damaged or cut short: its tensors are not all of its data")
