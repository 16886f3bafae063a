"""`appliance models` use, rollback, prune: which installed model is served, and which are kept. Knows terminals."""

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from appliance.cli.operation import ConfigOption, JsonOption, interruptible, open_store, print_json, tell
from appliance.config import Effective, Settings
from appliance.config.paths import control_socket
from appliance.errors import ConfigError
from appliance.models.children import run_until_terminated
from appliance.models.errors import MB
from appliance.models.pruning import plan, prune
from appliance.models.slots import Measured, Slot, slot_of
from appliance.models.store import Installed, Unreadable
from appliance.models.using import use_at_next_start

if TYPE_CHECKING:
    from appliance.models.proving import Proof

PRUNE_WAIT_S = 30.0
STAGES = {
    "verifying": "reading every byte of it",
    "loading": "loading and warming it",
    "asking": "asking it the canary",
    "switching": "switching",
}


NoCanaryOption = Annotated[
    bool, typer.Option("--no-canary", help="Where no daemon runs: do not start an engine to try the model.")
]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command("use")(use)
    app.command("rollback")(rollback)
    app.command("prune")(prune_store)


def use(
    reference: Annotated[str, typer.Argument(metavar="ID[@DIGEST]", help="An installed model; the newest of its id.")],
    no_canary: NoCanaryOption = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Have the daemon serve an installed model, after a check and a canary; without a daemon, from its next start."""
    _switch(reference, no_canary, config, as_json)


def rollback(no_canary: NoCanaryOption = False, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Go back to the model that was used before, as `use` does."""
    _switch(None, no_canary, config, as_json)


def prune_store(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be removed.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove all models but the current and the previous one, and what a daemon serves."""
    effective, store = open_store(config)
    preferred = effective.settings.models.preferred
    served = served_by_daemon(effective.settings)
    planned = plan(store, preferred, served=served)
    freed_bytes = planned.freed_bytes
    if planned.removed and not dry_run:
        if not yes:
            _confirm([_name(entry) for entry in planned.removed], freed_bytes)
        only = {Slot(entry.id, entry.directory.name) for entry in planned.removed}
        with interruptible():
            planned = prune(store, preferred, served=served, only=only, wait_s=PRUNE_WAIT_S, on_wait=tell)
    if as_json:
        print_json(
            {
                "dry_run": dry_run,
                "kept": [_name(entry) for entry in planned.kept],
                "removed": [_name(entry) for entry in planned.removed],
                "freed_bytes": freed_bytes,
            }
        )
        return
    for entry in planned.kept:
        typer.echo(f"kept {_name(entry)}")
    for entry in planned.removed:
        typer.echo(f"{'would remove' if dry_run else 'removed'} {_name(entry)}")
    typer.echo(f"{freed_bytes / MB:,.1f} MB {'would be ' if dry_run else ''}freed")


def _switch(reference: str | None, no_canary: bool, config: Path | None, as_json: bool) -> None:
    effective, store = open_store(config)
    told = _ask_daemon(effective, reference)
    if told is None:
        preferred = effective.settings.models.preferred
        prove = None if no_canary else partial(_prove, effective)
        with interruptible("nothing has changed"):
            told = msgspec.to_builtins(use_at_next_start(store, preferred, reference, prove))
    elif no_canary:
        tell("a daemon runs, and has asked the canary all the same")
    if as_json:
        print_json(told)
        return
    typer.echo(_describe(told, control_socket(effective.settings.server.control_socket)))


def _prove(effective: Effective, model: Installed, last: Measured | None) -> "Proof":
    """Ask the canary of a worker like the one that the next start will have."""

    from appliance.api.state import engine_load
    from appliance.models.proving import ask_alone, judged
    from appliance.models.served import require_memory, served_model
    from appliance.models.tuning.applying import read_host_tuning

    served, settings = served_model(model), effective.settings
    engine = read_host_tuning(effective, tell).applied(settings.engine, served.digest)
    require_memory(engine, served)
    tell(f"{STAGES['loading']}, and {STAGES['asking']}")
    load = engine_load(msgspec.structs.replace(settings, engine=engine), served)
    answer = run_until_terminated(ask_alone(load, engine, settings.models.canary_prompt))
    return judged(answer, slot_of(model.manifest), served, settings, last, busy=False)


def _ask_daemon(effective: Effective, reference: str | None) -> dict[str, Any] | None:
    """What the daemon made of it; None where none runs. Raises ControlFailed."""
    from appliance.control.client import NoDaemon, switch  # aiohttp: not for `models list`

    def show(stage: str) -> None:
        if stage in STAGES:
            tell(STAGES[stage])

    try:
        with interruptible("the daemon goes on with it; /v1/status tells what came of it"):
            return switch(control_socket(effective.settings.server.control_socket), reference, show)
    except NoDaemon:
        return None


def served_by_daemon(settings: Settings) -> Slot | None:
    """What a daemon serves now; None where none runs."""
    from appliance.control.client import NoDaemon, served

    try:
        named = served(control_socket(settings.server.control_socket))
    except NoDaemon:
        return None
    model_id, _, digest = (named or "").partition("@")
    return Slot(model_id, digest) if named else None


def _describe(told: dict[str, Any], socket: Path) -> str:
    back = f"; before: {told['previous']}" if told["previous"] else ""
    speed = f"canary: {told['tokens_per_s']:g} tokens/s" if told["tokens_per_s"] else "canary answered"
    match told["outcome"]:
        case "unchanged":
            return f"{told['model']} is served already{back}"
        case "next_start":
            tried = speed if told["canary"] else "the canary was not asked"
            return f"{told['model']} is served from the next start on (no daemon answers on {socket}; {tried}){back}"
        case _:
            return f"{told['model']} is served now ({speed}){back}"


def _confirm(names: list[str], freed_bytes: int) -> None:
    if not sys.stdin.isatty():
        raise ConfigError(f"removing {', '.join(names)} needs --yes where nobody can be asked")
    typer.confirm(f"Remove {', '.join(names)} ({freed_bytes / MB:,.1f} MB)?", abort=True)


def _name(entry: Installed | Unreadable) -> str:
    return f"{entry.id}@{entry.directory.name}"
