"""One matrix that a file stores twice: the token embedding, and as output matrix with another quantization."""

from pathlib import Path

import numpy as np
from msgspec.structs import replace

from appliance.models.gguf.header import Header, Tensor
from appliance.models.gguf.rewriting import dequantized

EMBEDDING = "token_embd.weight"
OUTPUT = "output.weight"

SAMPLED_ROWS = 512
NOISE = 3.0  # two copies differ by about 1.4 × 2^-bits of their norm: 0.043 seen for Q5_0 beside Q8_0
MOST_BITS = 8  # above that what is measured is rounding to F16
MOST_DIFFERENCE_RATIO = 0.5  # whatever the bits: matrices that have nothing to do with each other differ by 1.4


def tie(file: Path, header: Header) -> Header:
    """The header with one matrix for both where the two are copies: the one that was quantized with more bits.

    GenAI ties where there is no output matrix. Untied models, and files that are tied already, are returned as they
    are. Raises HeaderError, OSError.
    """
    by_name = {tensor.name: tensor for tensor in header.tensors}
    embedding, output = by_name.get(EMBEDDING), by_name.get(OUTPUT)
    if embedding is None or output is None or embedding.shape != output.shape:
        return header
    if difference_ratio(file, embedding, output) > _limit(embedding, output):
        return header
    better = max(embedding, output, key=lambda tensor: tensor.ggml.bits)
    others = [tensor for tensor in header.tensors if tensor.name not in (EMBEDDING, OUTPUT)]
    return replace(header, tensors=(replace(better, name=EMBEDDING), *others))


def difference_ratio(file: Path, one: Tensor, other: Tensor) -> float:
    """The norm of the difference of the first rows, as a part of their own."""
    squares, difference = 0.0, 0.0
    with file.open("rb") as first, file.open("rb") as second:
        pairs = zip(dequantized(first, one, SAMPLED_ROWS), dequantized(second, other, SAMPLED_ROWS), strict=True)
        for ours, theirs in pairs:
            squares += float(np.square(ours).sum() + np.square(theirs).sum()) / 2
            difference += float(np.square(ours - theirs).sum())
    return float(np.sqrt(difference / squares)) if squares else 0.0


def _limit(one: Tensor, other: Tensor) -> float:
    bits = min(one.ggml.bits, other.ggml.bits, MOST_BITS)
    return min(MOST_DIFFERENCE_RATIO, NOISE * 2.0**-bits)
