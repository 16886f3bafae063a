"""The types of tensors in GGUF files: their numbers, names and sizes. The `gguf` package has the arithmetic."""

from typing import NamedTuple


class Ggml(NamedTuple):
    """A type: blocks of `block` elements, each of `size_bytes`."""

    name: str
    block: int
    size_bytes: int

    @property
    def bits(self) -> int:
        """Whole bits for each weight, scales included: 4 for Q4_0, 8 for Q8_0."""
        return self.size_bytes * 8 // self.block


# By the number in the file. A copy, so that headers can be read where the quantize extra is not installed.
TYPES = {
    0: Ggml("F32", 1, 4),
    1: Ggml("F16", 1, 2),
    2: Ggml("Q4_0", 32, 18),
    3: Ggml("Q4_1", 32, 20),
    6: Ggml("Q5_0", 32, 22),
    7: Ggml("Q5_1", 32, 24),
    8: Ggml("Q8_0", 32, 34),
    9: Ggml("Q8_1", 32, 40),
    10: Ggml("Q2_K", 256, 84),
    11: Ggml("Q3_K", 256, 110),
    12: Ggml("Q4_K", 256, 144),
    13: Ggml("Q5_K", 256, 176),
    14: Ggml("Q6_K", 256, 210),
    15: Ggml("Q8_K", 256, 292),
    16: Ggml("IQ2_XXS", 256, 66),
    17: Ggml("IQ2_XS", 256, 74),
    18: Ggml("IQ3_XXS", 256, 98),
    19: Ggml("IQ1_S", 256, 50),
    20: Ggml("IQ4_NL", 32, 18),
    21: Ggml("IQ3_S", 256, 110),
    22: Ggml("IQ2_S", 256, 82),
    23: Ggml("IQ4_XS", 256, 136),
    24: Ggml("I8", 1, 1),
    25: Ggml("I16", 1, 2),
    26: Ggml("I32", 1, 4),
    27: Ggml("I64", 1, 8),
    28: Ggml("F64", 1, 8),
    29: Ggml("IQ1_M", 256, 56),
    30: Ggml("BF16", 1, 2),
    34: Ggml("TQ1_0", 256, 54),
    35: Ggml("TQ2_0", 256, 66),
    39: Ggml("MXFP4", 32, 17),
    40: Ggml("NVFP4", 64, 36),
    41: Ggml("Q1_0", 128, 18),
}
NUMBERS = {ggml.name: number for number, ggml in TYPES.items()}

READ_BY_GENAI = frozenset({"F32", "F16", "Q4_0", "Q4_1", "Q8_0", "Q4_K", "Q6_K"})
"""What GenAI 2026.4 reads from a GGUF itself; for all others it says "gguf_tensor_to_f16 failed"."""

NOT_DEQUANTIZED = frozenset({"Q8_1", "Q8_K", "Q1_0", "I8", "I16", "I32", "I64", "F64"})
"""What no model's weights are stored in, and the `gguf` package has no dequantization for."""
