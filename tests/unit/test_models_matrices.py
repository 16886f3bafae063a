"""Which matrices a recipe means, by names of importers and exporters."""

import pytest
from msgspec import convert

from appliance.models.matrices import (
    EMBEDDING,
    LM_HEAD,
    Choice,
    choice_for,
    fitting_group_size,
    layer_count,
    matches,
    short_name,
    unmatched,
    wants_two,
)
from appliance.models.recipes import Recipe

LAYERS = 24
DOWN_0 = "layers.0.mlp.down_proj"
V_23 = "layers.23.self_attn.v_proj"


def recipe(**more: object) -> Recipe:
    return convert({"name": "r", "description": "x", "mode": "int4_asym", "group_size": 64, **more}, Recipe)


@pytest.mark.parametrize(
    "weight",
    [
        "model.layers[0].mlp.down_proj.weight",
        "self.model.layers.0.mlp.down_proj.weight",
        "model.layers.0.mlp.down_proj.weight",
        "layers.0.mlp.down_proj",
    ],
)
def test_a_matrix_has_one_short_name_whoever_made_the_ir(weight: str) -> None:
    assert short_name(weight) == DOWN_0


def test_layers_are_counted_by_their_names() -> None:
    assert layer_count([DOWN_0, V_23, EMBEDDING, "Constant_7"]) == LAYERS
    assert layer_count([EMBEDDING]) == 0


@pytest.mark.parametrize(
    ("pattern", "name", "meant"),
    [
        (DOWN_0, DOWN_0, True),
        ("*.down_proj", DOWN_0, True),
        ("layers.0.*", DOWN_0, True),
        ("layers.[0-2].mlp.*", "layers.12.mlp.down_proj", False),
        ("layers.2*", V_23, True),
        ("layers.-1.*", V_23, True),
        ("layers.-24.*", DOWN_0, True),
        ("layers.-2.*", V_23, False),
        ("layers.1.*", "layers.11.mlp.up_proj", False),
        ("down_proj", DOWN_0, False),
        ("lm_head", LM_HEAD, True),
    ],
)
def test_a_pattern_means_whole_names_and_counts_layers_from_both_ends(pattern: str, name: str, meant: bool) -> None:
    assert matches(pattern, name, LAYERS) is meant


def test_what_nothing_is_said_of_is_left_to_the_ratio() -> None:
    assert choice_for(recipe(), [DOWN_0], LAYERS) is None


def test_the_first_table_that_matches_counts_and_fills_up_from_the_recipe() -> None:
    wanted = recipe(
        ignored=["layers.0.self_attn.*"],
        layers=[
            {"match": ["layers.0.*"], "group_size": 32},
            {"match": ["*.down_proj", "*.v_proj"], "mode": "int8_sym"},
            {"match": ["layers.5.*"], "mode": "int4_sym"},
        ],
    )
    assert choice_for(wanted, [DOWN_0], LAYERS) == Choice("int4_asym", 32)
    assert choice_for(wanted, [V_23], LAYERS) == Choice("int8_sym")
    assert choice_for(wanted, ["layers.5.mlp.up_proj"], LAYERS) == Choice("int4_sym", 64)
    assert choice_for(wanted, ["layers.0.self_attn.q_proj"], LAYERS) == Choice(None)


def test_embedding_and_output_matrix_have_choices_of_their_own() -> None:
    wanted = recipe(lm_head="int4_sym")
    assert choice_for(wanted, [EMBEDDING], LAYERS) == Choice("int8_asym")
    assert choice_for(wanted, [LM_HEAD], LAYERS) == Choice("int4_sym", 64)
    assert wants_two(wanted, LAYERS)
    assert not wants_two(recipe(), LAYERS)
    assert not wants_two(recipe(all_layers=True), LAYERS)
    assert wants_two(recipe(all_layers=True, layers=[{"match": [LM_HEAD], "group_size": 32}]), LAYERS)


def test_a_tied_matrix_goes_by_both_names() -> None:
    tied = [EMBEDDING, EMBEDDING, LM_HEAD]
    assert choice_for(recipe(all_layers=True), tied, LAYERS) == Choice("int4_asym", 64)
    by_output = recipe(all_layers=True, layers=[{"match": [LM_HEAD, EMBEDDING], "group_size": 32}])
    assert choice_for(by_output, tied, LAYERS) == Choice("int4_asym", 32)
    assert not wants_two(by_output, LAYERS)


def test_patterns_that_mean_nothing_are_found() -> None:
    wanted = recipe(ignored=["layers.99.*"], layers=[{"match": ["*.v_proj", "*.w2"], "mode": "int8_asym"}])
    assert unmatched(wanted, {DOWN_0, V_23}) == ["layers.99.*", "*.w2"]


def test_patterns_of_an_optional_table_may_mean_nothing() -> None:
    wanted = recipe(layers=[{"match": ["*.w2"], "mode": "int8_asym", "optional": True}])
    assert unmatched(wanted, {DOWN_0, V_23}) == []


@pytest.mark.parametrize(("row", "wanted", "fits"), [(896, 64, 64), (576, 128, 64), (4864, 128, 128), (48, 64, None)])
def test_a_group_divides_the_row(row: int, wanted: int, fits: int | None) -> None:
    assert fitting_group_size(row, wanted) == fits
