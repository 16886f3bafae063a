"""What the service's account can't read, tried as that account. Needs root for it; reads no content."""

import re
from collections.abc import Sequence
from pathlib import Path

from appliance.doctor.surroundings import Surroundings

NOT_READABLE = ["(", "!", "-readable", "-o", "-type", "d", "!", "-executable", ")", "-print", "-quit"]


def unreadable(here: Surroundings, *places: Path, below: bool = False) -> str | None:
    """The first of `places`, or with `below` of what is in them, that the account can't read.

    None where it can, where this account may not try, and where there is no such account.
    """
    account = here.service.get("User")
    if not account or not places:
        return None
    as_account = ["setpriv", f"--reuid={account}", f"--regid={here.service.get('Group') or account}", "--init-groups"]
    depth: Sequence[str] = [] if below else ["-maxdepth", "0"]
    said = here.ask([*as_account, "find", "-H", *map(str, places), *depth, *NOT_READABLE])
    if found := said.out.strip():
        return found.splitlines()[0]
    denied = re.search(r"^find: .(/.*?).: Permission denied$", said.err, re.MULTILINE)  # a directory above it
    return denied[1] if denied else None
