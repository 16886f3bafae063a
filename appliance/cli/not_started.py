"""Why the daemon ends, as an event of the journal where stderr is that; else others tell it. Knows no reasons."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from appliance.errors import ApplianceError
from appliance.observability.events import Event, event
from appliance.observability.journal import stderr_is_journal
from appliance.observability.log_writer import open_log

log = logging.getLogger(__name__)


@contextmanager
def told_to_the_journal() -> Iterator[None]:
    """An error that leaves the block is logged as an error, with its exit status, and ends the command with that.

    A line on stderr would be at level info there. Where stderr is not the journal the error goes on as it is.
    """
    try:
        yield
    except ApplianceError as error:
        if not stderr_is_journal():
            raise
        status = getattr(error, "exit_status", 1)
        with open_log("error", "auto"):  # the daemon's own is closed, or was never there
            log.error("can't serve", extra=event(Event.NOT_STARTED, reason=str(error), exit_status=status))  # noqa: TRY400
        raise typer.Exit(status) from None
