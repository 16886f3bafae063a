"""Errors of the last day in the journal. Reads at most so many lines, for at most so long."""

import os

import msgspec
from msgspec import Struct

from appliance.doctor.findings import Finding, green, unknown, yellow
from appliance.doctor.surroundings import SERVICE, Surroundings

LINES_MAX = 200
SHOWN_CHARS = 160
COMMAND = [
    "journalctl", "--unit", SERVICE, "--priority", "err", "--since=-24h", "--lines", str(LINES_MAX),
    "--output", "json", "--output-fields", "MESSAGE,PRIORITY", "--no-pager",
]  # fmt: skip
ANY = ["journalctl", "--unit", SERVICE, "--lines", "1", "--output", "json", "--no-pager"]
READ_AS = "run it as root, or: usermod -aG systemd-journal YOU"
EMPTY = "nothing, before its first start; else: systemctl status systemd-journald"


class _Line(Struct):
    message: object = msgspec.field(name="MESSAGE", default=None)


def check_journal(here: Surroundings) -> Finding:
    """How many, and the last."""
    if SERVICE not in (here.units or {}):
        why = f"{SERVICE} is not installed" if here.units is not None else "systemd does not run here"
        return unknown("journal", f"{why}: where the log goes is not known", "look where the daemon was started")
    said = here.ask(COMMAND)
    if said.problem is not None or said.status != 0:
        why = said.problem or said.err.strip().rpartition("\n")[2] or "journalctl failed"
        return unknown("journal", f"can't be read: {why}", READ_AS)
    if "not seeing messages" in said.err or "No journal files were" in said.err:
        return unknown("journal", "messages of other users can't be read by this account", READ_AS)
    messages = [message for line in said.out.splitlines() if (message := _message(line)) is not None]
    if not messages:
        if not here.ask(ANY).out.strip():  # journalctl is silent too where it may not read, or has forgotten
            if os.geteuid() == 0:
                return unknown("journal", f"it is empty: nothing of {SERVICE} is kept", EMPTY)
            return unknown("journal", f"it has nothing at all of {SERVICE}", READ_AS)
        return green("journal", "no errors within a day", errors=0)
    many = f"{len(messages)} or more" if len(messages) >= LINES_MAX else str(len(messages))
    last = messages[-1] if len(messages[-1]) <= SHOWN_CHARS else messages[-1][:SHOWN_CHARS] + "…"
    return yellow("journal", f"{many} errors within a day, the last: {last}", "journalctl -x -u appliance -p err "
                  "--since -24h; keep it with: appliance support-bundle", errors=len(messages))  # fmt: skip


def _message(line: str) -> str | None:
    """Of one JSON line; what is not text the journal tells as a list of numbers."""
    try:
        found = msgspec.json.decode(line, type=_Line).message
    except (ValueError, RecursionError):
        return None
    if isinstance(found, list):
        found = bytes(number for number in found if isinstance(number, int) and 0 <= number < 256).decode(
            "utf-8", "replace"
        )
    return "".join(c if c.isprintable() else " " for c in str(found)).strip() if found is not None else None
