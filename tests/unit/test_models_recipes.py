"""Recipes: what ships with the appliance, what goes together, and what is said of a file that is wrong."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from appliance.cli import app
from appliance.errors import ConfigError
from appliance.models.matrices import Choice, choice_for, unmatched
from appliance.models.recipes import DEFAULT_RECIPE, Calibration, load_recipe, read_recipe, recipe_names
from appliance.models.shipped import shipped_models

GOOD = 'description = "x"\nmode = "int4_asym"\ngroup_size = 64\n'
INT8 = 'description = "x"\nmode = "int8_asym"\n'


def written(text: str, tmp_path: Path) -> Path:
    file = tmp_path / "mine.toml"
    file.write_text(text, "utf-8")
    return file


def test_the_default_reads_no_text_and_keeps_keys_and_values_in_int8() -> None:
    recipe = load_recipe()
    assert recipe.name == DEFAULT_RECIPE == "int4-mixed"
    assert (recipe.mode, recipe.group_size) == ("int4_asym", 64)
    for matrix in ("k_proj", "v_proj"):
        assert choice_for(recipe, [f"layers.7.self_attn.{matrix}"], 24) == Choice("int8_asym")
    assert recipe.calibration_text is None


@pytest.mark.parametrize("name", [DEFAULT_RECIPE, "compact"])
def test_what_is_imported_by_default_needs_no_names_that_a_model_may_lack(name: str) -> None:
    assert unmatched(load_recipe(name), {"transformer.h.0.attn.c_attn", "lm_head"}) == []


def test_every_recipe_that_ships_is_read_and_listed() -> None:
    names = [file.name.removesuffix(".toml") for file in (shipped_models() / "recipes").iterdir()]
    assert sorted(names) == recipe_names()
    assert len(names) >= 10
    for name in names:
        assert load_recipe(name).name == name


def test_a_recipe_of_ones_own_is_a_file(tmp_path: Path) -> None:
    assert load_recipe(str(written(GOOD, tmp_path))).name == "mine"
    with pytest.raises(ConfigError, match=r"nothing\.toml can't be read"):
        load_recipe(str(tmp_path / "nothing.toml"))


@pytest.mark.parametrize("name", ["int3", "../catalog", ""])
def test_an_unknown_recipe_is_told_with_those_that_there_are(name: str) -> None:
    with pytest.raises(ConfigError, match=r"unknown recipe .*; known recipes: .*int4-asym-g64.*a file, NAME\.toml"):
        load_recipe(name)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (GOOD.replace("64", "100"), "group_size"),
        (GOOD.replace("int4_asym", "int5"), "int5"),
        (GOOD + "bits = 1\n", "bits"),
        ('description = "x"\n', "mode"),
        ("[", "not valid TOML"),
        (GOOD + "ratio = 1.5\n", "`ratio`"),
        (GOOD + "awq = 1\n", "`awq`"),
        (GOOD + 'sensitivity_metric = "luck"\nratio = 0.5\n', "`sensitivity_metric`"),
        (GOOD + "awq = true\n[calibration]\nsamples = 2\n", r"`calibration\.samples`"),
        (GOOD + "awq = true\n[calibration]\ntokens = 9999\n", r"`calibration\.tokens`"),
        (GOOD + "[[layers]]\nmode = 'int8_asym'\n", "match"),
        (GOOD + "[[layers]]\nmatch = []\nmode = 'int8_asym'\n", "match"),
        (GOOD + 'ignored = "lm_head"\n', "`ignored`"),
    ],
)
def test_a_wrong_recipe_names_the_file_and_the_key(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"mine\.toml.*{said}"):
        read_recipe(written(text, tmp_path))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('description = "x"\nmode = "int4_sym"\n', "group_size: int4_sym needs one; add group_size = 32, 64 or 128"),
        (INT8 + "group_size = 64\n", "group_size: int8_asym knows none; remove group_size, or choose an int4 mode"),
        (INT8 + "ratio = 0.5\n", "ratio: int8_asym knows none; remove ratio"),
        (INT8 + "awq = true\n", "awq: int8_asym knows none"),
        (INT8 + 'lm_head = "int4_sym"\n', "lm_head: int4_sym needs a group size"),
        (GOOD + "gptq = true\nlora_correction = true\n", "lora_correction: does not go with gptq; set one of them"),
        (
            GOOD + 'gptq = true\nlm_head = "int4_asym"\n',
            "lm_head: int4_asym by gptq would take several times its size in memory",
        ),
        (GOOD + "lora_rank = 8\n", "lora_rank: nothing uses it; set lora_correction = true"),
        (GOOD + "lora_correction = true\nall_layers = true\n", "embedding: int4_asym does not go with lora_correction"),
        (
            GOOD + 'lora_correction = true\nlm_head = "int4_sym"\n',
            'lm_head: int4_sym does not go with lora_correction; set lm_head = "int8_asym"',
        ),
        (
            GOOD + 'sensitivity_metric = "weight_quantization_error"\n',
            "sensitivity_metric: nothing uses it while ratio",
        ),
        (GOOD + "[calibration]\nsamples = 64\n", "calibration: nothing reads it; set awq"),
        (GOOD + "[[layers]]\nmatch = ['lm_head']\n", "layers, table 1: changes nothing; add mode or group_size"),
        (
            GOOD + "[[layers]]\nmatch = ['lm_head']\nmode = 'int8_sym'\ngroup_size = 32\n",
            "layers, table 1: group_size: int8_sym knows none; remove group_size",
        ),
        (INT8 + "[[layers]]\nmatch = ['*']\nmode = 'int4_sym'\n", "layers, table 1: group_size: int4_sym needs one"),
    ],
)
def test_what_does_not_go_together_is_told_with_file_key_and_remedy(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read_recipe(written(text, tmp_path))
    assert f"mine.toml: {said}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_all_that_a_recipe_can_say_is_read(tmp_path: Path) -> None:
    recipe = read_recipe(
        written(
            """
