"""F16 out of any quantization, and one matrix out of two copies. What reads the result is the gguf package itself."""

from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt
import pytest
from msgspec.structs import replace

from appliance.models.gguf.header import HeaderError, read_header
from appliance.models.gguf.rewriting import output_bytes, rewrite
from appliance.models.gguf.tying import EMBEDDING, OUTPUT, difference_ratio, tie
from tests.support.gguf import QWEN, Data, floats, make_gguf, quantized

Matrix = npt.NDArray[np.float32]


@pytest.fixture
def matrix() -> Matrix:
    return np.random.default_rng(7).normal(0, 0.02, (600, 64)).astype(np.float32)


def rewritten(source: Path) -> tuple[gguf.GGUFReader, dict[str, gguf.ReaderTensor]]:
    target = source.with_name("f16.gguf")
    header = read_header(source)
    pieces: list[int] = []
    assert rewrite(source, header, target, pieces.append) == sum(tensor.elements for tensor in header.tensors)
    assert sum(pieces) == sum(output_bytes(tensor) for tensor in header.tensors)
    assert read_header(target).metadata.items() >= {"general.file_type": 7}.items()
    reader = gguf.GGUFReader(target)
    return reader, {tensor.name: tensor for tensor in reader.tensors}


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "BF16", "F16", "F32"])
def test_a_matrix_becomes_f16_with_the_values_that_gguf_gives(kind: str, matrix: Matrix, tmp_path: Path) -> None:
    data = quantized(matrix, kind)
    source = make_gguf(tmp_path / "m.gguf", QWEN, {"a": floats(matrix[0]), "m": data, "z": data})
    _, tensors = rewritten(source)
    assert tensors["m"].tensor_type == gguf.GGMLQuantizationType.F16
    assert tensors["a"].tensor_type == gguf.GGMLQuantizationType.F32
    np.testing.assert_array_equal(tensors["a"].data, matrix[0])
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(source).tensors}["m"]
    expected = gguf.quants.dequantize(stored.data, stored.tensor_type).astype(np.float16)
    np.testing.assert_array_equal(tensors["m"].data, expected)
    np.testing.assert_array_equal(tensors["z"].data, expected)


def test_the_metadata_stay_byte_for_byte(matrix: Matrix, tmp_path: Path) -> None:
    metadata = QWEN | {"tokenizer.ggml.merges": [f"a b{number}" for number in range(100)], "general.file_type": 15}
    reader, _ = rewritten(make_gguf(tmp_path / "m.gguf", metadata, {"m": floats(matrix)}))
    found = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    assert found == metadata | {"general.file_type": 7}


def test_a_file_without_a_type_gets_one(matrix: Matrix, tmp_path: Path) -> None:
    reader, _ = rewritten(make_gguf(tmp_path / "m.gguf", QWEN, {"m": floats(matrix)}))
    assert reader.fields["general.file_type"].contents() == 7


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e6])
def test_what_f16_can_not_hold_is_refused(value: float, matrix: Matrix, tmp_path: Path) -> None:
    matrix[3, 3] = value
    source = make_gguf(tmp_path / "m.gguf", QWEN, {"m": floats(matrix)})
    with pytest.raises(HeaderError, match="tensor 'm' holds values that are not finite, or too large"):
        rewrite(source, read_header(source), tmp_path / "f16.gguf", lambda _: None)


def tied(tmp_path: Path, embedding: Data, output: Data) -> dict[str, str]:
    """The type of each tensor by its name, after tying."""
    tensors = {OUTPUT: output, EMBEDDING: embedding, "norm": floats(np.ones(64, np.float32))}
    source = make_gguf(tmp_path / "m.gguf", QWEN, tensors)
    return {tensor.name: tensor.ggml.name for tensor in tie(source, read_header(source)).tensors}


@pytest.mark.parametrize(
    ("embedding", "output", "kept"),
    [("Q5_0", "Q8_0", "Q8_0"), ("Q8_0", "Q4_0", "Q8_0"), ("F16", "F16", "F16"), ("BF16", "Q4_1", "BF16")],
)
def test_two_copies_become_the_better_one(
    embedding: str, output: str, kept: str, matrix: Matrix, tmp_path: Path
) -> None:
    found = tied(tmp_path, quantized(matrix, embedding), quantized(matrix, output))
    assert found == {EMBEDDING: kept, "norm": "F32"}


@pytest.mark.parametrize("kind", ["Q4_0", "Q8_0", "F16"])
@pytest.mark.parametrize("strangeness", [0.2, 1.4])
def test_two_matrices_stay_two(kind: str, strangeness: float, matrix: Matrix, tmp_path: Path) -> None:
    """Whether they have nothing in common, or one was trained on from the other."""
    noise = np.random.default_rng(8).normal(0, 0.02, matrix.shape).astype(np.float32)
    other = matrix + noise * np.float32(strangeness)
    found = tied(tmp_path, quantized(matrix, kind), quantized(other, kind))
    assert set(found) == {EMBEDDING, OUTPUT, "norm"}


def test_a_copy_in_two_bits_is_no_excuse_for_tying_strangers(matrix: Matrix, tmp_path: Path) -> None:
    strangers = {OUTPUT: ("Q2_K", (256, 150), bytes(84 * 150)), EMBEDDING: floats(matrix.reshape(150, 256))}
    source = make_gguf(tmp_path / "m.gguf", QWEN, strangers)
    header = read_header(source)
    assert tie(source, header) == header


def test_what_is_tied_in_the_file_stays_as_it_is(matrix: Matrix, tmp_path: Path) -> None:
    source = make_gguf(tmp_path / "m.gguf", QWEN, {EMBEDDING: floats(matrix)})
    header = read_header(source)
    assert tie(source, header) == header
    assert difference_ratio(source, header.tensors[0], header.tensors[0]) == 0
    assert difference_ratio(source, header.tensors[0], replace(header.tensors[0], name="same")) == 0
