"""Recipes: what ships with the appliance, and what is said of a file that is wrong."""

from pathlib import Path

import pytest

from appliance.errors import ConfigError
from appliance.models.recipes import DEFAULT_RECIPE, load_recipe, read_recipe
from appliance.models.shipped import shipped_models

GOOD = 'description = "x"\nmode = "int4_asym"\ngroup_size = 64\n'


def test_the_default_is_asymmetric_in_groups_of_64() -> None:
    recipe = load_recipe()
    assert recipe.name == DEFAULT_RECIPE == "int4-asym-g64"
    assert (recipe.mode, recipe.group_size, recipe.backup_mode, recipe.all_layers) == (
        "int4_asym",
        64,
        "int8_asym",
        False,
    )


def test_every_recipe_that_ships_is_read() -> None:
    for file in (shipped_models() / "recipes").iterdir():
        assert load_recipe(file.name.removesuffix(".toml")).description


@pytest.mark.parametrize("name", ["int3", "../catalog", ""])
def test_an_unknown_recipe_is_told_with_those_that_there_are(name: str) -> None:
    with pytest.raises(ConfigError, match=r"unknown recipe .*; known recipes: .*int4-asym-g64"):
        load_recipe(name)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (GOOD.replace("64", "100"), "group_size"),
        (GOOD.replace("int4_asym", "int5"), "int5"),
        (GOOD + "bits = 1\n", "bits"),
        ('description = "x"\n', "mode"),
        ("[", "not valid TOML"),
    ],
)
def test_a_wrong_recipe_names_the_file_and_the_key(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text, "utf-8")
    with pytest.raises(ConfigError, match=rf"mine\.toml.*{said}"):
        read_recipe(file)
