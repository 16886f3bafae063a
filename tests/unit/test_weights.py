"""Bytes of weights that a token costs, from graphs with shared, unshared and compressed embeddings."""

from pathlib import Path

import pytest

from appliance.engine.weights import (
    LEAST_EMBEDDING_BYTES,
    int4_group_sizes,
    unshared_embedding_bytes,
    weights_read_bytes,
)

TABLE_BYTES = 2 * LEAST_EMBEDDING_BYTES
HEAD_BYTES = 3 * LEAST_EMBEDDING_BYTES


class Graph:
    """The text of an IR, layer by layer."""

    def __init__(self) -> None:
        self._layers: list[str] = []
        self._edges: list[str] = []

    def add(self, kind: str, *sources: int, size: int | None = None) -> int:
        number = len(self._layers)
        data = f'<data element_type="u8" shape="1" offset="0" size="{size}" />' if size is not None else ""
        self._layers.append(
            f'<layer id="{number}" name="{kind}_{number}" type="{kind}" version="opset1">\n{data}</layer>'
        )
        self._edges += [
            f'<edge from-layer="{source}" from-port="0" to-layer="{number}" to-port="{port}" />'
            for port, source in enumerate(sources)
        ]
        return number

    @property
    def text(self) -> str:
        return "\n".join(["<net><layers>", *self._layers, "</layers><edges>", *self._edges, "</edges></net>"])


def compressed(graph: Graph, size: int) -> int:
    """A quantized table: integers, less a zero point, times a scale."""
    numbers = graph.add("Convert", graph.add("Const", size=size))
    zero = graph.add("Convert", graph.add("Const", size=1000))
    return graph.add("Multiply", graph.add("Subtract", numbers, zero), graph.add("Const", size=2000))


@pytest.fixture
def graph() -> Graph:
    return Graph()


def test_an_embedding_that_the_output_shares_is_read_whole(graph: Graph) -> None:
    table = compressed(graph, TABLE_BYTES)
    embedded = graph.add("Gather", table, graph.add("Parameter"), graph.add("Const", size=4))
    graph.add("MatMul", embedded, table)
    assert unshared_embedding_bytes(graph.text) == 0


def test_an_embedding_of_its_own_counts_with_scales_and_zero_points(graph: Graph) -> None:
    table = compressed(graph, TABLE_BYTES)
    embedded = graph.add("Gather", table, graph.add("Parameter"), graph.add("Const", size=4))
    graph.add("MatMul", embedded, compressed(graph, HEAD_BYTES))
    assert unshared_embedding_bytes(graph.text) == TABLE_BYTES + 3000


def test_what_an_embedding_shares_in_part_counts_in_part(graph: Graph) -> None:
    numbers = graph.add("Const", size=TABLE_BYTES)
    scale = graph.add("Const", size=500)
    embedded = graph.add("Gather", graph.add("Multiply", numbers, scale), graph.add("Parameter"))
    graph.add("Multiply", embedded, scale)
    assert unshared_embedding_bytes(graph.text) == TABLE_BYTES


def test_a_graph_that_gathers_from_no_table_tells_nothing(graph: Graph) -> None:
    graph.add("Gather", graph.add("Parameter"), graph.add("Const", size=4))
    graph.add("Gather", graph.add("ReadValue", graph.add("Const", size=TABLE_BYTES)), graph.add("Const", size=4))
    graph.add("Gather", graph.add("Const", size=64), graph.add("Parameter"))
    assert unshared_embedding_bytes(graph.text) is None
    assert unshared_embedding_bytes("<net/>") is None


def test_weights_are_the_file_less_an_unshared_embedding(tmp_path: Path, graph: Graph) -> None:
    assert weights_read_bytes(tmp_path) is None
    graph.add("Gather", graph.add("Const", size=TABLE_BYTES), graph.add("Parameter"))
    (tmp_path / "openvino_model.xml").write_text(graph.text, "utf-8")
    (tmp_path / "openvino_model.bin").write_bytes(bytes(TABLE_BYTES + 100))
    assert weights_read_bytes(tmp_path) == 100


def test_group_sizes_are_those_of_the_int4_matrices(tmp_path: Path) -> None:
    assert int4_group_sizes(tmp_path) == frozenset()
    shapes = {"u4": ["896, 14, 64", "896, 14, 1"], "i4": ["128,7,128"], "u8": ["151936, 28, 32"], "f16": ["896, 14, 2"]}
    constants = [
        f'<layer id="{n}" name="x" type="Const" version="opset1">\n<data element_type="{kind}" shape="{shape}" '
        'offset="0" size="1" /></layer>'
        for n, (kind, shape) in enumerate((kind, shape) for kind, all_of in shapes.items() for shape in all_of)
    ]
    (tmp_path / "openvino_model.xml").write_text("\n".join(constants))
    assert int4_group_sizes(tmp_path) == {64, 128}
