"""`appliance install`: the appliance on this host, for systemd to run. Knows the command line; decides nothing."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("install")(install)


def install(
    system: Annotated[
        bool, typer.Option("--system", help="For the whole host, below /opt/appliance; there is no other way yet.")
    ] = False,
    wheels: Annotated[
        Path | None,
        typer.Option(help="Install what is in this directory of wheels, without a network.", metavar="DIR"),
    ] = None,
    extras: Annotated[
        str | None,
        typer.Option(
            help="Optional parts, with commas between; else those of the release before, or systemd.", metavar="NAMES"
        ),
    ] = None,
    start: Annotated[bool, typer.Option("--start/--no-start", help="Start or restart the service.")] = True,
    socket: Annotated[
        bool, typer.Option("--socket/--no-socket", help="At the first installation, enable appliance.socket as well.")
    ] = True,
    force: Annotated[bool, typer.Option("--force", help="Make a release anew that is there.")] = False,
    uninstall: Annotated[
        bool, typer.Option("--uninstall", help="Remove all but settings, models and account.")
    ] = False,
    purge: Annotated[bool, typer.Option("--purge", help="Remove all, settings and models as well.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    root: Annotated[
        Path, typer.Option(help="Install into the root of another system, such as an image.", metavar="DIR")
    ] = Path("/"),
) -> None:
    """Install this version as a service, or finish, upgrade or remove an installation.

    Where all is as it should be it does nothing and says so. A failed upgrade leaves the release in use that was.

    Exit status: 0; 1 where it can't be done; 78 where a setting is wrong.
    """
    if not system:
        raise typer.BadParameter("say --system: for the whole host is the only way to install yet")
    from appliance.installing.layout import Layout

    layout = Layout(root.resolve())
    asked = shlex.join(sys.argv)
    if uninstall or purge:
        from appliance.installing.removal import uninstall as remove

        if not remove(layout, typer.echo, asked, purge=purge, dry_run=dry_run):
            typer.echo("nothing to do: it is not installed")
        return
    from appliance.installing.plan import Wanted, install
    from appliance.installing.source import RunningInstallation, Source, WheelDirectory

    source: Source = RunningInstallation() if wheels is None else WheelDirectory(wheels)
    names = None if extras is None else [name.strip() for name in extras.split(",") if name.strip()]
    wanted = Wanted(names, start=start, socket=socket, force=force, dry_run=dry_run, asked=asked)
    if not install(layout, source, wanted, typer.echo):
        typer.echo(f"nothing to do: release {source.version} is installed")
