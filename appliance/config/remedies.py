"""What mends something that is missing, by how the appliance was installed here. Knows commands; runs none."""

import sys
from pathlib import Path

from appliance.config.paths import SYSTEM_RELEASES


def is_installed_for_the_system() -> bool:
    """Whether this program is a release of `appliance install --system`, which systemd runs."""
    return Path(sys.prefix).resolve().is_relative_to(SYSTEM_RELEASES)


def extra_remedy(name: str) -> str:
    """The command that adds an optional part: pip, where it would not reach a release, would install beside it."""
    if is_installed_for_the_system():
        return f"appliance install --system --extras systemd,{name}"
    return f"pip install 'edge-chat-appliance[{name}]'"


def start_remedy() -> str:
    """The command that starts the daemon."""
    return "systemctl start appliance" if is_installed_for_the_system() else "appliance serve"
