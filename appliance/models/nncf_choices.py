"""What a recipe says of single matrices, made NNCF's: its one call has one group size for all.

Knows the part of NNCF that decides, and how it is called in the version that is installed; knows no file.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import nncf
from nncf.openvino.quantization import quantize_model
from nncf.quantization.algorithms.weight_compression.algorithm import WeightCompression
from nncf.quantization.algorithms.weight_compression.config import WeightCompressionConfig
from nncf.quantization.algorithms.weight_compression.scale_estimation import ScaleEstimation
from nncf.tensor import functions

from appliance.models.matrices import (
    EMBEDDING,
    LM_HEAD,
    Choice,
    choice_for,
    fitting_group_size,
    layer_count,
    short_name,
    unmatched,
)
from appliance.models.recipes import INT8, Recipe

SLICE_ROWS = 8192  # of a matrix, whose scales are estimated in some ten copies of F32
PER_ROW = -1  # NNCF's group size for one scale a row


@contextmanager
def recipe_in_force(recipe: Recipe) -> Iterator[None]:
    """While the block runs, compress_weights gives each matrix what the recipe says of it in particular.

    compress_weights then raises ValueError for a pattern that means no matrix.
    """

    class Chosen(WeightCompression):  # type: ignore[misc] # NNCF's types are not read
        def get_weight_compression_parameters(self, model: Any, graph: Any) -> Any:
            weights, deciding, skipped = super().get_weight_compression_parameters(model, graph)
            chosen = _Chosen(self, graph, recipe, weights)
            apart = {weight.weight_name for weight in weights if chosen.apply(weight)}
            return (
                [chosen.as_output(weight) for weight in weights],
                [weight for weight in deciding if weight.weight_name not in apart],
                skipped,
            )

    quantize_model.WeightCompression = Chosen
    try:
        yield
    finally:
        quantize_model.WeightCompression = WeightCompression


class _Chosen:
    """A recipe's choices for the matrices of one model."""

    def __init__(self, algorithm: Any, graph: Any, recipe: Recipe, weights: Sequence[Any]) -> None:
        backend = algorithm._backend_entity
        self._backend, self._graph, self._recipe = backend, graph, recipe
        self._nodes = algorithm.get_nodes_to_compress(graph)
        readers = [
            (name, node) for node in self._nodes for name, _ in backend.get_weight_names_and_port_ids(node, graph)
        ]
        self._embeddings = {name for name, node in readers if node.metatype in backend.embedding_metatypes}
        products = [(name, node) for name, node in readers if node.metatype in backend.matmul_metatypes]
        self._lm_head: str = products[-1][0]
        self._output: Any = products[-1][1]
        names = {name for weight in weights for name in self._names(weight.weight_name)}
        self._layers = layer_count(names)
        missed = unmatched(recipe, names)
        if missed:
            raise ValueError(
                f"recipe {recipe.name}: {missed[0]!r} means no matrix of this model, which has {_examples(names)}; "
                "correct or remove the pattern"
            )

    def apply(self, weight: Any) -> bool:
        """Configure one of NNCF's weights; False where the recipe says nothing of it in particular."""
        choice = choice_for(self._recipe, self._names(weight.weight_name), self._layers)
        if choice is None:
            return False
        weight.compression_config = None if choice.mode is None else self._config(choice, weight)
        return True

    def as_output(self, weight: Any) -> Any:
        """The weight, as the output matrix where NNCF took a tied one of INT4 for an embedding only.

        So scales are estimated for it too. GPTQ would need several times its size in memory, and has to do without.
        """
        config = weight.compression_config
        tied = weight.weight_name in self._embeddings and weight.weight_name == self._lm_head
        if not tied or config is None or config.num_bits > 4 or self._recipe.gptq:
            return weight
        ports = self._backend.get_weight_names_and_port_ids(self._output, self._graph)
        port = next(port for name, port in ports if name == weight.weight_name)
        axes = self._backend.get_reduction_axes(self._output, port, self._graph)
        return dataclasses.replace(weight, node_with_weight=self._output, weight_port_id=port, reduction_axes=axes)

    def _names(self, weight_name: str) -> list[str]:
        names = [short_name(weight_name)]
        if weight_name in self._embeddings:
            names.append(EMBEDDING)
        if weight_name == self._lm_head:
            names.append(LM_HEAD)
        return names

    def _config(self, choice: Choice, weight: Any) -> Any:
        mode, size = choice.mode, PER_ROW
        if mode not in INT8:
            row = 1
            for axis in weight.reduction_axes:
                row *= weight.weight_shape[axis]
            fitting = fitting_group_size(row, choice.group_size or row)
            mode, size = (mode, fitting) if fitting else (self._recipe.backup_mode, PER_ROW)
        return WeightCompressionConfig(mode=nncf.CompressWeightsMode(mode), group_size=size)


@contextmanager
def sliced_estimation() -> Iterator[None]:
    """While the block runs, scales are estimated for some rows at a time, which gives the same in bounded memory."""
    whole = ScaleEstimation.calculate_quantization_params
    ScaleEstimation.calculate_quantization_params = staticmethod(_in_slices(whole))
    try:
        yield
    finally:
        ScaleEstimation.calculate_quantization_params = staticmethod(whole)


def _in_slices(whole: Callable[..., Any]) -> Callable[..., Any]:
    def estimate(statistics: Any, weight: Any, reduction_axes: Any, *others: Any, **named: Any) -> Any:
        rows = weight.shape[0]
        if len(weight.shape) != 2 or tuple(reduction_axes) != (1,) or rows <= SLICE_ROWS:
            return whole(statistics, weight, reduction_axes, *others, **named)
        parts = [
            whole(statistics, weight[first : first + SLICE_ROWS], reduction_axes, *others, **named)
            for first in range(0, rows, SLICE_ROWS)
        ]
        scales, zero_points = zip(*parts, strict=True)
        return (
            functions.concatenate(list(scales), axis=0),
            None if zero_points[0] is None else functions.concatenate(list(zero_points), axis=0),
        )

    return estimate


def _examples(names: set[str]) -> str:
    shown = sorted(name for name in names if not name.startswith("layers.") or name.startswith("layers.0."))
    return ", ".join(shown[:10])
