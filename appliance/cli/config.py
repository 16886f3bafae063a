"""`appliance config`: what is in force and where it was said. Changes nothing."""

import json
import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from appliance.cli.telling import tell_warning

if TYPE_CHECKING:
    from appliance.config import Effective

app = typer.Typer(help="Settings: what is in force, and where it was said.", no_args_is_help=True)

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        help="Settings file; without it /etc/appliance/appliance.toml, then the user's own.",
        metavar="FILE",
        readable=False,  # found out by reading it, which says what to do
    ),
]


@app.command()
def show(
    config: ConfigOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object, for scripts.")] = False,
) -> None:
    """Show every setting with its value and its origin: default, file, environment NAME, or tuned.

    tuned: by `appliance tune`, for the model that is served from the next start on.

    The lines are TOML. Exit status 78 where a setting is wrong.
    """
    from appliance.config import load

    effective = _with_tuning(load(config))
    if as_json:
        print(json.dumps(_as_object(effective), ensure_ascii=False, indent=2))
    elif sys.stdout.isatty():
        _print_coloured(effective)
    else:
        print("\n".join(name + value + comment for name, value, comment in _lines(effective)))


@app.command()
def check(config: ConfigOption = None) -> None:
    """Read the settings, and the files of TLS, as the daemon does: exit status 0, or 78 and a line of what is wrong.

    Whether the model fits the memory, too; and as root, whether the service's account can read its files.
    """
    from appliance.cli.start_check import require_memory_of_model, require_readable
    from appliance.config import load
    from appliance.config.certificate import open_certificate
    from appliance.config.paths import store_directory
    from appliance.models.store import Store

    effective = load(config)
    require_readable(effective)
    settings = _with_tuning(effective).settings
    require_memory_of_model(settings, Store(store_directory(settings.models.directory)))
    served = open_certificate(effective.settings.server)
    problem = None if served is None else served.certificate.problem()
    if served is not None and problem is not None:
        tell_warning(f"clients will refuse the certificate {served.file}: it {problem}")
    count = len(effective.origins)
    print(f"ok: {effective.file or 'no file'}, {count} setting{'' if count == 1 else 's'} not left at the default")


@app.command()
def memory(config: ConfigOption = None) -> None:
    """Print memory limits for the service, as a drop-in for systemd: for the model that is served from the next start.

    Exit status 78 where there is none.
    """
    from appliance.cli.memory_drop_in import memory_drop_in
    from appliance.config import load
    from appliance.config.paths import store_directory
    from appliance.models.store import Store

    settings = _with_tuning(load(config)).settings
    print(memory_drop_in(settings, Store(store_directory(settings.models.directory))), end="")


def _with_tuning(effective: "Effective") -> "Effective":
    """As `serve` uses them for the model that it would serve; a file of no use is told on standard error."""
    from appliance.config.paths import tuning_file

    if not tuning_file().exists():
        return effective  # nearly always, and the store need not be read

    from msgspec.structs import replace

    from appliance.cli.serve import FAKE_MODEL
    from appliance.config.paths import store_directory
    from appliance.models.choosing import read_slots_or_none
    from appliance.models.store import Store
    from appliance.models.tuning.applying import read_host_tuning
    from appliance.models.using import served_without_daemon

    settings = effective.settings
    tuning = read_host_tuning(effective, tell_warning)
    store = Store(store_directory(settings.models.directory))
    if settings.engine.pipeline == "fake" and read_slots_or_none(store, lambda _: None).current is None:
        digest = FAKE_MODEL.digest
    elif (slot := served_without_daemon(store, settings.models.preferred)) is not None:
        digest = slot.digest
    else:
        return effective
    origins = effective.origins | {f"engine.{name}": "tuned" for name in tuning.changes(settings.engine, digest)}
    engine = tuning.applied(settings.engine, digest)
    return replace(effective, settings=replace(settings, engine=engine), origins=origins)


def _rows(effective: "Effective") -> Iterator[tuple[str, str, Any, str]]:
    """Section, key, value, origin."""
    import msgspec

    file = str(effective.file)
    for section, settings in msgspec.to_builtins(effective.settings).items():
        for key, value in settings.items():
            origin = effective.origins.get(f"{section}.{key}", "default")
            yield section, key, value, "file" if origin == file else origin


def _as_object(effective: "Effective") -> dict[str, Any]:
    sections: dict[str, dict[str, Any]] = {}
    for section, key, value, origin in _rows(effective):
        sections.setdefault(section, {})[key] = {"value": value, "origin": origin}
    return {"file": str(effective.file) if effective.file else None, "settings": sections}


def _lines(effective: "Effective") -> Iterator[tuple[str, str, str]]:
    """Lines in three parts: up to the equals sign, the value with its padding, the comment."""
    yield "", "", f"# file: {effective.file or 'none'}"
    rows = [(section, f"{section}.{key} = ", _toml(value), origin) for section, key, value, origin in _rows(effective)]
    width = min(56, max(len(name + value) for _, name, value, _ in rows))
    for _, group in groupby(rows, key=lambda row: row[0]):
        yield "", "", ""
        for _, name, value, origin in group:
            yield name, value.ljust(width - len(name)), f"  # {origin}"


def _toml(value: Any) -> str:
    """Numbers, booleans, texts and lists of texts, as TOML; JSON writes these alike."""
    return json.dumps(value, ensure_ascii=False)


def _print_coloured(effective: "Effective") -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console()
    for name, value, comment in _lines(effective):
        changed = "green" if comment.endswith("# default") or not name else "bold yellow"
        line = Text.assemble((name, "cyan"), (value, changed), (comment, "dim"))
        console.print(line, soft_wrap=True)
