"""What can go wrong with an installation, in words for people."""

from appliance.errors import ApplianceError


class InstallError(ApplianceError):
    """The installation can't be done, or not now; the text names the thing and the remedy."""

    exit_status = 1
