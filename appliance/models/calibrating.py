"""The model as it reads calibration text, in little memory. Knows how NNCF runs a model; knows no recipe and no text.

OpenVINO widens F16 weights to F32 and packs those into copies of its own. The F32 ones lie in a mapped file here, whose
pages the kernel can drop, and are read from there once. What comes out is the same, bit by bit.
"""

import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import openvino as ov
from nncf.openvino import engine
from openvino import op

LEAST_BYTES = 1 << 16  # smaller weights are not worth a page
PAGE_BYTES = 1 << 12
F32_BYTES = 4
CHUNK_ELEMENTS = 1 << 20  # are widened at a time
LOGITS = "logits"


@contextmanager
def read_in_little_memory(directory: Path) -> Iterator[None]:
    """While the block runs, NNCF's models keep their F32 weights in a file in `directory`, which has no name there.

    The file takes twice as much as the model's F16 weights. Raises OSError (ENOSPC) where NNCF runs a model.
    """
    usual = engine.OVNativeEngine
    mapped: list[Any] = []  # OpenVINO keeps addresses only

    class Lean(usual):  # type: ignore[misc, valid-type] # NNCF's types are not read
        def __init__(self, model: ov.Model, use_fp32_precision: bool = True) -> None:
            with tempfile.TemporaryFile(dir=directory) as file:
                mapped.append(_widen(model, file))
            _leave_out_logits(model)
            super().__init__(model, use_fp32_precision)

    engine.OVNativeEngine = Lean
    try:
        yield
    finally:
        engine.OVNativeEngine = usual


def _widen(model: ov.Model, file: IO[bytes]) -> Any:
    """Have the model read F32 weights out of `file` instead of converting F16 ones; what has to outlive the model."""
    found = [(constant, converts) for constant in model.get_ops() if (converts := _f32_converts(constant))]
    offsets = [_append_f32(constant, file) for constant, _ in found]
    file.flush()
    if not found:
        return None
    # Shared with the file: pages of a private mapping could not be dropped once written, and count as own memory.
    mapped = np.memmap(file, np.float32, "r+")
    for (constant, converts), offset in zip(found, offsets, strict=True):
        first, shape = offset // F32_BYTES, tuple(constant.get_output_shape(0))
        weights = mapped[first : first + math.prod(shape)].reshape(shape)
        wide = op.Constant(ov.Tensor(weights, shared_memory=True))
        for convert in converts:
            convert.output(0).replace(wide.output(0))
    return mapped


def _f32_converts(node: ov.Node) -> list[ov.Node]:
    """The operations that widen this node, where it is a large F16 constant."""
    if node.get_type_name() != "Constant" or node.get_element_type() != ov.Type.f16:
        return []
    if node.get_byte_size() < LEAST_BYTES:
        return []
    readers = [reader.get_node() for reader in node.output(0).get_target_inputs()]
    return [node for node in readers if node.get_type_name() == "Convert" and node.get_element_type() == ov.Type.f32]


def _append_f32(constant: ov.Node, file: IO[bytes]) -> int:
    """Write the constant's values to the file's end; returns where they begin."""
    offset = -(-file.seek(0, 2) // PAGE_BYTES) * PAGE_BYTES
    file.seek(offset)
    values = constant.data.reshape(-1)
    for first in range(0, values.size, CHUNK_ELEMENTS):
        file.write(values[first : first + CHUNK_ELEMENTS].astype(np.float32).tobytes())
    return offset


def _leave_out_logits(model: ov.Model) -> None:
    """Statistics are of what goes into matrices: nobody reads the last one's product, a quarter of the work."""
    results = model.get_results()
    logits = [result for result in results if LOGITS in result.get_output_tensor(0).get_names()]
    if len(logits) < len(results):
        for result in logits:
            model.remove_result(result)
