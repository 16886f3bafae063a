"""Errors and warnings as lines on stderr, for people and for systemd. Knows no reasons."""

import sys

ERROR, WARNING = "<3>", "<4>"  # sd-daemon(3): without it a line on stderr is at level info in the journal


def tell_error(reason: object) -> None:
    """What ends the command."""
    _tell(ERROR, f"appliance: {reason}")


def tell_warning(reason: object) -> None:
    """What it goes on with."""
    _tell(WARNING, f"appliance: warning: {reason}")


def _tell(level: str, text: str) -> None:
    from appliance.observability.journal import stderr_is_journal

    prefix = level if stderr_is_journal() else ""
    print("\n".join(prefix + line for line in text.split("\n")), file=sys.stderr)
