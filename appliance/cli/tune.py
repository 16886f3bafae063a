"""`appliance tune`: options, what is printed, exit statuses. Measures nothing itself."""

import socket
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from appliance.cli.operation import ConfigOption, JsonOption, interruptible, open_progress, print_json, tell

if TYPE_CHECKING:
    from appliance.models.tuning.record import Figures, Profile, Tuned

CONNECT_S = 1.0


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("tune")(tune)


def tune(
    profile: Annotated[
        str, typer.Option(help="interactive (first token, one stream) or throughput (many streams).")
    ] = "interactive",
    model: Annotated[str | None, typer.Option(help="Tune for this installed model, not the current one.")] = None,
    seconds: Annotated[
        float, typer.Option(min=5, max=3600, help="How long values are tried; a comparison follows.")
    ] = 90.0,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure this host, and keep the engine settings that serve the model fastest for `serve` to use.

    What the operator has set is left alone. The defaults stay where nothing is better by more than noise.
    """
    from appliance.cli.serve import choose
    from appliance.config import load
    from appliance.config.paths import control_socket, tuning_file
    from appliance.models.tuning.tune import Plan
    from appliance.models.tuning.tune import tune as tune_plan

    wanted = _profile(profile)
    effective = load(config)
    settings = effective.settings
    _, served = choose(settings, model)
    if _daemon_answers(control_socket(settings.server.control_socket)):
        tell("a daemon runs on this host, and its work disturbs the measurement; better stop it meanwhile")
    plan = Plan(
        engine=settings.engine,
        explicit=tuple(effective.origins),
        model=served,
        profile=wanted,
        seconds=seconds,
        file=tuning_file(),
    )
    with interruptible("nothing has changed"), open_progress() as progress:
        record = tune_plan(plan, progress)
    if as_json:
        print_json(record)
    else:
        _print(record, plan.file)


def _profile(name: str) -> "Profile":
    from appliance.models.tuning.record import PROFILES

    found = next((known for known in PROFILES if known == name), None)
    if found is None:
        raise typer.BadParameter(f"--profile {name}: expected one of {', '.join(PROFILES)}")
    return found


def _daemon_answers(path: Path) -> bool:
    """Whether somebody listens on the control socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.settimeout(CONNECT_S)
        try:
            asking.connect(str(path))
        except OSError:
            return False
        return True


def _print(record: "Tuned", file: Path) -> None:
    typer.echo(f"{record.model}, {record.profile}, on {record.key.cpu_model or 'an unknown CPU'}:")
    width = max(len(_changed(tried.changed)) for tried in record.evidence.tried)
    for tried in record.evidence.tried:
        outcome = f"not measured: {tried.error}" if tried.figures is None else _shown(tried.figures)
        typer.echo(f"  {_changed(tried.changed).ljust(width)}  {outcome}")
    for name in record.evidence.left_out:
        typer.echo(f"  no time for {name}")
    for label, rounds in (("the defaults", record.evidence.default), ("the best found", record.evidence.best)):
        for figures in rounds:
            typer.echo(f"  compared, {label}: {_shown(figures)}")
    if record.settings:
        chosen = ", ".join(f"engine.{name} = {value}" for name, value in record.settings.items())
        typer.echo(f"{record.evidence.why}: `appliance serve` uses {chosen} from its next start on")
    else:
        typer.echo(f"{record.evidence.why}: the defaults stay")
    typer.echo(f"written: {file} ({record.took_s:.0f} s)")


def _changed(changed: "dict[str, int | str]") -> str:
    return ", ".join(f"{name} = {value}" for name, value in changed.items()) or "the defaults"


def _shown(figures: "Figures") -> str:
    return (
        f"first token {figures.ttft_ms:.0f} ms, {figures.ms_per_token:.1f} ms a token, "
        f"{figures.tokens_per_s:.1f} tokens/s"
    )
