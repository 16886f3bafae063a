"""What a check found, and what all of them come to. Knows no host."""

from collections.abc import Sequence
from typing import Any, Literal

from msgspec import Struct, field

SCHEMA = "appliance-doctor"
SCHEMA_VERSION = 1

Status = Literal["green", "yellow", "red", "unknown"]

EXIT_GREEN = 0
EXIT_YELLOW = 1  # something wants a look, or could not be found out
EXIT_RED = 2


class Finding(Struct, frozen=True, kw_only=True):
    """One line of the screen."""

    check: str
    status: Status
    """unknown: could not be found out, which is never green."""
    finding: str
    """One line for people."""
    remedy: str = ""
    """What to do about it; empty where it is green."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What it is drawn from, for scripts; names carry their units."""


class Report(Struct, frozen=True, kw_only=True):
    """One run of all checks."""

    schema: str = SCHEMA
    schema_version: int = SCHEMA_VERSION
    at: str
    """UTC, ISO 8601."""
    version: str
    """Of the appliance that looked."""
    status: Status
    """The worst: red, yellow, unknown, green."""
    findings: tuple[Finding, ...]

    @property
    def exit_status(self) -> int:
        """0 where all is green, 2 where something is red, else 1."""
        return {"green": EXIT_GREEN, "red": EXIT_RED}.get(self.status, EXIT_YELLOW)


def worst(findings: Sequence[Finding]) -> Status:
    """Of all of them; unknown where there are none."""
    order: tuple[Status, ...] = ("red", "yellow", "unknown", "green")
    found = {finding.status for finding in findings}
    return next((status for status in order if status in found), "unknown")


def green(check: str, finding: str, **facts: Any) -> Finding:
    """All is well."""
    return Finding(check=check, status="green", finding=finding, facts=facts)


def yellow(check: str, finding: str, remedy: str, **facts: Any) -> Finding:
    """It serves, but somebody should have a look."""
    return Finding(check=check, status="yellow", finding=finding, remedy=remedy, facts=facts)


def red(check: str, finding: str, remedy: str, **facts: Any) -> Finding:
    """It does not serve, or will soon no longer."""
    return Finding(check=check, status="red", finding=finding, remedy=remedy, facts=facts)


def unknown(check: str, finding: str, remedy: str, **facts: Any) -> Finding:
    """It could not be found out; the remedy says how it could."""
    return Finding(check=check, status="unknown", finding=finding, remedy=remedy, facts=facts)
