"""A language model of a few thousand weights as OpenVINO IR, with the names that GenAI gives. It has learnt nothing."""

import numpy as np
import openvino as ov
from openvino import opset13

HIDDEN = 64
INNER = 128
VOCABULARY = 96
LAYERS = 3


def tiny_lm(*, tied: bool = True, vocabulary: int = VOCABULARY) -> ov.Model:
    """input_ids to logits: an embedding, LAYERS pairs of matrices with a gate between, and an output matrix."""
    random = np.random.default_rng(5)

    def matrix(name: str, rows: int, columns: int) -> ov.Node:
        weights = (random.normal(size=(rows, columns)) / np.sqrt(columns)).astype(np.float16)
        constant = opset13.constant(weights, ov.Type.f16)
        constant.set_friendly_name(name)
        return opset13.convert(constant, ov.Type.f32)

    ids = opset13.parameter([-1, -1], ov.Type.i64, name="input_ids")
    ids.output(0).set_names({"input_ids"})
    embedding = matrix("model.embed_tokens.weight", vocabulary, HIDDEN)
    hidden = opset13.gather(embedding, ids, opset13.constant(0, ov.Type.i64))
    for number in range(LAYERS):
        prefix = f"model.layers[{number}].mlp"
        gate = opset13.swish(_product(hidden, matrix(f"{prefix}.gate_proj.weight", INNER, HIDDEN)))
        up = _product(hidden, matrix(f"{prefix}.up_proj.weight", INNER, HIDDEN))
        down = _product(opset13.multiply(gate, up), matrix(f"{prefix}.down_proj.weight", HIDDEN, INNER))
        hidden = opset13.add(hidden, down)
    head = embedding if tied else matrix("lm_head.weight", vocabulary, HIDDEN)
    logits = _product(hidden, head)
    logits.output(0).set_names({"logits"})
    return ov.Model([opset13.result(logits)], [ids], "tiny")


def texts(count: int = 16) -> list[list[int]]:
    """Token ids of that many texts of different lengths."""
    random = np.random.default_rng(6)
    return [random.integers(0, VOCABULARY, size=8 + number % 5).tolist() for number in range(count)]


def stored(model: ov.Model) -> dict[str, tuple[str, list[int]]]:
    """Element type and shape of each matrix by its name: [rows, groups, group], or [rows, row] without groups."""
    found = {}
    for op in model.get_ops():
        name = op.get_friendly_name()
        if op.get_type_name() == "Constant" and name.endswith(".weight"):
            found[name.removesuffix(".weight")] = (op.get_element_type().get_type_name(), list(op.get_output_shape(0)))
    return found


def logits(model: ov.Model, ids: list[int]) -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]]":
    """What the model gives for one text."""
    compiled = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return np.array(compiled({"input_ids": np.array([ids], np.int64)})["logits"])


def _product(left: ov.Node, right: ov.Node) -> ov.Node:
    return opset13.matmul(left, right, transpose_a=False, transpose_b=True)
