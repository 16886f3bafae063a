"""`appliance models`: list, pull, import, verify, remove. Knows terminals; knows no form of a store."""

import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from appliance.cli.operation import (
    ConfigOption,
    JsonOption,
    as_dict,
    interruptible,
    open_catalog,
    open_progress,
    open_store,
    print_json,
    tell,
)
from appliance.cli.slots import served_by_daemon
from appliance.cli.telling import tell_error, tell_warning
from appliance.config import Settings
from appliance.errors import ConfigError
from appliance.models.checkpoint.files import checkpoint_digest, checkpoint_files
from appliance.models.choosing import read_slots_or_none
from appliance.models.errors import MB, NotInstalled
from appliance.models.importers.checkpoint import require_export
from appliance.models.importers.file import describe_file, digest_of, require_extra
from appliance.models.importers.quantizing import scan
from appliance.models.manifest import DIGEST_NAME_LENGTH
from appliance.models.progress import Progress
from appliance.models.pull import Pulled, Route, open_puller
from appliance.models.recipes import DEFAULT_RECIPE, load_recipe
from appliance.models.slots import Slots, slot_of
from appliance.models.store import Installed, Store, check_id
from appliance.models.verification import verify as verify_model

REMOVE_WAIT_S = 30.0

app = typer.Typer(name="models", help="Install, check and remove models.", no_args_is_help=True)


