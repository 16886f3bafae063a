"""A model's matrices by name, and what a recipe says of each. Knows names; knows no weights and no NNCF."""

import re
from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase

from msgspec import Struct

from appliance.models.recipes import INT8, Mode, Recipe

EMBEDDING = "embed_tokens"
LM_HEAD = "lm_head"
LEAST_GROUP_SIZE = 32  # smaller ones cost more bytes than INT8 saves

_LAYER = re.compile(r"(?<=layers\.)\d+")


class Choice(Struct, frozen=True):
    """How one matrix is stored."""

    mode: Mode | None
    """None: as it is."""
    group_size: int | None = None
    """None with INT8, whose rows have a scale each."""


def short_name(weight: str) -> str:
    """ "layers.0.mlp.down_proj" of "model.layers[0].mlp.down_proj.weight", as importers and exporters call it."""
    dotted = re.sub(r"\[(\d+)\]", r".\1", weight)
    return dotted.removeprefix("self.").removeprefix("model.").removesuffix(".weight")


def layer_count(names: Collection[str]) -> int:
    """How many layers the short names are of."""
    return max((int(found[0]) + 1 for name in names if (found := _LAYER.search(name))), default=0)


def matches(pattern: str, name: str, layers: int) -> bool:
    """Whether a recipe's pattern means the matrix, whose layer it may count from the end: layers.-1 is the last."""
    from_end = _LAYER.sub(lambda found: str(int(found[0]) - layers), name)
    return fnmatchcase(name, pattern) or fnmatchcase(from_end, pattern)


def choice_for(recipe: Recipe, names: Sequence[str], layers: int) -> Choice | None:
    """What the recipe says of a matrix in particular; None: what it says of all, for as many as its ratio allows.

    `names`: its short names; a tied matrix is both EMBEDDING and LM_HEAD.
    """

    def meant(patterns: Sequence[str]) -> bool:
        return any(matches(pattern, name, layers) for pattern in patterns for name in names)

    if meant(recipe.ignored):
        return Choice(None)
    base = recipe.mode
    if LM_HEAD in names:  # of a tied matrix the output decides: every token reads all of it
        base = recipe.lm_head_mode
    elif EMBEDDING in names:
        base = recipe.embedding_mode
    for group in recipe.layers:
        if meant(group.match):
            return _choice(group.mode or base, group.group_size or recipe.group_size)
    if LM_HEAD in names or EMBEDDING in names:
        return _choice(base, recipe.group_size)
    return None


def wants_two(recipe: Recipe, layers: int) -> bool:
    """Whether embedding and output matrix have to be stored apart, where a model has one for both."""
    return choice_for(recipe, [EMBEDDING], layers) != choice_for(recipe, [LM_HEAD], layers)


def unmatched(recipe: Recipe, names: Collection[str]) -> list[str]:
    """The recipe's patterns that mean no matrix of these short names, and are not optional."""
    layers = layer_count(names)
    wanted = [group for group in recipe.layers if not group.optional]
    patterns = [*recipe.ignored, *(pattern for group in wanted for pattern in group.match)]
    return [pattern for pattern in patterns if not any(matches(pattern, name, layers) for name in names)]


def fitting_group_size(row: int, group_size: int) -> int | None:
    """The largest power of two up to `group_size` that divides a row of so many weights; None below 32."""
    fitting = min(group_size, row & -row)
    return fitting if fitting >= LEAST_GROUP_SIZE else None


def _choice(mode: Mode, group_size: int | None) -> Choice:
    return Choice(mode, None if mode in INT8 else group_size)