description = "everything"
mode = "int4_sym"
group_size = 128
ratio = 0.9
sensitivity_metric = "max_activation_variance"
backup_mode = "int8_sym"
embedding = "int8_sym"
lm_head = "int4_asym"
awq = true
scale_estimation = true
ignored = ["layers.0.self_attn.*"]

[[layers]]
match = ["*.v_proj", "layers.-1.*"]
mode = "int8_asym"

[[layers]]
match = ["lm_head"]
group_size = 32

[calibration]
samples = 32
tokens = 64
""",
            tmp_path,
        )
    )
    assert recipe.methods == ("awq", "scale_estimation", "sensitivity_metric")
    assert recipe.calibration_text == Calibration(samples=32, tokens=64)
    assert (recipe.embedding_mode, recipe.lm_head_mode) == ("int8_sym", "int4_asym")
    assert [layers.match for layers in recipe.layers] == [("*.v_proj", "layers.-1.*"), ("lm_head",)]


@pytest.mark.parametrize(
    ("more", "embedding", "lm_head"),
    [
        ("", "int8_asym", "int8_asym"),
        ('backup_mode = "int8_sym"\n', "int8_sym", "int8_sym"),
        ("all_layers = true\n", "int4_asym", "int4_asym"),
        ('all_layers = true\nembedding = "int8_sym"\n', "int8_sym", "int4_asym"),
        ('lm_head = "int4_sym"\n', "int8_asym", "int4_sym"),
    ],
)
def test_embedding_and_output_matrix_get_the_backup_unless_told(
    more: str, embedding: str, lm_head: str, tmp_path: Path
) -> None:
    recipe = read_recipe(written(GOOD + more, tmp_path))
    assert (recipe.embedding_mode, recipe.lm_head_mode) == (embedding, lm_head)


def test_an_int8_recipe_is_int8_everywhere(tmp_path: Path) -> None:
    recipe = read_recipe(written(INT8.replace("asym", "sym"), tmp_path))
    assert (recipe.embedding_mode, recipe.lm_head_mode) == ("int8_sym", "int8_sym")


def test_a_method_without_calibration_table_reads_the_usual_text(tmp_path: Path) -> None:
    assert read_recipe(written(GOOD + "gptq = true\n", tmp_path)).calibration_text == Calibration()


def test_the_recipes_are_listed_with_the_default() -> None:
    listed = CliRunner().invoke(app, ["models", "recipes"])
    assert listed.exit_code == 0
    lines = listed.stdout.splitlines()
    assert [line.split()[0] for line in lines] == recipe_names()
    assert [line for line in lines if line.endswith("(default)")] == [
        line for line in lines if line.startswith(f"{DEFAULT_RECIPE} ")
    ]
    shown = json.loads(CliRunner().invoke(app, ["models", "recipes", "--json"]).stdout)
    assert shown["default"] == DEFAULT_RECIPE
    assert [recipe["name"] for recipe in shown["recipes"]] == recipe_names()
