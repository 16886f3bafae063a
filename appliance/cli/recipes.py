"""`appliance models recipes`: the ways to quantize that come with the appliance. Reads; changes nothing."""

import msgspec
import typer

from appliance.cli.operation import JsonOption, print_json
from appliance.models.recipes import DEFAULT_RECIPE, load_recipe, recipe_names


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("recipes")(recipes)


def recipes(as_json: JsonOption = False) -> None:
    """List the recipes that `import --recipe NAME` takes."""
    known = [load_recipe(name) for name in recipe_names()]
    if as_json:
        print_json({"default": DEFAULT_RECIPE, "recipes": [msgspec.to_builtins(recipe) for recipe in known]})
        return
    width = max(len(recipe.name) for recipe in known)
    for recipe in known:
        default = " (default)" if recipe.name == DEFAULT_RECIPE else ""
        typer.echo(f"{recipe.name:<{width}}  {recipe.description}{default}")
