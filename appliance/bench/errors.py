"""What can go wrong with a measurement, each with a text for people."""

from appliance.errors import ApplianceError, ConfigError


class ServerUnreadable(ApplianceError):
    """The server does not tell what a measurement needs, or no longer answers."""


class NothingAnswered(ApplianceError):
    """All requests of a measurement failed: there is nothing to report."""


class NoResult(ConfigError):
    """A file is no result of a measurement; somebody named the wrong one."""


class GaveWay(ApplianceError):
    """Others needed the appliance, or it was not ready: a measurement that can wait was not made, or not kept."""

    exit_status = 75  # sysexits.h EX_TEMPFAIL: to be tried again later, and no failure
