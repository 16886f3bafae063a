"""What commands on models have in common: settings, store and catalog, progress, interruption. Knows terminals."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from appliance.config import Effective, load
from appliance.config.paths import catalog_files, store_directory
from appliance.models.catalog import Catalog, load_catalog
from appliance.models.children import Terminated, terminated_as_exception
from appliance.models.progress import Lines, Progress
from appliance.models.store import Installed, Store

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import Task

SIGINT_STATUS = 130

ConfigOption = Annotated[  # that it can be read is found out by reading it, which says what to do
    Path | None, typer.Option("--config", metavar="PATH", help="The settings file.", readable=False)
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]


def open_store(config: Path | None) -> tuple[Effective, Store]:
    """The settings in force and the store that they name. Raises ConfigError."""
    effective = load(config)
    models = effective.settings.models
    return effective, Store(store_directory(models.directory), max_bytes=models.max_store_bytes)


def open_catalog(effective: Effective) -> Catalog:
    """The built-in catalog and the operator's own files. Raises ConfigError."""
    return load_catalog(catalog_files(effective.file))


def as_dict(model: Installed) -> dict[str, object]:
    """A model for JSON."""
    manifest: dict[str, object] = msgspec.to_builtins(model.manifest)
    return {**manifest, "directory": str(model.directory), "size_bytes": model.manifest.size_bytes}


def print_json(value: object) -> None:
    """One object on standard output."""
    typer.echo(json.dumps(msgspec.to_builtins(value), indent=2, ensure_ascii=False))


def tell(line: str) -> None:
    """A line on standard error."""
    typer.echo(f"appliance: {line}", err=True)


@contextmanager
def interruptible(left: str = "no half model is left") -> Iterator[None]:
    """Ctrl-C, SIGTERM and SIGHUP end children, remove what is half done, and leave with 128 + the signal."""
    try:
        with terminated_as_exception():
            yield
    except KeyboardInterrupt as error:
        tell(f"interrupted; {left}")
        raise typer.Exit(128 + error.number if isinstance(error, Terminated) else SIGINT_STATUS) from None


@contextmanager
def open_progress() -> Iterator[Progress]:
    """A bar on a terminal, plain lines elsewhere; both on standard error."""
    if not sys.stderr.isatty():
        yield Lines(lambda line: typer.echo(line, err=True))
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.text import Text

    class Done(DownloadColumn):
        def render(self, task: "Task") -> "Text":
            return Text(f"{task.percentage:.0f} %") if task.fields.get("counted") else super().render(task)

    columns = (TextColumn("{task.description}"), BarColumn(), Done(), TimeElapsedColumn())
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

    def count(self, done: int, total: int) -> None:
        self._bar.update(self._bar.task_ids[-1], completed=done, total=total, counted=True)

    def note(self, line: str) -> None:
        self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
