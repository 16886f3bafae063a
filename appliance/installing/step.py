"""What a step of an installation is: it says what it would do, does it, and can take it back. Knows no steps."""

from typing import Protocol


class Step(Protocol):
    """One thing that an installation sees to."""

    def pending(self) -> str | None:
        """What there is to do, in words; None where nothing is."""

    def apply(self) -> None:
        """Do it. Raises InstallError, OSError."""

    def revert(self) -> None:
        """Take back what `apply` did, as far as a failed upgrade needs it; steps are reverted in their order."""


class NotReverted:
    """A step that a failed upgrade leaves as it is."""

    def revert(self) -> None:
        """Nothing."""
