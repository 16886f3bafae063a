"""`appliance doctor`: one screen, or JSON, and the exit status. Checks nothing itself."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from appliance.cli.operation import ConfigOption, JsonOption, print_json

if TYPE_CHECKING:
    from appliance.doctor.findings import Report

COLOURS = {"green": "green", "yellow": "yellow", "red": "bold red", "unknown": "magenta"}


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("doctor")(doctor)


def doctor(
    config: ConfigOption = None,
    as_json: JsonOption = False,
    root: Annotated[Path, typer.Option(hidden=True, help="Where proc, sys, run and var are looked for.")] = Path("/"),
) -> None:
    """Look at this host and its appliance: what is well, what is not, what to do about it. Changes nothing.

    Exit status: 0 all green; 1 something is yellow, or could not be found out; 2 something is red.
    """
    from appliance.doctor.examination import examine
    from appliance.doctor.surroundings import look

    report = examine(look(config, root=root))
    if as_json:
        print_json(report)
    elif sys.stdout.isatty():
        _show(report)
    else:
        _print(report)
    raise typer.Exit(report.exit_status)


def _print(report: "Report") -> None:
    """For pipes and files: a line each, and one for what to do."""
    for finding in report.findings:
        print(f"{finding.status:8} {finding.check:10} {finding.finding}")
        if finding.remedy:
            print(f"{'':19} → {finding.remedy}")


def _show(report: "Report") -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    for finding in report.findings:
        said = Text(finding.finding)
        if finding.remedy:
            said.append(f"\n→ {finding.remedy}", style="dim")
        table.add_row(Text(finding.status, style=COLOURS[finding.status]), Text(finding.check, style="bold"), said)
    Console().print(table)