@app.command("list")
def list_models(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show what is installed and what the catalog has."""
    effective, store = open_store(config)
    catalog = open_catalog(effective)
    entries = store.entries()
    installed = [entry for entry in entries if isinstance(entry, Installed)]
    unreadable = [entry for entry in entries if not isinstance(entry, Installed)]
    slots = read_slots_or_none(store, tell_warning)
    missing = [model for name, model in catalog.models.items() if name not in {entry.id for entry in entries}]
    if as_json:
        print_json(
            {
                "store": str(store.directory),
                "preferred": effective.settings.models.preferred,
                "slots": slots,
                "installed": [as_dict(model) for model in installed],
                "unreadable": [{"directory": str(entry.directory), "error": str(entry.error)} for entry in unreadable],
                "available": [msgspec.to_builtins(model) for model in missing],
            }
        )
        return
    for model in installed:
        manifest = model.manifest
        size = f"{manifest.size_bytes / MB:.1f} MB"
        state = _state(slots, model)
        typer.echo(f"{model.id}  {manifest.directory_name}  {state}  {size}  {manifest.title}, {manifest.licence}")
    for entry in unreadable:
        typer.echo(f"{entry.id}  {entry.directory.name}  damaged  {entry.error}")
    for wanted in missing:
        kinds = ", ".join(str(source.__struct_config__.tag) for source in wanted.source)
        size = f"about {wanted.installed_bytes / MB:.0f} MB  " if wanted.installed_bytes else ""
        typer.echo(f"{wanted.id}  not installed (source: {kinds})  {size}{wanted.title}, {wanted.licence}")


def _state(slots: Slots, model: Installed) -> str:
    """What `list` says of a model."""
    slot = slot_of(model.manifest)
    if slot == slots.current:
        return "installed, current"
    if slot == slots.previous:
        return "installed, previous"
    return "installed" if slots.why_bad(slot) is None else f"bad ({slots.why_bad(slot)})"


@app.command()
def pull(
    model_id: Annotated[str | None, typer.Argument(metavar="ID", help="A model of the catalog.")] = None,
    preferred: Annotated[bool, typer.Option("--preferred", help="The first of models.preferred.")] = False,
    route: Annotated[
        Route, typer.Option("--route", help="gguf, or on a builder export: the makers' safetensors.")
    ] = "gguf",
    force: Annotated[bool, typer.Option("--force", help="Import again what is installed.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Install a model; does nothing where it is installed."""
    if (model_id is None) != preferred:
        raise typer.BadParameter("give either a model's ID or --preferred")
    if preferred and route == "export":
        raise typer.BadParameter("--route export is for one model's ID")
    effective, store = open_store(config)
    catalog = open_catalog(effective)
    settings = effective.settings.models
    with interruptible(), open_progress() as progress:
        puller = open_puller(settings, store, catalog, progress)
        pulled = (
            puller.pull_preferred(settings.preferred, force=force)
            if model_id is None
            else puller.pull(model_id, route=route, force=force)
        )
    _show_pulled(pulled, as_json)


@app.command("import")
def import_file(
    file: Annotated[
        Path, typer.Argument(metavar="FILE.gguf|DIRECTORY", help="A GGUF file, or a directory of safetensors.")
    ],
    model_id: Annotated[str | None, typer.Option("--id", help="Its id here; else one made of its own name.")] = None,
    recipe_name: Annotated[
        str | None,
        typer.Option(
            "--recipe", metavar="NAME", help=f"How to quantize: a recipe, or its file; {DEFAULT_RECIPE} without."
        ),
    ] = None,
    keep: Annotated[bool, typer.Option("--keep-quantization", help="As it is, for types that GenAI reads.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace what is installed by that id.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make INT4 of a GGUF file, or of a directory of safetensors, and install it."""
    if keep and recipe_name is not None:
        raise typer.BadParameter("give either --recipe or --keep-quantization")
    effective, store = open_store(config)
    catalog = open_catalog(effective)
    if model_id is not None:
        check_id(model_id)
    recipe = None if keep else load_recipe(recipe_name or DEFAULT_RECIPE)
    if file.is_dir():
        file = file.resolve()  # "." has no name
        if keep:
            raise typer.BadParameter("--keep-quantization is for GGUF files: safetensors are not quantized")
        require_export()
    elif recipe is not None:
        require_extra()
    with interruptible(), open_progress() as progress:
        facts = scan(file, file.name, progress)
        model = describe_file(file, facts, _digest_of(file, progress), catalog, model_id)
        puller = open_puller(effective.settings.models, store, catalog, progress, recipe)
        pulled = puller.add(model, recipe=recipe.name if recipe else "", force=force)
    _show_pulled(pulled, as_json)


@app.command()
def verify(
    model_id: Annotated[str | None, typer.Argument(metavar="ID", help="One model; all without it.")] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Read every byte of installed models and compare it with what was installed."""
    _, store = open_store(config)
    entries = store.entries(model_id)
    if model_id is not None and not entries:
        raise NotInstalled(f"model {model_id} is not installed in {store.directory}")
    results: list[dict[str, object]] = []
    sound = True
    for entry in entries:
        problems: tuple[str, ...] = ()
        warnings: tuple[str, ...] = ()
        if isinstance(entry, Installed):
            found = verify_model(entry.manifest, entry.directory)
            problems, warnings = found.problems, found.warnings
        else:
            problems = (str(entry.error),)
        sound = sound and not problems
        results.append({"id": entry.id, "directory": str(entry.directory), "problems": problems, "warnings": warnings})
        if not as_json:
            _show_verified(entry.id, entry.directory, problems, warnings)
    if as_json:
        print_json({"sound": sound, "models": results})
    elif not entries:
        typer.echo(f"no model is installed in {store.directory}")
    if not sound:
        raise typer.Exit(1)


@app.command()
def remove(
    model_id: Annotated[str, typer.Argument(metavar="ID", help="An installed model.")],
    digest: Annotated[str | None, typer.Option("--digest", help="Only the one whose digest begins so.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    force: Annotated[bool, typer.Option("--force", help="The current model too, and one that is served.")] = False,
    config: ConfigOption = None,
) -> None:
    """Remove a model from the store; the current one, and one that a daemon serves, with --force only."""
    effective, store = open_store(config)
    if not force:
        _require_unused(effective.settings, store, model_id, digest)
    if not yes and store.entries(model_id):
        if not sys.stdin.isatty():
            raise ConfigError(f"removing {model_id} needs --yes where nobody can be asked")
        typer.confirm(f"Remove {model_id} from {store.directory}?", abort=True)
    with interruptible():
        removed = store.remove(model_id, digest=digest, wait_s=REMOVE_WAIT_S, on_wait=tell)
    for directory in removed:
        typer.echo(f"removed {directory}")


def _require_unused(settings: Settings, store: Store, model_id: str, digest: str | None) -> None:
    """Raises ConfigError where what is to be removed is the current model, or served."""
    current = read_slots_or_none(store, tell_warning).current
    served = served_by_daemon(settings)
    for slot, what in ((served, "is served by the daemon"), (current, "is the current model")):
        if slot is not None and slot.id == model_id and slot.digest.startswith((digest or "")[:DIGEST_NAME_LENGTH]):
            raise ConfigError(
                f"{slot} {what}; choose another first (appliance models use), or give --force: the next start then "
                "serves the previous model, or the first of models.preferred"
            )


def _digest_of(file: Path, progress: Progress) -> str:
    label = f"{file.name}: reading"
    if file.is_dir():
        return checkpoint_digest(checkpoint_files(file), label, progress)
    return digest_of(file, label, progress)


def _show_pulled(pulled: Pulled, as_json: bool) -> None:
    if as_json:
        print_json({"outcome": pulled.outcome, **as_dict(pulled.model)})
    else:
        typer.echo(_describe(pulled))


def _describe(pulled: Pulled) -> str:
    what = {
        "present": "is installed",
        "installed": "installed",
        "unchanged": "imported again with the same result; the copy in the store is sound and stays",
        "replaced": "imported again; it replaces the copy that was there",
    }[pulled.outcome]
    manifest = pulled.model.manifest
    return f"{manifest.id}: {what} ({manifest.size_bytes / MB:.1f} MB, {pulled.model.directory})"


def _show_verified(model_id: str, directory: Path, problems: tuple[str, ...], warnings: tuple[str, ...]) -> None:
    for problem in problems:
        tell_error(problem)
    for warning in warnings:
        tell_warning(warning)
    if not problems:
        typer.echo(f"{model_id}: sound ({directory})")
