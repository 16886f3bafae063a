"""`appliance models`: list, pull, import, verify, remove. Knows terminals; knows no form of a store."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from appliance.config import Effective, load
from appliance.config.paths import store_directory
from appliance.errors import ConfigError
from appliance.models.catalog import Catalog, load_catalog
from appliance.models.children import Terminated, terminated_as_exception
from appliance.models.errors import MB, NotInstalled
from appliance.models.importers.file import describe_file, digest_of, require_extra
from appliance.models.importers.quantizing import scan
from appliance.models.progress import Lines, Progress
from appliance.models.pull import Pulled, open_puller
from appliance.models.recipes import load_recipe
from appliance.models.store import Installed, Store, check_id
from appliance.models.verification import verify as verify_model

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

REMOVE_WAIT_S = 30.0
EXTRA_CATALOG_NAME = "catalog.toml"  # beside the settings file
SIGINT_STATUS = 130

app = typer.Typer(name="models", help="Install, check and remove models.", no_args_is_help=True)

ConfigOption = Annotated[Path | None, typer.Option("--config", metavar="PATH", help="The settings file.")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]


@app.command("list")
def list_models(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show what is installed and what the catalog has."""
    effective, store, catalog = _open(config)
    entries = store.entries()
    installed = [entry for entry in entries if isinstance(entry, Installed)]
    unreadable = [entry for entry in entries if not isinstance(entry, Installed)]
    missing = [model for name, model in catalog.models.items() if name not in {entry.id for entry in entries}]
    if as_json:
        _print_json(
            {
                "store": str(store.directory),
                "preferred": effective.settings.models.preferred,
                "installed": [_as_dict(model) for model in installed],
                "unreadable": [{"directory": str(entry.directory), "error": str(entry.error)} for entry in unreadable],
                "available": [msgspec.to_builtins(model) for model in missing],
            }
        )
        return
    for model in installed:
        manifest = model.manifest
        size = f"{manifest.size_bytes / MB:.1f} MB"
        typer.echo(f"{model.id}  {manifest.directory_name}  installed  {size}  {manifest.title}, {manifest.licence}")
    for entry in unreadable:
        typer.echo(f"{entry.id}  {entry.directory.name}  damaged  {entry.error}")
    for wanted in missing:
        kinds = ", ".join(str(source.__struct_config__.tag) for source in wanted.source)
        typer.echo(f"{wanted.id}  not installed (source: {kinds})  {wanted.title}, {wanted.licence}")


@app.command()
def pull(
    model_id: Annotated[str | None, typer.Argument(metavar="ID", help="A model of the catalog.")] = None,
    preferred: Annotated[bool, typer.Option("--preferred", help="The first of models.preferred.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Import again what is installed.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Install a model; does nothing where it is installed."""
    if (model_id is None) != preferred:
        raise typer.BadParameter("give either a model's ID or --preferred")
    effective, store, catalog = _open(config)
    settings = effective.settings.models
    with _interruptible(), _open_progress() as progress:
        puller = open_puller(settings, store, catalog, progress)
        pulled = (
            puller.pull_preferred(settings.preferred, force=force)
            if model_id is None
            else puller.pull(model_id, force=force)
        )
    _show_pulled(pulled, as_json)


@app.command("import")
def import_file(
    file: Annotated[Path, typer.Argument(metavar="FILE.gguf", help="A GGUF file on this machine.")],
    model_id: Annotated[str | None, typer.Option("--id", help="Its id here; else one made of its own name.")] = None,
    keep: Annotated[bool, typer.Option("--keep-quantization", help="As it is, for types that GenAI reads.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace what is installed by that id.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make INT4 of a GGUF file and install it."""
    effective, store, catalog = _open(config)
    if model_id is not None:
        check_id(model_id)
    recipe = None if keep else load_recipe()
    if recipe is not None:
        require_extra()
    with _interruptible(), _open_progress() as progress:
        facts = scan(file, file.name, progress)
        model = describe_file(file, facts, digest_of(file, f"{file.name}: reading", progress), catalog, model_id)
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
    _, store, _ = _open(config, with_catalog=False)
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
        _print_json({"sound": sound, "models": results})
    elif not entries:
        typer.echo(f"no model is installed in {store.directory}")
    if not sound:
        raise typer.Exit(1)


@app.command()
def remove(
    model_id: Annotated[str, typer.Argument(metavar="ID", help="An installed model.")],
    digest: Annotated[str | None, typer.Option("--digest", help="Only the one whose digest begins so.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    config: ConfigOption = None,
) -> None:
    """Remove a model from the store."""
    _, store, _ = _open(config, with_catalog=False)
    if not yes and store.entries(model_id):
        if not sys.stdin.isatty():
            raise ConfigError(f"removing {model_id} needs --yes where nobody can be asked")
        typer.confirm(f"Remove {model_id} from {store.directory}?", abort=True)
    with _interruptible():
        removed = store.remove(model_id, digest=digest, wait_s=REMOVE_WAIT_S, on_wait=_tell)
    for directory in removed:
        typer.echo(f"removed {directory}")


def _open(config: Path | None, *, with_catalog: bool = True) -> tuple[Effective, Store, Catalog]:
    effective = load(config)
    extra = effective.file.parent / EXTRA_CATALOG_NAME if effective.file else None
    catalog = Catalog({})
    if with_catalog:
        catalog = load_catalog([extra] if extra is not None and extra.is_file() else [])
    return effective, Store(store_directory(effective.settings.models.directory)), catalog


def _as_dict(model: Installed) -> dict[str, object]:
    manifest: dict[str, object] = msgspec.to_builtins(model.manifest)
    return {**manifest, "directory": str(model.directory), "size_bytes": model.manifest.size_bytes}


def _show_pulled(pulled: Pulled, as_json: bool) -> None:
    if as_json:
        _print_json({"outcome": pulled.outcome, **_as_dict(pulled.model)})
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
        _tell(problem)
    for warning in warnings:
        _tell(f"warning: {warning}")
    if not problems:
        typer.echo(f"{model_id}: sound ({directory})")


def _print_json(value: object) -> None:
    typer.echo(json.dumps(msgspec.to_builtins(value), indent=2, ensure_ascii=False))


def _tell(line: str) -> None:
    typer.echo(f"appliance: {line}", err=True)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C, SIGTERM and SIGHUP end children, remove what is half done, and leave with 128 + the signal."""
    try:
        with terminated_as_exception():
            yield
    except KeyboardInterrupt as error:
        _tell("interrupted; no half model is left")
        raise typer.Exit(128 + error.number if isinstance(error, Terminated) else SIGINT_STATUS) from None


@contextmanager
def _open_progress() -> Iterator[Progress]:
    """A bar on a terminal, plain lines elsewhere; both on standard error."""
    if not sys.stderr.isatty():
        yield Lines(lambda line: typer.echo(line, err=True))
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield _Bar(bar)


class _Bar:
    """One bar at a time: the step that goes on now."""

    def __init__(self, bar: "RichProgress") -> None:
        self._bar = bar

    def stage(self, label: str, total_bytes: int | None = None) -> None:
        for task in self._bar.task_ids:
            self._bar.remove_task(task)
        self._bar.add_task(label, total=total_bytes)

    def advance(self, done_bytes: int = 0, total_bytes: int | None = None) -> None:
        if total_bytes:
            self._bar.update(self._bar.task_ids[-1], completed=done_bytes, total=total_bytes)

    def note(self, line: str) -> None:
        self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
