"""What a terminal shows while the engine gets ready. Knows the daemon's states and rich."""

import asyncio
import sys
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from appliance.api.state import Daemon

POLL_S = 0.1
PLAIN: Any = {"highlight": False, "soft_wrap": True}


def announce(daemon: Daemon, url: str) -> None:
    """On a terminal: a moving bar until the engine is ready, then where to go. Elsewhere the log says it."""
    if sys.stderr.isatty():
        task = asyncio.create_task(_show_warm_up(daemon, url))
        task.add_done_callback(lambda done: done.cancelled() or done.exception())


async def _show_warm_up(daemon: Daemon, url: str) -> None:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("", total=None)
        while daemon.engine.state in ("loading", "warming"):
            progress.update(bar, description=f"{daemon.engine.state} {daemon.model.id}")
            await asyncio.sleep(POLL_S)
    if daemon.engine.state == "ready":
        program = sys.argv[0] if sys.argv[0].endswith("appliance") else "appliance"
        # Whom a client trusts is its own affair: with --url it may know nothing of a CA of the site.
        attempt = f"; try: {program} chat --url {url}" if daemon.certificate is None else ""
        console.print(f"{daemon.model.id} answers on {url}  (Ctrl-C stops{attempt})", **PLAIN)
