"""The command line: one module a command. Knows how errors become one line and an exit status."""

import errno
import os
import signal
import sys
from typing import Annotated

import typer

from appliance.cli import (
    bench,
    bundles,
    chat,
    config,
    doctor,
    install,
    measure,
    models,
    operating,
    recipes,
    serve,
    show,
    slots,
    support_bundle,
    tune,
    version,
)
from appliance.cli.telling import tell_error
from appliance.errors import ApplianceError, ConfigError, StartError

app = typer.Typer(
    name="appliance",
    help="A small chat model on a small PC, streamed to the LAN.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
serve.register(app)
chat.register(app)
bench.register(app)
tune.register(app)
doctor.register(app)
support_bundle.register(app)
show.register(models.app)
bundles.register(models.app)
slots.register(models.app)
recipes.register(models.app)
measure.register(models.app)
app.add_typer(models.app, name="models")
app.add_typer(config.app, name="config")
operating.register(app)
install.register(app)
version.register(app)


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    show_version: Annotated[bool, typer.Option("--version", help="Print the appliance's version and leave.")] = False,
) -> None:
    """A small chat model on a small PC, streamed to the LAN."""
    if show_version:
        from appliance import __version__

        typer.echo(f"appliance {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit


def main() -> None:
    """Entry point. What is the operator's to mend ends in one line on stderr and an exit status, no traceback."""
    try:
        try:
            app()
        finally:
            sys.stdout.flush()  # here, where what goes wrong with it can still be told
    except (ConfigError, StartError) as error:
        sys.exit(_say(error, error.exit_status))
    except ApplianceError as error:
        sys.exit(_say(error, getattr(error, "exit_status", 1)))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EIO, errno.EPIPE):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is still buffered can't be written either
        if error.errno == errno.EPIPE:
            sys.exit(128 + signal.SIGPIPE)  # the reader had enough: not worth a word
        sys.exit(_say(f"can't write the output: {error.strerror}", 1))


def _say(error: ApplianceError | str, status: int) -> int:
    tell_error(error)
    return status
