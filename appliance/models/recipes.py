"""Recipes: how weights are quantized. Knows their form; quantizes nothing."""

from importlib.resources.abc import Traversable
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from appliance.errors import ConfigError
from appliance.models.shipped import read_toml, shipped_models

DEFAULT_RECIPE = "int4-asym-g64"
RECIPES_NAME = "recipes"


class Recipe(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One way to quantize, in NNCF's words."""

    name: str = ""
    """The file's, without its suffix."""
    description: Annotated[str, Meta(min_length=1, max_length=200)]
    mode: Literal["int4_asym", "int4_sym"]
    group_size: Literal[32, 64, 128]
    """Weights that share a scale; smaller where a row is no multiple of it."""
    backup_mode: Literal["int8_asym", "int8_sym"] = "int8_asym"
    """Of the embedding and the output matrix, unless all_layers."""
    all_layers: bool = False


def load_recipe(name: str = DEFAULT_RECIPE) -> Recipe:
    """The recipe of that name. Raises ConfigError with the names that there are, or with the file and the key."""
    directory = shipped_models() / RECIPES_NAME
    known = sorted(file.name.removesuffix(".toml") for file in directory.iterdir() if file.name.endswith(".toml"))
    if name not in known:
        raise ConfigError(f"unknown recipe {name!r}; known recipes: {', '.join(known)}")
    return read_recipe(directory / f"{name}.toml")


def read_recipe(file: Traversable) -> Recipe:
    """The recipe in `file`. Raises ConfigError, naming the file and the key."""
    content = read_toml(file)
    try:
        return msgspec.convert({**content, "name": file.name.removesuffix(".toml")}, Recipe)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{file}: {error}") from None
