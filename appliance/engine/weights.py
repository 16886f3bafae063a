"""How many bytes of weights one token costs, and how they are grouped, by the text of the IR. Knows graphs, no OpenVINO
and no model file.

Decoding reads every weight once a token, but of an input embedding only one row: such a table counts only where the
output layer shares it.
"""

import re
from collections import defaultdict
from pathlib import Path

LEAST_EMBEDDING_BYTES = 1 << 20  # smaller tables are positions and constants of the graph

_LAYER = re.compile(r'<layer id="(\d+)" name="[^"]*" type="([^"]+)"[^>]*>\s*(?:<data ([^>]*)>)?')
_EDGE = re.compile(r'<edge from-layer="(\d+)" from-port="\d+" to-layer="(\d+)" to-port="(\d+)"')
_INT4_GROUPS = re.compile(r'<data element_type="[iu]4" shape="\d+, ?\d+, ?(\d+)"')
_SIZE = re.compile(r'\bsize="(\d+)"')


def weights_read_bytes(directory: Path) -> int | None:
    """Bytes of openvino_model.bin that are read for each token; None where the files or the graph do not tell."""
    try:
        ir = (directory / "openvino_model.xml").read_text("utf-8")
        total = (directory / "openvino_model.bin").stat().st_size
    except OSError:
        return None
    embeddings = unshared_embedding_bytes(ir)
    return None if embeddings is None else total - embeddings


def int4_group_sizes(directory: Path) -> frozenset[int]:
    """Weights that share one scale, of all INT4 matrices; empty where there are none, or the files do not tell."""
    try:
        ir = (directory / "openvino_model.xml").read_text("utf-8")
    except OSError:
        return frozenset()
    return frozenset(int(size) for size in _INT4_GROUPS.findall(ir)) - {1}  # 1: their zero points


def unshared_embedding_bytes(ir: str) -> int | None:
    """Bytes of tables of which rows are gathered and nothing else is done with; None where no table is gathered from.

    `ir`: the text of an openvino_model.xml.
    """
    graph = _Graph(ir)
    found = [graph.table_bytes(gather) for gather in graph.of_type("Gather")]
    tables = [table for table in found if table is not None]
    return sum(tables) if tables else None


class _Graph:
    def __init__(self, ir: str) -> None:
        self._kinds: dict[str, str] = {}
        self._sizes: dict[str, int] = {}
        for layer, kind, data in _LAYER.findall(ir):
            self._kinds[layer] = kind
            size = _SIZE.search(data) if kind == "Const" else None
            self._sizes[layer] = int(size[1]) if size else 0
        self._inputs: dict[str, dict[int, str]] = defaultdict(dict)
        self._readers: dict[str, set[str]] = defaultdict(set)
        for source, reader, port in _EDGE.findall(ir):
            self._inputs[reader][int(port)] = source
            self._readers[source].add(reader)

    def of_type(self, kind: str) -> list[str]:
        return [layer for layer, of_kind in self._kinds.items() if of_kind == kind]

    def table_bytes(self, gather: str) -> int | None:
        """Bytes that only `gather` reads of the table it gathers from; None where that is no table of weights."""
        first = self._inputs[gather].get(0)
        above = self._above(first) if first is not None else None
        if above is None or sum(self._sizes[layer] for layer in above) < LEAST_EMBEDDING_BYTES:
            return None
        own: set[str] = set()
        for layer in above:  # readers come before what they read
            if self._readers[layer] <= own | {gather}:
                own.add(layer)
        return sum(self._sizes[layer] for layer in own)

    def _above(self, layer: str) -> list[str] | None:
        """`layer` and all that it is computed from, readers first; None where that is not constant."""
        seen, due = {layer}, [layer]
        while due:
            current = due.pop()
            kind, inputs = self._kinds[current], set(self._inputs[current].values())
            if kind == "ReadValue" or (kind != "Const" and not inputs):
                return None  # a state or a parameter
            due += inputs - seen
            seen |= inputs
        return self._readers_first(seen)

    def _readers_first(self, layers: set[str]) -> list[str]:
        order: list[str] = []
        left = set(layers)
        while left:
            ready = {layer for layer in left if not self._readers[layer] & left}
            if not ready:
                break  # a loop, which a graph of constants has not
            order += sorted(ready)
            left -= ready
        return order
