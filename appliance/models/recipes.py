"""Recipes: how weights are quantized. Knows their form and which choices exclude each other; quantizes nothing."""

from collections.abc import Iterator
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from appliance.errors import ConfigError
from appliance.models.shipped import read_toml, shipped_models

DEFAULT_RECIPE = "int4-mixed"
RECIPES_NAME = "recipes"
SUFFIX = ".toml"
INT8 = ("int8_asym", "int8_sym")

Mode = Literal["int4_asym", "int4_sym", "int8_asym", "int8_sym"]
"""Bits, with zero points (asym) or without (sym)."""
GroupSize = Literal[32, 64, 128]
"""Weights that share a scale; less where a row is no multiple of it."""
Pattern = Annotated[str, Meta(min_length=1, max_length=100)]
"""Of names such as layers.0.mlp.down_proj; * stands for anything, layers.-1 for the last layer."""
SensitivityMetric = Literal[
    "weight_quantization_error",
    "hessian_input_activation",
    "mean_activation_variance",
    "max_activation_variance",
    "mean_activation_magnitude",
]


class Calibration(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much of the calibration text is read."""

    samples: Annotated[int, Meta(ge=8, le=1024)] = 128
    """Texts, spread over all kinds."""
    tokens: Annotated[int, Meta(ge=16, le=1024)] = 192
    """Of each text, at most."""


class Layers(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Matrices that are treated otherwise than the recipe's mode and group size say."""

    match: Annotated[tuple[Pattern, ...], Meta(min_length=1, max_length=32)]
    mode: Mode | None = None
    """The recipe's where it is left out."""
    group_size: GroupSize | None = None
    optional: bool = False
    """A model without such matrices is quantized all the same; else a pattern that means none is an error."""


class Recipe(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One way to quantize, in NNCF's words."""

    name: str = ""
    """The file's, without its suffix."""
    description: Annotated[str, Meta(min_length=1, max_length=200)]
    mode: Mode
    group_size: GroupSize | None = None
    """Of the INT4 matrices; INT8 is quantized per row."""
    ratio: Annotated[float, Meta(gt=0, le=1)] = 1.0
    """Share of the weights that get `mode`; the more sensitive matrices get backup_mode."""
    sensitivity_metric: SensitivityMetric | None = None
    """What tells how sensitive a matrix is, where ratio is below 1."""
    backup_mode: Literal["int8_asym", "int8_sym"] = "int8_asym"
    all_layers: bool = False
    """The embedding and the output matrix get `mode` too, not backup_mode."""
    embedding: Mode | None = None
    lm_head: Mode | None = None
    """Both: what only this matrix gets. A model that has one matrix for both gets two where they differ."""
    awq: bool = False
    scale_estimation: bool = False
    gptq: bool = False
    lora_correction: bool = False
    lora_rank: Annotated[int, Meta(ge=1, le=256)] | None = None
    """Of the adapters that lora_correction adds; 8 where it is left out."""
    ignored: Annotated[tuple[Pattern, ...], Meta(max_length=32)] = ()
    """Matrices that stay as they are."""
    layers: Annotated[tuple[Layers, ...], Meta(max_length=32)] = ()
    """The first that matches a matrix counts."""
    calibration: Calibration | None = None

    @property
    def methods(self) -> tuple[str, ...]:
        """The keys that make this recipe read calibration text."""
        names = ("awq", "scale_estimation", "gptq", "lora_correction")
        found = tuple(name for name in names if getattr(self, name))
        if self.sensitivity_metric not in (None, "weight_quantization_error"):
            found += ("sensitivity_metric",)
        return found

    @property
    def embedding_mode(self) -> Mode:
        """What the embedding gets."""
        return self.embedding or self._outer_mode

    @property
    def lm_head_mode(self) -> Mode:
        """What the output matrix gets."""
        return self.lm_head or self._outer_mode

    @property
    def _outer_mode(self) -> Mode:
        return self.mode if self.all_layers or self.mode in INT8 else self.backup_mode

    @property
    def calibration_text(self) -> Calibration | None:
        """What is read of the calibration text; None where nothing needs it."""
        return (self.calibration or Calibration()) if self.methods else None


def recipe_names() -> list[str]:
    """Those that come with the appliance."""
    files = (shipped_models() / RECIPES_NAME).iterdir()
    return sorted(file.name.removesuffix(SUFFIX) for file in files if file.name.endswith(SUFFIX))


def load_recipe(name: str = DEFAULT_RECIPE) -> Recipe:
    """The recipe of that name, or in the file of that name, which ends in .toml.

    Raises ConfigError with the names that there are, or with the file and the key.
    """
    if name.endswith(SUFFIX):
        return read_recipe(Path(name))
    known = recipe_names()
    if name not in known:
        raise ConfigError(
            f"unknown recipe {name!r}; known recipes: {', '.join(known)}; one of your own is given as a file, NAME.toml"
        )
    return read_recipe(shipped_models() / RECIPES_NAME / f"{name}{SUFFIX}")


def read_recipe(file: Traversable) -> Recipe:
    """The recipe in `file`. Raises ConfigError that names the file, the key and the remedy."""
    content = read_toml(file)
    name = file.name.removesuffix(SUFFIX)
    try:
        recipe = msgspec.convert({**content, "name": name}, Recipe)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{file}: {_readable(error)}; docs/quantization.md has the keys of a recipe") from None
    problem = next(_problems(recipe), None)
    if problem:
        raise ConfigError(f"{file}: {problem}")
    return recipe


def _readable(error: msgspec.ValidationError) -> str:
    """`$.group_size` is what msgspec calls the key group_size."""
    return str(error).replace("`$.", "`").replace("$[...]", "")


def _problems(recipe: Recipe) -> Iterator[str]:
    """What does not go together, as "key: what is wrong; what to do"."""
    if recipe.mode in INT8:
        yield from _int8_problems(recipe)
    elif recipe.group_size is None:
        yield f"group_size: {recipe.mode} needs one; add group_size = 32, 64 or 128"
    if recipe.gptq and recipe.lora_correction:
        yield "lora_correction: does not go with gptq; set one of them to false"
    if recipe.gptq and recipe.lm_head_mode not in INT8 and recipe.lm_head_mode != recipe.embedding_mode:
        yield (
            f"lm_head: {recipe.lm_head_mode} by gptq would take several times its size in memory; "
            'set lm_head = "int8_asym", or embedding to the same mode'
        )
    if recipe.lora_rank is not None and not recipe.lora_correction:
        yield "lora_rank: nothing uses it; set lora_correction = true, or remove lora_rank"
    if recipe.lora_correction:
        for key, mode in (("embedding", recipe.embedding_mode), ("lm_head", recipe.lm_head_mode)):
            if mode not in INT8:
                yield f'{key}: {mode} does not go with lora_correction; set {key} = "int8_asym"'
    if recipe.sensitivity_metric is not None and recipe.ratio == 1:
        yield "sensitivity_metric: nothing uses it while ratio is 1; lower ratio, or remove sensitivity_metric"
    if recipe.calibration is not None and not recipe.methods:
        yield "calibration: nothing reads it; set awq, scale_estimation, gptq or lora_correction, or remove it"
    for number, layers in enumerate(recipe.layers, 1):
        yield from _layers_problems(recipe, layers, f"layers, table {number}")


def _int8_problems(recipe: Recipe) -> Iterator[str]:
    useless = {
        "group_size": recipe.group_size is not None,
        "ratio": recipe.ratio != 1,
        **dict.fromkeys(recipe.methods, True),
    }
    for key, given in useless.items():
        if given:
            yield f"{key}: {recipe.mode} knows none; remove {key}, or choose an int4 mode"
    for key, mode in (("embedding", recipe.embedding), ("lm_head", recipe.lm_head)):
        if mode not in (None, *INT8):
            yield f"{key}: {mode} needs a group size, which {recipe.mode} has not; choose an int8 mode for it"


def _layers_problems(recipe: Recipe, layers: Layers, where: str) -> Iterator[str]:
    mode = layers.mode or recipe.mode
    if layers.mode is None and layers.group_size is None:
        yield f"{where}: changes nothing; add mode or group_size, or remove it"
    if mode in INT8 and layers.group_size is not None:
        yield f"{where}: group_size: {mode} knows none; remove group_size, or choose an int4 mode"
    if mode not in INT8 and (layers.group_size or recipe.group_size) is None:
        yield f"{where}: group_size: {mode} needs one; add group_size = 32, 64 or 128"
